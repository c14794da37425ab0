"""The plan of a sync as JSON: what changes in the workspace and what a person must decide. It is stored, so what is executed is what was
shown.

`changes` are rows of path, label, side, entry or null, where a moved file stood or null. An entry is kind, mode, hash, size and target.
`decisions` are objects; their `draft` is the hash of a text with conflict markers, their `sides` the entries of base, workspace and main.
`takes_main`: the result is main's tree as it is."""

import hashlib
from typing import Any

from models.core.cooperative import in_slices
from models.projects.merge import (
    FlatTree,
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


def sync_plan(merge: TreeMerge, workspace: FlatTree, *, takes_main: bool) -> tuple[Plan, dict[str, bytes]]:
    """The plan of a merge, without what stays as this tree of the workspace has it; the files that it made, drafts too, by hash."""
    contents = dict(merge.contents)
    changes = [
        [each.path, each.label, each.side, _row(each.result), each.renamed_from]
        for each in in_slices(merge.paths.values())
        # not each.workspace, which is where the workspace has a file that main moved
        if each.decision is None and each.result != workspace.get(each.path)
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
        path: PathMerge(path, MergeLabel(label), Side(side), result=entry_of(row), renamed_from=source)
        for path, label, side, row, source in in_slices(plan["changes"])
    }
    for each in plan["decisions"]:
        decision = MergeDecision(
            each["path"],
            MergeReason(each["reason"]),
            {
                option: {path: entry_of(row) for path, row in outcome.items()}
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
    return decisions_by_path(plan).keys() | {row[0] for row in plan["changes"]}


def shown_files(plan: Plan) -> list[MergeEntry]:
    """The files whose texts a preview shows, the most important first: sides and drafts of decisions, then merged files."""
    found: list[MergeEntry | None] = []
    for each in plan["decisions"]:
        found += [entry_of(row) for outcome in each["options"].values() for row in outcome.values()]
        found.append(draft_entry(each))
    found += [entry_of(row) for _, label, _, row, _ in plan["changes"] if label in COMBINED]
    return [entry for entry in found if entry is not None and entry.kind == "file"]


def decisions_by_path(plan: Plan) -> dict[str, dict[str, Any]]:
    """The decisions of a plan by each path that they settle."""
    return {
        path: each for each in plan["decisions"] for outcome in each["options"].values() for path in outcome
    }


def draft_entry(decision: dict[str, Any]) -> MergeEntry | None:
    """The draft of a decision of a plan as a file, or None."""
    return MergeEntry("file", None, decision["draft"], decision["draft_size"]) if decision["draft"] else None


def entry_of(row: list[Any] | None) -> MergeEntry | None:
    """The entry of a row of a plan."""
    return None if row is None else MergeEntry(*row)


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
