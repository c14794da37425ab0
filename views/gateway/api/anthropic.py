"""`/v1/messages`: Anthropic's Messages API."""

from functools import partial
from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import MESSAGES
from models.gateway.formats.messages_parsing import parse_messages
from views.gateway.api.model_calls import (
    CALL_ERRORS,
    CALL_HEADERS,
    NOT_FOUND,
    call_model,
    count_tokens,
)
from views.gateway.api.openai import Tokens
from views.web.error_bodies import AnthropicError
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import ErrorFormat, Operation, ResponseModel, header

bp = Blueprint("gateway_anthropic", __name__, url_prefix="/v1")

DOOR = ErrorFormat(lambda error: None, AnthropicError, AnthropicError, AnthropicError, AnthropicError)


class ClaudeMessage(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]] = Field(description="Text, or a list of blocks")


class CountedBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/formats`)."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["stoa/demo"])
    messages: list[ClaudeMessage] = Field(min_length=1)
    system: Missing[str | list[dict[str, Any]]] = None
    tools: Missing[list[dict[str, Any]]] = None


class MessagesBody(CountedBody):
    max_tokens: Tokens
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    temperature: Missing[float] = None
    stop_sequences: Missing[list[str]] = None
    thinking: Missing[dict[str, Any]] = None


class MessageUsage(ResponseModel):
    model_config = ConfigDict(extra="allow")

    input_tokens: int = Field(description="Without cached tokens")
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class ClaudeAnswer(ResponseModel):
    """The message; from a provider of this format, it may have more fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str = Field(description="The model that answered")
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None = None
    usage: MessageUsage


class InputTokens(ResponseModel):
    input_tokens: int


@fast_route(bp, "/messages")
@Operation(
    tag="Gateway",
    caller="key",
    scope=MESSAGES.scope,
    body=MessagesBody,
    parameters=[
        header("anthropic-beta", "Passed on to providers of this format, ignored for others"),
        *CALL_HEADERS,
    ],
    answers={
        200: ("The message, or its stream", ClaudeAnswer),
        **CALL_ERRORS,
    },
    door=DOOR,
)
def messages(context: RequestContext) -> Response:
    """Create a message.

    Works with any Anthropic client and with Claude Code, for the models of every vendor. What a provider of another format
    cannot be sent is left out and named in `X-Stoa-Dropped`.
    """
    return call_model(context, MESSAGES)


@fast_route(bp, "/messages/count_tokens")
@Operation(
    tag="Gateway",
    caller="key",
    scope=MESSAGES.scope,
    body=CountedBody,
    answers={200: ("The count", InputTokens), 400: "The body is invalid", 404: NOT_FOUND},
    door=DOOR,
)
def count_message_tokens(context: RequestContext) -> Response:
    """Count the input tokens of a message.

    Free. Anthropic counts for its own models; for others this server counts with OpenAI's tokenizer, and adds 30 % for models of
    other vendors.
    """
    parse = partial(parse_messages, limit_required=False)
    return count_tokens(context, MESSAGES, parse, lambda count: {"input_tokens": count})
