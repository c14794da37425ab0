"""Keeps child processes running: starts them, restarts them with growing pauses, ends them in order, and finds what
an earlier supervisor left behind when it was killed."""

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
STEADY = 60.0  # seconds after which a child's earlier falls are forgotten
LONGEST_PAUSE = 30.0  # seconds between two tries to start a child that keeps falling

Say = Callable[[str], None]


class ChildProcess:
    """One process in a process group of its own, which gets SIGTERM from the kernel if this process dies."""

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
        self.falls = 0
        self.started = 0.0
        self.next_start = 0.0

    def start(self) -> None:
        """Start it, or start it again."""
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
        """The exit code of a process that is over; None while it runs or none was started."""
        return self.process.poll() if self.process else None

    def stop(self) -> None:
        """SIGTERM, `grace` seconds, then SIGKILL for whatever is left of the group."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


class ServeState:
    """`serve.lock` says that a supervisor lives, `serve.json` which processes it has. The lock goes with its holder,
    however that ends; the record stays, and tells the next one what to clear away."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "serve.json"
        self.lock_path = data_dir / "serve.lock"
        self._lock: IO[str] | None = None

    def acquire(self, say: Say, patience: float = 1.5, stopping_patience: float = 60.0) -> bool:
        """Take the lock. Waits longer for a holder that is about to stop. False: somebody else runs.
        Raises OSError when the data directory cannot be written."""
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(self.lock_path, "a")  # noqa: SIM115  (kept open: it is the lock)
        began = time.monotonic()
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
                return True
            except BlockingIOError:
                stopping = self.read().get("state") == "stopping"
            if time.monotonic() - began > (stopping_patience if stopping else patience):
                lock.close()
                return False
            if stopping and not told:
                told = True
                say("Waiting for the Stoa that is stopping here")
            time.sleep(0.1)

    def release(self) -> None:
        """Forget the processes and give the lock back."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def read(self) -> dict[str, Any]:
        """What the last holder wrote; empty when there is nothing that can be read."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, state: str, address: str, children: Iterable[ChildProcess]) -> None:
        """Say what runs now."""
        groups = [
            {"pid": child.process.pid, "created": psutil.Process(child.process.pid).create_time()}
            for child in children
            if child.process is not None and child.ended() is None
        ]
        made = self.path.with_suffix(".new")
        made.write_text(
            json.dumps({"pid": os.getpid(), "state": state, "address": address, "groups": groups})
        )
        made.replace(self.path)

    def clear_leftovers(self, say: Say) -> None:
        """End the processes of a supervisor that was killed. A reused process number is recognised and spared."""
        groups = {group["pid"]: group["created"] for group in self.read().get("groups", [])}
        left = [process for process in psutil.process_iter() if _belongs(process, groups)]
        if not left:
            return
        say("Clearing away what a killed Stoa left running")
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stubborn = psutil.wait_procs(left, timeout=4)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=4)


class Supervisor:
    """Starts children, watches them until a signal, stops them in their order."""

    def __init__(self, children: list[ChildProcess], record: ServeState, address: str, say: Say) -> None:
        self.children = children
        self.record = record
        self.address = address
        self.say = say
        self.asked = 0  # how often a signal asked to stop

    def listen(self) -> None:
        """From now on Ctrl-C, SIGTERM and a closed terminal ask to stop; a second time asks to stop at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked += 1
        if self.asked == 2:
            for child in self.children:
                if child.process is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(child.process.pid, signal.SIGKILL)

    def start(self, child: ChildProcess) -> None:
        """Start one of the children for the first time."""
        child.start()
        self.record.write("running", self.address, self.children)

    def watch(self, *chores: Callable[[], None]) -> None:
        """Until asked to stop: restart what fell, reap strangers, and do the chores each second."""
        while not self.asked:
            deadline = time.monotonic() + 1.0
            while not self.asked and time.monotonic() < deadline:
                self._mend()
                time.sleep(0.1)
            for chore in chores:
                if not self.asked:
                    chore()

    def stop(self) -> None:
        """Stop the children, first the first. Returns when none of them is left."""
        self.record.write("stopping", self.address, self.children)
        for child in self.children:
            child.stop()

    def _mend(self) -> None:
        reap_strangers({child.process.pid for child in self.children if child.process})
        for child in self.children:
            code = child.ended()
            if code is not None:
                self._fell(child, code)
            elif child.process is None and time.monotonic() >= child.next_start:
                child.start()
                self.record.write("running", self.address, self.children)

    def _fell(self, child: ChildProcess, code: int) -> None:
        child.kill()
        child.falls = 1 if time.monotonic() - child.started > STEADY else child.falls + 1
        pause = min(LONGEST_PAUSE, 0.25 * 2**child.falls)
        child.next_start = time.monotonic() + pause
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self.say(f"The {child.name} {how}; it starts again in {pause:g} s")


def reap_strangers(own: set[int]) -> None:
    """Collect ended processes that are nobody's: in a container this process may be everybody's parent."""
    if not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in own:
                return  # its Popen collects it
            os.waitpid(ended.si_pid, 0)


def die_with_make() -> None:
    """Under `make run`, stop when make is killed: to the person who killed it, that was Stoa."""
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
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_kernel


def _belongs(process: psutil.Process, groups: dict[int, float]) -> bool:
    """Whether the process is of a recorded group: led by the recorded process, or by nobody any more."""
    try:
        leader = os.getpgid(process.pid)
        if leader not in groups or process.pid == os.getpid():
            return False
        words = " ".join(process.cmdline())
        if not any(word in words for word in ("gunicorn", "flask", "stripe_simulator")):
            return False
        return process.create_time() >= groups[leader] - 1 and (
            process.pid != leader or abs(process.create_time() - groups[leader]) < 1
        )
    except (psutil.Error, ProcessLookupError, KeyError):
        return False
