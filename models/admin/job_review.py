"""The job queue for operators: counts by task, jobs with their last error, the worker, the schedule; retry and cancel."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.core.db import db
from models.core.errors import Conflict, NotFound
from models.core.jobs import queue

STATES = {
    "failed": "status = 'failed'",
    "waiting": "status = 'todo' AND coalesce(scheduled_at, now()) <= now()",
    "scheduled": "status = 'todo' AND scheduled_at > now()",
    "running": "status = 'doing'",
    "cancelled": "status IN ('cancelled', 'aborted')",
}
"""Conditions of the states; a successful job is deleted."""
COUNTED = 20_000
"""The newest jobs that are counted."""
RETRIED_AT_ONCE = 1_000
LATE_AFTER = timedelta(minutes=5)
"""How long a due job may wait for a worker."""
ALIVE_WITHIN = timedelta(seconds=60)
"""A worker reports every 10 seconds."""
MAX_VALUE = 120
MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """The jobs of a task by state, and how long its oldest due job has been due."""

    task: str
    failed: int
    waiting: int
    scheduled: int
    running: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True)
class ReviewedJob:
    """A job. `since` is when it was enqueued; `due` when it may run; `error`, `trace` and `failed_at` are of its last failure."""

    id: int
    task: str
    state: str
    attempts: int
    arguments: str
    since: datetime | None
    due: datetime | None
    error: str | None
    trace: str | None
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScheduledTask:
    """A task that recurs: its times (cron, UTC), the last time it was started and the next."""

    task: str
    cron: str
    title: str
    last: datetime | None
    next: datetime


def task_counts() -> Sequence[TaskCounts]:
    """The newest `COUNTED` jobs by task: failed tasks first, then by name."""
    counts = ", ".join(f"count(*) FILTER (WHERE {where}) AS {state}" for state, where in STATES.items())
    query = f"""
        SELECT t.task_name, t.failed, t.waiting, t.scheduled, t.running, now() - greatest(j.scheduled_at, (
            SELECT e.at FROM procrastinate_events e WHERE e.job_id = j.id AND e.type = 'deferred' ORDER BY e.id LIMIT 1
        )) AS oldest
        FROM (
            SELECT task_name, {counts}, min(id) FILTER (WHERE {STATES["waiting"]}) AS first
            FROM (SELECT id, task_name, status, scheduled_at FROM procrastinate_jobs ORDER BY id DESC LIMIT {COUNTED}) newest
            GROUP BY task_name
        ) t LEFT JOIN procrastinate_jobs j ON j.id = t.first
        ORDER BY (t.failed > 0) DESC, t.task_name
    """  # noqa: S608 - constants
    return [TaskCounts(*row) for row in db.session.execute(text(query))]


def listed_jobs(
    *, state: str | None, task: str | None, before: int | None, limit: int
) -> Sequence[ReviewedJob]:
    """Jobs of a state (one of `STATES`; None: all) and a task, newest first; `before` is the last id of the page before.
    Looks at the newest `COUNTED`; failed ones are all found."""
    older = "WHERE id < :before" if before is not None else ""
    jobs = f"SELECT * FROM procrastinate_jobs {older} ORDER BY id DESC LIMIT {COUNTED}"  # noqa: S608 - constants
    if state == "failed":
        jobs = f"SELECT * FROM procrastinate_jobs WHERE {STATES[state]}"  # noqa: S608 - they have an index
    conditions = [STATES[state]] if state else []
    conditions += ["task_name = :task"] if task else []
    conditions += ["id < :before"] if before is not None else []
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"SELECT * FROM ({jobs}) newest {where} ORDER BY id DESC LIMIT :limit"  # noqa: S608 - constants
    return _jobs(query, task=task, before=before, limit=limit)


def reviewed_job(id: int) -> ReviewedJob:
    """One job. Raises NotFound."""
    found = _jobs("SELECT * FROM procrastinate_jobs WHERE id = :id", id=id) if 0 <= id <= MAX_ID else []
    if not found:
        raise NotFound("There is no such job. It has succeeded, or was deleted.")
    return found[0]


def existing_jobs(ids: Iterable[str]) -> list[str]:
    """Which of these are ids of jobs that still exist."""
    numbers = [int(id) for id in ids if id.isascii() and id.isdecimal() and len(id) < 19]
    if not numbers:
        return []
    query = text("SELECT id::text FROM procrastinate_jobs WHERE id = ANY(:ids)")
    return list(db.session.scalars(query, {"ids": numbers}))


def failed_count(limit: int = 1_000) -> int:
    """How many jobs failed for good; at most `limit`."""
    query = "SELECT count(*) FROM (SELECT FROM procrastinate_jobs WHERE status = 'failed' LIMIT :limit) f"
    return int(db.session.scalars(text(query), {"limit": limit}).one())


def late_task() -> str | None:
    """The task of the oldest due job, if it has been due for `LATE_AFTER`; None otherwise. Looks at the oldest 1,000 that wait."""
    query = f"""
        SELECT j.task_name FROM (
            SELECT id, task_name, scheduled_at FROM procrastinate_jobs WHERE status = 'todo' ORDER BY priority DESC, id LIMIT 1000
        ) j, LATERAL (SELECT at FROM procrastinate_events WHERE job_id = j.id AND type = 'deferred' ORDER BY id LIMIT 1) e
        WHERE greatest(j.scheduled_at, e.at) < now() - interval '{LATE_AFTER.total_seconds()} seconds' ORDER BY j.id LIMIT 1
    """  # noqa: S608 - a constant
    return db.session.scalars(text(query)).one_or_none()


def last_heartbeat() -> datetime | None:
    """When a worker last reported; None if there is none."""
    found: datetime | None = db.session.scalars(
        text("SELECT max(last_heartbeat) FROM procrastinate_workers")
    ).one()
    return found


def retry_job(id: int) -> str:
    """Run a failed job once more, now; returns its task. Flushes. Raises NotFound, and Conflict if it did not fail or the same
    job waits already."""
    job = reviewed_job(id)
    if job.state != "failed" or not _retry(id):
        raise Conflict("Only failed jobs can be retried, and not while the same job waits already.")
    return job.task


def retry_task(task: str) -> int:
    """Run the failed jobs of a task once more, at most `RETRIED_AT_ONCE`, oldest first; returns how many. Those that wait
    already in another job stay failed. Flushes."""
    query = "SELECT id FROM procrastinate_jobs WHERE status = 'failed' AND task_name = :task ORDER BY id LIMIT :limit"
    ids = db.session.scalars(text(query), {"task": task, "limit": RETRIED_AT_ONCE}).all()
    return sum(_retry(id) for id in ids)


def cancel_job(id: int) -> str:
    """Cancel a job that has not started; returns its task. Flushes. Raises NotFound, and Conflict if it runs or has ended."""
    job = reviewed_job(id)
    cancelled = db.session.scalars(text("SELECT procrastinate_cancel_job_v1(:id, false, false)"), {"id": id})
    if cancelled.one() is None:
        raise Conflict("Only jobs that wait can be cancelled.")
    return job.task


def scheduled_tasks(now: datetime) -> list[ScheduledTask]:
    """The recurring tasks by name."""
    query = "SELECT task_name, max(defer_timestamp) FROM procrastinate_periodic_defers GROUP BY 1"
    last: dict[str, int] = {task: at for task, at in db.session.execute(text(query)).all()}  # noqa: C416
    found = []
    for each in queue.periodic_registry.periodic_tasks.values():
        name = each.task.name
        found.append(
            ScheduledTask(
                task=name,
                cron=each.cron,
                title=(each.task.func.__doc__ or "").strip().partition("\n")[0],
                last=datetime.fromtimestamp(last[name], UTC) if name in last else None,
                next=datetime.fromtimestamp(each.croniter.get_next(float, start_time=now.timestamp()), UTC),
            )
        )
    return sorted(found, key=lambda each: each.task)


def _retry(id: int) -> bool:
    """Whether the job was failed, and waits now."""
    query = text(
        "SELECT procrastinate_retry_job_v2(:id, now(), NULL, NULL, NULL) FROM procrastinate_jobs"
        " WHERE id = :id AND status = 'failed'"
    )
    try:
        with db.session.begin_nested():
            return db.session.execute(query, {"id": id}).first() is not None
    except IntegrityError:
        return False  # its queueing lock: the same job waits already


def _jobs(query: str, **parameters: Any) -> Sequence[ReviewedJob]:
    rows = db.session.execute(
        text(f"""
            SELECT j.id, j.task_name, j.status::text, coalesce(j.scheduled_at > now(), false) AS later, j.attempts, j.args, e.at,
                j.scheduled_at, f.error, f.trace, f.at AS failed_at
            FROM ({query}) j LEFT JOIN job_failure f ON f.job_id = j.id LEFT JOIN LATERAL (
                SELECT at FROM procrastinate_events WHERE job_id = j.id AND type = 'deferred' ORDER BY id LIMIT 1
            ) e ON true
            ORDER BY j.id DESC
        """),  # noqa: S608 - constants
        parameters,
    )
    return [
        ReviewedJob(
            id=row.id,
            task=row.task_name,
            state=_state(row.status, row.later),
            attempts=row.attempts,
            arguments=_arguments(row.args),
            since=row.at,
            due=row.scheduled_at,
            error=row.error,
            trace=row.trace,
            failed_at=row.failed_at,
        )
        for row in rows
    ]


def _state(status: str, later: bool) -> str:
    names = {"doing": "running", "todo": "scheduled" if later else "waiting", "aborted": "cancelled"}
    return names.get(status, status)


def _arguments(arguments: dict[str, Any]) -> str:
    """`name=value`, long values shortened; not what is encrypted."""
    shown = {name: value for name, value in arguments.items() if name not in ("sealed", "timestamp")}
    return ", ".join(f"{name}={_short(value)}" for name, value in shown.items())


def _short(value: Any) -> str:
    written = value if isinstance(value, str) else json.dumps(value)
    return written if len(written) <= MAX_VALUE else f"{written[:MAX_VALUE]}…"
