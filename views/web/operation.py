"""What a JSON route says of itself, once: who may call it, what it takes and answers, and how it words its errors.

`Operation` keeps that with the view, which stays the function it was: it costs a request nothing. `openapi.py` writes the
API's document from it, `views/web/error_handlers.py` words by it what a view raises, and the tests hold every answer to it.
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
    schema.pop("additionalProperties", None)  # a later version may answer more


class ResponseModel(BaseModel):
    """Base of answers. Name fields as the wire names them; a field that may be left out is `Missing`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_bounds, defer_build=True)


@dataclass(frozen=True)
class ErrorFormat:
    """How routes word their errors: `words` answers an exception, or None where the whole server's words will do.

    The others are the shapes of those answers: of an error, of a body of the wrong form, of one that is too large, and of
    one that is packed in an unknown way. `suspended`: `words` also tells a banned caller, in words of the route's own.
    """

    words: Callable[[Exception], ResponseReturnValue | None]
    error: Any
    body_error: Any
    too_large: Any
    unknown_coding: Any
    suspended: bool = False


Status = int | Literal["default"]
Answers = Mapping[Status, str | tuple[str, Any]]
"""By status (`default` is any other), what it means and the type of its body. A text alone has the door's type of errors; the type `str` is plain
text, None is no body."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Describes the JSON route that it decorates; the docstring of the view is the summary and, after an empty line, the
    description.

    `body` is the type of the JSON that the route takes, `body_kind` its media type. No more than `most_bytes` of a body
    are read, and of somebody unknown no more than `stranger_bytes`, where the server's own limits will not do. What the
    parts of the path are is said in `parameters` only where their names do not. Rate limits, and what every route of
    such a caller may answer, are found by `openapi.py`.
    """

    tag: str
    answers: Answers
    door: ErrorFormat
    caller: Caller = "anyone"
    body: Any = None
    body_kind: str = "application/json"
    parameters: Sequence[dict[str, Any]] = ()
    most_bytes: int | None = None
    stranger_bytes: int | None = None

    def __call__(self, view: View) -> View:
        view.__dict__["operation"] = self
        return view


def operation_of(view: Any) -> Operation | None:
    """What a view says of itself."""
    found = getattr(view, "operation", None)
    return found if isinstance(found, Operation) else None


def current_operation() -> Operation | None:
    """What the view of this request says of itself."""
    return operation_of(current_app.view_functions.get(request.endpoint or ""))


def path(name: str, description: str) -> dict[str, Any]:
    """A part of the path, where its name does not say enough."""
    return parameter(name, "path", description, required=True)


def query(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    """A parameter in the query."""
    return parameter(name, "query", description, required=required)


def header(name: str, description: str) -> dict[str, Any]:
    """A header that may be sent."""
    return parameter(name, "header", description, required=False)


def parameter(name: str, where: str, description: str, *, required: bool) -> dict[str, Any]:
    """A parameter as OpenAPI writes it."""
    words = {"description": description} if description else {}
    return {"name": name, "in": where, "required": required, **words, "schema": {"type": "string"}}
