"""Programs that are at fault: what the wire says of them never contradicts their health, and what was live before stays live."""

import dataclasses
import re
from typing import Any, NamedTuple

import psutil
import pytest
from flask import Flask

from models.deployments import process_adapter
from models.runners import LevelState
from tests.deployments.deployment_calls import SITE, SiteCalls, fetch, host_of
from tests.deployments.program_calls import QUICK, ProgramCalls

HASTY = dataclasses.replace(QUICK, grace=1.5, answer=0.5)
ANSWERS_500 = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
HANGS = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    kept = listener.accept()
    time.sleep(600)
"""
NO_HTTP = """
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    peer, _ = listener.accept()
    peer.sendall(b"SSH-2.0-none" * 9_000)
    peer.close()
"""
HUNGRY = "python3 -c 'kept = bytearray(3 * 10**9); print(len(kept))'"


class Fault(NamedTuple):
    """A program or its build, and what is said of it."""

    start: str
    reason: str
    files: dict[str, str] = {}
    settings: dict[str, Any] = {}


FAULTS = {
    "its port never opens": Fault("sleep 600", "not healthy after 1.5 seconds: Nothing listens on its PORT"),
    "it exits at once": Fault("exit 3", "The program ended with code 3, after"),
    "it exits well": Fault("true", "The program ended with code 0, after"),
    "it exits after a while": Fault("sleep 0.7; exit 9", "The program ended with code 9, after"),
    "there is no such command": Fault("no-such-thing --port $PORT", "The program ended with code 127, after"),
    "it answers 500": Fault(
        "python3 bad.py", "answers 500, which is neither 2xx nor 3xx", {"bad.py": ANSWERS_500}
    ),
    "it hangs": Fault("python3 bad.py", "is not answered within", {"bad.py": HANGS}),
    "it speaks no HTTP": Fault("python3 bad.py", "not healthy after", {"bad.py": NO_HTTP}),
    "it is a fork bomb": Fault(
        "f() { f | f & }; f; sleep 600", "not healthy after|ended|more memory or processes"
    ),
    "it takes all memory": Fault(HUNGRY, "The program (used more memory|ended with code|ran out of memory)"),
    "its build takes all memory": Fault(
        "python3 server.py", "ran out of memory|used more memory", {}, {"build_command": HUNGRY}
    ),
    "its build fails": Fault(
        "python3 server.py", r"`exit 4` ended with code 4.", {}, {"build_command": "exit 4"}
    ),
    "its build takes too long": Fault(
        "python3 server.py", "took too long: it may take 2 seconds", {}, {"build_command": "sleep 600"}
    ),
    "its build fills the disk": Fault(
        "python3 server.py",
        "wrote more files than it may|ended with code",
        {},
        {"build_command": "head -c 900000000 /dev/zero > big; sleep 1"},
    ),
}


@pytest.fixture
def tight(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits."""
    limits = {"stoa_build_seconds": 2.0, "stoa_build_disk_bytes": 50_000_000}
    more = {"stoa_build_memory_bytes": 300_000_000, "stoa_process_memory_bytes": 300_000_000}
    changed = app.extensions["settings"].model_copy(update=limits | more)
    monkeypatch.setitem(app.extensions, "settings", changed)


@pytest.mark.usefixtures("tight")
def test_a_program_at_fault_fails_with_one_sentence_and_the_site_stays(program: ProgramCalls) -> None:
    pier = program.pier
    pier.change(folder=".")
    host = pier.live(SITE)
    parents: list[str] = []
    with program.hosting(HASTY):
        for name, fault in FAULTS.items():
            wanted = {"build_command": None, **fault.settings}
            parents = [program.push(fault.files, parents or None, start_command=fault.start, **wanted)]
            shown = program.ended(program.deploy())
            assert (shown["state"], shown["status"]) == ("failed", "failed"), name
            assert _says(shown["error"], fault.reason), (name, shown["error"])
            assert fetch(pier.client, host).status_code == 200, name


