"""One command in a sandbox: started, watched, and ended with everything that it started."""

import codecs
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

from models.runners.sandbox_command import SandboxPlan, sandbox_arguments
from models.runners.syscall_filter import filter_program
from models.runners.workplace import CommandResult, Ended, Limits

TICK = 0.1
"""Seconds between looks at a sandbox."""
DISK_SHARE = 10
"""A count of a sandbox's files is followed by so many times its own duration."""
MAX_FILES = 400_000
FREE_BYTES = 512 << 20
"""What a sandbox leaves of the machine's disk."""
FLOOD = 64
"""A command that writes so many times the output that is kept is ended."""
_CPU, _FILE_SIZE = 128 + signal.SIGXCPU, 128 + signal.SIGXFSZ
"""Exit codes of commands that the kernel ended for a limit."""


class KeptOutput:
    """The beginning and the end of a text, that has at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = max(most, 1_000)
        self._head: list[str] = []
        self._head_left = self._most // 4
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._dropped = 0

    def add(self, text: str) -> None:
        """Add a piece."""
        self.size += len(text)
        begin = text[: self._head_left]
        if begin:
            self._head.append(begin)
            self._head_left -= len(begin)
            text = text[len(begin) :]
        if not text:
            return
        self._tail.append(text)
        self._tail_size += len(text)
        room = self._most - self._most // 4
        while self._tail_size > room:
            over = self._tail_size - room
            first = self._tail.popleft()
            if len(first) > over:
                self._tail.appendleft(first[over:])
            lost = min(len(first), over)
            self._tail_size -= lost
            self._dropped += lost

    @property
    def cut(self) -> bool:
        """Whether something is missing."""
        return self._dropped > 0

    def text(self) -> str:
        """What is kept, with a note where something is missing."""
        note = f"\n… {self._dropped:,} characters are left out …\n" if self._dropped else ""
        return "".join(self._head) + note + "".join(self._tail)


class SandboxProcess:
    """A running command. Read `stdout`, which has both streams, and write `stdin`, if it was asked for; then `wait`.

    The thread that starts it must live as long as it: the kernel ends the sandbox with that thread, so that none is left behind. It is looked at
    every `tick` seconds."""

    def __init__(
        self,
        program: str,
        plan: SandboxPlan,
        command: Sequence[str],
        *,
        uid: int | None = None,
        stdin: bool = False,
        seconds: float,
        watched: Sequence[Path] = (),
        home_bytes: int = 0,
        separate_errors: bool = False,
        tick: float = TICK,
    ) -> None:
        self.limits = plan.limits
        self._tick = tick
        self.started = time.monotonic()
        self._until = self.started + max(min(seconds, plan.limits.wall_seconds), 0.01)
        self._watched = watched
        self._home = (plan.home, home_bytes) if plan.home is not None else None
        self._ended: Ended | None = None
        self._over = threading.Event()
        self._status, self._popen = _start(program, plan, command, uid, stdin, separate_errors)
        self.stdin: IO[bytes] | None = self._popen.stdin
        assert self._popen.stdout is not None
        self.stdout: IO[bytes] = self._popen.stdout
        self.stderr: IO[bytes] | None = self._popen.stderr
        self._watcher = threading.Thread(target=self._watch, name="stoa-sandbox", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """The process of bubblewrap itself."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def end(self, why: Ended) -> None:
        """Kill it with all that it started, from any thread; `why` is how it then ended. Idempotent."""
        if self._ended is None and self.running:
            self._ended = why
        _kill_all(self._popen)

    def communicate(self, on_output: Callable[[str], None] | None = None) -> CommandResult:
        """Read what it writes until it ends."""
        kept, decoder = KeptOutput(self.limits.output_bytes), codecs.getincrementaldecoder("utf-8")("replace")
        size = 0
        try:
            while data := self.stdout.read(65_536):
                size += len(data)
                text = decoder.decode(data).replace("\0", "\ufffd")
                kept.add(text)
                if on_output is not None and size <= self.limits.output_bytes:
                    on_output(text)
                if size > self.limits.output_bytes * FLOOD:
                    self.end("output")
        finally:
            if not self._over.is_set() and self.running and self._ended is None:
                # the stream was closed, or `on_output` raised
                self.wait_briefly()
        kept.add(decoder.decode(b"", final=True))
        return self.wait(kept)

    def wait_briefly(self) -> None:
        """Wait for the end after the streams were closed; a command that goes on without them is ended."""
        try:
            self._popen.wait(timeout=max(self._until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            self.end("timeout")

    def wait(self, kept: KeptOutput | None = None) -> CommandResult:
        """How it ended, once it has."""
        code = self._popen.wait()
        self._over.set()
        seconds = time.monotonic() - self.started
        ran = self._exit_code()
        self.close()
        ended: Ended = self._ended or ("exit" if ran is not None else "lost")
        if ended == "exit" and ran in (_CPU, _FILE_SIZE):
            ended = "timeout" if ran == _CPU else "disk"
        text = kept.text() if kept else ""
        if ended == "lost" and not text:
            text = f"The sandbox ended with {code} before the command had begun."
        return CommandResult(
            ended, ran if ended == "exit" else None, text, seconds, kept.cut if kept else False
        )

    def close(self) -> None:
        """Close the streams. Idempotent."""
        self._over.set()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def _exit_code(self) -> int | None:
        """The exit code of the command; None if the sandbox ended without it."""
        if self._status < 0:
            return None
        text = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._status, 4_096):
                text += data
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                found = json.loads(line).get("exit-code")
                if isinstance(found, int):
                    return found
        return None

    def _watch(self) -> None:
        next_count = 0.0
        while not self._over.wait(self._tick) and self.running:
            now = time.monotonic()
            why = "timeout" if now > self._until else _over_limits(self._popen.pid, self.limits)
            if why is None and now >= next_count:
                why = self._disk_full()
                next_count = time.monotonic() + (time.monotonic() - now) * DISK_SHARE * self._tick / TICK
            if why is not None:
                self.end(why)

    def _disk_full(self) -> Ended | None:
        if not self._watched:
            return None
        with contextlib.suppress(FileNotFoundError):  # removed, so the command has ended
            if shutil.disk_usage(self._watched[0]).free < FREE_BYTES:
                return "disk"
        if self._home is not None and disk_bytes([self._home[0]], self._home[1]) > self._home[1]:
            return "disk"
        return "disk" if disk_bytes(self._watched, self.limits.disk_bytes) > self.limits.disk_bytes else None


def disk_bytes(folders: Sequence[Path], enough: int) -> int:
    """Bytes on disk of what is in these folders; stops counting above `enough`. Too many files count as too many bytes."""
    total = files = 0
    waiting = [os.fspath(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as rows:
                for row in rows:
                    files += 1
                    with contextlib.suppress(OSError):
                        total += row.stat(follow_symlinks=False).st_blocks * 512
                        if row.is_dir(follow_symlinks=False):
                            waiting.append(row.path)
        except OSError:
            continue
        if files > MAX_FILES:
            return enough + 1
        if total > enough:
            break
    return total


def _start(
    program: str,
    plan: SandboxPlan,
    command: Sequence[str],
    uid: int | None,
    stdin: bool,
    separate_errors: bool,
) -> tuple[int, "subprocess.Popen[bytes]"]:
    """Start bubblewrap. Its arguments come through a file, so that no process list shows them. Returns where its status can be read."""
    files: list[int] = []
    filter_bytes = filter_program()
    try:
        if filter_bytes is not None:
            files.append(_file(filter_bytes))
        arguments = sandbox_arguments(plan, command, filter_fd=files[0] if files else None)
        split = arguments.index("--")
        status, status_write = os.pipe()
        os.set_blocking(status, False)
        files.append(status_write)
        given = _file("\0".join([*arguments[:split], "--json-status-fd", str(status_write)]).encode() + b"\0")
        files.append(given)
        popen = subprocess.Popen(  # noqa: S603 - the sandbox itself
            ["bwrap", "--args", str(given), *arguments[split:]],  # noqa: S607
            executable=program,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if separate_errors else subprocess.STDOUT,
            bufsize=0,
            env={},
            cwd="/",
            pass_fds=files,
            user=uid,
            group=uid,
            extra_groups=[] if uid is not None else None,
        )
    finally:
        for each in files:
            os.close(each)
    return status, popen


def _file(content: bytes) -> int:
    number = os.memfd_create("stoa-sandbox")
    os.write(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _over_limits(pid: int, limits: Limits) -> Ended | None:
    memory, cpu, count = 0, 0.0, 0
    for process in _processes(pid):
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            count += 1
    if memory > limits.memory_bytes:
        return "memory"
    if cpu > limits.cpu_seconds:
        return "timeout"
    # the kernel refuses more; this is for those that do not
    return "memory" if count > limits.processes * 2 + 8 else None


def _processes(pid: int) -> list[psutil.Process]:
    """A sandbox's processes."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _kill_all(popen: "subprocess.Popen[bytes]") -> None:
    """Kill a sandbox: the first process of its namespace takes all others along."""
    found = _processes(popen.pid)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(OSError):
        popen.kill()
