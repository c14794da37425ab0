"""Cards that later rooms add to the overview of a project."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from models.projects import Project


class OverviewPart(NamedTuple):
    """A template of a card, and what it shows as `values`."""

    template: str
    values: Mapping[str, Any]


_parts: list[Callable[[Project], OverviewPart]] = []


def register_overview_part(make: Callable[[Project], OverviewPart]) -> None:
    """Let the overview show a card; it is made in the request of the page, by a query or two."""
    _parts.append(make)


def overview_parts(project: Project) -> list[OverviewPart]:
    """The cards of a project, in the order in which they were registered."""
    return [make(project) for make in _parts]
