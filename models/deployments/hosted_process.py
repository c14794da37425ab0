"""One process of a deployment: started, asked whether it is healthy, started again with longer and longer pauses, and ended."""

import codecs
import logging
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import psutil
from sqlalchemy.exc import DBAPIError

from models.core import jobs
from models.core.errors import DomainError
from models.core.job_queue import Context
from models.core.settings import Settings
from models.deployments import process_release
from models.deployments.built_output import unpack
from models.deployments.deployed_process import process_folder
from models.deployments.deployment_adapter import DeploymentFailed
from models.deployments.deployment_running import DAMAGED
from models.deployments.log_writer import maskable
from models.deployments.process_log import ProcessLog
from models.deployments.process_release import ProcessStart
from models.deployments.process_requests import health_problem
from models.deployments.tree_building import OWN_PROGRAMS, command_problem
from models.projects.snapshots.blob_packs import BlobDamaged
from models.runners import Limits, ProcessWorkplace, open_workplace
from models.runners.sandbox_process import SandboxProcess

log = logging.getLogger("stoa.processes")
P = ParamSpec("P")
T = TypeVar("T")

PORT = 8080
"""What a process is told to listen on; each has a network of its own."""
FOR_EVER = 1e9
LOOK = 0.1
"""Seconds between looks at whether it runs."""
TICK = 1.0
"""Seconds between looks at its memory and processes."""


@dataclass(frozen=True)
class ProcessTimes:
    """Seconds: `grace` until the first healthy answer, `answer` for one health check, `every` between those of a live one, which may fail `misses` times.
    After trouble it is started again after `pause`, twice as long each time up to `longest`, at most `restarts` times in a row; `steady` time forgets trouble.
    One that is replaced has `drain` for requests under way, and `leave` to end by itself."""

    grace: float = 60.0
    answer: float = 5.0
    every: float = 15.0
    misses: int = 2
    pause: float = 1.0
    longest: float = 60.0
    restarts: int = 5
    steady: float = 120.0
    drain: float = 10.0
    leave: float = 5.0


