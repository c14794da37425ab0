"""The level machine: the real runner program at the real routes, and what becomes of a workplace whose runner is bad or gone."""

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.core.errors import Conflict, Invalid, NotFound
from models.runners import (
    Check,
    FileChange,
    LevelUnavailable,
    Runner,
    RunnerAction,
    RunnerLost,
    RunnerWork,
    Workplace,
    levels,
    machine_workplace,
    open_workplace,
    run_checks,
    store_changes,
    work_queue,
)
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha
from tests.runners.runner_calls import RunnerCalls, made_runner
from tests.server import serving
from views.runners.api import work_routes
from views.web.client_archive import client_archive

TREE = {
    "README.md": "Hello\nworld of runners\n",
    "src/app.py": "print('app')\n",
    "src/old.py": "",
    "node_modules/kept.js": "kept",
}


class Program:
    """The runner as a process of its own."""

    def __init__(
        self, url: str, folder: Path, token: str, *arguments: str, sandbox: str | None = None
    ) -> None:
        archive = folder / "stoa.pyz"
        archive.write_bytes(client_archive(url, "1.2.3").content)
        self.work_folder = folder / "work here"
        self.log = (folder / "log").open("w+")
        command = [sys.executable, str(archive), "runner", "--name", "laptop"]
        command += [] if sandbox else ["--no-sandbox"]
        self.process = subprocess.Popen(
            [*command, "--work-folder", str(self.work_folder), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "STOA_RUNNER_TOKEN": token,
                "PYTHONDONTWRITEBYTECODE": "1",
                **({"STOA_SANDBOX_COMMAND": sandbox} if sandbox else {}),
            },
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def token_of(runner: RunnerCalls) -> str:
    return runner.headers["authorization"].removeprefix("Bearer ")


def connected(session: OrmSession, seconds: float = 60) -> bool:
    """Wait until the runner has polled."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.rollback()
        session.expire_all()
        if session.scalars(select(Runner.last_seen_at)).one() is not None:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def program(
    app: Flask, session: OrmSession, client: FlaskClient, alice: Person, tmp_path: Path
) -> Iterator[Program]:
    """Alice's runner, which waits for work."""
    token = token_of(made_runner(alice, client))
    with serving(app) as url:
        found = Program(url, tmp_path, token)
        try:
            assert connected(session), found.said()
            yield found
        finally:
            found.process.kill()
            found.process.wait()
            found.log.close()


def test_the_program_restores_a_tree_works_at_it_and_returns_what_changed(
    session: OrmSession, mine: ProjectsApi, program: Program, alice: Person
) -> None:
    assert levels(alice.id)["machine"].available
    assert "laptop" in levels(alice.id)["machine"].sentence
    manifest = mine.tree(TREE)
    place: Workplace = open_workplace("machine", alice.id, manifest)
    assert place.list() == ["README.md", "node_modules/", "src/"]
    assert place.list("src") == ["app.py", "old.py"]
    assert place.read("README.md") == TREE["README.md"].encode()
    assert [tuple(each) for each in place.search("WORLD")] == [("README.md", 2, "world of runners")]
    for verb in (
        lambda: place.read("nothing"),
        lambda: place.list("nothing"),
        lambda: place.delete("nothing"),
    ):
        with pytest.raises(NotFound):
            verb()
    for path in ("../x", "/etc/passwd", "src"):
        with pytest.raises(Invalid):
            place.read(path)
    with pytest.raises(Invalid):
        place.read("README.md", max_bytes=3)

    large = os.urandom(5 << 20)
    place.write("data/large.bin", large)
    place.write("data/empty", b"", executable=True)
    assert place.read("data/large.bin", max_bytes=8 << 20) == large
    place.delete("src/old.py")
    outside = program.work_folder.parent / "secret"
    outside.write_text("not yours")

    told: list[str] = []
    done = place.run(
        f"echo one; echo $WORD >&2; ln -s {outside} leak; ln -s src/app.py link; mkfifo pipe;"
        " mkdir .venv; echo x > .venv/x; echo changed > node_modules/kept.js; printf 'a\\0b'; exit 3",
        seconds=60,
        env={"WORD": "two"},
        on_output=told.append,
    )
    assert (done.ended, done.exit_code, done.cut) == ("exit", 3, False)
    assert done.output == "one\ntwo\na\ufffdb" == "".join(told)
    with pytest.raises(Invalid, match="link"):
        place.read("leak")

    changes = place.changes()
    assert {
        path: change.content for path, change in changes.items() if path not in ("data/large.bin", "link")
    } == {
        "data/empty": b"",
        "src/old.py": None,
        "node_modules/kept.js": b"changed\n",
    }
    assert changes["data/large.bin"] == FileChange(large)
    assert changes["data/empty"].executable
    assert changes["link"] == FileChange(target="src/app.py")
    assert set(changes.refused) == {"leak", "pipe"}
    store_changes(alice.id, manifest, changes)
    session.rollback()

    results = run_checks(place, [Check("build", "true"), Check("test", "echo red; false")])
    assert [(each.success, each.output) for each in results] == [(True, ""), (False, "red\n")]
    assert place.run("sleep 60", seconds=0.5).ended == "timeout"
    stopper = threading.Timer(1.0, place.stop)
    stopper.start()
    start = time.monotonic()
    assert place.run("sleep 60 & sleep 60", seconds=60).ended == "stopped"
    assert time.monotonic() - start < 30
    place.close()
    place.close()
    with pytest.raises(RunnerLost):
        place.list()

    assert program.end() == 0, program.said()
    assert [*program.work_folder.glob("work*")] == []
    session.expire_all()
    assert session.scalars(select(RunnerWork.state)).all() == ["done"]
    assert session.scalars(select(RunnerAction)).all() == []


def test_work_is_lost_with_a_program_that_ends_or_is_killed_and_its_commands_end_too(
    app: Flask, session: OrmSession, program: Program, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_workplace("machine", alice.id, None)
    mark = program.work_folder.parent / "mark"

    def terminate() -> None:
        while not mark.exists():
            time.sleep(0.05)
        program.process.send_signal(signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    done = place.run(f"echo begun; echo $$ > {mark}; sleep 600", seconds=600)
    assert (done.ended, done.exit_code) in (("stopped", None), ("lost", None))
    assert program.process.wait(30) == 0
    with pytest.raises(RunnerLost, match="ended"):
        place.list()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
    session.expire_all()
    assert session.scalars(select(RunnerWork.state)).all() == ["failed"]


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of a few seconds."""
    for where in (work_queue, work_routes):
        monkeypatch.setattr(where, "LEASE", timedelta(seconds=6))


@pytest.mark.usefixtures("short_lease")
def test_a_killed_program_loses_its_work_and_another_takes_the_next(
    session: OrmSession, client: FlaskClient, program: Program, alice: Person
) -> None:
    place = open_workplace("machine", alice.id, None)
    start = time.monotonic()
    done = place.run("echo begun; sleep 20", seconds=600, on_output=lambda text: program.process.kill())
    assert (done.ended, done.output) == ("lost", "begun\n")
    assert time.monotonic() - start < 60
    with pytest.raises(RunnerLost):
        place.changes()
    place.close()
    session.rollback()  # the time of a transaction is that of its start
    work_queue.sweep_work()
    session.commit()
    assert session.scalars(select(RunnerWork.state)).all() == ["lost"]

    puppet = Puppet(made_runner(alice, client, "second"), {"list": {"names": ["a"]}})
    puppet.runner.poll()
    puppet.start()
    again = open_workplace("machine", alice.id, None)
    assert again.list() == ["a"]
    again.close()
    puppet.join(10)


class Puppet(threading.Thread):
    """A runner that answers what the test wants: `answers` by verb."""

    def __init__(self, runner: RunnerCalls, answers: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.runner, self.answers = runner, answers
        self.over = threading.Event()

    def run(self) -> None:
        work = None
        while work is None and not self.over.is_set():
            work = self.runner.poll()
            time.sleep(0.02)
        if work is None:
            return
        self.runner.about(work, "ack")
        replies: list[dict[str, Any]] = []
        while not self.over.is_set():
            status, found = self.runner.about(work, "actions", replies=replies)
            if status != 200 or found["stop"]:
                return
            replies = [{"seq": each["seq"], "reply": self.answers[each["verb"]]} for each in found["actions"]]
            time.sleep(0.02)


@pytest.fixture
def runner(session: OrmSession, client: FlaskClient, alice: Person) -> RunnerCalls:
    """A runner of alice that has asked for work."""
    found = made_runner(alice, client)
    assert found.poll() is None
    return found


ANSWERS: list[tuple[str, Any, type[Exception]]] = [
    ("list", {}, RunnerLost),
    ("list", {"names": [3]}, RunnerLost),
    ("list", {"error": {"code": "not_found", "message": "none"}}, NotFound),
    ("list", {"error": {"code": "odd", "message": "none"}}, Conflict),
    ("list", {"error": {}}, RunnerLost),
    ("read", {"size": 3, "content": "!"}, RunnerLost),
    ("read", {"size": 1 << 40, "content": ""}, RunnerLost),
    ("read", {"size": 5, "content": ""}, RunnerLost),
    ("read", {"size": "5", "content": "YQ=="}, RunnerLost),
    ("search", {"matches": [["a", "b", "c"]]}, RunnerLost),
    ("run", {"ended": "fine", "exit_code": 0}, RunnerLost),
    ("run", {"ended": "exit", "exit_code": "0"}, RunnerLost),
    ("changes", {"changes": [3]}, RunnerLost),
    ("changes", {"changes": [{"path": "a", "kind": "odd"}]}, RunnerLost),
    ("changes", {"changes": [{"path": "a", "kind": "file", "sha256": "0", "content": "YQ=="}]}, Conflict),
]


@pytest.mark.parametrize(("verb", "answer", "error"), ANSWERS)
def test_what_a_runner_answers_is_checked(
    alice: Person, runner: RunnerCalls, verb: str, answer: Any, error: type[Exception]
) -> None:
    puppet = Puppet(runner, {verb: answer})
    puppet.start()
    place = open_workplace("machine", alice.id, None)
    calls: dict[str, Any] = {
        "list": place.list,
        "read": lambda: place.read("a"),
        "search": lambda: place.search("x"),
        "run": lambda: place.run("x", seconds=5),
        "changes": place.changes,
    }
    try:
        with pytest.raises(error):
            calls[verb]()
    finally:
        place.close()
        puppet.join(10)
        puppet.over.set()


def test_paths_and_links_of_a_runner_that_a_tree_cannot_hold_are_refused_not_stored(
    alice: Person, runner: RunnerCalls
) -> None:
    content = base64.b64encode(b"x").decode()
    paths = ("../up", "/abs", "a/../b", "", "x\\..\\y")
    files = [
        {"path": path, "kind": "file", "sha256": sha("x"), "size": 1, "content": content} for path in paths
    ]
    links = [{"path": f"l{n}", "kind": "symlink", "target": to} for n, to in enumerate(("/etc", "../x", ""))]
    good = {"path": "ok", "kind": "file", "sha256": sha("x"), "content": content, "executable": True}
    puppet = Puppet(runner, {"changes": {"changes": [*files, *links, good], "refused": {"odd": "why"}}})
    puppet.start()
    place = open_workplace("machine", alice.id, None)
    changes = place.changes()
    place.close()
    puppet.join(10)
    assert changes == {"ok": FileChange(b"x", True)}
    assert set(changes.refused) == {*paths, "l0", "l1", "l2", "odd"}


def test_without_a_runner_the_level_is_refused_and_says_what_to_do(
    session: OrmSession, client: FlaskClient, alice: Person
) -> None:
    assert not levels(alice.id)["machine"].available
    assert not levels(None)["machine"].available
    with pytest.raises(LevelUnavailable, match="runner"):
        open_workplace("machine", alice.id, None)
    made_runner(alice, client).poll()
    with pytest.raises(LevelUnavailable, match="gpu"):
        open_workplace("machine", alice.id, None, runner_labels=["gpu"])
    with pytest.raises(NotFound):
        open_workplace("machine", alice.id, "0" * 64)
    assert session.scalars(select(RunnerWork)).all() == []


def test_a_work_that_no_runner_begins_ends(
    session: OrmSession, alice: Person, runner: RunnerCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_workplace, "TAKEN_SECONDS", 0.2)
    with pytest.raises(LevelUnavailable, match="busy"):
        open_workplace("machine", alice.id, None)
    assert session.scalars(select(RunnerWork.state)).all() == ["failed"]


def test_a_verb_ends_when_the_lease_of_its_runner_does(
    session: OrmSession, alice: Person, runner: RunnerCalls
) -> None:
    puppet = Puppet(runner, {})
    puppet.start()
    place = open_workplace("machine", alice.id, None)
    puppet.over.set()
    puppet.join(10)
    row = session.scalars(select(RunnerWork)).one()
    row.lease_until = now()
    session.commit()
    assert work_queue.ask_action(row.id, "list", {}) == 1
    session.commit()
    assert place.run("x", seconds=5).ended == "lost"
    with pytest.raises(RunnerLost, match="did not answer"):
        place.list()
    place.close()
