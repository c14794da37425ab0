"""Job queue (procrastinate on the same PostgreSQL): queued jobs, periodic jobs and the worker.

A job is enqueued in the transaction that causes it, so it exists if and only if that commits. It runs in its own application
context, and so with its own `db.session`. Delivery is at least once: the job of a dead worker is started again, so every
job is idempotent or documents what a repetition does.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Literal, TypeAlias

import procrastinate
import psycopg
from procrastinate import RetryDecision
from procrastinate.jobs import Job
from procrastinate.manager import JobManager
from procrastinate.middleware import SyncTaskMiddleware
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.core.db import db, now
from models.core.job_failures import record_failure

log = logging.getLogger("stoa.jobs")

CONCURRENCY = 4
FIRST_PAUSE, LONGEST_PAUSE = 1, 16
"""Seconds until the worker restarts after losing its database."""

# Enqueuing borrows the caller's connection, so this connector never opens one. `work` replaces the queue's by one that cannot
# borrow, so `enqueue` keeps to this, also inside a job.
_borrowing = procrastinate.SyncPsycopgConnector()
queue = procrastinate.App(connector=_borrowing)

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]


class Backoff(procrastinate.BaseRetryStrategy):
    """Retry after each of the given delays (seconds), unless the error is permanent."""

    def __init__(self, *delays: int) -> None:
        self.delays = delays

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """None after the last retry, or for an error with `permanent = True`."""
        if getattr(exception, "permanent", False) or job.attempts >= len(self.delays):
            log.error("job %s (%s) failed permanently", job.task_name, job.id, exc_info=exception)
            return None
        delay = self.delays[job.attempts]
        log.warning("job %s (%s) failed, retrying in %d s: %s", job.task_name, job.id, delay, exception)
        return RetryDecision(retry_in={"seconds": delay})


def enqueue(
    task: procrastinate.tasks.Task[..., Any, ...],
    *,
    at: datetime | None = None,
    lock: str | None = None,
    **arguments: Any,
) -> int:
    """Enqueue a job in the current transaction; returns its id.

    It runs only if the caller commits. `at` (aware) delays it. Those with the same `lock` run one after the other. Arguments are stored as plain JSON: pass ids, and encrypt
    secrets.
    """
    connection = db.session.connection().connection.driver_connection
    deferrer = task.configure(connection=connection, schedule_at=at, lock=lock)
    deferrer.job_manager = JobManager(_borrowing)
    return deferrer.defer(**arguments)


def enqueue_once(
    task: procrastinate.tasks.Task[..., Any, ...],
    key: str,
    *,
    at: datetime | None = None,
    lock: str | None = None,
    **arguments: Any,
) -> bool:
    """Enqueue a job as `enqueue` does, unless one with this key waits already; returns whether it is new. One that runs is none that waits."""
    try:
        with db.session.begin_nested():
            connection = db.session.connection().connection.driver_connection
            deferrer = task.configure(connection=connection, schedule_at=at, lock=lock, queueing_lock=key)
            deferrer.job_manager = JobManager(_borrowing)
            deferrer.defer(**arguments)
    except procrastinate.exceptions.AlreadyEnqueued:
        return False
    return True


def run_now(task: procrastinate.tasks.Task[..., Any, ...]) -> None:
    """Run a periodic task as soon as a worker is free, in addition to its times. Enqueues in the current transaction.

    A job of it that waits already, such as a retry that is due later, is brought forward instead.
    """
    pending = {"task": task.name}
    forward = "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE task_name = :task AND status = 'todo'"
    if db.session.execute(text(f"{forward} RETURNING id"), pending).first():
        return
    try:
        with db.session.begin_nested():
            enqueue(task, timestamp=int(now().timestamp()))
    except procrastinate.exceptions.AlreadyEnqueued:
        log.info("%s is enqueued already", task.name)


def pending_state(task: procrastinate.tasks.Task[..., Any, ...]) -> Literal["running", "waiting"] | None:
    """Whether a job of the task runs now, or waits for a worker; None if neither, or only to run later."""
    query = """
        SELECT status FROM procrastinate_jobs
        WHERE task_name = :task AND (status = 'doing' OR status = 'todo' AND coalesce(scheduled_at, now()) <= now())
        ORDER BY status LIMIT 1
    """
    status = db.session.scalars(text(query), {"task": task.name}).one_or_none()
    return None if status is None else "running" if status == "doing" else "waiting"


def work(context: Context, *, first: Callable[[], Any], wait: bool = True) -> None:
    """Run jobs until SIGTERM or SIGINT; restart when the database connection is lost or a backup is restored.

    `wait=False`: run until no job is due, and raise if PostgreSQL is lost. Otherwise `first` runs at once, and after each loss of
    the database. Each job runs in its own application context, from `context`, and is committed at its end; the error of one that
    fails is stored for operators.
    """

    def run(job: Callable[[], Any], *running: Any) -> Any:
        with context():
            try:
                result = job()
                db.session.commit()
            except Exception as error:
                if running:
                    _record(running[0].job, error)
                raise
            return result

    with context():
        engine = db.engine
    conninfo = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    pause = FIRST_PAUSE
    try:
        while True:
            began = time.monotonic()
            try:
                if wait:
                    run(first)
                asyncio.run(_work(conninfo, run, wait))
                return
            except (procrastinate.exceptions.ConnectorException, psycopg.Error, DBAPIError) as error:
                if not wait:
                    raise
                pause = (
                    FIRST_PAUSE if time.monotonic() - began > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
                )
                # type only: the message may quote row data
                reason = type(error.__cause__ or error).__name__
            log.warning("the job worker lost its database (%s), restarting in %d s", reason, pause)
            engine.dispose()
            time.sleep(pause)
    finally:
        engine.dispose()


def _record(job: Job, error: Exception) -> None:
    """Store the error of a job in a transaction of its own. Never raises: the database may be its cause."""
    try:
        db.session.rollback()
        record_failure(job, error)
        db.session.commit()
    except Exception as failure:
        log.warning("the error of job %s is not stored: %s", job.id, type(failure).__name__)


async def _work(conninfo: str, run: SyncTaskMiddleware, wait: bool) -> None:
    # Backoff logs the outcome of a job; the library would log the job's arguments too.
    logging.getLogger("procrastinate.worker").addFilter(_not_an_outcome)
    # A lost database is logged once, by `work`, not on every attempt to connect.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("procrastinate.utils").setLevel(logging.CRITICAL)
    connector = procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=CONCURRENCY)
    with queue.replace_connector(connector) as app:
        async with app.open_async():
            await app.run_worker_async(
                wait=wait,
                name="stoa",
                concurrency=CONCURRENCY,
                delete_jobs="successful",
                listen_notify=wait,
                install_signal_handlers=wait,
                shutdown_graceful_timeout=15,
                fetch_job_polling_interval=10,
                task_middleware=[run],
            )


def _not_an_outcome(record: logging.LogRecord) -> bool:
    return not str(getattr(record, "action", "")).startswith(("job_error", "job_aborted"))


@contextmanager
def transaction() -> Iterator[None]:
    """One of several transactions of a job or request, such as around a Stripe call; commits at its end, rolls back on error."""
    try:
        yield
    except BaseException:
        db.session.rollback()
        raise
    db.session.commit()
