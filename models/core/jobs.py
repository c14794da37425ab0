"""The job queue (procrastinate on the same PostgreSQL): what waits, what recurs, and the worker that does both.

A job is enqueued in the transaction of its cause, so it exists exactly when its cause was committed. It runs in an
application context of its own, and so with a `db.session` of its own. It runs at least once: a worker that dies in the middle has its job started again, so every verb behind a job is idempotent
or says what a repetition does.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

import procrastinate
import psycopg
from procrastinate import RetryDecision
from procrastinate.jobs import Job
from procrastinate.middleware import SyncTaskMiddleware
from sqlalchemy.exc import DBAPIError

from models.core.db import db, now
from models.core.settings import get_settings

log = logging.getLogger("stoa.jobs")

CONCURRENCY = 4
FIRST_PAUSE, LONGEST_PAUSE = 1, 16
"""Seconds until the worker begins anew without its database."""
STALLED_AFTER = 60.0  # seconds without a sign of life from the worker that held a job

# Enqueuing borrows the caller's connection, so this connector never opens one; `work` replaces it.
queue = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]


class Backoff(procrastinate.BaseRetryStrategy):
    """Try again after each of the given waits (seconds), unless the error says that repeating cannot help."""

    def __init__(self, *waits: int) -> None:
        self.waits = waits

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """None once the waits are used up, or for an error with `permanent = True`."""
        if getattr(exception, "permanent", False) or job.attempts >= len(self.waits):
            log.error("job %s (%s) failed and is given up", job.task_name, job.id, exc_info=exception)
            return None
        wait = self.waits[job.attempts]
        log.warning("job %s (%s) failed, again in %d s: %s", job.task_name, job.id, wait, exception)
        return RetryDecision(retry_in={"seconds": wait})


def enqueue(
    task: procrastinate.tasks.Task[..., Any, ...], *, at: datetime | None = None, **arguments: Any
) -> int:
    """Put a job into the queue in the running transaction; returns the job's id.

    Nothing runs unless the caller commits. `at` (aware) postpones it. Arguments are stored as JSON, readable by
    whoever reads the database: pass ids, and seal what is secret.
    """
    connection = db.session.connection().connection.driver_connection
    return task.configure(connection=connection, schedule_at=at).defer(**arguments)


def work(context: Context, *, wait: bool = True) -> None:
    """Run jobs until SIGTERM or SIGINT, and begin anew whenever the database goes away or is restored from a backup
    (`wait=False`: until none is due; raises when PostgreSQL is lost).

    Each runs in an application context of its own, which `context` makes, and is committed at its end.
    """

    def run(job: Callable[[], Any], *_: Any) -> Any:
        with context():
            result = job()
            db.session.commit()
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
                    # whatever killed the last worker may have killed calls, and the next sweep is up to twenty seconds off
                    run(partial(sweep_credit, 0))
                asyncio.run(_work(conninfo, run, wait))
                return
            except (procrastinate.exceptions.ConnectorException, psycopg.Error, DBAPIError) as error:
                if not wait:
                    raise
                pause = (
                    FIRST_PAUSE if time.monotonic() - began > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
                )
                # its text may quote what is in a row
                told = type(error.__cause__ or error).__name__
            log.warning("the job worker lost its database (%s), and begins anew in %d s", told, pause)
            engine.dispose()
            time.sleep(pause)
    finally:
        engine.dispose()


async def _work(conninfo: str, run: SyncTaskMiddleware, wait: bool) -> None:
    # What a job's end means is logged by Backoff; the library would add the job's arguments to the line.
    logging.getLogger("procrastinate.worker").addFilter(_not_an_outcome)
    # A lost database is told once, by the worker's end, not by each try to connect.
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
    """One transaction of a job that takes several; commits at its end."""
    yield
    db.session.commit()


# A job calls its verb and does not commit: the worker does. Rooms import this module to enqueue, so its jobs import
# their verbs only when they run.


@queue.task(name="mail.deliver", retry=Backoff(5, 30, 120, 600, 1800, 3600, 7200))
def deliver_mail(sealed: str) -> None:
    """Send one message; a repetition may send it twice."""
    from models.core.mail import deliver_sealed

    deliver_sealed(get_settings(), sealed)


@queue.periodic(cron="* * * * * */20")
# No lock: a sweep whose worker was killed would bar the next ones until it is rescued. Two at once do no harm.
@queue.task(name="billing.sweep", queueing_lock="billing.sweep", retry=Backoff())
def sweep_credit(timestamp: int) -> None:
    """Expire holds of dead workers and grants whose time is over."""
    from models.ledger import sweep

    sweep(now=now())


@queue.periodic(cron="7 0 * * *")
@queue.task(name="ledger.record_head", queueing_lock="ledger.record_head", retry=Backoff(60, 600, 3600))
def record_ledger_head(timestamp: int) -> None:
    """Record the head of the ledger for the day; a repetition does nothing."""
    from models.ledger import record_head

    record_head(now())


@queue.periodic(cron="* * * * * */2")
@queue.task(name="store.apply", queueing_lock="store.apply", retry=Backoff())
def apply_runs(timestamp: int) -> None:
    """Count the runs that ended, were settled or were deleted in the figures of their agents."""
    from models.store.statistics import counting

    after: int | None = 0
    while after is not None:
        with transaction():
            after = counting.apply(after)


@queue.periodic(cron="* * * * *")
@queue.task(name="store.slide", queueing_lock="store.slide", retry=Backoff())
def slide_store(timestamp: int) -> None:
    """Let the week of the store's figures move on, in steps of a day when it has been long."""
    from models.store.statistics import counting

    moment = now()
    since = None
    while since is None or since < moment - timedelta(days=7):
        with transaction():
            since = counting.slide(moment)


@queue.periodic(cron="17 3 * * *")
@queue.task(name="accounts.forget_expired", queueing_lock="accounts.forget_expired", retry=Backoff(60, 600))
def forget_expired(timestamp: int) -> None:
    """Delete sessions, login links and CLI codes that ended."""
    from models.accounts import credentials

    credentials.delete_expired(now())


@queue.periodic(cron="47 3 * * *")
@queue.task(name="store.forget_pictures", queueing_lock="store.forget_pictures", retry=Backoff(60, 600))
def forget_pictures(timestamp: int) -> None:
    """Remove pictures that nobody uses."""
    from models.core.files import files
    from models.store import publishers
    from models.store.catalogue import pictures, remote_pictures

    with transaction():
        remote_pictures.forget_unused(now())

    def used(addresses: Collection[str]) -> set[str]:
        with transaction():
            return publishers.shown_pictures(addresses)

    pictures.forget_unused(files(get_settings()), used, now())


@queue.periodic(cron="* * * * *")
@queue.task(name="store.fetch_pictures", queueing_lock="store.fetch_pictures", retry=Backoff())
def fetch_pictures(timestamp: int) -> None:
    """Fetch avatars that lie on other servers."""
    from models.core.files import files
    from models.store.catalogue import remote_pictures

    if get_settings().stoa_remote_avatars:
        remote_pictures.fetch_due(transaction, files(get_settings()), now())


@queue.periodic(cron="* * * * *")
@queue.task(name="jobs.rescue", queueing_lock="jobs.rescue", retry=Backoff(), pass_context=True)
async def rescue_stalled(context: procrastinate.JobContext, timestamp: int) -> None:
    """Start the jobs of dead workers again."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER):
        log.warning("job %s (%s) lost its worker and starts again", job.task_name, job.id)
        await manager.retry_job(job)
