"""Model calls that the server makes for one of its own functions. They are admitted, held and settled like those of clients."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from models.accounts.key_format import PresentedKey
from models.core.db import extension
from models.core.errors import DomainError
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.chat_format import Call
from models.gateway.dialects import CHAT
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest, Reply
from models.gateway.relay import Gateway
from models.gateway.route import held_credits
from models.gateway.upstream import UpstreamError
from models.ledger.payers import NO_HINT, PayerHint
from models.runs.transcript import text_or_calls, transcript

_NOBODY = PresentedKey("quote", None)


class InternalAnswer(NamedTuple):
    """The id of the call, and the text of its answer, or the tools that it calls."""

    request_id: str
    text: str


class CallNotPossible(DomainError):
    """The ledger refused the call, so that others with the same key would fail too. Status, code and message are those of
    `/v1/chat/completions`."""


class CallFailed(DomainError):
    """The provider failed, or refused this request."""

    status = 502


def chat_once(
    key: str | PresentedKey,
    body: Mapping[str, Any],
    *,
    client_id: str,
    org_id: str | None = None,
    request_id: str | None = None,
    run_id: str | None = None,
) -> InternalAnswer:
    """Send a chat with this API key, or token of a session, and wait for the whole answer. It is paid by the organisation `org_id`, if the
    key may, else by the account of the key, and belongs to the run `run_id`. Hold no transaction meanwhile. Raises CallNotPossible,
    CallFailed."""
    request_id = request_id or uuid.uuid4().hex
    acts_for = key if isinstance(key, PresentedKey) else None
    text = key if isinstance(key, str) else key.id
    headers = {"x-stoa-run-id": run_id} if run_id else {}
    received = IncomingRequest(request_id, text, headers, dict(body), orjson.dumps(body), acts_for=acts_for)
    payer = PayerHint(org_id) if org_id else NO_HINT
    gateway: Gateway = extension("gateway")
    try:
        request: CallRequest = replace(CHAT.read(received), client_id=client_id, payer=payer)
        reply = gateway.open(request)
    except (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed) as error:
        answer = CHAT.error(error, ErrorContext(request_id, {}, extension("settings")))
        said = answer.body.get("error", {})
        message = str(said.get("message", "The call failed."))
        if isinstance(error, CallRefused):
            raise CallNotPossible(message, status=answer.status, code=said.get("code")) from error
        raise CallFailed(message) from error
    if not isinstance(reply, Reply):
        raise CallFailed("The answer came as a stream.")
    turns = transcript(None, 0, orjson.loads(reply.body), None).response or ()
    return InternalAnswer(request_id, text_or_calls(turns))


def most_credits(body: Mapping[str, Any]) -> int:
    """The credits that a chat with `max_tokens` costs at most: what is held for it while it runs. Raises DomainError for a model that no
    provider serves, or a body that is no chat."""
    received = IncomingRequest("", _NOBODY.id, {}, dict(body), orjson.dumps(body), acts_for=_NOBODY)
    call = CHAT.read(received).call
    if not isinstance(call, Call):
        raise call
    gateway: Gateway = extension("gateway")
    route = gateway.routes.find(call.model)
    return held_credits(route.cost_up_to(call, route.held_output(call, 1), 1), gateway.margin)
