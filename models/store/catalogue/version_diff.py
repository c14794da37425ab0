"""What changed from one definition to another, field by field, long texts line by line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from models.core.cooperative import TimeSlices
from models.store.publishing.definition import Definition

UNTOLD = frozenset({"id", "version", "publisher"})
CONTEXT = 3
MOST_WORK = 100_000
"""Steps of one comparison, a fraction of a second. What a text needs beyond them is shown as one part gone and one part
come: anybody may ask for the comparison of whatever somebody published."""
MOST_LINES = 2_000
"""Lines that a comparison has, of all its fields together."""

Kind = Literal["same", "gone", "come", "skip"]


@dataclass(frozen=True)
class DiffLine:
    """A line of a comparison, numbered from 1 where it stands in the one and in the other text. `skip` stands for
    unchanged lines that are left out."""

    kind: Kind
    text: str
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class FieldChange:
    """A field that differs. Lists tell what was `removed` and `added`, everything else its `lines`; of those that are `cut`
    more follow."""

    name: str
    before: Any
    after: Any
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    lines: list[DiffLine] = field(default_factory=list)
    cut: bool = False


@dataclass
class DiffBudget:
    """What is left of the work and the lines of a comparison."""

    work: int = MOST_WORK
    lines: int = MOST_LINES
    slices: TimeSlices = field(default_factory=TimeSlices)


class DiffBlock(NamedTuple):
    """So many lines that are the same, from 0 where they begin in the one and in the other text."""

    before: int
    after: int
    size: int


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    """The fields that differ between two stored definitions, in the order of the schema; a missing field is None."""
    names = list(dict.fromkeys([*Definition.model_fields, *before, *after]))
    budget = DiffBudget()
    return [
        _change(name, before.get(name), after.get(name), budget)
        for name in names
        if name not in UNTOLD and before.get(name) != after.get(name)
    ]


def _change(name: str, before: Any, after: Any, budget: DiffBudget) -> FieldChange:
    if _is_list(before) and _is_list(after):
        old, new = set(before or ()), set(after or ())
        removed = [each for each in before or () if each not in new]
        added = [each for each in after or () if each not in old]
        if removed or added:
            return FieldChange(name, before, after, removed, added)
    told = lines(_text(before), _text(after), budget)
    shown = list(islice(told, budget.lines))
    budget.lines -= len(shown)
    return FieldChange(name, before, after, lines=shown, cut=next(told, None) is not None)


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    )


def lines(before: str, after: str, budget: DiffBudget | None = None) -> Iterator[DiffLine]:
    """Two texts as the lines of a unified diff, with three unchanged lines around each change."""
    old, new = before.splitlines(), after.splitlines()
    blocks = _joined(_same(old, new, budget or DiffBudget()))
    at, into = 0, 0
    for block in [*blocks, DiffBlock(len(old), len(new), 0)]:
        changed = at < block.before or into < block.after
        for index in range(at, block.before):
            yield DiffLine("gone", old[index], before=index + 1)
        for index in range(into, block.after):
            yield DiffLine("come", new[index], after=index + 1)
        at, into = block.before + block.size, block.after + block.size
        last = at == len(old) and into == len(new)
        yield from _folded(old, block, CONTEXT if changed else 0, 0 if last else CONTEXT)


def _folded(old: Sequence[str], block: DiffBlock, head: int, tail: int) -> Iterator[DiffLine]:
    """Of the lines that are the same those next to a change, and a mark for the others."""
    hidden = block.size > head + tail
    for number in (*range(min(head, block.size)), *range(max(block.size - tail, head), block.size)):
        if hidden and number >= head:
            yield DiffLine("skip", "")
            hidden = False
        index = block.before + number
        yield DiffLine("same", old[index], index + 1, block.after + number + 1)
    if hidden:
        yield DiffLine("skip", "")


def _joined(blocks: Iterator[DiffBlock]) -> list[DiffBlock]:
    joined: list[DiffBlock] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and last.before + last.size == block.before and last.after + last.size == block.after:
            joined[-1] = last._replace(size=last.size + block.size)
        elif block.size:
            joined.append(block)
    return joined


def _same(old: list[str], new: list[str], budget: DiffBudget) -> Iterator[DiffBlock]:
    """What both texts begin and end with, and between that what is the same in the same order."""
    least = min(len(old), len(new))
    head = next((at for at in range(least) if old[at] != new[at]), least)
    tail = next((at for at in range(least - head) if old[-1 - at] != new[-1 - at]), least - head)
    yield DiffBlock(0, 0, head)
    # lines that one text alone has are gone or new however the others are matched
    numbers = {line: number for number, line in enumerate(set(old[head : len(old) - tail]))}
    both = numbers.keys() & set(new[head : len(new) - tail])
    left = [at for at in range(head, len(old) - tail) if old[at] in both]
    right = [at for at in range(head, len(new) - tail) if new[at] in both]
    for i, j in _matched([numbers[old[at]] for at in left], [numbers[new[at]] for at in right], budget):
        yield DiffBlock(left[i], right[j], 1)
    yield DiffBlock(len(old) - tail, len(new) - tail, tail)


def _matched(old: list[int], new: list[int], budget: DiffBudget) -> list[tuple[int, int]]:
    """The longest common subsequence as pairs of places (Myers' greedy algorithm), nothing when the work is used up."""
    reach = {1: 0}
    trace: list[dict[int, int]] = []
    for changes in range(len(old) + len(new) + 1):
        trace.append(reach.copy())
        for diagonal in range(-changes, changes + 1, 2):
            down = diagonal == -changes or (diagonal != changes and reach[diagonal - 1] < reach[diagonal + 1])
            at = start = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
            while at < len(old) and at - diagonal < len(new) and old[at] == new[at - diagonal]:
                at += 1
            reach[diagonal] = at
            budget.work -= 1 + at - start
            if budget.work < 0:
                return []
            if at >= len(old) and at - diagonal >= len(new):
                return _way_back(trace, at, diagonal)
        budget.slices.pause()
    raise AssertionError("both texts can be deleted and written anew")


def _way_back(trace: list[dict[int, int]], at: int, diagonal: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for changes in range(len(trace) - 1, -1, -1):
        reach = trace[changes]
        down = diagonal == -changes or (diagonal != changes and reach[diagonal - 1] < reach[diagonal + 1])
        start = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
        pairs += ((each, each - diagonal) for each in range(at - 1, start - 1, -1))
        at, diagonal = (start, diagonal + 1) if down else (start - 1, diagonal - 1)
    pairs.reverse()
    return pairs
