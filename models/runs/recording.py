"""Recording runs as clients report them: start, steps, finish (contract section 2.3).

What a client reports is its own word. Nothing here moves credits: what a run was billed is read from the calls
that were settled for it, never from the totals below.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import and_, case, select, update
from sqlalchemy.dialects.postgresql import insert

from models.db import db, now
from models.errors import Conflict, Forbidden, NotFound
from models.runs.run import AgentRun, AgentStep

Ending = Literal["completed", "failed", "cancelled"]
StepStatus = Literal["running", "completed", "skipped"]

MAX_ERROR_CHARS = 20_000


@dataclass(frozen=True)
class StepReport:
    """One step in a client's words: `credits` by its own count, `started_at` by its own clock (aware)."""

    number: int
    credits: Decimal = Decimal(0)
    child_run_ids: Sequence[str] = ()
    message_id: str | None = None
    status: StepStatus = "completed"
    error_message: str | None = None
    started_at: datetime | None = None
    id: str | None = None


def start(user_id: str, agent_id: str, ancestor_run_ids: Sequence[str]) -> str:
    """A new running run of the user; answers its id, which is always made here.

    `ancestor_run_ids` (root first) is the client's claim and is kept as it is; whoever reads it must not
    take it for access.
    """
    run = AgentRun(
        id=str(uuid.uuid4()),
        user_id=user_id,
        agent_id=agent_id,
        ancestor_run_ids=list(ancestor_run_ids),
        status="running",
        created_at=now(),
    )
    db.session.add(run)
    db.session.flush()
    return run.id


def finish(
    user_id: str,
    run_id: str,
    *,
    status: Ending,
    total_steps: int,
    direct_credits: Decimal,
    total_credits: Decimal,
    error_message: str | None = None,
    steps: Sequence[StepReport] = (),
) -> bool:
    """End the user's run and record the steps that came with it, together. False when the user has no such run.

    Repeatable: a second finish counts as a correction of the first, and one with the same status leaves the
    time of the end alone, so that a retry does not lengthen the run. Steps recorded before are left as they are.
    """
    moment = now()
    values: dict[str, Any] = {
        "status": status,
        "total_steps": total_steps,
        "direct_credits": direct_credits,
        "total_credits": total_credits,
        "completed_at": case(
            (and_(AgentRun.status == status, AgentRun.completed_at.is_not(None)), AgentRun.completed_at),
            else_=moment,
        ),
    }
    if error_message is not None:
        values["error_message"] = _bounded(error_message)
    mine = update(AgentRun).where(AgentRun.id == run_id, AgentRun.user_id == user_id)
    found = db.session.scalar(mine.values(values).returning(AgentRun.id))
    if found is None:
        return False
    if steps:
        _insert_steps(run_id, _free_ids(run_id, steps), _ends(steps, moment))
    return True


def add_step(user_id: str, run_id: str, step: StepReport) -> str:
    """Record one step of the user's run, finished or not; answers its new id.

    Raises NotFound, Forbidden for somebody else's run, Conflict when the run has a step of this number.
    """
    if "\x00" in run_id:
        raise NotFound("Agent run not found")
    owner = db.session.scalar(select(AgentRun.user_id).where(AgentRun.id == run_id))
    if owner is None:
        raise NotFound("Agent run not found")
    if owner != user_id:
        raise Forbidden("Unauthorized to add steps to this run")
    step = replace(step, id=None)
    inserted = _insert_steps(run_id, [step], [now()])
    if not inserted:
        raise Conflict("The run already has a step with this number")
    return inserted[0]


def _insert_steps(run_id: str, steps: Sequence[StepReport], ends: Sequence[datetime]) -> list[str]:
    rows = [
        {
            "id": step.id or str(uuid.uuid4()),
            "agent_run_id": run_id,
            "step_number": step.number,
            "credits": step.credits,
            "child_run_ids": list(step.child_run_ids),
            "message_id": step.message_id,
            "status": step.status,
            "error_message": None if step.error_message is None else _bounded(step.error_message),
            # a client's clock may run ahead of ours; a step does not start after it ended
            "created_at": min(step.started_at or end, end),
            "completed_at": end,
        }
        for step, end in zip(steps, ends, strict=True)
    ]
    added = insert(AgentStep).on_conflict_do_nothing().returning(AgentStep.id)
    return list(db.session.scalars(added, rows))


def _free_ids(run_id: str, steps: Sequence[StepReport]) -> list[StepReport]:
    """The steps, with their ids where those are UUIDs that no step of another run has."""
    wanted = {step.id: _uuid(step.id) for step in steps if step.id}
    ids = {value for value in wanted.values() if value}
    taken = set(
        db.session.scalars(
            select(AgentStep.id).where(AgentStep.id.in_(ids), AgentStep.agent_run_id != run_id)
        )
    )
    return [
        replace(step, id=None if wanted.get(step.id or "") in taken else wanted.get(step.id or ""))
        for step in steps
    ]


def _ends(steps: Sequence[StepReport], moment: datetime) -> list[datetime]:
    """When each step ended: a report at the end of a run says only when they started, so where the next began."""
    ends = {steps[-1].number: moment}
    order = sorted(steps, key=lambda step: step.number)
    for step, following in pairwise(order):
        known = step.started_at and following.started_at and step.started_at <= following.started_at
        ends[step.number] = min(following.started_at, moment) if known and following.started_at else moment
    ends[order[-1].number] = moment
    return [ends[step.number] for step in steps]


def _uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
