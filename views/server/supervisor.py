"""Process supervisor: starts children, restarts them with exponential backoff, stops them in order, and cleans up after a
supervisor that was killed."""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

PR_SET_PDEATHSIG = 1
STEADY = 60.0  # seconds of uptime after which earlier crashes are forgotten
MAX_PAUSE = 30.0  # seconds between restarts of a child that keeps crashing

Say = Callable[[str], None]


class ChildProcess:
    """A child in its own process group. The kernel sends it SIGTERM if this process dies."""

    def __init__(
        self,
        name: str,
        command: list[str],
        cwd: Path,
        *,
        pass_fds: Iterable[int] = (),
        environment: Mapping[str, str] | None = None,
        grace: float,
    ) -> None:
        self.name = name
        self.command = command
        self.cwd = cwd
        self.pass_fds = tuple(pass_fds)
        self.environment = dict(environment or {})
        self.grace = grace
        self.process: subprocess.Popen[bytes] | None = None
        self.crashes = 0
        self.started = 0.0
        self.next_start = 0.0

    def start(self) -> None:
        """Start or restart the process."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603
            self.command,
            cwd=self.cwd,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            pass_fds=self.pass_fds,
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()),  # safe: this process has one thread
        )

    def ended(self) -> int | None:
        """The exit code, or None if it is running or was not started."""
        return self.process.poll() if self.process else None

    def stop(self) -> None:
        """Send SIGTERM, wait `grace` seconds, then SIGKILL the rest of the group."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


class ServeState:
    """`serve.lock` shows that a supervisor is alive, `serve.json` lists its processes. The kernel releases the lock when the
    holder ends; the list remains, so that the next supervisor can clean up."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "serve.json"
        self.lock_path = data_dir / "serve.lock"
        self._lock: IO[str] | None = None

    def acquire(self, say: Say, timeout: float = 1.5, stopping_timeout: float = 60.0) -> bool:
        """Take the lock; waits longer for a holder that is stopping. False: another supervisor holds it. Raises OSError if
        the data directory is not writable."""
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(self.lock_path, "a")  # noqa: SIM115  (open for as long as the lock is held)
        began = time.monotonic()
        announced = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
                return True
            except BlockingIOError:
                stopping = self.read().get("state") == "stopping"
            if time.monotonic() - began > (stopping_timeout if stopping else timeout):
                lock.close()
                return False
            if stopping and not announced:
                announced = True
                say("Waiting for the previous Stoa process to stop")
            time.sleep(0.1)

    def release(self) -> None:
        """Delete the process list and release the lock."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def read(self) -> dict[str, Any]:
        """The state written by the last holder; empty if missing or invalid."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, state: str, address: str, children: Iterable[ChildProcess]) -> None:
        """Record the state and the running children."""
        groups = [
            {"pid": child.process.pid, "created": psutil.Process(child.process.pid).create_time()}
            for child in children
            if child.process is not None and child.ended() is None
        ]
        temporary = self.path.with_suffix(".new")
        temporary.write_text(
            json.dumps({"pid": os.getpid(), "state": state, "address": address, "groups": groups})
        )
        temporary.replace(self.path)

    def clear_leftovers(self, say: Say) -> None:
        """Stop the processes of a killed supervisor. Recognises reused pids and leaves them alone."""
        groups = {group["pid"]: group["created"] for group in self.read().get("groups", [])}
        leftover = [process for process in psutil.process_iter() if _belongs(process, groups)]
        if not leftover:
            return
        say("Stopping processes left over from a killed Stoa")
        for process in leftover:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stubborn = psutil.wait_procs(leftover, timeout=4)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=4)


class Supervisor:
    """Starts children, restarts them until a signal, then stops them in order."""

    def __init__(self, children: list[ChildProcess], record: ServeState, address: str, say: Say) -> None:
        self.children = children
        self.record = record
        self.address = address
        self.say = say
        self.stop_requests = 0  # number of signals received

    def listen(self) -> None:
        """Install signal handlers: SIGINT, SIGTERM and SIGHUP stop; a second signal kills the children."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # respect nohup
                signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, frame: object) -> None:
        self.stop_requests += 1
        if self.stop_requests == 2:
            for child in self.children:
                if child.process is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(child.process.pid, signal.SIGKILL)

    def start(self, child: ChildProcess) -> None:
        """Start a child for the first time."""
        child.start()
        self.record.write("running", self.address, self.children)

    def watch(self, *chores: Callable[[], None]) -> None:
        """Until a signal: restart crashed children, reap adopted zombies, and run the chores every second."""
        while not self.stop_requests:
            deadline = time.monotonic() + 1.0
            while not self.stop_requests and time.monotonic() < deadline:
                self._restart_crashed()
                time.sleep(0.1)
            for chore in chores:
                if not self.stop_requests:
                    chore()

    def stop(self) -> None:
        """Stop the children in order; returns when all have ended."""
        self.record.write("stopping", self.address, self.children)
        for child in self.children:
            child.stop()

    def _restart_crashed(self) -> None:
        reap_adopted({child.process.pid for child in self.children if child.process})
        for child in self.children:
            code = child.ended()
            if code is not None:
                self._crashed(child, code)
            elif child.process is None and time.monotonic() >= child.next_start:
                child.start()
                self.record.write("running", self.address, self.children)

    def _crashed(self, child: ChildProcess, code: int) -> None:
        child.kill()
        child.crashes = 1 if time.monotonic() - child.started > STEADY else child.crashes + 1
        pause = min(MAX_PAUSE, 0.25 * 2**child.crashes)
        child.next_start = time.monotonic() + pause
        outcome = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self.say(f"The {child.name} {outcome}; restarting in {pause:g} s")


def reap_adopted(own: set[int]) -> None:
    """Reap zombies that are not our children: in a container this process may be pid 1."""
    if not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in own:
                return  # reaped by its Popen
            os.waitpid(ended.si_pid, 0)


def die_with_make() -> None:
    """Under `make run`, stop when make is killed."""
    parent = os.getppid()
    with suppress(psutil.Error):
        if psutil.Process(parent).name() in ("make", "gmake"):
            hook = _die_with_parent(parent)
            if hook:
                hook()


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died in the meantime
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_kernel


def _belongs(process: psutil.Process, groups: dict[int, float]) -> bool:
    """Whether the process belongs to a recorded group whose leader is the recorded process or has ended."""
    try:
        leader = os.getpgid(process.pid)
        if leader not in groups or process.pid == os.getpid():
            return False
        command = " ".join(process.cmdline())
        if not any(name in command for name in ("gunicorn", "flask", "stripe_simulator")):
            return False
        return process.create_time() >= groups[leader] - 1 and (
            process.pid != leader or abs(process.create_time() - groups[leader]) < 1
        )
    except (psutil.Error, ProcessLookupError, KeyError):
        return False
