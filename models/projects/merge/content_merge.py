"""The merge ladder for one file that both sides changed: by lines, by structure, by key, or not at all.

A rung is taken only if its result can be trusted. A text by lines may have no conflict and still be wrong: a key twice, a
bracket too few, a change in another function. So the result of each rung is compared with what both sides did.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from posixpath import basename
from typing import Any, NamedTuple

from models.projects.merge.code_grammars import code_grammar
from models.projects.merge.code_units import code_units
from models.projects.merge.key_units import NotData, key_format, key_units, parsed, values_agree
from models.projects.merge.line_merge import MAX_LINE_BYTES, MAX_LINES, merge_lines
from models.projects.merge.merge_model import MergeLabel, MergeReason
from models.projects.merge.text_shape import is_binary, merged_shape, plain, shape_of, shaped
from models.projects.merge.unit_merge import UnitConflict, UnitGroup, has_all_changes, merge_groups

LOCK_FILES = frozenset(
    [
        "package-lock.json",
        "npm-shrinkwrap.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "bun.lock",
        "bun.lockb",
        "poetry.lock",
        "uv.lock",
        "pdm.lock",
        "pipfile.lock",
        "cargo.lock",
        "go.sum",
        "composer.lock",
        "gemfile.lock",
        "mix.lock",
        "pubspec.lock",
        "packages.lock.json",
        "flake.lock",
        "gradle.lockfile",
        "podfile.lock",
        "deno.lock",
    ]
)
"""In lower case. A merged one would name versions that no tool has chosen together."""
_WORD = re.compile(rb"\w+")


class Versions(NamedTuple):
    """The three texts of a file."""

    base: bytes
    ours: bytes
    theirs: bytes


@dataclass(frozen=True, slots=True)
class ContentMerge:
    """Merged bytes and the rung that they come from; or a reason why a person decides, and a draft with conflict markers."""

    data: bytes | None
    label: MergeLabel
    reason: MergeReason | None = None
    draft: bytes | None = None


def merge_contents(path: str, base: bytes, ours: bytes, theirs: bytes) -> ContentMerge:
    """Merge the bytes of a file that both sides changed. The sides may be swapped: the merged bytes are the same.

    The shape (byte order mark, line ends, newline at the end) is merged apart. Sizes bound the time, see `MAX_LINE_BYTES` and `MAX_LINES`."""
    versions = Versions(base, ours, theirs)
    reason = _unmergeable(path, versions)
    if reason is not None:
        return ContentMerge(None, MergeLabel.DECISION, reason)
    shapes = tuple(shape_of(each) for each in versions)
    shape = merged_shape(*shapes)
    if shape is None:
        return _climb(path, versions)
    merged = _climb(path, Versions(*(plain(each, own) for each, own in zip(versions, shapes, strict=True))))
    if merged.data is not None:
        return ContentMerge(shaped(merged.data, shape), merged.label)
    draft = None if merged.draft is None else shaped(merged.draft, shape)
    return ContentMerge(None, merged.label, merged.reason, draft)


def _unmergeable(path: str, versions: Versions) -> MergeReason | None:
    if any(is_binary(each) for each in versions):
        return MergeReason.BINARY
    if basename(path).lower() in LOCK_FILES:
        return MergeReason.LOCK_FILE
    if sum(map(len, versions)) > MAX_LINE_BYTES or sum(each.count(b"\n") for each in versions) > MAX_LINES:
        return MergeReason.TOO_LARGE
    return None


def _climb(path: str, versions: Versions) -> ContentMerge:
    """Try one rung after the other."""
    lines = merge_lines(*versions)
    rung = _rung(path, versions)
    if lines.clean and _nothing_lost(versions, lines.data) and (rung is None or rung.trusts(lines.data)):
        return ContentMerge(lines.data, MergeLabel.LINES)
    merged = rung.merged() if rung else None
    if rung and merged is not None and _nothing_lost(versions, merged) and rung.trusts(merged):
        return ContentMerge(merged, rung.label)
    reason = MergeReason.UNSURE if lines.clean else MergeReason.SAME_PLACE
    return ContentMerge(None, MergeLabel.DECISION, reason, lines.data)


def _nothing_lost(versions: Versions, merged: bytes) -> bool:
    """Whether every word that a side introduced is there as often as it wrote it, and none that nobody wrote."""
    base, ours, theirs, result = (Counter(_WORD.findall(each)) for each in (*versions, merged))
    for word in (ours.keys() | theirs.keys() | result.keys()) - base.keys():
        mine, main = ours[word], theirs[word]
        if not max(mine, main) <= result[word] <= mine + main:
            return False
    return True


# -- rungs above lines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rung:
    """How a file of a known format merges by its units, and whether a merged text of it may be trusted."""

    label: MergeLabel
    units: Callable[[bytes], UnitGroup | None]
    groups: tuple[UnitGroup, UnitGroup, UnitGroup] | None
    values: tuple[Any, Any, Any] | None = None
    value_of: Callable[[bytes], Any] | None = None

    def merged(self) -> bytes | None:
        if self.groups is None:
            return None
        try:
            return merge_groups(*self.groups).text
        except UnitConflict:
            return None

    def trusts(self, merged: bytes) -> bool:
        if self.values is not None and self.value_of is not None:
            try:
                return values_agree(*self.values, self.value_of(merged))
            except NotData:
                return False
        if self.groups is None:
            return True  # no version can be read: as good as plain text
        group = self.units(merged)
        return group is not None and has_all_changes(*self.groups, group)


def _rung(path: str, versions: Versions) -> _Rung | None:
    """The rung of a file's format; None if it has none, or one of the versions is not of the format."""
    form = key_format(path)
    if form is not None:
        return _key_rung(form, versions)
    grammar = code_grammar(path)
    if grammar is None:
        return None

    def units(source: bytes) -> UnitGroup | None:
        return code_units(grammar, source)

    groups = _groups(units, versions)
    return None if groups is None else _Rung(MergeLabel.STRUCTURE, units, groups)


def _key_rung(form: str, versions: Versions) -> _Rung | None:
    try:
        values = (parsed(form, versions.base), parsed(form, versions.ours), parsed(form, versions.theirs))
    except NotData:
        return None

    def units(source: bytes) -> UnitGroup | None:
        return key_units(form, source)

    return _Rung(
        MergeLabel.KEYS, units, _groups(units, versions), values, lambda source: parsed(form, source)
    )


def _groups(
    units: Callable[[bytes], UnitGroup | None], versions: Versions
) -> tuple[UnitGroup, UnitGroup, UnitGroup] | None:
    base, ours, theirs = (units(each) for each in versions)
    return None if base is None or ours is None or theirs is None else (base, ours, theirs)
