"""Warns of clean merges that look wrong: each side is right alone, and together they are not. Nothing is asked of a model.

Names are compared as words, not resolved, so a warning is a hint: it names a line to look at, and stops nobody.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from posixpath import dirname

from models.core.cooperative import in_slices
from models.projects.merge.code_grammars import GO, JAVA, PYTHON, RUST, code_grammar
from models.projects.merge.code_units import code_units
from models.projects.merge.import_cycles import new_cycles
from models.projects.merge.merge_model import (
    BlobReader,
    FlatTree,
    MergeEntry,
    MergeWarning,
    PathMerge,
    Side,
    TreeMerge,
    WarningKind,
)
from models.projects.merge.unit_merge import MergeUnit, UnitGroup, UnitKey

MAX_WARNINGS = 100
MAX_CODE_BYTES = 8 << 20
"""Bytes of all programs that the warnings of a merge look at; those after it, by path, are left out."""
MIN_METHOD = 4
"""Letters of a method's name: shorter ones, as `get`, are everywhere."""
_SAYING = (PYTHON, GO, RUST)
"""Languages that say with a word that a name is defined."""
_DEFINED = re.compile(
    r"\b(?:def|class|func|fn|struct|enum|union|trait|type|mod|const|static)[ \t]+(?:\([^()\n]{0,100}\)[ \t]*)?(\w+)"
)
_WORD = re.compile(r"\w+")


def warnings_of(
    merge: TreeMerge, base: FlatTree, workspace: FlatTree, main: FlatTree, read: BlobReader
) -> list[MergeWarning]:
    """Warnings about the clean part of a merge, sorted by path. Bounded by `MAX_CODE_BYTES` and `MAX_WARNINGS`."""
    found = [*_left_behind(merge, workspace, main)]
    files = _changed_programs(merge, read)
    sides = [[file for file in files if file.changed_by(side)] for side in (Side.WORKSPACE, Side.MAIN)]
    if all(sides):
        for number, side in enumerate((Side.WORKSPACE, Side.MAIN)):
            found += _names_gone(side, sides[number], sides[1 - number])
        found += _duplicates(files)
        found += new_cycles(merge, base, read)
    return sorted(set(found), key=lambda each: (each.path, each.line, each.message))[:MAX_WARNINGS]


# -- programs -----------------------------------------------------------------------------------------------------------


class _Program:
    """A program that a side changed, with its versions as texts."""

    def __init__(self, merged: PathMerge, read: BlobReader, contents: dict[str, bytes]) -> None:
        self.path, self._merged = merged.path, merged

        def text(entry: MergeEntry | None) -> str:
            if entry is None or entry.kind != "file" or entry.hash is None:
                return ""
            data = contents[entry.hash] if entry.hash in contents else read(entry.hash)
            return data.decode(errors="replace")

        self.base, self.result = text(merged.base), text(merged.result)
        self.sides = {Side.WORKSPACE: text(merged.workspace), Side.MAIN: text(merged.main)}

    def changed_by(self, side: Side) -> bool:
        return self.sides[side] != self.base

    @cached_property
    def defined_before(self) -> dict[UnitKey, MergeUnit]:
        return _definitions(self.path, self.base)

    @cached_property
    def defined_after(self) -> dict[UnitKey, MergeUnit]:
        return _definitions(self.path, self.result)

    def defined_by(self, side: Side) -> dict[UnitKey, MergeUnit]:
        return _definitions(self.path, self.sides[side])

    def names_by(self, side: Side) -> set[object]:
        return {key[-1] for key in self.defined_by(side)}

    def may_redefine(self, side: Side, words: set[str]) -> bool:
        """Whether the side may have removed or changed a definition of one of these names, seen without parsing."""
        if not Counter(self.base.splitlines()) - Counter(self.sides[side].splitlines()):
            return False
        return code_grammar(self.path) not in _SAYING or not words.isdisjoint(_DEFINED.findall(self.base))

    def new_lines(self, side: Side) -> Iterator[tuple[int, str]]:
        """The lines that a side added, with their number in the result."""
        left = Counter(self.sides[side].splitlines()) - Counter(self.base.splitlines())
        for number, line in enumerate(self.result.splitlines(), 1):
            if left[line] > 0 and line.strip():
                left[line] -= 1
                yield number, line


