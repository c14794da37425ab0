"""The graph of a history: in which lane each snapshot stands, and which lines lead to its parents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MAX_LANES = 12
"""Lanes of a drawing; what would stand further right stands in the last one."""


@dataclass(frozen=True)
class GraphRow:
    """The part of the drawing beside one snapshot. `lane` is its own; `above` are the lanes whose lines end in it, `through` those that
    pass by, `below` those where lines to its parents begin."""

    id: str
    lane: int
    above: list[int] = field(default_factory=list)
    through: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


def history_graph(rows: Iterable[tuple[str, Sequence[str]]]) -> list[GraphRow]:
    """The drawing of snapshots with their parents, children first. Lines to parents that do not follow run out below."""
    lanes: list[str | None] = []
    drawn: set[str] = set()
    found = []
    for id, parents in rows:
        drawn.add(id)
        above = [at for at, expected in enumerate(lanes) if expected == id]
        through = [at for at, expected in enumerate(lanes) if expected not in (None, id)]
        lane = above[0] if above else _free(lanes)
        for at in above:
            lanes[at] = None
        below = [_lane_of(lanes, lane, parent) for parent in parents if parent not in drawn]
        found.append(GraphRow(id, _shown([lane])[0], _shown(above), _shown(through), _shown(below)))
    return found


def lanes_of(rows: Sequence[GraphRow]) -> int:
    """How many lanes a drawing has."""
    return 1 + max((max([row.lane, *row.above, *row.through, *row.below]) for row in rows), default=0)


def _lane_of(lanes: list[str | None], own: int, parent: str) -> int:
    """The lane that leads to a parent: the child's own for its first one, else one that leads there already, else a free one."""
    at = own if lanes[own] is None else lanes.index(parent) if parent in lanes else _free(lanes)
    lanes[at] = parent
    return at


def _free(lanes: list[str | None]) -> int:
    if None not in lanes:
        lanes.append(None)
    return lanes.index(None)


def _shown(lanes: Sequence[int]) -> list[int]:
    return sorted({min(lane, MAX_LANES - 1) for lane in lanes})
