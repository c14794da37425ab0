"""The client of projects in this process, as the server hands it out: its commands, and requests that reach the application."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.factories import Person

URL = "http://stoa.test"


def module(name: str) -> Any:
    """A module of the client; the fixture `archive` has put the client on the path."""
    return importlib.import_module(f"stoa.{name}")


class Wire:
    """Sends the client's requests to the application. `scripted` answers some instead, by method and path; request number `fails_at` is
    lost: before it arrives, or if `answers_lost` its answer."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.calls: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.scripted: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.fails_at: int | None = None
        self.answers_lost = False

    def send(
        self, server: Any, method: str, address: str, data: bytes | None, headers: dict[str, str]
    ) -> Any:
        """`Server.send`, without a network."""
        path = address.removeprefix(server.url)
        self.calls.append((method, path))
        self.tokens.add(headers.get("Authorization"))
        lost = self.fails_at is not None and len(self.calls) >= self.fails_at
        if lost and not self.answers_lost:
            raise ConnectionResetError("lost")
        reply = module("server_calls").Reply
        script = self.scripted.get((method, path.partition("?")[0]))
        if script:
            status, body = script.pop(0) if len(script) > 1 else script[0]
            return reply(status, {}, json.dumps(body).encode())
        answer = self.client.open(path, method=method, data=data, headers=headers)
        if lost:
            raise ConnectionResetError("lost")
        return reply(answer.status_code, answer.headers, answer.data)


class Shell:
    """Runs commands of the client in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        folder.mkdir(exist_ok=True)

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json, which must end with this code. Returns its JSON."""
        self.capsys.readouterr()
        found = module("terminal").run([*arguments, "--json", "-C", str(self.folder)])
        printed = self.capsys.readouterr()
        assert found == code, printed
        return json.loads(printed.out)

    def text(self, *arguments: str, code: int = 0) -> str:
        """What a command prints for people."""
        self.capsys.readouterr()
        found = module("terminal").run([*arguments, "-C", str(self.folder)])
        printed = self.capsys.readouterr()
        assert found == code, printed
        return printed.out + printed.err

    def put(self, path: str, text: str) -> Path:
        """Write a file."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def files(self) -> dict[str, str]:
        """The texts of the files in the folder, links as `-> target`, empty folders as `/`."""
        found = {}
        for place in sorted(self.folder.rglob("*")):
            path = place.relative_to(self.folder).as_posix()
            if path.split("/")[0] == ".stoa":
                continue
            if place.is_symlink():
                found[path] = f"-> {place.readlink()}"
            elif place.is_file():
                found[path] = place.read_text()
            elif not any(place.iterdir()):
                found[path] = "/"
        return found


def sign_in_as(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set STOA_TOKEN to a person's key; to nothing for an anonymous one."""
    token = person.headers.get("authorization", "").partition(" ")[2]
    monkeypatch.setenv("STOA_TOKEN", token)
