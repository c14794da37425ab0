"""The program that runs the processes of deployments: one on each machine, and one at work for a database. Which processes should run, the database says."""

import logging
import shutil
import threading
import time
from contextlib import suppress

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from models.core import jobs
from models.core.db import db
from models.core.job_queue import Context
from models.core.settings import Settings
from models.deployments.deployed_process import wanted_processes
from models.deployments.deployment import Deployment
from models.deployments.hosted_process import HostedProcess, ProcessTimes
from models.deployments.process_release import tell_failed, tell_starting

log = logging.getLogger("stoa.processes")

LOCK = 0x53544F41_50524F43
EVERY = 0.5
"""Seconds between looks at which processes should run."""
SWEEP_EVERY = 600.0
STOP_SECONDS = 12.0


class ProcessHost:
    """Starts what should run and stops what should not, until it is stopped. While the database is away, what runs goes on."""

    def __init__(self, settings: Settings, context: Context, times: ProcessTimes | None = None) -> None:
        self._settings, self._context = settings, context
        self._times = times or ProcessTimes(grace=settings.stoa_process_grace_seconds)
        self._stopping = threading.Event()
        self._threads: dict[str, HostedProcess] = {}
        self._leaving: list[HostedProcess] = []
        self._lock: Connection | None = None
        self._swept = -SWEEP_EVERY

    def stop(self) -> None:
        """Let `work` end, from a signal or any thread."""
        self._stopping.set()

    @property
    def running(self) -> int:
        """How many processes run, those that are about to end too."""
        return len(self._threads) + sum(each.is_alive() for each in self._leaving)

    def work(self) -> None:
        """Run processes until `stop`; then all have ended."""
        try:
            while not self._stopping.is_set():
                try:
                    with self._context():
                        self.look()
                except DBAPIError as error:
                    log.warning("the processes cannot be looked at (%s)", type(error).__name__)
                    self._unlock()
                self._stopping.wait(EVERY)
        finally:
            self._stop_all()
            self._unlock()

    def look(self) -> None:
        """Start what should run, and stop what should not. Needs an application context; commits."""
        if not self._locked():
            self._stop_all()  # another machine's program is at work
            return
        with jobs.transaction():
            wanted = wanted_processes()
        self._leaving = [each for each in self._leaving if each.is_alive()]
        for id, thread in list(self._threads.items()):
            # one that is released again while it still runs begins anew
            if wanted.get(id, True):
                thread.stop(drain=id not in wanted)
                self._leaving.append(thread)
            if wanted.get(id, True) or not thread.is_alive():
                del self._threads[id]
        for id in wanted:
            # one that was stopped a moment ago has the database's row, until it has ended
            if id in self._threads or any(each.deployment_id == id for each in self._leaving):
                continue
            if len(self._threads) >= self._settings.stoa_processes:
                with jobs.transaction():
                    tell_failed(
                        id, f"This server runs {len(self._threads)} programs already, which is the most."
                    )
                continue
            with jobs.transaction():
                tell_starting(id)
            self._threads[id] = HostedProcess(id, self._settings, self._context, self._times)
            self._threads[id].start()
        if time.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = time.monotonic()
            self._sweep()

    def _locked(self) -> bool:
        """Whether this program is the one that is at work for its database."""
        if self._lock is not None:
            self._lock.execute(text("SELECT 1"))
            return True
        connection = db.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            got = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": LOCK}))
        except BaseException:
            connection.close()
            raise
        if got:
            self._lock = connection
        else:
            connection.close()
        return got

    def _unlock(self) -> None:
        if self._lock is not None:
            with suppress(DBAPIError):
                self._lock.invalidate()  # the lock goes with its connection
            self._lock.close()
            self._lock = None

    def _stop_all(self) -> None:
        running = [*self._threads.values(), *self._leaving]
        for each in running:
            each.stop(drain=False)
        until = time.monotonic() + STOP_SECONDS
        for each in running:
            each.join(max(until - time.monotonic(), 0.0))
        self._threads, self._leaving = {}, []

    def _sweep(self) -> None:
        """Remove the output of deployments that are gone."""
        folder = self._settings.data_dir / "processes"
        names = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        if not names:
            return
        with jobs.transaction():
            left = set(db.session.scalars(select(Deployment.id).where(Deployment.id.in_(names))))
        for name in names - left:
            shutil.rmtree(folder / name, ignore_errors=True)
