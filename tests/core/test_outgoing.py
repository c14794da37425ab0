"""Requests to addresses that users chose reach no private network, whichever way they get there."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from models.core import outgoing
from models.core.outgoing import OutgoingRefused, guarded
from models.core.sealing import SealBroken, open_sealed, seal
from models.core.settings import Settings, SettingsError, load_settings

SECRET = "test-secret-test-secret-test-secret-test"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self._answer(200, self.rfile.read(length))

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self._answer(302, b"", Location=self.path.removeprefix("/to/"))
        elif self.path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            for _ in range(50):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self._answer(200, b"x" * 100)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Disable logging."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def settings(*networks: str) -> Settings:
    return load_settings(_env_file=None, stoa_secret_key=SECRET, stoa_outgoing_networks=networks)


def session(*networks: str, **options: Any) -> requests.Session:
    return guarded(requests.Session(), settings(*networks), **options)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://localhost/",
        "https://2130706433/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest",
        "http://8.8.8.8/",
        "https://user:word@8.8.8.8/",
        "ftp://8.8.8.8/",
        "https://ä.example/",
        "nonsense",
    ],
)
def test_what_is_not_on_the_public_internet_is_refused(url: str) -> None:
    with pytest.raises(
        (OutgoingRefused, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)
    ):
        session().post(url, data=b"x", timeout=1)
    with pytest.raises(OutgoingRefused):
        outgoing.check(url, settings())


def test_a_listed_network_is_reached_without_tls(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with session("127.0.0.0/8") as reached:
        answer = reached.post(server, data=b"signed", headers={"X-Sign": "1"})
    assert (answer.status_code, answer.content) == (200, b"signed")


def test_a_redirect_passes_the_guard(server: str) -> None:
    with session("127.0.0.1/32") as reached:
        assert reached.get(f"{server}/to/{server}/end").content == b"x" * 100
        for inside in ("http://127.0.0.2/", "https://10.0.0.1/"):
            with pytest.raises(OutgoingRefused, match=r"not on the public internet"):
                reached.get(f"{server}/to/{inside}")


def test_a_slow_or_large_answer_is_cut_off(server: str) -> None:
    with session("127.0.0.1/32", seconds=0.2) as hurried, pytest.raises(requests.Timeout, match="too long"):
        hurried.get(f"{server}/slow")
    with session("127.0.0.1/32", max_bytes=99) as small, pytest.raises(requests.ConnectionError, match="99"):
        small.get(server)
    with session("127.0.0.1/32") as lost, pytest.raises(requests.ConnectionError, match="connection failed"):
        lost.get("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("name", "value"), [("stoa_outgoing_networks", "inside"), ("stoa_dns_server", "dns.example:53")]
)
def test_a_wrong_setting_prevents_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name.upper()):
        load_settings(_env_file=None, stoa_secret_key=SECRET, **{name: value})


def test_a_sealed_secret_opens_with_its_key_and_purpose_only() -> None:
    sealed = seal(SECRET, "sso", b"client secret")
    assert sealed.startswith("sso1:")
    assert b"client secret" not in sealed.encode()
    assert open_sealed(SECRET, "sso", sealed) == b"client secret"
    for key, purpose, text in ((SECRET, "mail", sealed), ("other", "sso", sealed), (SECRET, "sso", "sso1:x")):
        with pytest.raises(SealBroken):
            open_sealed(key, purpose, text)
