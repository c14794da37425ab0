"""The gateway as the compatible SDK knows it: chat completions (contract 5), token count (A.5), health (2.14)."""

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
from models.gateway.dialects import CODEBUFF
from models.gateway.dialects.codebuff import MOST_PARALLEL
from views.gateway.openai import ChatBody, Completion, call_model, json_answer
from views.web import error_bodies, guards
from views.web.body import Body, Missing, parse, read_json
from views.web.error_bodies import ApiBodyError, ApiError, MessageError, door
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import ErrorFormat, Operation, ResponseModel

bp = Blueprint("gateway_api", __name__, url_prefix="/api")


class CodebuffMetadata(BaseModel):
    run_id: str = Field(description="A running run of yours")
    client_id: Missing[str] = None
    n: Missing[int] = Field(None, ge=1, le=MOST_PARALLEL, description="Answers merged into one, not streamed")


class CodebuffChatBody(ChatBody):
    codebuff_metadata: Missing[CodebuffMetadata] = None


class CodebuffError(ResponseModel):
    """The text is where older and newer versions of the SDK look for it."""

    message: Missing[str] = Field(None, description="What is wrong, for the user")
    error: Missing[str | dict[str, Any]] = Field(None, description="Its code, or message, code and type")


CODEBUFF_DOOR = ErrorFormat(
    error_bodies.format_error, CodebuffError, CodebuffError, CodebuffError, CodebuffError
)


@fast_route(bp, "/v1/chat/completions")
@Operation(
    tag="Gateway",
    caller="key",
    body=CodebuffChatBody,
    answers={
        200: ("The completion, or its stream", Completion),
        400: "Not JSON, no run, a foreign or finished run, or a body that cannot be used",
        402: "Out of credits; says when the free ones renew",
        404: "No configured provider serves the model",
        429: "The provider limits its callers; Retry-After says how long",
        500: "This server failed",
        502: "The provider failed; nothing is charged",
        503: "The ledger is not reachable",
        504: "The provider did not answer in time; nothing is charged",
        "default": "What the provider refused with",
    },
    door=CODEBUFF_DOOR,
)
def chat_completions(visit: RequestContext) -> Response:
    """Complete a chat within a run.

    The door of the Codebuff SDK. x-openrouter-api-key brings a key of your own, which then pays.
    """
    return call_model(visit, CODEBUFF)


class TokenCountBody(Body):
    """What is to be counted: messages in any dialect."""

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


def _words(error: Exception) -> ResponseReturnValue | None:
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
    body=TokenCountBody,
    answers={200: ("The count", TokenCount), 400: ("The body cannot be used", ApiBodyError)},
    door=door(_words, error=MessageError, too_large=ApiError),
)
def token_count() -> ResponseReturnValue:
    """Count the tokens of a conversation.

    Free, and never sent to a provider. Other vendors' vocabularies are finer than the one that counts: 30 % are added.
    """
    asked = parse(TokenCountBody, read_json(allow_nul=True))
    key = guards.api_key()
    if not key:
        raise DomainError("Unauthorized", status=401)
    if guards.key_credential(key) is None:
        raise DomainError("Invalid Codebuff API key", status=401)
    count = tokens.count_messages(asked.messages, asked.tools, asked.system)
    own = asked.model is None or tokens.knows(asked.model)
    return json_answer({"inputTokens": count if own else count + count * 3 // 10})


@bp.get("/healthz")
@Operation(tag="Server", answers={200: ("It does", Liveness)}, door=door())
def healthz() -> ResponseReturnValue:
    """Whether the server answers.

    Says nothing about the database, which /readyz does.
    """
    timestamp = now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json_answer({"status": "ok", "cached_agents": 0, "timestamp": timestamp})