class HostedProcess(threading.Thread):
    """The thread of one deployment's process, which the kernel ends with it. `stop` it from any other."""

    def __init__(self, deployment_id: str, settings: Settings, context: Context, times: ProcessTimes) -> None:
        super().__init__(name=f"stoa-process-{deployment_id[-6:]}", daemon=True)
        self.deployment_id = deployment_id
        self._settings, self._context, self._times = settings, context, times
        self._stopping = threading.Event()
        self._drains = False
        self._limits = Limits(
            wall_seconds=FOR_EVER,
            cpu_seconds=int(FOR_EVER),
            memory_bytes=settings.stoa_process_memory_bytes,
            processes=256,
            disk_bytes=settings.stoa_process_disk_bytes,
        )
        self._log: ProcessLog | None = None

    def stop(self, *, drain: bool) -> None:
        """Let it end soon; with `drain` after the requests under way. Idempotent."""
        self._drains = drain
        self._stopping.set()

    def run(self) -> None:
        """Run the process until it is stopped, or given up."""
        try:
            with self._context():
                self._run()
        except DeploymentFailed as failed:
            self._tell(process_release.tell_failed, str(failed))
        except DomainError as error:
            self._tell(process_release.tell_failed, f"It cannot be started: {error.message}")
        except BlobDamaged:
            self._tell(process_release.tell_failed, DAMAGED)
        except Exception:
            log.exception("the process of deployment %s cannot be run", self.deployment_id)
            self._tell(process_release.tell_failed, "It cannot be run, for a fault of this server.")

    # -- the life of a process -------------------------------------------------------------------------------

    def _run(self) -> None:
        start = self._tell(process_release.load_start)
        if start is None:
            return
        folder = process_folder(self._settings, self.deployment_id)
        self._log = ProcessLog(folder, maskable(start.env.values()))
        with jobs.transaction():
            place = open_workplace(
                "process", start.account_id, None, limits=self._limits, context=self._context
            )
        try:
            assert isinstance(place, ProcessWorkplace)
            unpack(place, start.account_id, start.manifest)
            self._run_in(place, start)
        finally:
            place.close()
            self._tell(process_release.tell_ended)

    def _run_in(self, place: ProcessWorkplace, start: ProcessStart) -> None:
        failures, released = 0, not start.first
        while not self._stopping.is_set():
            process = self._start_program(place, start)
            reader = threading.Thread(target=self._read, args=(process,), daemon=True)
            reader.start()
            socket, problem = self._until_healthy(place, process, start)
            if socket and not problem:
                if not self._tell(process_release.tell_healthy, socket):
                    self._stopping.set()
                released = True
                self._say("It is healthy.")
                problem, steady = self._until_trouble(process, start, socket, failures)
                failures = 0 if steady else failures
            problem = self._end_program(place, process, reader, problem)
            if self._stopping.is_set():
                return
            failures += 1
            self._say(problem)
            if not released or failures > self._times.restarts:
                times = f" It was started again {failures - 1} times in a row." if failures > 1 else ""
                self._tell(process_release.tell_failed, f"{problem}{times}")
                return
            pause = min(self._times.pause * 2 ** (failures - 1), self._times.longest)
            self._tell(process_release.tell_trouble, problem, failures, pause)
            self._stopping.wait(pause)

    def _start_program(self, place: ProcessWorkplace, start: ProcessStart) -> SandboxProcess:
        self._say(f"Starts {start.command}")
        env = {"PATH": OWN_PROGRAMS, "HOST": "127.0.0.1", **start.env, "PORT": str(PORT)}
        # behind whatever else the machine does
        command = f"exec nice -n 10 /bin/sh -c {shlex.quote(start.command)}"
        return place.start_process(command, seconds=FOR_EVER, env=env, served_port=PORT, tick=TICK)

    def _until_healthy(
        self, place: ProcessWorkplace, process: SandboxProcess, start: ProcessStart
    ) -> tuple[str, str]:
        """The socket that leads to it if it is healthy, else empty; and why it is not healthy in time, empty if it ended or is stopped."""
        until = time.monotonic() + self._times.grace
        socket = problem = ""
        while not self._stopping.wait(LOOK):
            if not process.running:
                return "", ""
            if not socket and place.served.exists():
                socket = _own_name(place)
            if socket:
                left = max(until - time.monotonic(), 0.05)
                problem = health_problem(socket, start.health, start.address, min(self._times.answer, left))
                if not problem:
                    return socket, ""
            if time.monotonic() >= until:
                why = problem or "its sandbox did not begin."
                return "", f"It is not healthy after {self._times.grace:g} seconds: {why}"
        return "", ""

    def _until_trouble(
        self, process: SandboxProcess, start: ProcessStart, socket: str, failures: int
    ) -> tuple[str, bool]:
        """What is wrong with it, empty if it ended or was stopped; and whether it ran well for long."""
        began = time.monotonic()
        misses, steady, next_check = 0, False, began + self._times.every
        while process.running and not self._stopping.wait(LOOK):
            moment = time.monotonic()
            if not steady and moment - began > self._times.steady:
                steady = True
                if failures:
                    self._tell(process_release.tell_steady)
            if moment < next_check:
                continue
            problem = health_problem(socket, start.health, start.address, self._times.answer)
            next_check = time.monotonic() + self._times.every
            misses = misses + 1 if problem else 0
            if misses > self._times.misses:
                return problem, steady
        return "", steady

    def _end_program(
        self, place: ProcessWorkplace, process: SandboxProcess, reader: threading.Thread, problem: str
    ) -> str:
        """End it, and say what was wrong."""
        if not process.running and not problem:
            seconds = time.monotonic() - process.started
            reader.join(2.0)
            done = process.wait()
            problem = f"The program {command_problem(done, self._limits) or 'ended with code 0.'}"
            problem = f"{problem.removesuffix('.')}, after {seconds:.1f} seconds."
        self._wait(process, self._times.drain, only_if_drains=True)
        _ask_to_end(process)
        self._wait(process, self._times.leave)
        place.end_process(process)
        return problem

    def _wait(self, process: SandboxProcess, seconds: float, *, only_if_drains: bool = False) -> None:
        until = time.monotonic() + seconds
        while process.running and time.monotonic() < until and (self._drains or not only_if_drains):
            time.sleep(LOOK)

    # -- parts -----------------------------------------------------------------------------------------------

    def _read(self, process: SandboxProcess) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with suppress(OSError, ValueError):
            while data := process.stdout.read(65_536):
                if self._log is not None:
                    self._log.take(decoder.decode(data))

    def _say(self, text: str) -> None:
        with suppress(OSError):
            if self._log is not None:
                self._log.say(text)

    def _tell(
        self, change: Callable[Concatenate[str, P], T], *arguments: P.args, **more: P.kwargs
    ) -> T | None:
        """Tell the database; again and again while it cannot be reached, for the processes run on without it. None if it is stopped before."""
        while True:
            try:
                with self._context(), jobs.transaction():
                    return change(self.deployment_id, *arguments, **more)
            except DBAPIError as error:
                log.warning("the database cannot be told of a process (%s)", type(error).__name__)
                if self._stopping.wait(1.0):
                    return None


def _own_name(place: ProcessWorkplace) -> str:
    """Where the process is reached, by a name that nobody had before: the folder will be another process's some day."""
    path = place.served.with_name(f"{secrets.token_hex(8)}.sock")
    os.rename(place.served, path)
    return os.fspath(path)


def _ask_to_end(process: SandboxProcess) -> None:
    """Send SIGTERM to what runs in a sandbox, but for what leads requests there."""
    with suppress(psutil.Error):
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "socket_forwarder.py" not in " ".join(each.cmdline()):
                    each.terminate()
