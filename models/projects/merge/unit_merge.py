"""Merges texts as sequences of named units, as functions of a file or keys of an object, in three ways.

A group covers its text completely, so nothing between units is lost: what precedes a unit, as comments do, belongs to it.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, Optional

from models.projects.merge.line_merge import merge_lines

_WORD = re.compile(rb"\w+")
UnitKey = tuple[Hashable, ...]


class MergeUnit(NamedTuple):
    """A named piece of a text: `gap` is the blank before it, `body` the rest. A unit without an own name has its text as its key.

    `free`: its place among its neighbours means nothing, unless one names the other. `inner` divides the body further.
    `signature` are the parameters of a function, `line` (from 1) is where it stands."""

    key: UnitKey
    gap: bytes
    body: bytes
    free: bool = True
    name: str = ""
    inner: Optional["UnitGroup"] = None
    signature: str | None = None
    line: int = 0


class UnitGroup(NamedTuple):
    """A text as `head`, units, and `tail`. `separator` stands between units: a comma, or nothing if each ends its line."""

    head: bytes
    units: list[MergeUnit]
    tail: bytes
    separator: bytes = b""

    @property
    def text(self) -> bytes:
        """The whole text."""
        tail = self.tail if self.units else self.tail.removeprefix(self.separator)
        return self.head + self.separator.join(unit.gap + unit.body for unit in self.units) + tail


class UnitConflict(Exception):
    """Both sides changed the same unit, or an order that matters."""


_Keyed = dict[UnitKey, MergeUnit]


def merge_groups(base: UnitGroup, ours: UnitGroup, theirs: UnitGroup) -> UnitGroup:
    """Merge unit by unit; the sides may be swapped. Raises UnitConflict.

    A unit that both changed merges by its inner units, or by its lines. New units of both sides at one place stand in the order
    of their texts."""
    if not base.separator == ours.separator == theirs.separator:
        raise UnitConflict
    keyed = _keyed(base, ours, theirs)
    merged: _Keyed = {}
    for key in dict.fromkeys(key for side in keyed for key in side):
        unit = _merged_unit(*(side.get(key) for side in keyed))
        if unit is not None:
            merged[key] = unit
    order = _order(keyed[0], keyed[1], keyed[2], merged)
    head, tail = _lines(base.head, ours.head, theirs.head), _lines(base.tail, ours.tail, theirs.tail)
    return UnitGroup(head, [merged[key] for key in order], tail, base.separator)


def has_all_changes(base: UnitGroup, ours: UnitGroup, theirs: UnitGroup, merged: UnitGroup) -> bool:
    """Whether every unit that one side changed is in the merged text as that side has it, and every one that both changed is there.

    Units whose name stands there several times cannot be told apart, and are not looked at."""
    sides = [_by_key(group) for group in (base, ours, theirs, merged)]
    for key in set().union(*sides):
        if any(len(side.get(key, ())) > 1 for side in sides):
            continue
        was, mine, main, now = (side[key][0] if key in side else None for side in sides)
        if not _kept(was, mine, main, now):
            return False
    return True


# -- units --------------------------------------------------------------------------------------------------------------


def _by_key(group: UnitGroup) -> dict[UnitKey, list[MergeUnit]]:
    found: dict[UnitKey, list[MergeUnit]] = {}
    for unit in group.units:
        found.setdefault(unit.key, []).append(unit)
    return found


def _keyed(*groups: UnitGroup) -> list[_Keyed]:
    """The units by key. Equal keys are told apart by their number, if all sides have as many."""
    counts = [Counter(unit.key for unit in group.units) for group in groups]
    for key in {key for count in counts for key, times in count.items() if times > 1}:
        if len({count[key] for count in counts}) > 1:
            raise UnitConflict
    result = []
    for group in groups:
        seen: Counter[UnitKey] = Counter()
        units: _Keyed = {}
        for unit in group.units:
            units[(*unit.key, seen[unit.key])] = unit
            seen[unit.key] += 1
        result.append(units)
    return result


def _merged_unit(
    base: MergeUnit | None, ours: MergeUnit | None, theirs: MergeUnit | None
) -> MergeUnit | None:
    if ours is None or theirs is None:
        one = ours or theirs
        if base is None or one is None:
            return one  # only one side has it, or none
        if one.body != base.body:
            raise UnitConflict  # deleted and changed
        return None
    if base is None:
        if ours.body != theirs.body:
            raise UnitConflict
        return ours._replace(gap=max(ours.gap, theirs.gap, key=_length))
    gap = _pick(base.gap, ours.gap, theirs.gap)
    kept = ours._replace(gap=max(ours.gap, theirs.gap, key=_length) if gap is None else gap)
    body = _pick(base.body, ours.body, theirs.body)
    if body is not None:
        return kept._replace(body=body)
    if base.inner is not None and ours.inner is not None and theirs.inner is not None:
        return kept._replace(body=merge_groups(base.inner, ours.inner, theirs.inner).text)
    return kept._replace(body=_lines(base.body, ours.body, theirs.body))


def _pick(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """What at most one side changed; None if both did."""
    if ours in (theirs, base):
        return theirs
    return ours if theirs == base else None


def _lines(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    merged = merge_lines(base, ours, theirs)
    if not merged.clean:
        raise UnitConflict
    return merged.data


def _length(gap: bytes) -> tuple[int, bytes]:
    return len(gap), gap


def _kept(
    base: MergeUnit | None, ours: MergeUnit | None, theirs: MergeUnit | None, now: MergeUnit | None
) -> bool:
    was, mine, main, result = (_stripped(unit) for unit in (base, ours, theirs, now))
    if mine in (was, main):
        return result == main
    if main == was:
        return result == mine
    if mine is None or main is None or result is None:
        return mine is None or main is None
    if base and ours and theirs and now and base.inner and ours.inner and theirs.inner and now.inner:
        return has_all_changes(base.inner, ours.inner, theirs.inner, now.inner)
    return True


def _stripped(unit: MergeUnit | None) -> bytes | None:
    return None if unit is None else unit.body.strip()


# -- order --------------------------------------------------------------------------------------------------------------


def _order(base: _Keyed, ours: _Keyed, theirs: _Keyed, merged: _Keyed) -> list[UnitKey]:
    """The keys in the order of the side that changed it, with the other's new ones after what they followed."""
    for one, other in ((ours, theirs), (theirs, ours)):
        _check_replaced(base, one, other, merged)
    before, mine, main = ([key for key in side if key in merged] for side in (base, ours, theirs))
    shared = set(mine) & set(main)
    if _among(mine, shared) != _among(main, shared):
        old = shared & set(before)
        if any(not merged[key].free for key in shared.symmetric_difference(merged)):
            raise UnitConflict
        if _among(mine, old) == _among(before, old):
            mine = _realigned(mine, _among(main, shared))
        elif _among(main, old) == _among(before, old):
            main = _realigned(main, _among(mine, shared))
        else:
            raise UnitConflict
    return _woven(mine, main, shared, merged)


