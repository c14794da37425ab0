"""Recording runs as clients report them: start, steps, finish (contract section 2.3).

What a client reports is its own word. Nothing here moves credits: what a run was billed is read from the calls
that were settled for it, never from the totals below. What an account may record is limited (`models/accounts/write_limits.py`).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import and_, case, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.accounts import write_limits
from models.accounts.write_limits import DAY, MINUTE, WriteLimit, WriteLimitExceeded
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden, NotFound
from models.core.settings import Settings
from models.runs.run import AgentRun, AgentRunVolume, AgentStep

Ending = Literal["completed", "failed", "cancelled"]
StepStatus = Literal["running", "completed", "skipped"]

MAX_ERROR_CHARS = 20_000
ROW_BYTES = 200
"""What a row is counted for beside the text in it."""


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


def start(
    user_id: str,
    agent_id: str,
    ancestor_run_ids: Sequence[str],
    settings: Settings,
    org_id: str | None = None,
) -> str:
    """A new running run of the user, on the account of the organisation `org_id` or (None) their own; answers its id, which
    is always made here.

    `ancestor_run_ids` (root first) is the client's claim and is kept as it is; whoever reads it must not
    take it for access. Raises QuotaExceeded when the user starts too many, or finishes too few.
    """
    moment = now()
    write_limits.take(
        user_id,
        (
            WriteLimit(
                "runs a minute", "runs", settings.stoa_runs_per_minute, MINUTE, "STOA_RUNS_PER_MINUTE"
            ),
            1,
        ),
        (WriteLimit("runs a day", "runs", settings.stoa_runs_per_day, DAY, "STOA_RUNS_PER_DAY"), 1),
        _bytes_a_day(_size(agent_id, *ancestor_run_ids), settings),
        moment=moment,
    )
    _refuse_too_many_open(user_id, moment, settings)
    run = AgentRun(
        id=str(uuid.uuid4()),
        user_id=user_id,
        org_id=org_id,
        agent_id=agent_id,
        ancestor_run_ids=list(ancestor_run_ids),
        status="running",
        created_at=moment,
    )
    db.session.add(run)
    db.session.flush()
    return run.id


def _refuse_too_many_open(user_id: str, moment: datetime, settings: Settings) -> None:
    """Under the lock of the account's quotas. Runs that began a day ago or more are taken for forgotten."""
    begun = select(AgentRun.id).where(
        AgentRun.user_id == user_id,
        AgentRun.status == "running",
        AgentRun.created_at > moment - timedelta(days=1),
    )
    most = settings.stoa_open_runs
    running = db.session.scalar(select(func.count()).select_from(begun.limit(most).subquery())) or 0
    if running >= most:
        raise write_limits.full(
            running,
            "This account has started runs in the last 24 hours that it did not finish",
            most,
            "Send FINISH for those that ended",
            "STOA_OPEN_RUNS",
        )


