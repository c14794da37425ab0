"""Runners are killed at random moments while turns work at them, and now and then the worker of the turns: each turn ends soon, and is paid once."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from models.core.settings import ROOT, load_settings
from models.runners.sandbox_command import find_program
from tests import factories
from tests.proof.cast import Person
from tests.proof.stage import Result, Serve, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
GRANTED = 10_000_000
SHORT_LEASES = {"PYTHONPATH": f"{ROOT / 'tests' / 'proof' / 'short_leases'}{os.pathsep}{ROOT}"}
"""Environment of a server whose works are leased for a few seconds."""
ENDED = ("completed", "failed", "cancelled", "interrupted", "expired")
ENDS_WITHIN = 60.0
"""Seconds after a kill, of a server with leases of any length."""


class Desk:
    """A person with a project, a conversation that works at a runner, and that runner."""

    def __init__(
        self, stage: Stage, person: Person, folder: Path, archive: Path, sandbox: str | None
    ) -> None:
        self.stage, self.person, self.archive, self.sandbox = stage, person, archive, sandbox
        self.folder = folder
        self.folder.mkdir()
        self.log = (folder / "log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.turns: list[str] = []
        self.token = self.ask("POST", "/v1/runners", {"name": "proof"})["token"]
        project = self.ask("POST", "/v1/projects", {"name": "Proof"})["project"]["id"]
        workspace = self.ask("POST", f"/v1/projects/{project}/workspaces", {"name": "main"})["workspace"][
            "id"
        ]
        self.start()
        wanted = {"level": "machine", "model": MODEL}
        made = self.ask("POST", f"/v1/workspaces/{workspace}/conversations", wanted)
        self.conversation = made["conversation"]["id"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """An answer of the API."""
        request = urllib.request.Request(
            f"{self.stage.address}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.person.key}", "Content-Type": "application/json"},
            method=method,
        )
        for _ in range(100):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error
            except OSError:
                pass  # its worker was killed
            time.sleep(0.2)
        raise AssertionError(f"{method} {path} is not answered")

    def begin(self, number: int, chance: random.Random, mark: str) -> None:
        """Begin a turn that runs a few commands."""
        tools = [
            f": {mark}; echo {number}-{each} > file{each}; sleep {chance.uniform(0, 0.8):.3f}"
            for each in range(chance.randint(1, 3))
        ]
        id = factories.new_id(f"runner-{number}-")
        (said,) = Script(id, words=chance.randint(3, 12), pace=0.02, tools=tools).message()
        path = f"/v1/conversations/{self.conversation}/messages"
        self.turns.append(self.ask("POST", path, {"prompt": said["content"]})["turnId"])

    def start(self) -> None:
        """Start the runner, and wait until it asks for work."""
        seen = self._seen()
        command = [sys.executable, str(self.archive), "runner", "--work-folder", str(self.folder / "work")]
        command += ["--name", "proof", *([] if self.sandbox else ["--no-sandbox"])]
        own = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "STOA_RUNNER_TOKEN": self.token}
        own |= {"STOA_SANDBOX_COMMAND": self.sandbox} if self.sandbox else {}
        self.process = subprocess.Popen(command, env=own, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while self._seen() == seen and seen is None:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def _seen(self) -> Any:
        [row] = self.stage.rows(
            "SELECT max(last_seen_at) AS seen FROM runner WHERE account_id = :id", id=self.person.id
        )
        return row.seen

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def end(self) -> None:
        """Let the runner end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()


