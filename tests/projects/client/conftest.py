"""The client of projects on the path, as the server hands it out; a folder of alice's with it, and the wire between."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.factories import Person
from tests.projects.client.client_shell import URL, Shell, Wire, module, sign_in_as
from views.web.client_archive import client_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that a server at `URL` hands out, on the path of this process."""
    place = tmp_path_factory.mktemp("client") / "stoa.pyz"
    place.write_bytes(client_archive(URL, "1.2.3").content)
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    for name in [each for each in sys.modules if each.partition(".")[0] == "stoa"]:
        del sys.modules[name]


@pytest.fixture
def home(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's computer without settings and tokens of others."""
    for name in ("STOA_URL", "STOA_TOKEN", "STOA_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def wire(client: FlaskClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Requests of the client reach the application at once, and it never waits."""
    wire = Wire(client)
    server = module("server_calls").Server

    def send(self: Any, method: str, address: str, data: bytes | None, headers: dict[str, str]) -> Any:
        return wire.send(self, method, address, data, headers)

    monkeypatch.setattr(server, "send", send)
    monkeypatch.setattr(server, "sleep", lambda self, seconds: None)
    return wire


@pytest.fixture
def shell(
    alice: Person,
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """A folder of alice, who has set STOA_TOKEN."""
    sign_in_as(alice, monkeypatch)
    return Shell(tmp_path / "shop", capsys)
