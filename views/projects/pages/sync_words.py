"""What the pages of a sync say about its plan: figures, warnings, and the options of each decision."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.projects import SyncPreview
from models.projects.sync.sync_plan import plan_counts
from models.projects.sync.sync_review import ReviewedDecision
from views.projects.api.sync_bodies import LABELS, preview_json

CHANGES = {"added": "Added", "removed": "Removed", "changed": "Changed"}
ANSWERS = {"use_main": "Main’s", "use_workspace": "The workspace’s", "custom": "Own text"}
MAX_WARNINGS = 100


class PlanWords(NamedTuple):
    """The figures of a plan, its warnings (path, line, message), and what was answered (path, words)."""

    copied: int
    combined: int
    decisions: int
    unchanged: int
    warnings: list[tuple[str, int, str]]
    more_warnings: int
    labels: Mapping[str, str]
    answered: list[tuple[str, str]]


class DecisionWords(NamedTuple):
    """A decision: why, what each side did, the options by id, words and what each does, and what differs. `mark` is the same as long as
    the versions of both sides are."""

    path: str
    mark: str
    reason: str
    main: str
    workspace: str
    options: list[tuple[str, str, str]]
    custom: bool
    review: ReviewedDecision | None


def plan_words(preview: SyncPreview) -> PlanWords:
    """The figures and warnings of a plan."""
    plan = preview.plan
    copied, combined = plan_counts(plan)
    decisions, warnings = len(plan["decisions"]), plan["warnings"]
    return PlanWords(
        copied,
        combined - decisions,
        decisions,
        preview.files_unchanged,
        [(path, line, message) for _, path, line, message in warnings[:MAX_WARNINGS]],
        max(0, len(warnings) - MAX_WARNINGS),
        LABELS,
        [(path, ANSWERS.get(answer, answer)) for path, answer in sorted((preview.decisions or {}).items())],
    )


def decision_words(
    preview: SyncPreview, paths: Sequence[str], reviewed: Mapping[str, ReviewedDecision]
) -> list[DecisionWords]:
    """The decisions about these paths, those that were reviewed with what differs."""
    told = {each["path"]: each for each in preview_json(preview, {})["decisions_needed"]}
    plan = {each["path"]: each for each in preview.plan["decisions"]}
    return [_words(told[path], _mark(plan[path]), reviewed.get(path)) for path in paths]


def _mark(planned: Mapping[str, Any]) -> str:
    sides = json.dumps([planned["sides"], planned["draft"], planned["reason"]])
    return hashlib.sha256(sides.encode()).hexdigest()[:16]


def _words(decision: Mapping[str, Any], mark: str, review: ReviewedDecision | None) -> DecisionWords:
    options = [(each["id"], each["label"], each["description"]) for each in decision["options"]]
    return DecisionWords(
        decision["path"],
        mark,
        decision["conflict_reason"],
        decision["main_intent"],
        decision["workspace_intent"],
        options,
        review is not None and review.own is not None,
        review,
    )
