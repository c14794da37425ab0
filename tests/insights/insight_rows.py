"""Rows for pages of insights: items of each kind, decisions in each state, and next steps, in a project of `project_rows`."""

from collections.abc import Mapping

from models.core.db import db, now
from models.insights import FoundItem, ProjectDecision, upsert_item
from models.insights.step_rules import ProposedStep
from models.insights.step_verbs import keep_steps
from models.projects import Project, Workspace

LONG = "a-word-that-does-not-wrap-" + "x" * 90


def found_rows(workspace: Workspace) -> dict[str, str]:
    """One item of each severity and type; ids by severity."""
    made = {}
    for severity, type in (("critical", "security"), ("warning", "build_failure"), ("info", "test_coverage")):
        found = FoundItem(
            f"test:{severity}",
            type,
            severity,
            f"Mend {LONG} · {severity}?",
            description=f"It is {severity}.\n\n{LONG}",
            path=f"src/{LONG}.py",
            line=7,
            prompt=f"Mend {LONG}",
        )
        made[severity] = upsert_item(workspace, found, analyser="test").id
    return made


def decision_row(project_id: str, text: str, state: str, by: str | None = None) -> ProjectDecision:
    """A decision that a conversation said."""
    row = ProjectDecision(
        project_id=project_id,
        decision=text,
        decision_key=text.casefold(),
        rationale=f"so that {LONG} fits",
        category="tech_choice",
        quote=f"We decided: {text}",
        state=state,
        superseded_by_id=by,
        found_by="rules",
        decided_at=now(),
    )
    db.session.add(row)
    db.session.flush()
    return row


def insight_rows(ids: Mapping[str, str]) -> dict[str, str]:
    """Make them in the current transaction; ids for the arguments of routes."""
    workspace = db.session.get_one(Workspace, ids["workspace_id"])
    project = db.session.get_one(Project, ids["project_id"])
    accepted = decision_row(project.id, f"Build it of {LONG}", "accepted")
    decision_row(project.id, "Build it of wood", "superseded", accepted.id)
    decision_row(project.id, "Build it of paper", "rejected")
    proposed = decision_row(project.id, f"Paint {LONG}", "proposed")
    draw = ProposedStep(f"Draw {LONG}", "Begin small.", f"Because {LONG}", priority=1)
    (step,) = keep_steps(project, [draw], None)
    items = found_rows(workspace)
    return {"item_id": items["critical"], "decision_id": proposed.id, "step_id": step.id}
