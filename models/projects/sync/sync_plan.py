"""The plan of a sync as JSON: what changes in the workspace and what a person must decide. It is stored, so what is executed is what was
shown.

`changes` are rows of path, label, side, entry or null, where a moved file stood or null. An entry is kind, mode, hash, size and target.
`decisions` are objects; their `draft` is the hash of a text with conflict markers, their `sides` the entries of base, workspace and main.
`takes_main`: the result is main's tree as it is."""

import hashlib
from collections.abc import Iterable
from typing import Any

from models.core.cooperative import in_slices
from models.projects.merge import (
    MergeDecision,
    MergeEntry,
    MergeLabel,
    MergeReason,
    PathMerge,
    Side,
    TreeMerge,
)

Plan = dict[str, Any]
COMBINED = frozenset({MergeLabel.LINES, MergeLabel.STRUCTURE, MergeLabel.KEYS})
"""Labels of files that have parts of both sides."""


def sync_plan(merge: TreeMerge, *, takes_main: bool) -> tuple[Plan, dict[str, bytes]]:
    """The plan of a merge, without what stays as the workspace has it; the files that it made, drafts too, by hash."""
    contents = dict(merge.contents)
    changes = [
        [each.path, each.label, each.side, _row(each.result), each.renamed_from]
        for each in in_slices(merge.paths.values())
        if each.decision is None and each.result != each.workspace
    ]
    named = {path: merge.paths[path] for path in merge.decisions}
    plan = {
        "changes": changes,
        "decisions": [_decision(path, named[path], contents) for path in sorted(named)],
        "warnings": [list(each) for each in merge.warnings],
        "takes_main": takes_main and not named,
    }
    return plan, contents


def planned_merge(plan: Plan) -> TreeMerge:
    """The merge of a plan, as far as it is settled by answers."""
    paths = {
        path: PathMerge(path, MergeLabel(label), Side(side), result=_entry(row), renamed_from=source)
        for path, label, side, row, source in in_slices(plan["changes"])
    }
    for each in plan["decisions"]:
        decision = MergeDecision(
            each["path"],
            MergeReason(each["reason"]),
            {
                option: {path: _entry(row) for path, row in outcome.items()}
                for option, outcome in each["options"].items()
            },
            each["custom_mode"],
        )
        paths[decision.path] = PathMerge(decision.path, MergeLabel.DECISION, Side.BOTH, decision=decision)
    return TreeMerge(paths, {}, [])


def plan_counts(plan: Plan) -> tuple[int, int]:
    """How many files are taken from main, and how many are made of both sides or decided."""
    combined = sum(label in COMBINED for _, label, *_ in plan["changes"])
    return len(plan["changes"]) - combined, combined + len(plan["decisions"])


def is_empty(plan: Plan) -> bool:
    """Whether the workspace has all of main already."""
    return not plan["changes"] and not plan["decisions"]


def settled_paths(plan: Plan) -> set[str]:
    """The paths that change, or that a decision settles."""
    decided = {path for each in plan["decisions"] for outcome in each["options"].values() for path in outcome}
    return decided | {row[0] for row in plan["changes"]}


def shown_files(plan: Plan) -> list[MergeEntry]:
    """The files whose texts a preview shows, the most important first: sides and drafts of decisions, then merged files."""
    rows: list[Any] = []
    for each in plan["decisions"]:
        rows += [row for outcome in each["options"].values() for row in outcome.values()]
        rows += [["file", None, each["draft"], each["draft_size"], None]] if each["draft"] else []
    rows += [row for _, label, _, row, _ in plan["changes"] if label in COMBINED]
    return [entry for entry in _entries(rows) if entry.kind == "file"]


def _entries(rows: Iterable[Any]) -> list[MergeEntry]:
    return [entry for entry in map(_entry, rows) if entry is not None]


def _decision(path: str, merged: PathMerge, contents: dict[str, bytes]) -> dict[str, Any]:
    decision = merged.decision
    assert decision is not None
    draft = None
    if decision.draft is not None:
        draft = hashlib.sha256(decision.draft).hexdigest()
        contents[draft] = decision.draft
    return {
        "path": path,
        "reason": decision.reason,
        "options": {
            option: {at: _row(entry) for at, entry in outcome.items()}
            for option, outcome in decision.options.items()
        },
        "custom_mode": decision.custom_mode,
        "draft": draft,
        "draft_size": len(decision.draft or b""),
        "renamed_from": merged.renamed_from,
        "sides": [_row(each) for each in (merged.base, merged.workspace, merged.main)],
    }


def _row(entry: MergeEntry | None) -> list[Any] | None:
    return None if entry is None else list(entry)


def _entry(row: list[Any] | None) -> MergeEntry | None:
    return None if row is None else MergeEntry(*row)
