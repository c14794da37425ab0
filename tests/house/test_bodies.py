"""Request body models limit the number of issues of long lists."""

from collections.abc import Iterator
from typing import Any

from models.core.strict_models import Body
from models.store.publishing import definition  # noqa: F401  (registers its models)
from views.usage import api as usage_api  # noqa: F401

MAX_LIST_LENGTH = 1_000


def models_below(parent: type[Body] = Body) -> Iterator[type[Body]]:
    for model in parent.__subclasses__():
        if model.__module__.startswith(("models.", "views.")):
            yield model
        yield from models_below(model)


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    """The lists in a pydantic core schema, without those of referenced models."""
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "set", "tuple"):
            yield schema
        for key, value in schema.items():
            if key not in ("metadata", "serialization"):
                yield from lists(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from lists(value)


def test_lists_are_bounded_or_stop_at_the_first_issue() -> None:
    unbounded = {
        model.__qualname__
        for model in models_below()
        for each in lists(model.__pydantic_core_schema__)
        if each.get("items_schema", {"type": "any"})["type"] != "any"
        and not (each.get("fail_fast") or each.get("max_length", 10**9) <= MAX_LIST_LENGTH)
    }
    assert unbounded == set()
