"""`/v1/*`: the gateway as any OpenAI client knows it. Errors have OpenAI's shape; the model list also Anthropic's."""

from typing import Annotated, Any, Literal, cast

from flask import Blueprint, Flask
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response
from werkzeug.exceptions import HTTPException

from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import GATEWAY_POOL
from models.core.strict_models import INT32_MAX, Missing
from models.gateway import model_names
from models.gateway.call_errors import CallRefused, ProviderError
from models.gateway.chat_format import BadCall
from models.gateway.dialects import CHAT
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorContext,
    IncomingRequest,
    MissingApiKey,
    Reply,
    UnreadableBody,
)
from models.gateway.dialects.error_shapes import model_error
from models.gateway.lenient_json import write
from models.gateway.pricing import MILLION, ModelPrice
from models.gateway.relay import Gateway
from models.gateway.routing import Route
from models.gateway.stream import AnswerStream
from models.gateway.upstream import UpstreamError
from views.web import error_handlers, guards
from views.web.body import BadJson, BodyTooLarge, read_with_bytes
from views.web.content_encoding import UnsupportedEncoding
from views.web.error_bodies import ModelError
from views.web.fast_path import FastResponse, RequestContext, current_context, fast_route
from views.web.operation import ErrorFormat, Operation, ResponseModel, header, path

bp = Blueprint("gateway", __name__, url_prefix="/v1")

CREATED = 1_735_689_600
"""When the listed models are said to have been made: no price table knows."""


def init_app(app: Flask) -> None:
    """Make the process's gateway. Raises SettingsError when the operator's price file cannot be used."""
    settings = app.extensions["settings"]
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    app.extensions["gateway"] = Gateway(settings, pool)
    app.register_blueprint(bp)


def gateway(app: Flask) -> Gateway:
    """The gateway of this process."""
    return cast(Gateway, app.extensions["gateway"])


class ChatMessage(BaseModel):
    role: str = Field(description="system, developer, user, assistant or tool")
    content: str | list[dict[str, Any]] | None = Field(None, description="Text, or a list of parts")
    tool_calls: Missing[list[dict[str, Any]]] = None
    tool_call_id: Missing[str] = None


class StreamOptions(BaseModel):
    include_usage: Missing[bool] = Field(None, description="Send the chunk with the usage")


Tokens = Annotated[int, Field(ge=1, le=INT32_MAX)]


class ChatBody(BaseModel):
    """For the document: a dialect reads the body itself (`models/gateway/wire`)."""

    model: str = Field(min_length=1, description="As GET /v1/models lists it", examples=["stoa/demo"])
    messages: list[ChatMessage] = Field(min_length=1)
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    stream_options: Missing[StreamOptions] = None
    max_tokens: Missing[Tokens] = None
    max_completion_tokens: Missing[Tokens] = None
    n: Missing[int] = Field(None, ge=1, le=128, description="How many answers")
    tools: Missing[list[dict[str, Any]]] = None
    temperature: Missing[float] = None
    stop: Missing[str | list[str]] = None


class TokenUsage(ResponseModel):
    model_config = ConfigDict(extra="allow")

    prompt_tokens: Missing[int] = None
    completion_tokens: Missing[int] = None
    total_tokens: Missing[int] = None
    cost: Missing[float] = Field(
        None,
        description="Provider dollars of the call; credits are cost x 100 x (1 + margin), rounded half up",
    )
    cost_details: dict[str, Any] | None = None


class Completion(ResponseModel):
    """What the provider answers; it may say more."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str
    created: int = Field(description="Seconds since 1970")
    model: str = Field(description="The model that answered")
    choices: list[dict[str, Any]]
    usage: Missing[TokenUsage] = None


class ModelPricing(ResponseModel):
    prompt: str = Field(description="Input")
    completion: str = Field(description="Output")
    input_cache_read: str
    input_cache_write: str
    request: str = Field(description="Of a call, beside its tokens")


class ModelFacts(ResponseModel):
    id: str = Field(description="What a call names")
    object: Literal["model"]
    created: int
    owned_by: str = Field(description="The provider it leads to")
    type: Literal["chat"]
    context_window: int | None = Field(description="Tokens")
    pricing: ModelPricing | None = Field(description="Dollars per token; null where only the provider knows")


class AnthropicModel(ResponseModel):
    """Answered to whoever sends `anthropic-version`."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str


