"""One model call for who may read it with an API key, and its messages."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from models.core.db import db
from models.core.errors import NotFound
from models.gateway import CallBody, GatewayCall
from models.ledger import Account
from models.orgs import can, membership
from models.runs.run_calls import CALL_BODIES
from models.usage import Message


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A call, and whether its reader may read the messages too."""

    call: GatewayCall
    messages: bool


def readable_call(account: Account, user_id: str, request_id: str) -> KeyedCall:
    """A call of the account. In an organisation their own, and by role those of all members and the messages of these. With a
    personal key also a call of theirs for which an organisation of theirs paid. Raises NotFound."""
    call = None if "\0" in request_id else db.session.get(GatewayCall, request_id)
    if call is None:
        raise NotFound("There is no such call here")
    own = call.user_id == user_id
    if call.account_id == account.id and account.org_id is None:
        return KeyedCall(call, True)
    member = membership(user_id, call.account_id) if account.org_id in (None, call.account_id) else None
    if member and (own or (account.org_id and can(member, "see_all_usage"))):
        return KeyedCall(call, own or can(member, "read_messages"))
    raise NotFound("There is no such call here")


def messages_of_call(call: GatewayCall) -> tuple[Any, Any, str | None]:
    """The request as it was sent, the answer and its reasoning; None for what was not kept."""
    query = select(
        func.coalesce(Message.request, CallBody.request),
        func.coalesce(Message.response, CallBody.response),
        Message.reasoning_text,
    )
    row = db.session.execute(query.select_from(CALL_BODIES).where(GatewayCall.request_id == call.request_id))
    request, response, reasoning = row.one()
    return request, response, reasoning
