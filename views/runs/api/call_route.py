"""JSON route of one model call, for who made it or pays for it."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.errors import DomainError
from models.ledger import Account
from models.runs.call_access import messages_of_call, readable_call
from models.runs.history import find_run
from models.runs.run_calls import CallDetail, call_of
from views.runs.api.run_routes import bp, dollars
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import key_credential
from views.web.operation import Operation, ResponseModel, path

MILLION = 1_000_000


class CallTokens(ResponseModel):
    """Tokens of one kind; the kinds are disjoint."""

    name: str = Field(description="For example Input, read from cache")
    count: int = Field(description="Tokens, or units for what is priced by unit")
    priceUsd: str | None = Field(description="Dollars per million tokens or per unit; null if unknown")
    costUsd: str | None


class CallEntry(ResponseModel):
    """A ledger entry of the call."""

    at: datetime
    kind: str
    amount: int = Field(description="Credits, negative for a charge")
    grantType: str | None
    balanceAfter: int


class CallMessages(ResponseModel):
    request: Any = Field(description="Messages as they were sent; null if they were not kept")
    response: Any = Field(description="Null if it was not kept")
    reasoning: str | None


class CallFacts(ResponseModel):
    requestId: str
    state: Literal["settled", "failed"]
    httpStatus: int | None
    error: str | None = Field(description="Code of the failure")
    errorMessage: str | None
    startedAt: datetime
    finishedAt: datetime
    latencyMs: int
    firstTokenMs: int | None
    requestedModel: str
    model: str | None = Field(description="The model that answered")
    provider: str | None = Field(description="Null for a refused call")
    routing: dict[str, Any] | None = Field(
        description="How the call came to its provider: `why` (`alias`, `weight`, `sticky`, or `model`) and `after`, what was tried "
        "before; null if the model was asked for by name and served at once"
    )
    stream: bool
    runId: str | None
    keyName: str | None
    repoUrl: str | None
    clientId: str | None
    parameters: dict[str, Any] = Field(description="Of the request")
    tokens: list[CallTokens]
    costUsd: str = Field(description="The provider's price in dollars")
    credits: int = Field(description="What was charged; 1 credit = 1 US cent")
    exactCredits: str = Field(description="With the fraction that the ledger carries over")
    ownProviderKey: bool = Field(description="Whether your own provider key paid")
    entries: list[CallEntry]
    messages: CallMessages | None = Field(description="Null if your role may not read messages of others")


@bp.get("/api/v1/calls/<request_id>")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[path("requestId", "The `x-request-id` of the call's response")],
    answers={
        200: ("The call, with what it cost and its messages", CallFacts),
        401: "No key",
        404: "No such call, or it is not yours",
    },
    door=door(),
)
def one_call(request_id: str) -> ResponseReturnValue:
    """Return one model call, failed and refused ones included.

    Of the key's account; an organisation's key reads the calls of its user and, if their role sees all usage, of all
    members. With a personal key also your calls that an organisation paid for.
    """
    key = key_credential()
    if key is None:
        raise DomainError("Authentication required. Send an API key as Authorization: Bearer.", status=401)
    found = readable_call(Account.of(key.session), key.user.id, request_id)
    call = found.call
    run = find_run(call.account_id, call.run_id) if call.run_id else None
    body = _facts(call_of(call, run)) | {"messages": None}
    if found.messages:
        request, response, reasoning = messages_of_call(call)
        body["messages"] = {"request": request, "response": response, "reasoning": reasoning}
    return jsonify(body)


def _facts(detail: CallDetail) -> dict[str, Any]:
    call = detail.call
    return {
        "requestId": call.request_id,
        "state": call.state,
        "httpStatus": call.http_status,
        "error": call.error,
        "errorMessage": detail.error_message,
        "startedAt": iso(call.started_at),
        "finishedAt": iso(call.finished_at),
        "latencyMs": call.latency_ms,
        "firstTokenMs": call.ttft_ms,
        "requestedModel": call.requested_model,
        "model": call.model,
        "provider": call.provider,
        "routing": call.routing,
        "stream": call.stream,
        "runId": call.run_id,
        "keyName": detail.key_name,
        "repoUrl": detail.repo_url,
        "clientId": detail.client_id,
        "parameters": call.parameters or {},
        "tokens": [
            {
                "name": each.name,
                "count": each.tokens,
                "priceUsd": _dollars(each.price),
                "costUsd": _dollars(each.cost),
            }
            for each in detail.buckets
        ],
        "costUsd": dollars(call.cost),
        "credits": detail.charged,
        "exactCredits": f"{Decimal(0 if detail.byok else call.micro_credits) / MILLION:f}",
        "ownProviderKey": detail.byok,
        "entries": [
            {
                "at": iso(each.at),
                "kind": each.kind,
                "amount": each.amount,
                "grantType": each.grant_type,
                "balanceAfter": each.balance_after,
            }
            for each in detail.ledger
        ],
    }


def _dollars(value: Decimal | None) -> str | None:
    return None if value is None else dollars(value)
