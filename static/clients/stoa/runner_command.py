"""The command `runner`: takes work of an account, one or several at a time, until it is told to end."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoa import SERVED
from stoa.blob_cache import BlobCache
from stoa.console_output import Console
from stoa.failures import SIGNED_OUT, Failure, Refused, Unreachable, misused, plain
from stoa.runner_processes import Confinement, confinement
from stoa.runner_work import RunnerWork, WorkItem, remove
from stoa.server_calls import Server, quoted
from stoa.sign_in import write_private

WAIT_SECONDS = 20
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
MOST_PARALLEL = 64
FOREVER = frozenset({401, 403})
"""Statuses after which the key of the runner is of no use."""


def serve(console: Console) -> int:
    """Take work of your account, and do it on this computer: restore trees in a folder, run commands there, return what changed. Needs
    Linux or macOS. It only calls the server, and needs no open port."""
    if os.name != "posix":
        raise Failure("A runner needs Linux or macOS.", code="NO_POSIX")
    options = console.options
    if not 1 <= options.parallel <= MOST_PARALLEL:
        raise misused(f"--parallel takes a number from 1 to {MOST_PARALLEL}.")
    if options.cache_mb < 0:
        raise misused("--cache-mb takes a number of megabytes, 0 for no cache.")
    wall = confinement(options.no_sandbox, options.network, options.see)
    if options.no_sandbox:
        console.say("Without a sandbox: commands may do all that you may.")
    server = console.server(signed_in=False)
    name = options.name or socket.gethostname().partition(".")[0] or "runner"
    server.token = _token(console, server, name)
    folder = _folder(options.work_folder, server.url, name)
    cache = BlobCache(folder / "files", options.cache_mb << 20)
    runner = RunnerLoop(server, folder, wall, options.label, cache, console.say)
    runner.run(1 if options.once else options.parallel, once=options.once)
    console.show({"works": runner.works}, [f"Ended after {runner.works} work{'s' * (runner.works != 1)}."])
    return 0


class RunnerLoop:
    """Polls for work and does it, several at once if told so. SIGTERM and SIGINT end it: at once without a work, else when the works have said that they ended."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        wall: Confinement,
        labels: list[str],
        cache: BlobCache,
        say: Callable[[str], None],
    ) -> None:
        self.server, self.folder, self.wall, self.labels, self.say = server, folder, wall, labels, say
        self.cache = cache
        self.works = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._over = threading.Event()
        self._working: set[RunnerWork] = set()
        self._failure: BaseException | None = None

    def run(self, parallel: int = 1, *, once: bool = False) -> None:
        """Work until told to end, or (once) until one work was done. Raises Failure if the key is of no use."""
        self._catch_signals()
        many = f"{parallel} works at once; " if parallel > 1 else ""
        self.say(f"Waiting for work of {plain(self.server.url)}; {many}commands run in {self.wall.words}.")
        for number in range(parallel):
            # a thread that waits for work is left to end with the process
            threading.Thread(target=self._serve, args=(number, once), name="stoa-works", daemon=True).start()
        while not self._over.wait(0.5):  # a signal is handled between two waits
            if self._ending.is_set() and not self._working:
                break
        for work in [*self._working]:
            work.end("The runner was ended.")
        while self._working:
            time.sleep(0.05)
        if self._failure is not None:
            raise self._failure

    def _serve(self, number: int, once: bool) -> None:
        try:
            self._loop(self.folder / f"work-{number}", once)
        except BaseException as error:  # raised in the main thread
            self._failure = self._failure or error
        finally:
            self._over.set()

    def _loop(self, folder: Path, once: bool) -> None:
        pause = FIRST_PAUSE
        while not self._ending.is_set():
            try:
                found = self._poll()
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.status in FOREVER:
                    raise
                self.say(f"{plain(error)} Trying again in {pause:.0f} s.")
                # so that many do not come back at once
                self._ending.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if found is not None and self._do(found, folder) and once:
                return

    def _poll(self) -> WorkItem | None:
        body = {
            "wait_seconds": WAIT_SECONDS,
            "version": SERVED["version"] or "0",
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "isolation": self.wall.words,
            **({"labels": self.labels} if self.labels else {}),
        }
        reply = self.server.call("POST", "/v1/runners/work/poll", body)
        if reply.status == 204:
            return None
        work = self.server.read(reply)["work"]
        if work["kind"] != "workplace":
            raise Failure("This runner does not know such work. Update it: download stoa.pyz again.")
        given = work["request"]
        return WorkItem(
            work["id"],
            work["lease"],
            work["lease_seconds"],
            given.get("manifest_hash"),
            given["limits"],
            work.get("model_token"),
        )

    def _do(self, item: WorkItem, folder: Path) -> bool:
        """False: this runner ends, and leaves the work to another one."""
        work = RunnerWork(self.server, item, folder, self.wall, self.cache)
        with self._lock:
            if self._ending.is_set():
                return False
            self._working.add(work)
        self.say(f"Work {plain(item.id)} …")
        try:
            outcome = work.perform()
            self.say(f"Work {plain(item.id)}: {plain(outcome)}.")
        finally:
            with self._lock:
                self._working.discard(work)
                self.works += 1
        return True

    def _catch_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._end)
            signal.signal(signal.SIGINT, self._end)

    def _end(self, *_: Any) -> None:
        self._ending.set()
        for work in [*self._working]:
            work.end("The runner was ended.")


def _folder(chosen: str | None, url: str, name: str) -> Path:
    """The folder of this runner, which nobody else may read or use at the same time. Raises Failure."""
    import fcntl

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    place = Path(chosen) if chosen else Path(cache, "stoa", "runners", quoted(url), quoted(name))
    place = place.absolute()
    if chosen and place.exists() and any(place.iterdir()) and not (place / "runner.lock").exists():
        raise Failure(f"{place} holds other files. Name an empty folder (--work-folder).", code="NOT_EMPTY")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = open(place / "runner.lock", "w", encoding="utf-8")  # noqa: SIM115  (closed with the process)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failure(
            f"Another runner works in {place}. Give this one another --name or --work-folder.", code="LOCKED"
        ) from None
    _LOCKS.append(lock)
    for left in place.glob("work*"):  # of one that was killed
        remove(left)
    return place


_LOCKS: list[Any] = []


def _token(console: Console, server: Server, name: str) -> str:
    """The key of this runner: that of the environment, the stored one, or that of a new runner which the signed-in user makes."""
    token = os.environ.get("STOA_RUNNER_TOKEN")
    if token:
        if not all("!" <= each <= "~" for each in token):
            raise Failure("STOA_RUNNER_TOKEN is not a token.", code="UNAUTHORIZED", exit_code=SIGNED_OUT)
        return token
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    place = Path(config, "stoa", "runners.json")
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        stored = {}
    except ValueError:
        raise Failure(f"{place} cannot be read. Delete it, and make a new runner.") from None
    key = f"{server.url} {name}"
    if key in stored:
        return str(stored[key])
    try:
        signed_in = console.server()
    except Failure:
        raise Failure(
            "This runner has no key. Make one on the page Runners and set STOA_RUNNER_TOKEN, or run 'login' first.",
            code="UNAUTHORIZED",
            exit_code=SIGNED_OUT,
        ) from None
    made = signed_in.post("/v1/runners", {"name": name, "labels": console.options.label})
    write_private(place, {**stored, key: made["token"]})
    console.say(f"Made the runner “{plain(name)}”; its key is in {place}.")
    return str(made["token"])
