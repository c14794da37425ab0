"""Diff of two definitions: field by field, long texts line by line."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, Literal, NamedTuple

from models.core.cooperative import TimeSlices
from models.store.publishing.definition import Definition

IGNORED = frozenset({"id", "version", "publisher"})
CONTEXT = 3
MAX_WORK = 100_000
"""Steps of one diff: a fraction of a second, since diffs of untrusted definitions are public. A text that needs more is shown
as removed and added as a whole."""
MAX_LINES = 2_000
"""Lines of one diff, all fields together."""

Kind = Literal["same", "gone", "come", "skip"]


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff with its numbers (from 1) in the old and new text. `come` is added, `gone` removed, `skip` replaces
    omitted unchanged lines."""

    kind: Kind
    text: str
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class FieldChange:
    """A field that differs. Lists have `removed` and `added` items, other values `lines`; `cut` if lines are missing."""

    name: str
    before: Any
    after: Any
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    lines: list[DiffLine] = field(default_factory=list)
    cut: bool = False

    @property
    def rows(self) -> Iterator[tuple[DiffLine | None, DiffLine | None]]:
        """The lines in two columns."""
        return beside(self.lines)


@dataclass
class DiffBudget:
    """The remaining steps and lines of a diff."""

    work: int = MAX_WORK
    lines: int = MAX_LINES
    slices: TimeSlices = field(default_factory=TimeSlices)


class DiffBlock(NamedTuple):
    """A block of `size` equal lines, and its start (from 0) in the old and new text."""

    before: int
    after: int
    size: int


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    """The fields that differ between two stored definitions, in schema order; a missing field is None."""
    names = list(dict.fromkeys([*Definition.model_fields, *before, *after]))
    budget = DiffBudget()
    return [
        _change(name, before.get(name), after.get(name), budget)
        for name in names
        if name not in IGNORED and before.get(name) != after.get(name)
    ]


def _change(name: str, before: Any, after: Any, budget: DiffBudget) -> FieldChange:
    if _is_list(before) and _is_list(after):
        old, new = set(before or ()), set(after or ())
        removed = [each for each in before or () if each not in new]
        added = [each for each in after or () if each not in old]
        if removed or added:
            return FieldChange(name, before, after, removed, added)
    all_lines = lines(_text(before), _text(after), budget)
    shown = list(islice(all_lines, budget.lines))
    budget.lines -= len(shown)
    return FieldChange(name, before, after, lines=shown, cut=next(all_lines, None) is not None)


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    )


def lines(before: str, after: str, budget: DiffBudget | None = None) -> Iterator[DiffLine]:
    """A unified diff of two texts, with three lines of context."""
    old, new = before.splitlines(), after.splitlines()
    blocks = _merged(_equal_blocks(old, new, budget or DiffBudget()))
    old_at, new_at = 0, 0
    for block in [*blocks, DiffBlock(len(old), len(new), 0)]:
        changed = old_at < block.before or new_at < block.after
        for index in range(old_at, block.before):
            yield DiffLine("gone", old[index], before=index + 1)
        for index in range(new_at, block.after):
            yield DiffLine("come", new[index], after=index + 1)
        old_at, new_at = block.before + block.size, block.after + block.size
        last = old_at == len(old) and new_at == len(new)
        yield from _with_context(old, block, CONTEXT if changed else 0, 0 if last else CONTEXT)


def beside(diff: Iterable[DiffLine]) -> Iterator[tuple[DiffLine | None, DiffLine | None]]:
    """The lines of a diff as rows of two columns: what is removed stands beside what was added in its place."""
    gone: list[DiffLine] = []
    come: list[DiffLine] = []
    for line in diff:
        if line.kind == "come":
            come.append(line)
            continue
        if come or line.kind != "gone":
            yield from zip_longest(gone, come)
            gone, come = [], []
        if line.kind == "gone":
            gone.append(line)
        else:
            yield line, line
    yield from zip_longest(gone, come)


def _with_context(old: Sequence[str], block: DiffBlock, head: int, tail: int) -> Iterator[DiffLine]:
    """The equal lines next to a change, and a `skip` line for the rest."""
    hidden = block.size > head + tail
    for number in (*range(min(head, block.size)), *range(max(block.size - tail, head), block.size)):
        if hidden and number >= head:
            yield DiffLine("skip", "")
            hidden = False
        index = block.before + number
        yield DiffLine("same", old[index], index + 1, block.after + number + 1)
    if hidden:
        yield DiffLine("skip", "")


def _merged(blocks: Iterator[DiffBlock]) -> list[DiffBlock]:
    merged: list[DiffBlock] = []
    for block in blocks:
        last = merged[-1] if merged else None
        if last and last.before + last.size == block.before and last.after + last.size == block.after:
            merged[-1] = last._replace(size=last.size + block.size)
        elif block.size:
            merged.append(block)
    return merged


def _equal_blocks(old: list[str], new: list[str], budget: DiffBudget) -> Iterator[DiffBlock]:
    """The common prefix and suffix, and the longest common subsequence in between."""
    least = min(len(old), len(new))
    head = next((at for at in range(least) if old[at] != new[at]), least)
    tail = next((at for at in range(least - head) if old[-1 - at] != new[-1 - at]), least - head)
    yield DiffBlock(0, 0, head)
    # lines that occur in one text only cannot match, so they are left out of the search
    numbers = {line: number for number, line in enumerate(set(old[head : len(old) - tail]))}
    both = numbers.keys() & set(new[head : len(new) - tail])
    left = [at for at in range(head, len(old) - tail) if old[at] in both]
    right = [at for at in range(head, len(new) - tail) if new[at] in both]
    for i, j in _matched([numbers[old[at]] for at in left], [numbers[new[at]] for at in right], budget):
        yield DiffBlock(left[i], right[j], 1)
    yield DiffBlock(len(old) - tail, len(new) - tail, tail)


def _matched(old: list[int], new: list[int], budget: DiffBudget) -> list[tuple[int, int]]:
    """The longest common subsequence as index pairs (Myers' greedy algorithm); empty if the budget runs out."""
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
                return _backtrack(trace, at, diagonal)
        budget.slices.pause()
    raise AssertionError("unreachable: replacing the whole text is always a solution")


def _backtrack(trace: list[dict[int, int]], at: int, diagonal: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for changes in range(len(trace) - 1, -1, -1):
        reach = trace[changes]
        down = diagonal == -changes or (diagonal != changes and reach[diagonal - 1] < reach[diagonal + 1])
        start = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
        pairs += ((each, each - diagonal) for each in range(at - 1, start - 1, -1))
        at, diagonal = (start, diagonal + 1) if down else (start - 1, diagonal - 1)
    pairs.reverse()
    return pairs