def _changed_programs(merge: TreeMerge, read: BlobReader) -> list[_Program]:
    files, size = [], 0
    for each in in_slices(merge.paths.values()):
        if each.decision is not None or code_grammar(each.path) is None:
            continue
        entries = (each.base, each.workspace, each.main, each.result)
        size += sum(entry.size for entry in entries if entry is not None)
        if size > MAX_CODE_BYTES:
            break
        files.append(_Program(each, read, merge.contents))
    return files


def _definitions(path: str, text: str) -> dict[UnitKey, MergeUnit]:
    """Functions, classes and methods by where they are defined; the last part of a key is the name."""
    grammar = code_grammar(path)
    group = (
        code_units(grammar, text.replace("\r\n", "\n").encode(errors="replace")) if grammar and text else None
    )
    return dict(_named_units(group, ())) if group else {}


def _named_units(group: UnitGroup, within: UnitKey) -> Iterator[tuple[UnitKey, MergeUnit]]:
    for unit in group.units:
        if unit.name and unit.key[0] != "assigned":
            yield (*within, unit.name), unit
            if unit.inner is not None:
                yield from _named_units(unit.inner, (*within, unit.name))


# -- names --------------------------------------------------------------------------------------------------------------


def _names_gone(side: Side, mine: list[_Program], others: list[_Program]) -> Iterator[MergeWarning]:
    """Names that a side removed, or gave other parameters, on lines that the other side added."""
    other = Side.MAIN if side is Side.WORKSPACE else Side.WORKSPACE
    added = {file.path: list(file.new_lines(other)) for file in others}
    words = {word for lines in added.values() for _, line in lines for word in _WORD.findall(line)}
    before = [file for file in mine if file.may_redefine(side, words)]
    names = {name for file in in_slices(before) for *_, name in file.defined_before} & words
    if not names:
        return
    removed, changed = _changed_names(side, before, names)
    for file in in_slices(mine):
        if not removed.keys().isdisjoint(_WORD.findall(file.sides[side])):
            removed = {name: place for name, place in removed.items() if name not in file.names_by(side)}
    for file in others:
        own = {str(key[-1]) for key in file.defined_after} if removed else set()
        for number, line in added[file.path]:
            found = set(_WORD.findall(line))
            for name in sorted(found & removed.keys() - own):
                message = (
                    f"`{name}` was removed from {removed[name]} in {side}, and is newly used in {other}."
                )
                yield MergeWarning(WarningKind.REMOVED_NAME_USED, file.path, number, message)
            for name in sorted(found & changed.keys()):
                if re.search(rf"\b{re.escape(name)}\s*\(", line) and not _defines(line, name):
                    message = f"The parameters of `{name}` changed in {side} ({changed[name]}), and {other} newly calls it."
                    yield MergeWarning(WarningKind.SIGNATURE_CHANGED, file.path, number, message)


def _changed_names(
    side: Side, mine: list[_Program], names: set[object]
) -> tuple[dict[str, str], dict[str, str]]:
    """The names that a side removed, by the file, and those with other parameters, with these."""
    after = [file.defined_by(side) for file in in_slices(mine)]
    still = {str(key[-1]) for defined in after for key in defined}
    removed: dict[str, str] = {}
    changed: dict[str, str] = {}
    for file, defined in zip(mine, after, strict=True):
        if file.sides[side] and not defined:
            continue  # it cannot be read any more
        for key, unit in file.defined_before.items():
            name = str(key[-1])
            if name not in names or (len(key) > 1 and len(name) < MIN_METHOD):
                continue
            now = defined.get(key)
            if name not in still:
                removed[name] = file.path
            elif now is not None and not _compatible(unit.signature, now.signature):
                changed[name] = f"{file.path}, now {' '.join((now.signature or '').split())[:100]}"
    return removed, changed


def _compatible(before: str | None, now: str | None) -> bool:
    """Whether old calls still fit: the same parameters, and more that may be left out."""
    if before is None or now is None:
        return True
    old, new = ("".join(each.split()).rstrip(",)") for each in (before, now))
    if not new.startswith(old):
        return False
    more = [each for each in new[len(old) :].split(",") if each]
    return all("=" in each or "?" in each or each.startswith("*") for each in more)


