"""Commands as the runner program runs them: in its sandbox where bubblewrap works, bounded, and stopped with all that they started."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.core.settings import Settings
from models.runners.sandbox_command import find_program
from tests.projects.client.client_shell import URL, module
from views.web.client_archive import client_archive

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program on the path of this process."""
    place = tmp_path_factory.mktemp("client") / "stoa.pyz"
    place.write_bytes(client_archive(URL, "1.2.3").content)
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    for name in [each for each in sys.modules if each.partition(".")[0] == "stoa"]:
        del sys.modules[name]


def limits(**changed: Any) -> Any:
    usual = {
        "seconds": 30.0,
        "cpu_seconds": 30,
        "memory_bytes": 1 << 30,
        "processes": 100,
        "disk_bytes": 1 << 30,
        "output_bytes": 1 << 20,
    }
    return module("runner_processes").CommandLimits(**{**usual, **changed})


def run(wall: Any, folder: Path, command: str, env: dict[str, str] | None = None, **changed: Any) -> Any:
    """How a command ended, and what it wrote."""
    told: list[str] = []
    files = module("runner_files").RestoredTree(folder)
    running = module("runner_processes").RunningCommand(wall, folder, limits(**changed), files.size)
    found = running.run(command, env or {}, told.append)
    return found["ended"], found["exit_code"], "".join(told), found["cut"]


@pytest.fixture
def bare(program: Path) -> Any:
    """No sandbox."""
    return module("runner_processes").confinement(True, False, [])


@pytest.fixture
def walled(program: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The sandbox; skips where it does not work, with its reason."""
    if (found := find_program(settings)) is None:
        pytest.skip("bubblewrap is not installed")
    monkeypatch.setenv("STOA_SANDBOX_COMMAND", found)
    try:
        return module("runner_processes").confinement(False, False, [])
    except module("failures").Failure as error:
        pytest.skip(str(error))


def test_a_command_ends_with_its_status_output_and_environment(bare: Any, tmp_path: Path) -> None:
    assert run(bare, tmp_path, "echo $A; echo b >&2; exit 4", {"A": "a"}) == ("exit", 4, "a\nb\n", False)
    assert run(bare, tmp_path, "kill -9 $$")[:2] == ("exit", 137)


@pytest.mark.parametrize(
    ("command", "changed", "ended"),
    [
        ("sleep 60", {"seconds": 0.3}, "timeout"),
        ("sleep 60 & sleep 60 & sleep 60", {"processes": 2}, "memory"),
        (
            "python3 -c 'import time; x = b\"x\" * (300 << 20); time.sleep(60)'",
            {"memory_bytes": 100 << 20},
            "memory",
        ),
    ],
)
def test_a_command_beyond_its_limits_is_ended_and_says_which(
    bare: Any, tmp_path: Path, command: str, changed: dict[str, Any], ended: str
) -> None:
    assert run(bare, tmp_path, command, **changed)[:2] == (ended, None)


def test_a_command_that_fills_the_disk_is_ended(
    bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("runner_processes"), "DISK_SECONDS", 0.2)
    assert run(bare, tmp_path, "head -c 8000000 /dev/zero > f; sleep 60", disk_bytes=1 << 20)[0] == "disk"


def test_output_beyond_the_limit_is_cut_and_the_command_goes_on(bare: Any, tmp_path: Path) -> None:
    ended, code, output, cut = run(
        bare, tmp_path, "head -c 500000 /dev/zero | tr '\\0' x; exit 2", output_bytes=1000
    )
    assert (ended, code, output, cut) == ("exit", 2, "x" * 1000, True)


def test_what_a_command_left_in_the_background_ends_with_it(bare: Any, tmp_path: Path) -> None:
    ended, _, output, _ = run(bare, tmp_path, "sleep 600 >/dev/null 2>&1 & echo $!")
    assert ended == "exit"
    for _ in range(100):
        try:
            os.kill(int(output), 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{int(output)}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


def test_a_command_is_stopped_from_another_thread(bare: Any, tmp_path: Path) -> None:
    running = module("runner_processes").RunningCommand(bare, tmp_path, limits(), lambda: 0)
    threading.Timer(0.3, running.stop).start()
    assert running.run("sleep 60", {}, lambda text: None)["ended"] == "stopped"


SECRET = "the secret of this machine"
ESCAPES = {
    "files of the user": "cat {outside}/secret",
    "a link to them": "ln -s {outside}/secret l; cat l",
    "the system": "echo x > /usr/x && echo {secret}",
    "other processes": "grep -s {mark} /proc/*/environ && echo {secret}",
    "the network": "python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('{secret}')\"",
    "mounts": "mount -t tmpfs x /usr && echo {secret}",
    "another user": "id -u | grep -qx 0 && echo {secret}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_command_in_the_sandbox_does_not_reach(
    walled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = ESCAPES[name].format(outside=outside, secret=SECRET, port=port, mark="STOA_SANDBOX_COMMAND")
        ended, _, output, _ = run(walled, work, command)
    assert ended == "exit"
    assert SECRET not in output


def test_a_command_in_the_sandbox_writes_the_tree_and_sees_what_is_shown(walled: Any, tmp_path: Path) -> None:
    work, shown = tmp_path / "work", tmp_path / "tools"
    work.mkdir()
    shown.mkdir()
    (shown / "tool").write_text("seen")
    wall = walled._replace(seen=(str(shown),))
    output = run(wall, work, f"pwd; cat {shown}/tool; echo made > made; echo x > {shown}/x || echo refused")[
        2
    ]
    assert output.startswith("/work\nseen")
    assert output.endswith("refused\n")
    assert (work / "made").read_text() == "made\n"
    assert not (shown / "x").exists()


def test_without_a_sandbox_the_program_says_so_and_runs_nothing(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confinement, failure = module("runner_processes").confinement, module("failures").Failure
    monkeypatch.setenv("STOA_SANDBOX_COMMAND", "/bin/false")
    with pytest.raises(failure, match="--no-sandbox"):
        confinement(False, False, [])
    monkeypatch.delenv("STOA_SANDBOX_COMMAND")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(failure, match="no sandbox here"):
        confinement(False, False, [])
    with pytest.raises(failure, match="no folder"):
        confinement(False, False, ["/nowhere/at/all"])
    assert confinement(True, False, []).words.startswith("no sandbox")
