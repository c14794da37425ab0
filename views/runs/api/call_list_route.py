"""JSON route of an account's model calls, newest or dearest first."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field
from sqlalchemy import Row

from models.accounts import scopes
from models.accounts.credentials import Credential
from models.core.errors import DomainError, Invalid
from models.ledger import Account
from models.orgs import can, membership
from models.runs.call_order import DEAREST, NEWEST, SORTS
from models.runs.call_search import PAGE, CallFilter, calls_page
from views.runs.api.run_routes import bp, dollars
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import key_credential
from views.web.keyset import cost_cursor, cursor, position_text
from views.web.operation import Operation, ResponseModel, query

MAX_LISTED = 100
MAX_LENGTH = 200
STATES = ("settled", "failed")


class ListedCall(ResponseModel):
    requestId: str
    state: Literal["settled", "failed"]
    httpStatus: int | None
    error: str | None = Field(description="Code of the failure")
    finishedAt: datetime
    model: str | None = Field(description="The model that answered, or was asked for if none did")
    provider: str | None = Field(description="Null for a refused call")
    agentId: str | None
    runId: str | None
    keyName: str | None
    userName: str | None
    inputTokens: int = Field(description="Cached ones included")
    outputTokens: int
    latencyMs: int
    costUsd: str = Field(description="The provider's price in dollars")
    exactCredits: str = Field(description="What was charged, with the fraction that the ledger carries over")
    ownProviderKey: bool = Field(description="Whether your own provider key paid")


class ListedCalls(ResponseModel):
    calls: list[ListedCall]
    next: str | None = Field(
        description="The `after` of the next page; null on the last. A page may have fewer calls than `limit`: only so many are "
        "looked through"
    )


@bp.get("/api/v1/calls")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[
        query("sort", "`newest` (default), or `dearest`: by cost, without calls that cost nothing"),
        query("from", "Calls that finished at this time or later, as 2026-11-20T14:30:00Z"),
        query("to", "Calls that finished before this time"),
        query("model", "The model that answered, or was asked for if none did"),
        query("provider", "For example openai"),
        query("agent", "Agent id, with or without its version; `none`: calls without one"),
        query("run", "Run id; `none`: calls without one"),
        query("state", "`settled` or `failed`"),
        query("limit", f"1 to {MAX_LISTED}; default: {PAGE}"),
        query("after", "The `next` of the page before, with the same other parameters"),
    ],
    answers={
        200: ("A page of calls", ListedCalls),
        401: "No key",
        422: "An invalid parameter; the message names it",
    },
    door=door(),
)
def list_calls() -> ResponseReturnValue:
    """List model calls, newest or dearest first, refused and failed ones included.

    Of the key's account; an organisation's key lists the calls of its user and, if their role sees all usage, of all
    members.
    """
    key = key_credential()
    if key is None:
        raise DomainError("Authentication required. Send an API key as Authorization: Bearer.", status=401)
    filter = _filter(key)
    after = cost_cursor() if filter.sort == DEAREST else cursor("after")
    page = calls_page(Account.of(key.session).id, filter, after, _limit())
    return jsonify(
        calls=[_listed(call) for call in page.calls], next=position_text(page.next) if page.next else None
    )


def _filter(key: Credential) -> CallFilter:
    names = ("model", "provider", "agent", "run", "state")
    given: dict[str, Any] = {name: request.args.get(name) or None for name in names}
    for name, value in given.items():
        if value and (len(value) > MAX_LENGTH or "\0" in value):
            raise Invalid(f"{name} must have at most {MAX_LENGTH} characters, none of them NUL.")
    sort = request.args.get("sort") or NEWEST
    for name, value, known in (("sort", sort, SORTS), ("state", given["state"], STATES)):
        if value is not None and value not in known:
            raise Invalid(f"{name} must be {' or '.join(known)}.")
    return CallFilter(start=_time("from"), end=_time("to"), sort=sort, user_id=_own_calls_of(key), **given)


def _own_calls_of(key: Credential) -> str:
    """The id of the key's user if they see only their own calls of the account; empty: all."""
    org_id = Account.of(key.session).org_id
    if org_id is None:
        return ""
    member = membership(key.user.id, org_id)
    return "" if member and can(member, "see_all_usage") else key.user.id


def _time(name: str) -> datetime | None:
    value = request.args.get(name)
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 2000 <= moment.year <= 2999:
        raise Invalid(f"{name} must be a time with its zone, such as 2026-11-20T14:30:00Z.")
    return moment


def _limit() -> int:
    limit = request.args.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LISTED):
        raise Invalid(f"limit must be a number from 1 to {MAX_LISTED}.")
    return int(limit)


def _listed(call: Row[Any]) -> dict[str, Any]:
    exact: Decimal = call.exact_credits
    return {
        "requestId": call.request_id,
        "state": call.state,
        "httpStatus": call.http_status,
        "error": call.error,
        "finishedAt": iso(call.finished_at),
        "model": call.model_name,
        "provider": call.provider,
        "agentId": call.agent_id,
        "runId": call.run_id,
        "keyName": call.key_name,
        "userName": call.user_name,
        "inputTokens": call.input_tokens,
        "outputTokens": call.output_tokens,
        "latencyMs": call.latency_ms,
        "costUsd": dollars(call.cost),
        "exactCredits": dollars(exact),
        "ownProviderKey": call.byok,
    }
