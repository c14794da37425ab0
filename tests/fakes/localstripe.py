"""localstripe, a double of Stripe that others wrote, as a process on loopback. It knows less than our simulator: no Checkout, no
prices, no idempotency keys. That our client code works with it too shows that the simulator does not only agree with itself."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

# Its own start listens on every network, and keeps what it knows in a file that all runs of a machine share.
PROGRAM = """
import socket, sys
from aiohttp import web
from localstripe import resources
resources.Store.dump_to_disk = lambda store: None
from localstripe.server import app
web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), print=None, access_log=None)
"""


@dataclass(frozen=True)
class Localstripe:
    """A running one."""

    url: str
    key: str = "sk_test_localstripe"
    webhook_secret: str = "whsec_localstripe"

    def deliver_to(self, address: str) -> None:
        """Send every event there from now on, a second after it happened."""
        config = {"url": address, "secret": self.webhook_secret}
        with _session() as session:
            session.post(f"{self.url}/_config/webhooks/test", data=config, timeout=10).raise_for_status()

    def forget(self) -> None:
        """Empty it."""
        with _session() as session:
            session.delete(f"{self.url}/_config/data", timeout=10).raise_for_status()


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session


@pytest.fixture(scope="session")
def localstripe_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localstripe]:
    """The process, once for all tests."""
    log = tmp_path_factory.mktemp("localstripe") / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdout=out,
            stderr=out,
        )
        running = Localstripe(f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            _wait_until_ready(running, process, log)
            yield running
        finally:
            process.terminate()
            process.wait(15)


@pytest.fixture
def localstripe(localstripe_server: Localstripe) -> Localstripe:
    """The running one, emptied."""
    localstripe_server.forget()
    return localstripe_server


def _wait_until_ready(running: Localstripe, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            running.forget()
            return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError("localstripe was not ready within 60 seconds")
