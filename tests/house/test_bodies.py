"""No shape of a request body tells a problem for each of a hundred thousand entries."""

from collections.abc import Iterator
from typing import Any

import pytest

from models.core.strict_models import Body
from models.store.publishing import definition  # noqa: F401  (completes the shapes)
from views.usage import api as usage_api  # noqa: F401

MOST_PROBLEMS = 1_000


def shapes(below: type[Body] = Body) -> Iterator[type[Body]]:
    for shape in below.__subclasses__():
        if shape.__module__.startswith(("models.", "views.")):
            yield shape
        yield from shapes(shape)


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    """The lists and dictionaries in a schema of pydantic's, but not those of other shapes."""
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "set", "tuple"):
            yield schema
        for key, value in schema.items():
            if key not in ("metadata", "serialization"):
                yield from lists(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from lists(value)


@pytest.mark.parametrize("shape", sorted(set(shapes()), key=lambda each: each.__qualname__))
def test_lists_are_short_or_end_at_their_first_problem(shape: type[Body]) -> None:
    for each in lists(shape.__pydantic_core_schema__):
        if each.get("items_schema", {"type": "any"})["type"] != "any":
            assert each.get("fail_fast") or each.get("max_length", 10**9) <= MOST_PROBLEMS
