"""Divides a text into units by the ranges of syntax nodes: those that end their line, and those between commas."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from models.projects.merge.unit_merge import MergeUnit, UnitGroup, UnitKey

if TYPE_CHECKING:
    from tree_sitter import Node

_REST = re.compile(rb"[ \t;]*(?:(?:#|//)[^\n]*|/\*[^\n*]*\*/[ \t]*)?(?:\n|\Z)")
"""What may stand after a unit on its last line, and belongs to it."""
_GAP = re.compile(rb"(?:[ \t]*\n)+")


class FoundUnit(NamedTuple):
    """A unit in a text. `inner` divides it, given where it begins and ends with what belongs to it."""

    node: "Node"
    key: UnitKey
    free: bool = True
    name: str = ""
    signature: str | None = None
    inner: Callable[[int, int], UnitGroup | None] | None = None
    end: int | None = None
    """Where the unit ends, if its node ends later."""


def line_end(source: bytes, end: int) -> int | None:
    """Where the line ends on which a unit ends at `end`, past a comment; None if something else stands there."""
    if end and source[end - 1] == 0x0A:
        return end
    rest = _REST.match(source, end)
    return rest.end() if rest else None


def line_group(
    source: bytes, start: int, head_end: int, end: int, found: list[FoundUnit]
) -> UnitGroup | None:
    """The text from `start` to `end` as units that have their lines to themselves; None if some have not."""
    units: list[MergeUnit] = []
    at = head_end
    if head_end > start and source[head_end - 1] != 0x0A:
        return None
    for unit in found:
        past = line_end(source, unit.end or unit.node.end_byte)
        if unit.node.start_byte < at or past is None or past > end:
            return None
        gap = _GAP.match(source, at, unit.node.start_byte)
        begin = gap.end() if gap else at
        inner = unit.inner(begin, past) if unit.inner else None
        units.append(_unit(unit, source[at:begin], source[begin:past], inner))
        at = past
    return UnitGroup(source[start:head_end], units, source[at:end])


def comma_group(
    source: bytes, start: int, head_end: int, end: int, found: list[FoundUnit]
) -> UnitGroup | None:
    """The text from `start` to `end` as units with commas between; None if comments stand between them too."""
    units: list[MergeUnit] = []
    at = head_end
    for unit in found:
        first, last = unit.node.start_byte, unit.node.end_byte
        if units:
            if source[at : at + 1] != b",":
                return None
            at += 1
        if source[at:first].strip():
            return None
        inner = unit.inner(first, last) if unit.inner else None
        units.append(_unit(unit, source[at:first], source[first:last], inner))
        at = last
    return UnitGroup(source[start:head_end], units, source[at:end], b",")


def _unit(unit: FoundUnit, gap: bytes, body: bytes, inner: UnitGroup | None) -> MergeUnit:
    line = unit.node.start_point[0] + 1
    return MergeUnit(unit.key, gap, body, unit.free, unit.name, inner, unit.signature, line)
