"""Records runs as clients report them: start, steps, finish (contract section 2.3).

Reported numbers are not verified and never move credits: the cost of a run is the sum of its settled calls. Limits
apply (`models/accounts/write_limits.py`).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.accounts import write_limits
from models.accounts.write_limits import DAY, MINUTE, WriteLimit, WriteLimitExceeded
from models.core.db import db, now
from models.core.errors import Conflict, DomainError, Forbidden, NotFound
from models.core.settings import Settings
from models.ledger import BudgetRefusal, run_budgets
from models.ledger.payers import NO_HINT, PayerHint, RunPayer, payer_of
from models.orgs import OrgMember
from models.runs.run import AgentRun, AgentRunVolume, AgentStep

Ending = Literal["completed", "failed", "cancelled"]
StepStatus = Literal["running", "completed", "skipped"]

MAX_ERROR_CHARS = 20_000
ROW_BYTES = 200
"""Bytes counted per row in addition to its text."""


class RunBudgetRefused(DomainError):
    """The budget of the run above leaves less than a new run asks for."""

    status = 402
    code = "budget_exceeded"

    def __init__(self, refusal: BudgetRefusal) -> None:
        super().__init__(
            f"The budget of the run {refusal.subject} is {refusal.credits:,} credits, of which {max(refusal.free, 0):,} are"
            f" free; this run asks for {refusal.needed:,}. Ask for less, or end other runs first."
        )


@dataclass(frozen=True)
class StepReport:
    """A step as reported by a client. `credits` is the client's own count, `started_at` its own clock (aware)."""

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
    team_id: str | None = None,
    hint: PayerHint = NO_HINT,
    *,
    key_id: str | None = None,
    budget: int | None = None,
    default_budget: int | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Start a run for the user, by their key `key_id`. Its account is that of organisation `org_id`, whose key they use, of the organisation or repository
    that `hint` names, of the run that spawns it, or else their own (`payer_of`). Returns its new id.

    `ancestor_run_ids` (root first) are stored as reported and grant no access to those runs. `budget` is the most that the run
    and its sub-runs may spend, in credits, reserved from the budget of the run above. Raises RunBudgetRefused when that
    leaves less; `default_budget`, the agent's, then does not apply. Raises WriteLimitExceeded when the user starts too many runs or leaves too many unfinished.
    """
    moment = now()
    write_limits.consume(
        user_id,
        (
            WriteLimit(
                "runs a minute", "runs", settings.stoa_runs_per_minute, MINUTE, "STOA_RUNS_PER_MINUTE"
            ),
            1,
        ),
        (WriteLimit("runs a day", "runs", settings.stoa_runs_per_day, DAY, "STOA_RUNS_PER_DAY"), 1),
        _bytes_a_day(_size(agent_id, *ancestor_run_ids, *tags), settings),
        moment=moment,
    )
    _check_open_runs(user_id, moment, settings)
    parent = _delegated(user_id, ancestor_run_ids[-1]) if ancestor_run_ids and org_id is None else None
    payer = payer_of(user_id, hint, key=key_id, key_org=org_id, key_team=team_id, parent=parent)
    run = AgentRun(
        id=str(uuid.uuid4()),
        user_id=user_id,
        org_id=payer.org_id,
        paid_by=payer.paid_by,
        repo_url=payer.repo_url,
        agent_id=agent_id,
        ancestor_run_ids=list(ancestor_run_ids),
        status="running",
        created_at=moment,
        tags=list(tags) or None,
    )
    db.session.add(run)
    db.session.flush()
    if budget is not None or default_budget is not None or ancestor_run_ids:
        _open_budget(run.id, budget, default_budget, moment)
    return run.id


def _open_budget(run_id: str, budget: int | None, default_budget: int | None, moment: datetime) -> None:
    by_default = budget is None and default_budget is not None
    if by_default and run_budgets.open_run_budget(run_id, default_budget, "agent", moment) is None:
        return
    refusal = run_budgets.open_run_budget(run_id, budget, "start", moment)
    if refusal is not None:
        raise RunBudgetRefused(refusal)


def _delegated(user_id: str, run_id: str) -> RunPayer | None:
    """Who pays for the user's run, if that is not only their own account."""
    if "\x00" in run_id:
        return None
    query = select(AgentRun.org_id, AgentRun.paid_by, AgentRun.repo_url).where(
        AgentRun.id == run_id, AgentRun.user_id == user_id
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        return None
    return RunPayer(row.org_id if row.paid_by else None, row.paid_by, row.repo_url)


def _may_write(user_id: str, org_id: str | None) -> ColumnElement[bool]:
    """The user's runs that a key of organisation `org_id`, or (None) a personal key, may write: those of its account. A personal
    key also writes the runs that it started for an organisation, while the user is a member."""
    own = AgentRun.org_id.is_not_distinct_from(org_id)
    if org_id is None:
        member = exists().where(OrgMember.org_id == AgentRun.org_id, OrgMember.user_id == user_id)
        own = or_(own, and_(AgentRun.paid_by.is_not(None), member))
    return and_(AgentRun.user_id == user_id, own)


def _check_open_runs(user_id: str, moment: datetime, settings: Settings) -> None:
    """Check the limit of unfinished runs, ignoring those started over a day ago. Requires the lock of `consume`."""
    open_runs = select(AgentRun.id).where(
        AgentRun.user_id == user_id,
        AgentRun.status == "running",
        AgentRun.created_at > moment - timedelta(days=1),
    )
    limit = settings.stoa_open_runs
    running = db.session.scalar(select(func.count()).select_from(open_runs.limit(limit).subquery())) or 0
    if running >= limit:
        raise write_limits.limit_reached(
            running,
            "Unfinished runs of this account, started in the last 24 hours",
            limit,
            "Send FINISH for runs that have ended",
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
    """Finish the user's run in this account and record its final steps. Returns False for an unknown run.

    May be repeated: a second finish corrects the first, and with the same status keeps `completed_at`, so a retry does
    not lengthen the run. Existing steps are unchanged. Raises WriteLimitExceeded as `add_step` does.
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
        values["error_message"] = _truncate(error_message)
    owned = update(AgentRun).where(AgentRun.id == run_id, _may_write(user_id, org_id))
    found = db.session.scalar(owned.values(values).returning(AgentRun.id))
    if found is None:
        return False
    run_budgets.close_run_budget(run_id, moment)
    added = (
        _insert_steps(run_id, _free_ids(run_id, steps), _end_times(steps, moment), settings) if steps else []
    )
    _count_against_limits(user_id, run_id, added, settings, extra_bytes=_size(error_message or ""))
    return True


def add_step(
    user_id: str, run_id: str, step: StepReport, settings: Settings, org_id: str | None = None
) -> str:
    """Record a step of the user's run in this account, finished or not. Returns the new step's id.

    Raises NotFound, Forbidden for a run of another user or account, Conflict when the step number is taken, and
    WriteLimitExceeded when the step is too large (413), the run is full (409) or the account has recorded too much
    (429).
    """
    found = None
    if "\x00" not in run_id:
        found = db.session.scalar(select(_may_write(user_id, org_id)).where(AgentRun.id == run_id))
    if found is None:
        raise NotFound(
            "Agent run not found",
            details=f"Run {run_id[:100]!r} does not exist. START one and use the returned runId.",
        )
    if not found:
        raise Forbidden("Unauthorized to add steps to this run")
    step = replace(step, id=None)
    inserted = _insert_steps(run_id, [step], [now()], settings)
    if not inserted:
        raise Conflict(
            f"The run already has a step number {step.number}. Use a unique number for each step of a run."
        )
    _count_against_limits(user_id, run_id, inserted, settings)
    return str(inserted[0]["id"])


def _insert_steps(
    run_id: str, steps: Sequence[StepReport], ends: Sequence[datetime], settings: Settings
) -> list[dict[str, Any]]:
    """Insert the steps whose numbers are new in the run. Returns the inserted rows."""
    rows: list[dict[str, Any]] = [
        {
            "id": step.id or str(uuid.uuid4()),
            "agent_run_id": run_id,
            "step_number": step.number,
            "credits": step.credits,
            "child_run_ids": list(step.child_run_ids),
            "message_id": step.message_id,
            "status": step.status,
            "error_message": None if step.error_message is None else _truncate(step.error_message),
            # A client's clock may be ahead; a step does not start after it ended.
            "created_at": min(step.started_at or end, end),
            "completed_at": end,
        }
        for step, end in zip(steps, ends, strict=True)
    ]
    for row in rows:
        if _step_size(row) > settings.stoa_step_bytes:
            raise WriteLimitExceeded(
                f"Step {row['step_number']} has {_step_size(row):,} bytes; the limit is"
                f" {settings.stoa_step_bytes:,}. Shorten its errorMessage or childRunIds, or ask the operator of this"
                " server to raise STOA_STEP_BYTES.",
                status=413,
            )
    added = insert(AgentStep).on_conflict_do_nothing().returning(AgentStep.id)
    ids = set(db.session.scalars(added, rows))
    return [row for row in rows if row["id"] in ids]


def _count_against_limits(
    user_id: str, run_id: str, added: Sequence[dict[str, Any]], settings: Settings, extra_bytes: int = 0
) -> None:
    """Count added steps and `extra_bytes`. Raises WriteLimitExceeded; the caller must then roll back."""
    size = sum(_step_size(row) for row in added)
    if added:
        _count_run_volume(run_id, len(added), size, settings)
    steps = WriteLimit(
        "steps a minute",
        "steps and finishes",
        settings.stoa_steps_per_minute,
        MINUTE,
        "STOA_STEPS_PER_MINUTE",
    )
    finishes = int(extra_bytes > 0)
    write_limits.consume(user_id, (steps, len(added) + finishes), _bytes_a_day(size + extra_bytes, settings))


def _count_run_volume(run_id: str, steps: int, size: int, settings: Settings) -> None:
    row = insert(AgentRunVolume).values(run_id=run_id, steps=steps, bytes=size)
    row = row.on_conflict_do_update(
        index_elements=[AgentRunVolume.run_id],
        set_={
            "steps": AgentRunVolume.steps + row.excluded.steps,
            "bytes": AgentRunVolume.bytes + row.excluded.bytes,
        },
    )
    total = db.session.execute(row.returning(AgentRunVolume.steps, AgentRunVolume.bytes)).one()
    remedy = "Finish it and start another"
    if total.steps > settings.stoa_steps_per_run:
        raise write_limits.limit_reached(
            total.steps - steps,
            "Steps of this run",
            settings.stoa_steps_per_run,
            remedy,
            "STOA_STEPS_PER_RUN",
        )
    if total.bytes > settings.stoa_run_bytes:
        raise write_limits.limit_reached(
            total.bytes - size, "Bytes of this run's steps", settings.stoa_run_bytes, remedy, "STOA_RUN_BYTES"
        )


def _bytes_a_day(size: int, settings: Settings) -> tuple[WriteLimit, int]:
    limit = settings.stoa_run_bytes_per_day
    return WriteLimit(
        "bytes of runs a day", "bytes of runs and steps", limit, DAY, "STOA_RUN_BYTES_PER_DAY"
    ), size


def _step_size(row: dict[str, Any]) -> int:
    return _size(row["message_id"] or "", row["error_message"] or "", *row["child_run_ids"])


def _size(*texts: str) -> int:
    return ROW_BYTES + sum(len(each.encode()) + 1 for each in texts)


def _free_ids(run_id: str, steps: Sequence[StepReport]) -> list[StepReport]:
    """Keep the reported step ids that are UUIDs not used by a step of another run; clear the others."""
    requested = {step.id: _uuid(step.id) for step in steps if step.id}
    ids = {value for value in requested.values() if value}
    taken = set(
        db.session.scalars(
            select(AgentStep.id).where(AgentStep.id.in_(ids), AgentStep.agent_run_id != run_id)
        )
    )
    return [
        replace(step, id=None if requested.get(step.id or "") in taken else requested.get(step.id or ""))
        for step in steps
    ]


def _end_times(steps: Sequence[StepReport], moment: datetime) -> list[datetime]:
    """Return when each step ended: when the next one started, because clients report only start times."""
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


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
