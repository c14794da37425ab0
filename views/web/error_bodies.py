"""JSON error bodies: their models, the error format of the compatible API, `{"error": …}`, and that of management routes."""

from collections.abc import Callable
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field

from models.core.errors import DomainError, Invalid
from models.core.strict_models import InvalidBody, Missing
from views.web.body import BadJson
from views.web.guards import request_id
from views.web.operation import ErrorFormat, ResponseModel

BAD_JSON = "Invalid JSON in request body"
BAD_BODY = "Invalid request body"


class ApiError(ResponseModel):
    error: str = Field(description="Error message")
    details: Missing[str] = Field(None, description="Cause and fix")


class ApiBodyError(ResponseModel):
    error: str = Field(description="Error message")
    details: Missing[dict[str, Any]] = Field(None, description="Errors by key, nested")


class MessageError(ResponseModel):
    message: str = Field(description="Error message for the user")


class SuspendedError(ResponseModel):
    error: str
    message: str = Field(description="Says that the account is suspended, why, and whom to contact")


class ServerErrorDetail(ResponseModel):
    code: str = Field(description="Machine-readable code")
    message: str = Field(description="Error message for the user")
    details: str | None


class ServerError(ResponseModel):
    error: ServerErrorDetail
    request_id: str


class OpenAIErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str | int | None
    details: Missing[Any] = Field(
        None, description="Details from the provider; for `credits_held` the balance and the holds by call"
    )


class OpenAIError(ResponseModel):
    error: OpenAIErrorDetail


class AnthropicErrorDetail(ResponseModel):
    type: str
    message: str
    details: Missing[Any] = None


class AnthropicError(ResponseModel):
    """Sent to clients that send `anthropic-version`."""

    type: str
    error: AnthropicErrorDetail
    request_id: str


ModelError = OpenAIError | AnthropicError


def format_error(error: Exception) -> ResponseReturnValue | None:
    """The compatible API's response to an exception; None to use the server's default."""
    match error:
        case BadJson():
            return jsonify(error=BAD_JSON), 400
        case InvalidBody():
            return jsonify(error=BAD_BODY, details=error.tree), 400
        case RateLimitExceeded():
            return jsonify(error="Too many requests. Wait a minute, then try again."), 429
        case DomainError():
            return error_response(error)
    return None


def door(
    format: Callable[[Exception], ResponseReturnValue | None] = format_error,
    *,
    error: Any = ApiError,
    body_error: Any = ApiBodyError,
    too_large: Any = ServerError,
    suspended: bool = False,
) -> ErrorFormat:
    """The error format of a JSON route of the compatible API."""
    return ErrorFormat(
        format, error, body_error, too_large, unsupported_encoding=ServerError, suspended=suspended
    )


def error_response(error: DomainError) -> ResponseReturnValue:
    """Response for a DomainError: message, details and `Retry-After`."""
    details = {"details": error.details} if error.details else {}
    return jsonify(error=error.message, **details), error.status, retry_header(error)


def _management_error(error: Exception) -> ResponseReturnValue | None:
    """422 that names the field, for a body or a value that is wrong; the server's default for everything else."""
    match error:
        case InvalidBody():
            issue = error.issues[0]
            where = ".".join(str(key) for key in issue["path"])
            return _validation_error(f"{where}: {issue['message']}" if where else issue["message"])
        case Invalid() if error.fields:
            details = "; ".join(f"{name}: {text}" for name, text in error.fields.items())
            return _validation_error(error.message, details)
    return None


def _validation_error(message: str, details: str | None = None) -> ResponseReturnValue:
    found = {"code": "validation_error", "message": message, "details": details}
    return jsonify(error=found, request_id=request_id()), 422


MANAGEMENT = ErrorFormat(_management_error, ServerError, ServerError, ServerError, ServerError)
"""The error format of management routes, below `/api`."""


def retry_header(error: DomainError) -> dict[str, str]:
    """The `Retry-After` header, if retrying helps."""
    return {"Retry-After": str(error.retry_after)} if error.retry_after else {}
