"""`/v1/*`: the OpenAI-compatible API. Errors have OpenAI's format; errors and models also Anthropic's."""

from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.accounts import scopes
from models.core.errors import DomainError
from models.core.strict_models import INT32_MAX, Missing
from models.gateway.dialects import CHAT
from models.gateway.dialects.dialect import MissingApiKey
from views.gateway.api.model_calls import (
    CALL_ERRORS,
    CALL_HEADERS,
    DOOR,
    call_model,
    gateway,
    json_answer,
    refuse,
)
from views.gateway.api.model_facts import (
    AnthropicModel,
    AnthropicModelList,
    ModelFacts,
    ModelList,
    anthropic_model,
    openai_model,
)
from views.web import guards
from views.web.fast_path import RequestContext, current_context, fast_route
from views.web.operation import Operation, ResponseModel, path

bp = Blueprint("gateway", __name__, url_prefix="/v1")


class ChatMessage(BaseModel):
    role: str = Field(description="system, developer, user, assistant or tool")
    content: str | list[dict[str, Any]] | None = Field(None, description="Text, or a list of parts")
    tool_calls: Missing[list[dict[str, Any]]] = None
    tool_call_id: Missing[str] = None


class StreamOptions(BaseModel):
    include_usage: Missing[bool] = Field(None, description="Send the chunk with the usage")


Tokens = Annotated[int, Field(ge=1, le=INT32_MAX)]


class ChatBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["stoa/demo"])
    messages: list[ChatMessage] = Field(min_length=1)
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    stream_options: Missing[StreamOptions] = None
    max_tokens: Missing[Tokens] = None
    max_completion_tokens: Missing[Tokens] = None
    n: Missing[int] = Field(None, ge=1, le=128, description="Number of choices")
    tools: Missing[list[dict[str, Any]]] = None
    thread_id: Missing[str] = Field(None, description="A thread of yours that this continues")
    agent_id: Missing[str] = Field(
        None, description="An assistant of yours that answers; by default the thread's"
    )
    on_busy: Missing[str] = Field(
        None, description="While the thread has an answer in progress: queue (default), reject or interrupt"
    )
    temperature: Missing[float] = None
    stop: Missing[str | list[str]] = None


class TokenUsage(ResponseModel):
    model_config = ConfigDict(extra="allow")

    prompt_tokens: Missing[int] = None
    completion_tokens: Missing[int] = None
    total_tokens: Missing[int] = None
    cost: Missing[float] = Field(
        None,
        description="Cost of the call in dollars; credits are cost x 100 x (1 + margin), rounded half up",
    )
    cost_details: dict[str, Any] | None = None


class Completion(ResponseModel):
    """The provider's response; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str
    created: int = Field(description="Seconds since 1970")
    model: str = Field(description="The model that answered")
    choices: list[dict[str, Any]]
    usage: Missing[TokenUsage] = None


@fast_route(bp, "/chat/completions")
@Operation(
    tag="Gateway",
    caller="key",
    scope=CHAT.scope,
    body=ChatBody,
    parameters=CALL_HEADERS,
    answers={
        200: ("The completion, or its stream", Completion),
        **CALL_ERRORS,
    },
    door=DOOR,
)
def chat_completions(context: RequestContext) -> Response:
    """Complete a chat.

    Works with any OpenAI client. Credits are checked and held before the provider is called; the call is billed before
    you receive the chunk with its usage. With `stream` the response is text/event-stream. All URLs below /v1 and /api/v1
    support CORS, for the origins that the operator allows. `X-Stoa-Served` says which provider and model answered, and why.

    With `thread_id` the messages are only the new ones: the server sends the thread's history with them, and stores the answer. Closing the connection
    does not stop it. With `agent_id` an assistant's settings apply, and the server runs its tools. The last chunk has, in `stoa`, the credits charged, and
    the ids of the billed call, the turn and the message. Tool calls of yours are answered by the next request, with their `tool` messages.
    """
    return call_model(context, CHAT, remembers=True)


@bp.get("/models")
@Operation(
    tag="Gateway",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    answers={200: ("The models; in Anthropic's format those that chat", ModelList | AnthropicModelList)},
    door=DOOR,
)
def models() -> ResponseReturnValue:
    """List the models."""
    context = current_context()
    if (refusal := _reject_unknown_key(context)) is not None:
        return refusal
    routes = gateway(context.app).routes
    if _anthropic(context):
        data = [anthropic_model(route) for route in routes.models()]
        range_ids = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return json_answer({"data": data, "has_more": False, **range_ids})
    return json_answer({"object": "list", "data": [openai_model(route) for route in routes.all_models()]})


@bp.get("/models/<path:name>")
@Operation(
    tag="Gateway",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    parameters=[path("name", "May contain slashes")],
    answers={200: ("The model", ModelFacts | AnthropicModel), 404: "No such model here"},
    door=DOOR,
)
def model(name: str) -> ResponseReturnValue:
    """Get a model."""
    context = current_context()
    if (refusal := _reject_unknown_key(context)) is not None:
        return refusal
    try:
        route = gateway(context.app).routes.find_any(name)
    except DomainError as error:
        return refuse(context, 404, error.message, "model_not_found", param="model")
    return json_answer(anthropic_model(route) if _anthropic(context) else openai_model(route))


def _anthropic(context: RequestContext) -> bool:
    return "anthropic-version" in context.request.headers


def _reject_unknown_key(context: RequestContext) -> Response | None:
    key = guards.api_key(context.request.environ)
    if key and guards.key_credential(key):
        return None
    message = "This API key is unknown or expired." if key else MissingApiKey().message
    return refuse(context, 401, message, "invalid_api_key")
