"""What a JSON route says of itself, once: who may call it, what it takes and answers, and how it words its errors.

`operation` keeps that beside the view, which stays the function it was: it costs a request nothing. `openapi.py` writes the
API's document from it, `views/errors.py` words by it what a view raises, and the tests hold every answer to it.
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


class JsonAnswer(BaseModel):
    """Base of answers. Name fields as the wire names them; a field that may be left out is `Missing`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_bounds)


@dataclass(frozen=True)
class Door:
    """How routes word their errors: `words` answers an exception, or None where the whole server's words will do.

    The others are the shapes of those answers: of an error, of a body of the wrong form, of one that is too large, and of
    one that is packed in an unknown way.
    """

    words: Callable[[Exception], ResponseReturnValue | None]
    error: Any
    body_error: Any
    too_large: Any
    unknown_coding: Any


Answers = Mapping[int, str | tuple[str, Any]]
"""By status, what it means and the type of its body. A text alone has the door's type of errors; the type `str` is plain
text, None is no body."""


@dataclass(frozen=True)
class Operation:
    """The arguments of `operation`."""

    tag: str
    answers: Answers
    door: Door
    caller: Caller
    body: Any
    body_kind: str
    kind: str
    parameters: Sequence[dict[str, Any]]
    most_bytes: int | None
    stranger_bytes: int | None


def operation(
    tag: str,
    *,
    answers: Answers,
    door: Door,
    caller: Caller = "anyone",
    body: Any = None,
    body_kind: str = "application/json",
    kind: str = "application/json",
    parameters: Sequence[dict[str, Any]] = (),
    most_bytes: int | None = None,
    stranger_bytes: int | None = None,
) -> Callable[[View], View]:
    """Describe a JSON route; the docstring of the view is its summary and, after an empty line, its description.

    `body` is the type of the JSON it takes, `body_kind` and `kind` the media types of body and answer. `parameters` are
    OpenAPI's, without those of the path. No more than `most_bytes` of a body are read, and of somebody unknown no more
    than `stranger_bytes`, where the server's own limits will not do. Rate limits and what every route of such a caller
    may answer are found by `openapi.py`.
    """
    described = Operation(
        tag, answers, door, caller, body, body_kind, kind, parameters, most_bytes, stranger_bytes
    )

    def keep(view: View) -> View:
        view.__dict__["operation"] = described
        return view

    return keep


def operation_of(view: Any) -> Operation | None:
    """What a view says of itself."""
    found = getattr(view, "operation", None)
    return found if isinstance(found, Operation) else None


def current_operation() -> Operation | None:
    """What the view of this request says of itself."""
    return operation_of(current_app.view_functions.get(request.endpoint or ""))


def query(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    """A parameter in the query."""
    return _parameter(name, "query", description, required)


def header(name: str, description: str) -> dict[str, Any]:
    """A header that may be sent."""
    return _parameter(name, "header", description, False)


def _parameter(name: str, where: str, description: str, required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": {"type": "string"},
    }