def test_a_program_that_ends_is_started_again_and_given_up_in_the_end(program: ProgramCalls) -> None:
    program.push()
    with program.hosting():
        id = program.deploy()
        host = host_of(program.ended(id)["url"])
        for _ in range(QUICK.restarts):
            fetch(program.pier.client, host, "/end")
            program.until(lambda: _agrees(program, id, host) and program.shown(id)["state"] == "live", id)
        fetch(program.pier.client, host, "/end")
        shown = program.when(id, lambda shown: shown["state"] == "failed")
        assert shown["status"] == "failed"
        assert "ended with code 7" in shown["error"]
        assert "started again 2 times in a row" in shown["error"]
        answer = fetch(program.pier.client, host)
        assert (answer.status_code, "does not run" in answer.text) == (503, True)
        assert "ends now" in program.output(id)
        status, body = program.pier.api("post", f"/infrastructure/deployments/{id}/release")
        assert (status, body["deployment"]["status"]) == (200, "deploying")
        assert program.ended(id)["state"] == "live"


def test_a_program_that_is_killed_or_whose_host_is_comes_back(program: ProgramCalls) -> None:
    program.push()
    with program.hosting():
        id = program.deploy()
        host = host_of(program.ended(id)["url"])
        for each in psutil.Process().children(recursive=True):
            if each.name() == "python3" and "server.py" in " ".join(each.cmdline()):
                each.kill()
        assert _agrees(program, id, host)
        program.when(id, lambda shown: shown["state"] == "live")
        assert fetch(program.pier.client, host).status_code == 200
    # its host has ended, and all processes with it
    shown = program.shown(id)
    assert (shown["state"], shown["status"]) == ("restarting", "deploying")
    answer = fetch(program.pier.client, host)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    with program.hosting():
        assert program.ended(id)["state"] == "live"
        assert fetch(program.pier.client, host).status_code == 200


def test_a_flood_of_output_is_bounded_and_the_program_answers(program: ProgramCalls) -> None:
    program.push(start_command="yes flood & exec python3 server.py")
    with program.hosting():
        id = program.deploy()
        host = host_of(program.ended(id)["url"])
        program.until(lambda: "lines are left out" in program.output(id), id)
        assert fetch(program.pier.client, host).status_code == 200
        folder = program.app.extensions["settings"].data_dir / "processes" / id
        assert sum(each.stat().st_size for each in folder.iterdir()) < 4 << 20
        path = f"/infrastructure/deployments/{id}/output"
        first = program.pier.api("get", f"{path}?after=0")[1]
        assert first["lines"]
        assert program.pier.api("get", f"{path}?after={first['next']}")[1]["next"] >= first["next"]
        for wrong in ("x", "-1", "9" * 16):
            assert program.pier.api("get", f"{path}?after={wrong}")[0] == 422


def test_where_no_program_runs_that_is_said_and_nothing_else_taken_instead(
    pier: SiteCalls, monkeypatch: pytest.MonkeyPatch, app: Flask
) -> None:
    sentence = "Commands cannot run on this server: it is a test. Use the level virtual."
    away = LevelState(False, sentence)
    monkeypatch.setattr(process_adapter, "level_state", lambda name: away)
    pier.push(SITE)
    assert pier.change(adapter="process", start_command="x")[0] == 200
    made = pier.deploy()
    assert (made["status"], made["error"]) == ("failed", f"Programs cannot run here. {sentence}")
    monkeypatch.setattr("models.deployments.build_planning.level_state", lambda name: away)
    assert pier.change(adapter="static", build_command="make")[0] == 200
    made = pier.deploy()
    assert (made["status"], made["error"]) == ("failed", f"It cannot be built here. {sentence}")
    off = app.extensions["settings"].model_copy(update={"stoa_processes": 0})
    monkeypatch.setitem(app.extensions, "settings", off)
    pier.change(adapter="process")
    assert "STOA_PROCESSES" in pier.deploy()["error"]


def _says(error: str, reason: str) -> bool:
    return re.search(reason, error) is not None


def _agrees(program: ProgramCalls, id: str, host: str) -> bool:
    """Whether a success on the wire means an answer; asked again, as it may have ended in between."""
    for _ in range(2):
        if program.shown(id)["status"] != "success" or fetch(program.pier.client, host).status_code == 200:
            return True
    return program.shown(id)["status"] != "success"
