"""What happens to next steps: they are proposed, begun, done or dismissed, and told to be of help or not (fastest contract 3.13)."""

from collections.abc import Iterable, Sequence

from sqlalchemy import select

from models.core.db import db, lock_name, now
from models.core.errors import Invalid, NotFound
from models.insights.next_step import STEP_STATUSES, NextStep
from models.insights.step_rules import ProposedStep
from models.projects import Project, ProjectCaller
from models.projects.project_access import own_project
from models.projects.project_ids import fits

MAX_STEPS = 500
"""Steps of a project that are kept."""


def steps_in(project: Project, status: str | None = None, limit: int = MAX_STEPS) -> Sequence[NextStep]:
    """The steps of a project, of one status or all, the newest first. Raises Invalid (422) for an unknown status."""
    if status is not None and status not in STEP_STATUSES:
        raise Invalid(f"'status' must be one of {', '.join(STEP_STATUSES)}.")
    query = select(NextStep).where(NextStep.project_id == project.id)
    if status is not None:
        query = query.where(NextStep.status == status)
    newest = query.order_by(NextStep.generated_at.desc(), NextStep.priority, NextStep.id)
    return db.session.scalars(newest.limit(limit)).all()


def keep_steps(project: Project, proposed: Iterable[ProposedStep], model: str | None) -> list[NextStep]:
    """Store the steps that the project does not have, whatever became of them; the new ones. Locks the steps of the project. Flushes."""
    lock_name(f"next steps {project.id}")
    known = set(db.session.scalars(select(NextStep.title_key).where(NextStep.project_id == project.id)))
    moment, made = now(), []
    for each in proposed:
        key = each.title.casefold()
        if key in known or len(known) >= MAX_STEPS:
            continue
        known.add(key)
        made.append(
            NextStep(
                project_id=project.id,
                title=each.title,
                title_key=key,
                description=each.description or None,
                rationale=each.rationale or None,
                category=each.category,
                priority=each.priority,
                effort=each.effort,
                status="pending",
                helpful_count=0,
                not_helpful_count=0,
                model=model,
                generated_at=moment,
            )
        )
    db.session.add_all(made)
    db.session.flush()
    return made


def set_step_status(caller: ProjectCaller, project_id: str, id: str, status: str) -> NextStep:
    """Say that a step is begun, done, dismissed or pending again. Flushes. Raises NotFound, Forbidden, Invalid (422)."""
    if status not in STEP_STATUSES:
        raise Invalid(f"'status' must be one of {', '.join(STEP_STATUSES)}.")
    step = _own_step(caller, project_id, id)
    step.status, step.acted_on_at = status, None if status == "pending" else now()
    db.session.flush()
    return step


def rate_step(caller: ProjectCaller, project_id: str, id: str, *, helpful: bool) -> NextStep:
    """Count that a step was of help or not. Flushes. Raises NotFound, Forbidden."""
    step = _own_step(caller, project_id, id)
    if helpful:
        step.helpful_count += 1
    else:
        step.not_helpful_count += 1
    db.session.flush()
    return step


def _own_step(caller: ProjectCaller, project_id: str, id: str) -> NextStep:
    project = own_project(caller, project_id, "edit_projects")
    query = select(NextStep).where(NextStep.id == id, NextStep.project_id == project.id).with_for_update()
    found = db.session.scalars(query).one_or_none() if fits(id) else None
    if found is None:
        raise NotFound("The project has no such next step.")
    return found
