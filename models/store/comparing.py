"""What changed from one definition to another, field by field, long texts line by line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal

from models.store.definition import Definition

UNTOLD = frozenset({"id", "version", "publisher"})
CONTEXT = 3
MAX_LINES = 4000
"""Longer texts are shown as one part gone and one part come: finding what stayed would take too long."""

Kind = Literal["same", "gone", "come", "skip"]


@dataclass(frozen=True)
class Line:
    """A line of a comparison, numbered from 1 where it stands in the one and in the other text. `skip` stands for
    unchanged lines that are left out."""

    kind: Kind
    text: str
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Change:
    """A field that differs. Lists tell what was `removed` and `added`, everything else its `lines`."""

    name: str
    before: Any
    after: Any
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ between two stored definitions, in the order of the schema; a missing field is None."""
    names = list(dict.fromkeys([*Definition.model_fields, *before, *after]))
    return [
        _change(name, before.get(name), after.get(name))
        for name in names
        if name not in UNTOLD and before.get(name) != after.get(name)
    ]


def _change(name: str, before: Any, after: Any) -> Change:
    if _is_list(before) and _is_list(after):
        removed = [each for each in before or () if each not in (after or ())]
        added = [each for each in after or () if each not in (before or ())]
        if removed or added:
            return Change(name, before, after, removed, added)
    return Change(name, before, after, lines=lines(_text(before), _text(after)))


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    )


def lines(before: str, after: str) -> list[Line]:
    """Two texts as the lines of a unified diff, with three unchanged lines around each change."""
    old, new = before.splitlines(), after.splitlines()
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    told = [Line("same", old[at], at + 1, at + 1) for at in range(head)]
    told += _middle(old[head : len(old) - tail], new[head : len(new) - tail], head)
    shift = len(new) - len(old)
    told += [Line("same", old[at], at + 1, at + 1 + shift) for at in range(len(old) - tail, len(old))]
    return _folded(told)


def _middle(old: list[str], new: list[str], offset: int) -> list[Line]:
    if max(len(old), len(new)) > MAX_LINES:
        return [
            *(Line("gone", each, before=offset + at) for at, each in enumerate(old, 1)),
            *(Line("come", each, after=offset + at) for at, each in enumerate(new, 1)),
        ]
    told = []
    for kind, i, i_end, j, j_end in SequenceMatcher(None, old, new).get_opcodes():
        if kind == "equal":
            told += [
                Line("same", old[at], offset + at + 1, offset + at - i + j + 1) for at in range(i, i_end)
            ]
        else:
            told += [Line("gone", old[at], before=offset + at + 1) for at in range(i, i_end)]
            told += [Line("come", new[at], after=offset + at + 1) for at in range(j, j_end)]
    return told


def _folded(told: list[Line]) -> list[Line]:
    changed = [at for at, line in enumerate(told) if line.kind != "same"]
    near = {at + step for at in changed for step in range(-CONTEXT, CONTEXT + 1)}
    kept: list[Line] = []
    for at, line in enumerate(told):
        if at in near:
            kept.append(line)
        elif not kept or kept[-1].kind != "skip":
            kept.append(Line("skip", ""))
    return kept
