"""Documentation of a JSON route: caller, body, responses and error format.

`Operation` attaches it to the view function, unchanged, at no cost per request. `openapi.py` generates the OpenAPI document
from it, `error_handlers.py` formats exceptions with it, and the tests validate every response against it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flask import current_app, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict

Caller = Literal["anyone", "key", "cookie", "cookie or key"]
View = TypeVar("View", bound=Callable[..., Any])


def _without_bounds(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)  # later versions may add keys


class ResponseModel(BaseModel):
    """Base of response bodies. Fields are named like the JSON keys; an optional one is `Missing`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_bounds, defer_build=True)


@dataclass(frozen=True)
class ErrorFormat:
    """The error format of JSON routes: `format` returns the response to an exception, or None for the server's default.

    The other fields are the types of the error bodies: in general, for an invalid body, for one that is too large, and for
    an unsupported encoding. `suspended`: `format` also answers banned callers.
    """

    format: Callable[[Exception], ResponseReturnValue | None]
    error: Any
    body_error: Any
    too_large: Any
    unsupported_encoding: Any
    suspended: bool = False


Status = int | Literal["default"]
Answers = Mapping[Status, str | tuple[str, Any]]
"""Description and body type by status (`default`: any other). A description alone has the door's error type; the type
`str` is plain text, None is no body."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Decorator that documents a JSON route. The view's docstring is the summary and, after an empty line, the description.

    `answers` are the responses, `door` is the error format. `body` is the type of the request body, `body_kind` its media
    type. `max_bytes` and `anonymous_bytes` override the server's limits of a body, in general and for unauthenticated
    callers. `scope` is what a key needs (`models/accounts/scopes.py`), and is all that checks it: every route with a key as caller names
    one, and a route without is closed to keys with scopes. Path parameters need `parameters` only if `openapi.py` does not know their names. `openapi.py` adds rate
    limits and the responses common to all routes.
    """

    tag: str
    answers: Answers
    door: ErrorFormat
    caller: Caller = "anyone"
    body: Any = None
    body_kind: str = "application/json"
    parameters: Sequence[dict[str, Any]] = ()
    max_bytes: int | None = None
    anonymous_bytes: int | None = None
    scope: str | None = None

    def __call__(self, view: View) -> View:
        view.__dict__["operation"] = self
        return view


def operation_of(view: Any) -> Operation | None:
    """The documentation of a view, or None."""
    found = getattr(view, "operation", None)
    return found if isinstance(found, Operation) else None


def current_operation() -> Operation | None:
    """The documentation of the view of this request, or None."""
    return operation_of(current_app.view_functions.get(request.endpoint or ""))


def path(name: str, description: str) -> dict[str, Any]:
    """A path parameter."""
    return parameter(name, "path", description, required=True)


def query(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    """A query parameter."""
    return parameter(name, "query", description, required=required)


def header(name: str, description: str) -> dict[str, Any]:
    """An optional header."""
    return parameter(name, "header", description, required=False)


def parameter(name: str, where: str, description: str, *, required: bool) -> dict[str, Any]:
    """An OpenAPI parameter object."""
    optional = {"description": description} if description else {}
    return {"name": name, "in": where, "required": required, **optional, "schema": {"type": "string"}}