def _defines(line: str, name: str) -> bool:
    return (
        re.search(rf"\b(?:def|function|func|fn)\s+(?:\([^()]*\)\s*)?{re.escape(name)}\s*\(", line) is not None
    )


# -- the same twice -----------------------------------------------------------------------------------------------------


def _duplicates(files: list[_Program]) -> Iterator[MergeWarning]:
    for file in in_slices(files):
        if file.changed_by(Side.WORKSPACE) and file.changed_by(Side.MAIN):
            yield from _defined_twice(file)
    added: dict[tuple[str, object], dict[Side, str]] = {}
    for file in files:
        if code_grammar(file.path) not in (GO, JAVA):
            continue
        for key in file.defined_after.keys() - file.defined_before.keys():
            if len(key) == 1 and file.changed_by(Side.WORKSPACE) != file.changed_by(Side.MAIN):
                side = Side.WORKSPACE if file.changed_by(Side.WORKSPACE) else Side.MAIN
                places = added.setdefault((dirname(file.path), key[0]), {})
                places[side] = file.path
    for (_, name), places in added.items():
        if len(places) > 1:
            here, there = places[Side.WORKSPACE], places[Side.MAIN]
            message = f"`{name}` is new here in {Side.WORKSPACE}, and in {there} of the same package in {Side.MAIN}."
            yield MergeWarning(WarningKind.DUPLICATE_SYMBOL, here, 0, message)


def _defined_twice(file: _Program) -> Iterator[MergeWarning]:
    """Units of one name that the result has more often than either side."""
    grammar = code_grammar(file.path)
    names = _DEFINED if grammar in _SAYING else _WORD
    ours, theirs = (
        {name for _, line in file.new_lines(side) for name in names.findall(line)}
        for side in (Side.WORKSPACE, Side.MAIN)
    )
    if grammar is None or ours.isdisjoint(theirs):
        return
    texts = (file.result, file.sides[Side.WORKSPACE], file.sides[Side.MAIN])
    groups = [code_units(grammar, text.encode(errors="replace")) for text in texts]
    counts = [Counter(_unit_keys(group, ())) if group else Counter() for group in groups]
    lines = dict(_unit_lines(groups[0], ())) if groups[0] else {}
    for key, count in counts[0].items():
        if count > max(counts[1][key], counts[2][key]):
            message = f"`{lines[key][1]}` is defined twice: both sides added it."
            yield MergeWarning(WarningKind.DUPLICATE_SYMBOL, file.path, lines[key][0], message)


def _unit_keys(group: UnitGroup, within: UnitKey) -> Iterator[UnitKey]:
    return (key for key, _ in _unit_lines(group, within))


def _unit_lines(group: UnitGroup, within: UnitKey) -> Iterator[tuple[UnitKey, tuple[int, str]]]:
    for unit in group.units:
        if unit.name:
            yield (*within, *unit.key), (unit.line, unit.name)
            if unit.inner is not None:
                yield from _unit_lines(unit.inner, (*within, *unit.key))


# -- directories --------------------------------------------------------------------------------------------------------


def _left_behind(merge: TreeMerge, workspace: FlatTree, main: FlatTree) -> Iterator[MergeWarning]:
    """Files that one side added to a directory that the other moved."""
    for side, tree, other in ((Side.WORKSPACE, workspace, Side.MAIN), (Side.MAIN, main, Side.WORKSPACE)):
        moved = {
            dirname(each.path): dirname(each.renamed_to)
            for each in merge.paths.values()
            if each.renamed_to is not None
            and (each.workspace if side is Side.WORKSPACE else each.main) is None
        }
        moved = {old: new for old, new in moved.items() if old and old != new}
        added = [
            each.path
            for each in merge.paths.values()
            if each.side is other
            and each.base is None
            and each.result is not None
            and dirname(each.path) in moved
        ]
        gone = {old for old in moved if added and not any(path.startswith(f"{old}/") for path in tree)}
        for path in added:
            if dirname(path) in gone:
                message = f"{side} moved this directory to {moved[dirname(path)] or 'the top'}, and {other} added a file to it."
                yield MergeWarning(WarningKind.ADDED_IN_MOVED_DIRECTORY, path, 0, message)
