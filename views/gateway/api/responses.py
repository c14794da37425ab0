"""`/v1/responses`: OpenAI's Responses API."""

from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.errors import DomainError
from models.core.strict_models import Missing
from models.gateway.dialects import COMPACTION, RESPONSES
from models.gateway.formats.responses_parsing import parse_responses
from views.gateway.api.model_calls import (
    CALL_ERRORS,
    CALL_HEADERS,
    DOOR,
    NOT_FOUND,
    call_model,
    count_tokens,
    refuse_in,
)
from views.gateway.api.openai import Tokens
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_responses", __name__, url_prefix="/v1")


class ResponsesBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/formats`)."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["stoa/demo"])
    input: str | list[dict[str, Any]] = Field(description="Text, or a list of items", examples=["Say hello."])
    instructions: Missing[str] = None
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    store: Missing[bool] = Field(None, description="Keep the response; the default is true")
    previous_response_id: Missing[str] = Field(None, description="A kept response that this one continues")
    max_output_tokens: Missing[Tokens] = None
    tools: Missing[list[dict[str, Any]]] = None
    reasoning: Missing[dict[str, Any]] = None
    text: Missing[dict[str, Any]] = Field(None, description="The form of the answer")


class ModelResponse(ResponseModel):
    """The response; from OpenAI, it may have more fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int = Field(description="Seconds since 1970")
    status: Literal["completed", "incomplete", "failed", "in_progress", "cancelled", "queued"]
    model: str = Field(description="The model that answered")
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class CompactionBody(BaseModel):
    """Documentation only, as ResponsesBody."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["stoa/demo"])
    input: str | list[dict[str, Any]] = Field(description="Text, or a list of items", examples=["Say hello."])
    instructions: Missing[str] = None
    previous_response_id: Missing[str] = Field(None, description="A kept response that is compacted too")


class CompactedConversation(ResponseModel):
    """The user's messages, and one item that stands for the rest: the next `input` begins with them."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response.compaction"]
    created_at: int = Field(description="Seconds since 1970")
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class ResponseInputTokens(ResponseModel):
    object: Literal["response.input_tokens"]
    input_tokens: int


@fast_route(bp, "/responses")
@Operation(
    tag="Gateway",
    caller="key",
    scope=RESPONSES.scope,
    body=ResponsesBody,
    parameters=CALL_HEADERS,
    answers={
        200: ("The response, or its stream", ModelResponse),
        **CALL_ERRORS,
    },
    door=DOOR,
)
def responses(context: RequestContext) -> Response:
    """Create a response.

    Works with the OpenAI SDKs and with Codex, for the models of every vendor. Responses are kept, unless `store` is false, and can be
    continued with `previous_response_id`. What a provider of another format cannot be sent is left out and named in `X-Stoa-Dropped`.
    """
    return call_model(context, RESPONSES)


@fast_route(bp, "/responses/compact")
@Operation(
    tag="Gateway",
    caller="key",
    body=CompactionBody,
    parameters=CALL_HEADERS,
    answers={
        200: ("The compacted conversation", CompactedConversation),
        **CALL_ERRORS,
    },
    door=DOOR,
)
def compact(context: RequestContext) -> Response:
    """Compact a conversation.

    Costs as much as a response. OpenAI compacts for its own models; for models of other vendors the same model writes a summary.
    """
    return call_model(context, COMPACTION)


@fast_route(bp, "/responses/input_tokens")
@Operation(
    tag="Gateway",
    caller="key",
    scope=RESPONSES.scope,
    body=ResponsesBody,
    answers={200: ("The count", ResponseInputTokens), 400: "The body is invalid", 404: NOT_FOUND},
    door=DOOR,
)
def count_response_tokens(context: RequestContext) -> Response:
    """Count the input tokens of a response.

    Free. Counts with OpenAI's tokenizer, and adds 30 % for models of other vendors.
    """

    def written(count: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": count}

    return count_tokens(context, RESPONSES, parse_responses, written)


@fast_route(bp, "/responses", method="GET")
@Operation(
    tag="Gateway",
    caller="anyone",
    answers={426: "Responses are not served over WebSocket: send a POST"},
    door=DOOR,
)
def response_socket(context: RequestContext) -> Response:
    """Refuse a WebSocket.

    Codex and other clients that open one fall back to POST.
    """
    message = (
        "Responses are not served over WebSocket here. Send POST /v1/responses, with 'stream' for events."
    )
    response = refuse_in(context, RESPONSES, DomainError(message, status=426, code="websocket_not_served"))
    response.headers["Connection"] = "close"
    return response