def killed_runners(
    server: Serve, stage: Stage, *, kills: int = 200, people: int = 6, workers_too: int = 8, seed: int = 0
) -> Result:
    """`kills` of runners while turns of `people` work there, and one of a web worker in each `workers_too` rounds. Each turn ends within a minute, completed or failed with
    the reason; each answer of the model is charged once, and what a turn that failed by us cost is given back; no work, folder or process is left."""
    seed = seed or random.SystemRandom().randrange(1, 10**6)
    print(f"killed runners: seed {seed}", flush=True)
    chance, mark = random.Random(seed), f"stoa-proof-{seed}"
    sandbox = find_program(load_settings())
    struck = rounds = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="stoa-desks-") as name, ExitStack() as stack:
        archive = Path(name, "stoa.pyz")
        with urllib.request.urlopen(f"{stage.address}/clients/stoa.pyz", timeout=60) as answer:
            archive.write_bytes(answer.read())
        desks = []
        for number, person in enumerate(stage.people(people, GRANTED)):
            desks.append(Desk(stage, person, Path(name, str(number)), archive, sandbox))
            stack.callback(desks[-1].end)
        while struck < kills:
            rounds += 1
            for desk in desks:
                desk.begin(rounds, chance, mark)
            time.sleep(chance.uniform(0, 3))
            victims = chance.sample(desks, min(kills - struck, chance.randint(1, len(desks))))
            for desk in victims:
                desk.kill()
            if rounds % workers_too == 0:
                server.kill_worker(chance.choice)
            for desk in victims:
                desk.start()
            struck += len(victims)
            slowest = max(slowest, _until_ended(stage, desks))
            if rounds % 10 == 0:
                print(f"  {struck} kills, a turn took {slowest:.0f} s at most", flush=True)
        server.wait_until_ready()
        states = _check(stage, desks)
        _until_swept(stage)
        for desk in desks:
            desk.end()
            left = [each.name for each in (desk.folder / "work").glob("work*")]
            assert not left, f"folders are left: {left}"
        _no_processes(mark)
    assert slowest <= ENDS_WITHIN, f"a turn took {slowest:.0f} s to end"
    stage.prove()
    return Result(
        "killed-runners",
        f"{struck} kills of {people} runners and {rounds // workers_too} of web workers in {rounds} rounds (seed {seed}),"
        f" commands {'in a sandbox' if sandbox else 'without a sandbox'}",
        f"{', '.join(f'{count} {state}' for state, count in sorted(states.items()))}; the last turn of a round ended at most {slowest:.0f} s after the kill",
    )


def _until_ended(stage: Stage, desks: list[Desk]) -> float:
    """Wait until no turn goes on; returns the seconds."""
    began = time.monotonic()
    ids = [desk.turns[-1] for desk in desks]
    while True:
        rows = stage.rows("SELECT id, state, error_code FROM turn WHERE id = ANY(:ids)", ids=ids)
        going = [row for row in rows if row.state not in ENDED]
        if not going:
            return time.monotonic() - began
        late = time.monotonic() - began > 2 * ENDS_WITHIN
        assert not late, [(row.id, row.state, row.error_code) for row in going]
        time.sleep(0.1)


def _check(stage: Stage, desks: list[Desk]) -> Counter[str]:
    """Each answer of the model is charged once, and each turn costs its person what its state says. Returns how many turns ended how."""
    twice = stage.rows(
        "SELECT message_id, count(*) FROM gateway_call WHERE state = 'settled' AND message_id LIKE 'runner-%'"
        " GROUP BY message_id HAVING count(*) > 1"
    )
    assert not twice, f"{len(twice)} answers were charged twice, such as {twice[0]}"
    rows = stage.rows(
        "SELECT t.id, t.state, t.error_code, coalesce(t.credits, 0) AS credits,"
        " (SELECT coalesce(sum(c.credits), 0) FROM gateway_call c WHERE c.run_id = t.run_id AND c.state = 'settled') AS charged,"
        " (SELECT coalesce(sum(g.principal), 0) FROM credit_ledger g WHERE g.operation_id = 'returned-' || t.id) AS returned"
        " FROM turn t WHERE t.id = ANY(:ids)",
        ids=[id for desk in desks for id in desk.turns],
    )
    assert len(rows) == sum(len(desk.turns) for desk in desks)
    for row in rows:
        what = f"{row.id} {row.state} {row.error_code}: {row.charged} charged, {row.credits} told, {row.returned} returned"
        assert row.returned in (0, row.charged), what
        assert row.state != "completed" or (row.returned == 0 and row.credits == row.charged), what
    for desk in desks:
        own = [row for row in rows if row.id in set(desk.turns)]
        paid = sum(row.charged - row.returned for row in own)
        assert stage.balance(desk.person) == GRANTED - paid, "the balance is not what the turns cost"
    return Counter(f"{row.state} ({row.error_code})" if row.error_code else row.state for row in rows)


def _until_swept(stage: Stage) -> None:
    """Wait until no work is open."""
    deadline = time.monotonic() + 2 * ENDS_WITHIN
    while rows := stage.rows("SELECT id, state, stop_asked FROM runner_work WHERE ended_at IS NULL"):
        assert time.monotonic() < deadline, f"{len(rows)} works are left, such as {rows[0]}"
        time.sleep(0.2)


def _no_processes(mark: str) -> None:
    left = []
    deadline = time.monotonic() + 10
    while True:
        left = [
            each.pid
            for each in psutil.process_iter(["cmdline"])
            if mark in " ".join(each.info["cmdline"] or [])
        ]
        if not left:
            return
        assert time.monotonic() < deadline, f"commands are left: {left}"
        time.sleep(0.5)
