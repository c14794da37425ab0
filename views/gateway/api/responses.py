"""`/v1/responses`: OpenAI's Responses API."""

from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.chat_format import Call
from models.gateway.dialects import COMPACTION, RESPONSES
from models.gateway.formats.responses_parsing import parse_responses
from models.gateway.response_state.request_state import RequestState
from views.gateway.api.model_calls import (
    CALL_ERRORS,
    CALL_HEADERS,
    DOOR,
    NOT_FOUND,
    call_model,
    count_tokens,
    gateway,
    response_owner,
)
from views.gateway.api.openai import Tokens
from views.gateway.api.response_sockets import serve_socket
from views.threads.api.stateful_responses import STATEFUL
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
    conversation: Missing[str | dict[str, Any]] = Field(
        None, description="A conversation whose items come first, and to which input and output are added"
    )
    prompt: Missing[dict[str, Any]] = Field(
        None, description="A saved assistant: its `id`, and `version` and `variables`"
    )
    background: Missing[bool] = Field(None, description="Answer at once, and write the response meanwhile")
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
    tag="Responses",
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
    continued with `previous_response_id` or belong to a `conversation`, of which one response is written at a time
    (`conversation_locked`). A response in the `background` survives its client. What a provider of another format cannot be sent is left out and named in `X-Stoa-Dropped`.
    """
    return call_model(context, RESPONSES, stateful=STATEFUL)


@fast_route(bp, "/responses/compact")
@Operation(
    tag="Responses",
    caller="key",
    scope=RESPONSES.scope,
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
    tag="Responses",
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

    def parse(body: Any, size: int) -> Call:
        call = parse_responses(body, size)
        served = gateway(context.app)
        state = RequestState(context.id, body, size, served.responses)
        if not state.refers:
            return call
        resolved = state.resolve(response_owner(context))
        return parse_responses(resolved.body, resolved.size)

    return count_tokens(context, RESPONSES, parse, written)


@fast_route(bp, "/responses", method="GET")
@Operation(
    tag="Responses",
    caller="key",
    scope=RESPONSES.scope,
    answers={
        101: ("The connection is a WebSocket", None),
        400: "The handshake is invalid",
        403: "Your account is suspended, or your key may not do this",
        426: "This is no WebSocket: send a POST",
        429: "Too many WebSockets are open",
        503: "The ledger is not reachable",
    },
    door=DOOR,
)
def response_socket(context: RequestContext) -> Response:
    """Create responses over a WebSocket.

    Frames are JSON: `response.create` with a body as for POST, `generate` false to only prepare it, `stream_id` for responses beside
    one another, and `response.steer` to add input to a response that is being generated. The events are those of a stream.
    """
    return serve_socket(context)
