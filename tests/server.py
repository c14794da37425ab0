"""Servers for tests: gunicorn with gevent workers on the test database, and threads of this process for any WSGI app."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from werkzeug.serving import make_server

from models.core.settings import ROOT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

WORKERS = 2
CONFIG = Path(ROOT, "views", "server", "gunicorn_config.py")


@contextmanager
def running(
    postgres_url: str, data: Path, *, config: Path = CONFIG, workers: int = WORKERS, **environment: str
) -> Iterator[str]:
    """Run gunicorn; yields its URL. `data` is its data directory, with its log. `environment` adds settings.

    Command line arguments, such as the number of workers, override GUNICORN_CMD_ARGS. A traceback in the log fails the
    test that closes the server.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STOA_", "OPENAI_", "OPENROUTER_", "ANTHROPIC_", "GEMINI_", "PROMETHEUS"))
    }
    settings = {
        "DATABASE_URL": postgres_url,
        "STOA_DATA_DIR": str(data),
        "STOA_SECRET_KEY": "test-secret-test-secret-test-secret-test",
        "STOA_DEMO_DELAY_MS": "0",
    }
    command = [sys.executable, "-m", "gunicorn", "--config", str(config), "--workers", str(workers)]
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, open(data / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--bind", f"fd://{listener.fileno()}"],
            cwd=ROOT,
            env=inherited | settings | environment,
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            _wait_until_ready(address, process)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = (data / "log").read_text()
    assert "Traceback" not in text, text


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server exited"
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server was not ready within 90 seconds")


def living(place: Path) -> list[psutil.Process]:
    """Processes that use a data directory in `place`: PostgreSQL and those with it in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            configured = process.environ().get("STOA_DATA_DIR", "").startswith(str(place))
            postgres = process.name() == "postgres" and Path(process.cwd()).is_relative_to(place)
            if (configured or postgres) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def serving(app: "WSGIApplication", host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the application on loopback, in threads of this process; yields its URL."""
    server = make_server(host, 0, _closing(app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_served = threading.Condition()
_requests = Counter[str]()
"""How many requests `serving` is answering, in total."""


def wait_for_requests(seconds: float = 10) -> None:
    """Wait until `serving` answers no request: a page that is left while it loads is served to its end by a thread, which
    may still write. Gives up after `seconds`, for responses that never end."""
    with _served:
        _served.wait_for(lambda: not _requests.total(), seconds)


def _closing(app: "WSGIApplication") -> "WSGIApplication":
    """Count the request, and close the response when it is garbage-collected: if the client has disconnected, werkzeug fails
    before closing it."""

    def call(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
        with _counted():
            answer = app(environ, start_response)
            try:
                for piece in answer:  # noqa: UP028 - `yield from` would close the answer, and then again
                    yield piece
            finally:
                if hasattr(answer, "close"):
                    answer.close()

    return call


@contextmanager
def _counted() -> Iterator[None]:
    with _served:
        _requests["now"] += 1
    try:
        yield
    finally:
        with _served:
            _requests["now"] -= 1
            _served.notify_all()
