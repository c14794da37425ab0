"""`/v1beta/models/<model>:<method>`: Google's Gemini API."""

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from models.accounts import scopes
from models.core.errors import DomainError
from models.core.strict_models import Missing
from models.gateway.dialects.dialect import MissingApiKey
from models.gateway.dialects.generate_content import GeminiDialect
from models.gateway.route import Route
from views.gateway.api.model_calls import (
    CALL_ERRORS,
    PAYER_HEADERS,
    call_model,
    count_tokens,
    gateway,
    json_answer,
    refuse_in,
)
from views.web import guards
from views.web.fast_path import current_context
from views.web.operation import ErrorFormat, Operation, ResponseModel, header, path, query

bp = Blueprint("gateway_gemini", __name__, url_prefix="/v1beta")


class GoogleErrorDetail(ResponseModel):
    code: int
    message: str
    status: str
    details: Missing[list[Any]] = None


class GoogleError(ResponseModel):
    error: GoogleErrorDetail


def _format_error(error: Exception) -> ResponseReturnValue | None:
    return refuse_in(current_context(), GeminiDialect(), error) if isinstance(error, DomainError) else None


DOOR = ErrorFormat(_format_error, GoogleError, GoogleError, GoogleError, GoogleError)
METHODS = ("generateContent", "streamGenerateContent", "countTokens")


class GenerateBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/formats`). Keys in snake_case are accepted too."""

    contents: list[dict[str, Any]] = Field(
        min_length=1,
        description="Turns of user and model",
        examples=[[{"role": "user", "parts": [{"text": "Say hello."}]}]],
    )
    systemInstruction: Missing[dict[str, Any]] = None
    tools: Missing[list[dict[str, Any]]] = None
    toolConfig: Missing[dict[str, Any]] = None
    generationConfig: Missing[dict[str, Any]] = None


class GeneratedContent(ResponseModel):
    """The answer, or the count for `countTokens`."""

    model_config = ConfigDict(extra="allow")

    candidates: Missing[list[dict[str, Any]]] = None
    usageMetadata: Missing[dict[str, Any]] = None
    totalTokens: Missing[int] = None


class GeminiModel(ResponseModel):
    name: str = Field(description="models/ and the id")
    displayName: str
    inputTokenLimit: int | None
    supportedGenerationMethods: list[str]


class GeminiModels(ResponseModel):
    models: list[GeminiModel]


@bp.post("/models/<path:target>")
@Operation(
    tag="Gateway",
    caller="key",
    scope=scopes.CHAT,
    body=GenerateBody,
    parameters=[
        path("target", "The model, a colon, and generateContent, streamGenerateContent or countTokens"),
        query("alt", "sse, for streamGenerateContent"),
        header("x-stoa-run-id", "Attaches the call to one of your running runs"),
        *PAYER_HEADERS,
    ],
    answers={
        200: ("The answer, its stream, or the count", GeneratedContent),
        **CALL_ERRORS,
    },
    door=DOOR,
)
def generate(target: str) -> ResponseReturnValue:
    """Generate content.

    Works with Google's SDKs and Gemini CLI, for the models of every vendor. `countTokens` is free.
    """
    context = current_context()
    model, _, method = target.rpartition(":")
    dialect = GeminiDialect(model, method == "streamGenerateContent")
    if method not in METHODS or not model:
        return refuse_in(context, dialect, _no_method(target))
    if dialect.stream and context.request.args.get("alt") != "sse":
        message = "Streams are served as events: add '?alt=sse' to the address."
        return refuse_in(context, dialect, DomainError(message, status=400))
    if method == "countTokens":
        return count_tokens(context, dialect, dialect.parse_count, lambda count: {"totalTokens": count})
    return call_model(context, dialect)


@bp.get("/models")
@Operation(
    tag="Gateway",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    answers={200: ("The models", GeminiModels)},
    door=DOOR,
)
def list_gemini_models() -> ResponseReturnValue:
    """List the models in Google's format."""
    context = current_context()
    key = guards.api_key(context.request.environ)
    if not key or not guards.key_credential(key):
        return refuse_in(context, GeminiDialect(), _unknown_key(key))
    return json_answer({"models": [_model(route) for route in gateway(context.app).routes.models()]})


def _model(route: Route) -> dict[str, Any]:
    return {
        "name": f"models/{route.name}",
        "displayName": route.name,
        "inputTokenLimit": route.context_window,
        "supportedGenerationMethods": [*METHODS],
    }


def _no_method(target: str) -> DomainError:
    methods = ", ".join(METHODS)
    return DomainError(
        f"'{target[:100]}' is no method here. After the model and a colon comes one of {methods}.", status=404
    )


def _unknown_key(key: str | None) -> DomainError:
    if not key:
        return MissingApiKey()
    return DomainError("This API key is unknown or expired.", status=401, code="invalid_api_key")