def _check_replaced(base: _Keyed, one: _Keyed, other: _Keyed, merged: _Keyed) -> None:
    """Raises UnitConflict if new units of a side may stand for one that the other deleted.

    That is so if the side deleted it too: it may have renamed it. And if they stand beside it and their order matters."""
    old = merged.keys() & base.keys()
    gone = {key for key in base if key not in one and key not in other}
    places = {anchor for anchor, key in _anchored(base, old) if key in gone}
    if any(anchor in places for anchor, key in _anchored(one, old) if key not in base):
        raise UnitConflict
    keys = [None, *one, None]
    for before, key, after in zip(keys, keys[1:], keys[2:], strict=False):
        deleted = any(near in base and near not in merged for near in (before, after))
        if key is not None and key not in base and not one[key].free and deleted:
            raise UnitConflict


def _anchored(keys: Iterable[UnitKey], old: set[UnitKey]) -> Iterator[tuple[UnitKey | None, UnitKey]]:
    """The keys that are not old, each with the old one before it."""
    anchor: UnitKey | None = None
    for key in keys:
        if key in old:
            anchor = key
        else:
            yield anchor, key


def _among(keys: Iterable[UnitKey], chosen: set[UnitKey]) -> list[UnitKey]:
    return [key for key in keys if key in chosen]


def _runs(keys: list[UnitKey], shared: set[UnitKey]) -> dict[UnitKey | None, list[UnitKey]]:
    """The keys that are not shared, by the shared one that they follow."""
    runs: dict[UnitKey | None, list[UnitKey]] = {}
    for anchor, key in _anchored(keys, shared):
        runs.setdefault(anchor, []).append(key)
    return runs


def _realigned(keys: list[UnitKey], order: list[UnitKey]) -> list[UnitKey]:
    runs = _runs(keys, set(order))
    result = list(runs.get(None, ()))
    for key in order:
        result.append(key)
        result += runs.get(key, ())
    return result


def _woven(mine: list[UnitKey], main: list[UnitKey], shared: set[UnitKey], merged: _Keyed) -> list[UnitKey]:
    ours, theirs = _runs(mine, shared), _runs(main, shared)
    result: list[UnitKey] = []
    anchors: list[UnitKey | None] = [None, *_among(mine, shared)]
    for anchor in anchors:
        if anchor is not None:
            result.append(anchor)
        one, other = ours.get(anchor, []), theirs.get(anchor, [])
        if one and other:
            _check_commute([merged[key] for key in one], [merged[key] for key in other])
        for run in sorted((one, other), key=lambda run: [merged[key].body for key in run]):
            result += run
    return result


def _check_commute(one: list[MergeUnit], other: list[MergeUnit]) -> None:
    """Raises UnitConflict if the order of the new units of both sides could matter."""
    if not all(unit.free for unit in (*one, *other)):
        raise UnitConflict
    for mine, theirs in ((one, other), (other, one)):
        names = {unit.name.encode() for unit in mine if unit.name}
        if names and not names.isdisjoint(word for unit in theirs for word in _WORD.findall(unit.body)):
            raise UnitConflict