class ModelList(ResponseModel):
    object: Literal["list"]
    data: list[ModelFacts]


class AnthropicModelList(ResponseModel):
    """Answered to whoever sends `anthropic-version`."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str
    last_id: str


DOOR = ErrorFormat(lambda error: None, ModelError, ModelError, ModelError, ModelError)


@fast_route(bp, "/chat/completions")
@Operation(
    tag="Gateway",
    caller="key",
    body=ChatBody,
    parameters=[header("x-stoa-run-id", "Ties the call to a running run of yours")],
    answers={
        200: ("The completion, or its stream", Completion),
        400: "The body cannot be used, or the model has no price here, or cannot chat",
        402: "Not enough credits for this call beside those in flight",
        404: "No configured provider serves the model",
        429: "The provider limits its callers; Retry-After says how long",
        500: "This server failed",
        502: "The provider could not be reached, or failed; nothing is charged",
        503: "The ledger is not reachable",
        504: "The provider did not answer in time; nothing is charged",
        "default": "What the provider refused with",
    },
    door=DOOR,
)
def chat_completions(visit: RequestContext) -> Response:
    """Complete a chat.

    Any OpenAI client. The balance is checked and held before the call leaves; the call is billed before the chunk with
    its usage reaches you. With stream the answer is text/event-stream. Pages of other origins may call every address
    below /v1 and /api/v1, as the operator allows.
    """
    return call_model(visit, CHAT)


@bp.get("/models")
@Operation(
    tag="Gateway",
    caller="key",
    answers={
        200: ("The models that can be called for chat completions here", ModelList | AnthropicModelList)
    },
    door=DOOR,
)
def models() -> ResponseReturnValue:
    """List the models."""
    visit = current_context()
    if (refusal := _stranger(visit)) is not None:
        return refusal
    listed = gateway(visit.app).routes.models()
    if _anthropic(visit):
        data = [_anthropic_model(route) for route in listed]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return json_answer({"data": data, "has_more": False, **ends})
    return json_answer({"object": "list", "data": [_model(route) for route in listed]})


@bp.get("/models/<path:name>")
@Operation(
    tag="Gateway",
    caller="key",
    parameters=[path("name", "May contain slashes")],
    answers={200: ("The model", ModelFacts | AnthropicModel), 404: "No such model here"},
    door=DOOR,
)
def model(name: str) -> ResponseReturnValue:
    """Look one model up."""
    visit = current_context()
    if (refusal := _stranger(visit)) is not None:
        return refusal
    try:
        route = gateway(visit.app).routes.find(name)
    except DomainError as error:
        return _refuse(visit, 404, error.message, "model_not_found", param="model")
    return json_answer(_anthropic_model(route) if _anthropic(visit) else _model(route))


def _model(route: Route) -> dict[str, Any]:
    return {
        "id": route.requested,
        "object": "model",
        "created": CREATED,
        "owned_by": route.provider.name,
        "type": model_names.CHAT,
        "context_window": route.context_window,
        "pricing": _pricing(route.price),
    }


def _pricing(price: ModelPrice | None) -> dict[str, str] | None:
    """Dollars per token as OpenRouter writes them, for a call of ordinary length; None where only it knows."""
    if price is None:
        return None
    tier = price.tiers[0]
    figures = {
        "prompt": tier.input / MILLION,
        "completion": tier.output / MILLION,
        "input_cache_read": tier.cache_read / MILLION,
        "input_cache_write": tier.cache_write / MILLION,
        "request": price.request,
    }
    return {name: f"{figure.normalize():f}" for name, figure in figures.items()}


def _anthropic_model(route: Route) -> dict[str, Any]:
    name = route.requested
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}


def _anthropic(visit: RequestContext) -> bool:
    return "anthropic-version" in visit.request.headers


def _stranger(visit: RequestContext) -> Response | None:
    key = guards.api_key(visit.request.environ)
    if key and guards.key_credential(key):
        return None
    message = "This API key is unknown or expired." if key else MissingApiKey().message
    return _refuse(visit, 401, message, "invalid_api_key")


# -- calls ---------------------------------------------------------------------------------------------------


def call_model(visit: RequestContext, dialect: Dialect) -> Response:
    """One call of a model, asked for and answered in a dialect (contract 5.2, in its order of checks)."""
    try:
        return _answered(gateway(visit.app).open(_read(visit, dialect)))
    except Exception as error:
        return _told(visit, dialect, error)


def _read(visit: RequestContext, dialect: Dialect) -> CallRequest:
    request = visit.request
    key = guards.api_key(request.environ)
    if not key and not dialect.body_first:
        raise MissingApiKey

    def knock() -> None:
        # before a large body is read the ledger must know whose it is
        if not key:
            raise MissingApiKey
        gateway(visit.app).recognise(key, visit.id, dialect)

    body: Any
    try:
        body, raw = read_with_bytes(request, allow_nul=True, before_large=knock)
    except BadJson as error:
        if dialect.body_first:
            raise UnreadableBody from error
        body, raw = BadCall(f"The request body is not JSON that can be used: {error}."), b""
    if not key:
        raise MissingApiKey
    return dialect.read(IncomingRequest(visit.id, key, request.headers, body, raw))


def _answered(answer: Reply | AnswerStream) -> Response:
    """The answer of the gateway as HTTP (contract 5.4)."""
    if isinstance(answer, Reply):
        response = FastResponse(answer.body, content_type=answer.content_type)
    else:
        response = FastResponse(
            answer,
            direct_passthrough=True,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"},
        )
    return _with_dropped(response, answer.dropped)


def _told(visit: RequestContext, dialect: Dialect, error: Exception) -> Response:
    """What went wrong, in the words of the dialect."""
    known = _known(error)
    if not isinstance(known, CallRefused | ProviderError | UpstreamError | DomainError):
        error_handlers.log.error("request %s: POST %s failed", visit.id, visit.request.path, exc_info=error)
    told = dialect.error(known, ErrorContext(visit.id, visit.request.headers, visit.settings))
    response = json_answer(told.body, told.status)
    response.headers.update(told.headers)
    if isinstance(error, UnsupportedEncoding):
        response.headers["Accept-Encoding"] = error.accept
    if isinstance(known, ProviderError | DomainError) and known.retry_after:
        seconds = str(known.retry_after)
        if seconds.isprintable() and len(seconds) < 100:
            response.headers["Retry-After"] = seconds
    return _with_dropped(response, getattr(error, "dropped", ()))


def _known(error: Exception) -> Exception:
    """What is wrong with a body, as dialects know it."""
    match error:
        case BodyTooLarge():
            return DomainError(str(error.description), status=413, code="request_too_large")
        case UnsupportedEncoding():
            return DomainError(str(error.description), status=415, code="unsupported_content_encoding")
        case HTTPException() | ParseException():
            return UnreadableBody()
    return error


def _with_dropped(response: Response, dropped: tuple[str, ...]) -> Response:
    """Name what of the request the provider was not sent."""
    if dropped:
        response.headers["X-Stoa-Dropped"] = ", ".join(dropped)
    return response


def json_answer(body: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(write(body), status, content_type="application/json")


def _refuse(
    visit: RequestContext, status: int, message: str, code: str, *, param: str | None = None
) -> Response:
    return json_answer(
        model_error(visit.request.headers, visit.id, status, message, code, param=param), status
    )
