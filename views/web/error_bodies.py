"""How JSON routes refuse: the shapes of errors, and the compatible API's words, `{"error": …}`, for what views raise."""

from collections.abc import Callable
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field

from models.core.errors import DomainError
from models.core.strict_models import InvalidBody, Missing
from views.web.body import BadJson
from views.web.operation import ErrorFormat, ResponseModel

BAD_JSON = "Invalid JSON in request body"
BAD_BODY = "Invalid request body"


class ApiError(ResponseModel):
    error: str = Field(description="What is wrong")
    details: Missing[str] = Field(None, description="What caused it, and what to do")


class ApiBodyError(ResponseModel):
    error: str = Field(description="What is wrong")
    details: Missing[dict[str, Any]] = Field(None, description="Problems by key, nested")


class MessageError(ResponseModel):
    message: str = Field(description="What is wrong, for the user")


class SuspendedError(ResponseModel):
    error: str
    message: str = Field(description="That the account is suspended, why, and whom to write to")


class ServerErrorDetail(ResponseModel):
    code: str = Field(description="For programs")
    message: str = Field(description="What is wrong, for the user")
    details: str | None


class ServerError(ResponseModel):
    error: ServerErrorDetail
    request_id: str


class OpenAIErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str | int | None
    details: Missing[Any] = Field(None, description="Where the provider says more")


class OpenAIError(ResponseModel):
    error: OpenAIErrorDetail


class AnthropicErrorDetail(ResponseModel):
    type: str
    message: str


class AnthropicError(ResponseModel):
    """Answered to whoever sends `anthropic-version`."""

    type: str
    error: AnthropicErrorDetail
    request_id: str


ModelError = OpenAIError | AnthropicError


def words(error: Exception) -> ResponseReturnValue | None:
    """The compatible API's answer to what a view raised; None where it has none of its own."""
    match error:
        case BadJson():
            return jsonify(error=BAD_JSON), 400
        case InvalidBody():
            return jsonify(error=BAD_BODY, details=error.tree), 400
        case RateLimitExceeded():
            return jsonify(error="Too many requests. Wait a minute, then try again."), 429
        case DomainError():
            return refusal(error)
    return None


def door(
    words: Callable[[Exception], ResponseReturnValue | None] = words,
    *,
    error: Any = ApiError,
    body_error: Any = ApiBodyError,
    too_large: Any = ServerError,
    suspended: bool = False,
) -> ErrorFormat:
    """A door of the compatible API."""
    return ErrorFormat(words, error, body_error, too_large, unknown_coding=ServerError, suspended=suspended)


def refusal(error: DomainError) -> ResponseReturnValue:
    """The answer that refuses with this error: the contract's words, cause and cure, and how long to wait."""
    details = {"details": error.details} if error.details else {}
    return jsonify(error=error.message, **details), error.status, waiting(error)


def waiting(error: DomainError) -> dict[str, str]:
    """The header that says when to come again, where that helps."""
    return {"Retry-After": str(error.retry_after)} if error.retry_after else {}