def finish(
    user_id: str,
    run_id: str,
    *,
    status: Ending,
    total_steps: int,
    direct_credits: Decimal,
    total_credits: Decimal,
    settings: Settings,
    org_id: str | None = None,
    error_message: str | None = None,
    steps: Sequence[StepReport] = (),
) -> bool:
    """End the user's run on this account and record the steps that came with it, together. False when there is none.
    Raises QuotaExceeded as `add_step` does.

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
    mine = update(AgentRun).where(
        AgentRun.id == run_id, AgentRun.user_id == user_id, AgentRun.org_id.is_not_distinct_from(org_id)
    )
    found = db.session.scalar(mine.values(values).returning(AgentRun.id))
    if found is None:
        return False
    added = _insert_steps(run_id, _free_ids(run_id, steps), _ends(steps, moment), settings) if steps else []
    _count(user_id, run_id, added, settings, more=_size(error_message or ""))
    return True


def add_step(
    user_id: str, run_id: str, step: StepReport, settings: Settings, org_id: str | None = None
) -> str:
    """Record one step of the user's run on this account, finished or not; answers its new id.

    Raises NotFound, Forbidden for somebody else's run or one of another account, Conflict when the run has a step of this number, QuotaExceeded
    when the step is too large (413), the run full (409), or the account has recorded too much (429).
    """
    found = None
    if "\x00" not in run_id:
        owner = select(AgentRun.user_id, AgentRun.org_id).where(AgentRun.id == run_id)
        found = db.session.execute(owner).one_or_none()
    if found is None:
        raise NotFound(
            "Agent run not found",
            details=f"There is no run {run_id[:100]!r}. START one, and use the runId that it answers.",
        )
    if tuple(found) != (user_id, org_id):
        raise Forbidden("Unauthorized to add steps to this run")
    step = replace(step, id=None)
    inserted = _insert_steps(run_id, [step], [now()], settings)
    if not inserted:
        raise Conflict(
            f"The run already has a step number {step.number}. Give each step of a run a number of its own."
        )
    _count(user_id, run_id, inserted, settings)
    return str(inserted[0]["id"])


def _insert_steps(
    run_id: str, steps: Sequence[StepReport], ends: Sequence[datetime], settings: Settings
) -> list[dict[str, Any]]:
    """The rows that were added; a step whose number the run has already adds none."""
    rows: list[dict[str, Any]] = [
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
    for row in rows:
        if _step_size(row) > settings.stoa_step_bytes:
            raise WriteLimitExceeded(
                f"Step {row['step_number']} has {_step_size(row):,} bytes; a step may have"
                f" {settings.stoa_step_bytes:,}. Shorten its errorMessage or childRunIds, or ask the operator of this"
                " server to raise STOA_STEP_BYTES.",
                status=413,
            )
    added = insert(AgentStep).on_conflict_do_nothing().returning(AgentStep.id)
    ids = set(db.session.scalars(added, rows))
    return [row for row in rows if row["id"] in ids]


def _count(
    user_id: str, run_id: str, added: Sequence[dict[str, Any]], settings: Settings, more: int = 0
) -> None:
    """Count steps that were added, and `more` bytes beside. Raises QuotaExceeded, and then nothing may be committed."""
    size = sum(_step_size(row) for row in added)
    if added:
        _refuse_too_long(run_id, len(added), size, settings)
    steps = WriteLimit(
        "steps a minute",
        "steps and finishes",
        settings.stoa_steps_per_minute,
        MINUTE,
        "STOA_STEPS_PER_MINUTE",
    )
    write_limits.take(user_id, (steps, len(added) + (more > 0)), _bytes_a_day(size + more, settings))


def _refuse_too_long(run_id: str, steps: int, size: int, settings: Settings) -> None:
    row = insert(AgentRunVolume).values(run_id=run_id, steps=steps, bytes=size)
    row = row.on_conflict_do_update(
        index_elements=[AgentRunVolume.run_id],
        set_={
            "steps": AgentRunVolume.steps + row.excluded.steps,
            "bytes": AgentRunVolume.bytes + row.excluded.bytes,
        },
    )
    has = db.session.execute(row.returning(AgentRunVolume.steps, AgentRunVolume.bytes)).one()
    mend = "Finish it and start another"
    if has.steps > settings.stoa_steps_per_run:
        raise write_limits.full(
            has.steps - steps, "Steps of this run", settings.stoa_steps_per_run, mend, "STOA_STEPS_PER_RUN"
        )
    if has.bytes > settings.stoa_run_bytes:
        raise write_limits.full(
            has.bytes - size, "Bytes of this run's steps", settings.stoa_run_bytes, mend, "STOA_RUN_BYTES"
        )


def _bytes_a_day(size: int, settings: Settings) -> tuple[WriteLimit, int]:
    most = settings.stoa_run_bytes_per_day
    return WriteLimit(
        "bytes of runs a day", "bytes of runs and steps", most, DAY, "STOA_RUN_BYTES_PER_DAY"
    ), size


def _step_size(row: dict[str, Any]) -> int:
    return _size(row["message_id"] or "", row["error_message"] or "", *row["child_run_ids"])


def _size(*texts: str) -> int:
    return ROW_BYTES + sum(len(each.encode()) + 1 for each in texts)


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
