"""`/v1/completions`: OpenAI's older API of plain text."""

from typing import Any

from flask import Blueprint
from pydantic import BaseModel, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import COMPLETIONS
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.gateway.api.openai import Completion, StreamOptions, Tokens
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Operation

bp = Blueprint("gateway_completions", __name__)


class CompletionBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(
        min_length=1, description="An id from GET /v1/models", examples=["openai/gpt-3.5-turbo-instruct"]
    )
    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="One or several texts, or their tokens"
    )
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    stream_options: Missing[StreamOptions] = None
    max_tokens: Missing[Tokens] = None
    n: Missing[int] = Field(None, ge=1, le=128, description="Number of choices for each prompt")
    suffix: Missing[str] = None
    stop: Missing[str | list[str]] = None
    temperature: Missing[float] = None
    logprobs: Missing[Any] = None


@fast_route(bp, "/v1/completions", "/api/v1/completions")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=COMPLETIONS.scope,
    body=CompletionBody,
    parameters=CALL_HEADERS,
    answers={200: ("The completion, or its stream", Completion), **CALL_ERRORS},
    door=DOOR,
)
def completions(context: RequestContext) -> Response:
    """Continue a text.

    For models that complete plain text, and for chat models on servers that also do. Chats belong to /v1/chat/completions.
    """
    return call_model(context, COMPLETIONS)
