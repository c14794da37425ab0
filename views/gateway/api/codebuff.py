"""The Codebuff SDK's gateway API: chat completions (contract 5), token count (A.5), health (2.14)."""

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field
from werkzeug import Response
from werkzeug.exceptions import RequestEntityTooLarge

from models.core.db import now
from models.core.errors import DomainError
from models.gateway import tokens
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.dialects import CODEBUFF
from models.gateway.dialects.codebuff import MAX_PARALLEL
from views.gateway.api.model_calls import (
    CLAIMED,
    FORBIDDEN,
    KEY_REUSED,
    NOT_FOUND,
    PAYER_HEADERS,
    call_model,
    json_answer,
)
from views.gateway.api.openai import ChatBody, Completion
from views.web import error_bodies, guards
from views.web.body import Body, Missing, parse, read_json
from views.web.error_bodies import ApiBodyError, ApiError, MessageError, door
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import ErrorFormat, Operation, ResponseModel, header

bp = Blueprint("gateway_api", __name__, url_prefix="/api")


class CodebuffMetadata(BaseModel):
    run_id: str = Field(description="One of your running runs")
    client_id: Missing[str] = None
    orgId: Missing[str] = Field(None, description="Id or slug of the organisation that pays")
    repo_url: Missing[str] = Field(
        None,
        description="The repository you work in; an organisation of yours that has it pays. Also as repoUrl",
    )
    n: Missing[int] = Field(
        None, ge=1, le=MAX_PARALLEL, description="Number of answers to merge into one; not with stream"
    )


class CodebuffChatBody(ChatBody):
    codebuff_metadata: Missing[CodebuffMetadata] = None


class CodebuffError(ResponseModel):
    """The message is where older and newer versions of the SDK look for it."""

    message: Missing[str] = Field(None, description="The error message for the user")
    error: Missing[str | dict[str, Any]] = Field(
        None, description="The code, or an object with message, code and type"
    )


CODEBUFF_DOOR = ErrorFormat(
    error_bodies.format_error, CodebuffError, CodebuffError, CodebuffError, CodebuffError
)


@fast_route(bp, "/v1/chat/completions")
@Operation(
    tag="Gateway",
    caller="key",
    scope=CODEBUFF.scope,
    body=CodebuffChatBody,
    parameters=[
        header(RUN_BUDGET, "Credits that this run and its sub-runs may spend; the first one given counts"),
        *PAYER_HEADERS,
    ],
    answers={
        200: ("The completion, or its stream", Completion),
        400: "Invalid body, or no run, or a run that is not yours or not running",
        402: "Out of credits; the message says when free credits reset. Or not enough for this call, or a budget leaves less "
        "(`budget_exceeded`; `details` names it)",
        403: FORBIDDEN,
        404: NOT_FOUND,
        409: CLAIMED,
        422: KEY_REUSED,
        429: "Your plan is used up (`rate_limit_exceeded`), calls in flight hold the credits (`credits_held`; `details` "
        "lists their holds), or the provider's rate limit; retry after the seconds in Retry-After",
        500: "Internal error of this server",
        502: "The provider failed; nothing is charged",
        503: "The ledger is not reachable",
        504: "The provider did not respond in time; nothing is charged",
        "default": "The provider's error",
    },
    door=CODEBUFF_DOOR,
)
def chat_completions(context: RequestContext) -> Response:
    """Complete a chat within a run.

    For the Codebuff SDK; with `thread_id` or `agent_id` as `/v1/chat/completions`. With x-openrouter-api-key your own OpenRouter key pays for the call.
    """
    return call_model(context, CODEBUFF, remembers=True)


class TokenCountBody(Body):
    """Messages to count, in any provider's format."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)]
    system: Any = None
    tools: Any = None
    model: str | None = None


class TokenCount(ResponseModel):
    inputTokens: int


class Liveness(ResponseModel):
    status: Literal["ok"]
    cached_agents: int
    timestamp: datetime


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case RequestEntityTooLarge():
            return json_answer({"error": error.description}, 413)
        case DomainError():
            return json_answer({"message": error.message}, error.status)
    return error_bodies.format_error(error)


@bp.post("/v1/token-count")
@Operation(
    tag="Gateway",
    caller="key",
    scope=CODEBUFF.scope,
    body=TokenCountBody,
    answers={200: ("The count", TokenCount), 400: ("The body is invalid", ApiBodyError)},
    door=door(_error_response, error=MessageError, too_large=ApiError),
)
def token_count() -> ResponseReturnValue:
    """Count the tokens of a conversation.

    Free; nothing is sent to a provider. Counts with OpenAI's tokenizer, and adds 30 % for models of other vendors.
    """
    body = parse(TokenCountBody, read_json(allow_nul=True))
    key = guards.api_key()
    if not key:
        raise DomainError("Unauthorized", status=401)
    if guards.key_credential(key) is None:
        raise DomainError("Invalid Codebuff API key", status=401)
    count = tokens.count_messages(body.messages, body.tools, body.system)
    exact = body.model is None or tokens.has_vocabulary(body.model)
    return json_answer({"inputTokens": count if exact else count + count * 3 // 10})


@bp.get("/healthz")
@Operation(tag="Server", answers={200: ("The server is up", Liveness)}, door=door())
def healthz() -> ResponseReturnValue:
    """Check that the server is up.

    Does not check the database; /readyz does.
    """
    timestamp = now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json_answer({"status": "ok", "cached_agents": 0, "timestamp": timestamp})
