"""Next steps that follow from what is known of a project, without a model: each says from what."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select

from models.core.db import db
from models.insights.action_item import ActionItem
from models.insights.drift_items import drift_items
from models.insights.project_decision import ProjectDecision
from models.projects import Project
from models.projects.project_listing import snapshot_count
from models.projects.project_states import state_of
from models.projects.snapshots.manifest_store import tree_entries

MAX_FEATURES, MAX_SYNCS = 3, 3
MAX_NAMES = 20_000
"""Paths in which features are looked for."""
_WORD = re.compile(r"[a-z]{4,40}")
_COMMON = frozenset(
    [
        "with",
        "from",
        "that",
        "this",
        "user",
        "users",
        "able",
        "have",
        "their",
        "when",
        "each",
        "make",
        "support",
    ]
)


class ProposedStep(NamedTuple):
    """A step that is not stored yet. `priority` is 1 for the highest to 3."""

    title: str
    description: str
    rationale: str
    category: str = "technical"
    priority: int = 2
    effort: str | None = None


@dataclass(frozen=True)
class ProjectFacts:
    """What is known of a project: pending items by severity and type, workspaces that drift, proposed decisions, and its paths."""

    project: Project
    snapshots: int
    severities: Mapping[str, int]
    types: Mapping[str, int]
    drifting: list[tuple[str, int]]
    proposed: int
    paths: str

    def as_json(self) -> dict[str, Any]:
        """The facts for a model: counts and names, no contents of files."""
        return {
            "name": self.project.name,
            "intent": self.project.intent,
            "brief": self.project.brief,
            "snapshots": self.snapshots,
            "open_items_by_severity": dict(self.severities),
            "open_items_by_type": dict(self.types),
            "drifting_workspaces": [name for name, _ in self.drifting[:MAX_SYNCS]],
            "decisions_to_review": self.proposed,
        }


def facts_of(project: Project) -> ProjectFacts:
    """Read what is known of a project."""
    pending = (ActionItem.project_id == project.id, ActionItem.status == "pending")
    severities, types = (
        {
            row[0]: row[1]
            for row in db.session.execute(select(column, func.count()).where(*pending).group_by(column))
        }
        for column in (ActionItem.severity, ActionItem.type)
    )
    waiting = select(func.count()).where(
        ProjectDecision.project_id == project.id, ProjectDecision.state == "proposed"
    )
    tree = state_of(project).tree
    entries = tree_entries(project.account_id, tree)[:MAX_NAMES] if tree else []
    return ProjectFacts(
        project,
        snapshot_count(project.id),
        severities,
        types,
        [(each.workspace.name, each.weight) for each in drift_items([project]) if each.severity != "info"],
        db.session.scalar(waiting) or 0,
        "\n".join(each.path for each in entries).lower(),
    )


def steps_by_rules(facts: ProjectFacts) -> Iterator[ProposedStep]:
    """What to do next, the most pressing first."""
    if not facts.project.brief:
        yield ProposedStep(
            "Write down what the project is for",
            "A brief of a few sentences: the problem, for whom, and what has to be there. Agents read it before they work.",
            "The project has no brief.",
            "validation",
            1,
            "small",
        )
    if not facts.snapshots:
        yield ProposedStep(
            "Push the first snapshot",
            "Clone the project with the client, put files there, and push them.",
            "The project has no files yet.",
            priority=1,
            effort="small",
        )
    if critical := facts.severities.get("critical"):
        yield ProposedStep(
            "Mend the critical findings",
            "They are first in the inbox. An agent can propose a patch for each.",
            f"{_count(critical, 'critical item')} in the inbox.",
            priority=1,
        )
    for name, files in facts.drifting[:MAX_SYNCS]:
        yield ProposedStep(
            f"Sync the workspace “{name[:80]}”",
            "Take over what changed in main, and decide where both changed the same file. A preview shows it first.",
            f"{_count(files, 'file')} differ from main, and the longer it waits, the harder it gets.",
            effort="small",
        )
    if facts.types.get("test_coverage"):
        yield ProposedStep(
            "Write the first tests",
            "Begin with the largest files: fixes of agents are only checked by tests.",
            "The analysis found code with few tests or none.",
            effort="medium",
        )
    if facts.proposed:
        yield ProposedStep(
            "Review the proposed decisions",
            "Accept what was decided, and reject what was not: agents read the accepted ones.",
            f"{_count(facts.proposed, 'decision')} from conversations wait for you.",
            "validation",
            effort="small",
        )
    yield from _features(facts)
    brief = facts.project.brief or {}
    if facts.snapshots and facts.project.intent == "startup" and brief.get("has_users") is False:
        yield ProposedStep(
            "Show it to one person it is made for",
            "Watch them use it without helping, and write down where they stop.",
            "The brief says that nobody uses it yet.",
            "user_research",
            effort="small",
        )


def _features(facts: ProjectFacts) -> Iterator[ProposedStep]:
    """Features of the brief whose words no path has."""
    brief = facts.project.brief or {}
    listed = [brief.get(name) for name in ("mvp_features", "must_have")]
    features = [
        each for part in listed if isinstance(part, list) for each in part[:20] if isinstance(each, str)
    ]
    found = 0
    for feature in features if facts.snapshots else []:
        words = set(_WORD.findall(feature.lower()[:200])) - _COMMON
        if not words or found == MAX_FEATURES or any(word.rstrip("s") in facts.paths for word in words):
            continue
        found += 1
        yield ProposedStep(
            f"Build “{' '.join(feature.split())[:100]}”",
            "Begin with the smallest part that somebody can try.",
            "The brief names it, and no file is named after it.",
            "feature",
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
