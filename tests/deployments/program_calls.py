"""Programs that are deployed for tests, and a host of programs that runs for a while, with short times."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask

from models.deployments.build_running import run_build
from models.deployments.hosted_process import ProcessTimes
from models.deployments.process_host import ProcessHost
from tests.deployments.deployment_calls import SiteCalls

SERVER = """
import http.server, os, socketserver, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        body = f"{os.environ.get('WORD', 'none')} {self.path}".encode()
        if self.path == "/headers":
            body = str(self.headers).encode()
        if self.path == "/env":
            body = "\\n".join(f"{k}={v}" for k, v in os.environ.items()).encode()
        if self.path == "/end":
            print("ends now", flush=True)
            os._exit(7)
        if self.path == "/slow":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"2\\r\\n%d\\n\\r\\n" % n)
                self.wfile.flush()
                time.sleep(0.05)
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Set-Cookie", "a=1; Domain=example.org; Path=/; HttpOnly")
        self.send_header("Set-Cookie", "__Host-next-auth.session-token=stolen")
        self.send_header("Alt-Svc", "h3=:1")
        self.send_header("X-Own", "yes")
        self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_GET
    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

print("listens", flush=True)
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
FILES = {"server.py": SERVER}
START = "python3 server.py"
QUICK = ProcessTimes(
    grace=20,
    answer=3,
    every=0.3,
    misses=1,
    pause=0.05,
    longest=0.2,
    restarts=2,
    steady=600,
    drain=0.1,
    leave=1,
)
PATIENCE = 60.0
"""Seconds that a test waits for what takes a second."""


class ProgramCalls:
    """A site that is a program."""

    def __init__(self, app: Flask, pier: SiteCalls) -> None:
        self.app, self.pier = app, pier

    def push(
        self, files: dict[str, str] | None = None, parents: list[str] | None = None, **settings: Any
    ) -> str:
        """Push files, and say how they are built and started."""
        wanted = {"adapter": "process", "start_command": START} | settings
        status, body = self.pier.change(**wanted)
        assert status == 200, body
        return self.pier.push(FILES | (files or {}), parents)

    def deploy(self) -> str:
        """Deploy the head, and build it; its id."""
        made = self.pier.deploy()
        id = str(made["deploymentId"])
        if made["status"] == "deploying":
            with self.app.app_context():
                run_build(id)
        return id

    def shown(self, id: str) -> dict[str, Any]:
        """The deployment on the wire."""
        status, body = self.pier.api("get", f"/infrastructure/deployments/{id}")
        assert status == 200, body
        return dict(body["deployment"])

    def when(self, id: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The deployment on the wire, once this holds."""
        self.until(lambda: holds(self.shown(id)), id)
        return self.shown(id)

    def until(self, holds: Callable[[], Any], id: str = "") -> None:
        """Wait until this holds."""
        until = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < until, id and (self.shown(id), self.log(id), self.output(id))
            time.sleep(0.05)

    def ended(self, id: str) -> dict[str, Any]:
        """The deployment once it is live or failed."""
        return self.when(id, lambda shown: shown["state"] in ("live", "failed"))

    def output(self, id: str, after: int | None = None) -> str:
        """What its program wrote."""
        path = f"/infrastructure/deployments/{id}/output"
        status, body = self.pier.api("get", path if after is None else f"{path}?after={after}")
        assert status == 200, body
        return "\n".join(each["content"] for each in body["lines"])

    def log(self, id: str) -> str:
        """The log of a deployment."""
        status, body = self.pier.api("get", f"/infrastructure/deployments/{id}/logs")
        assert status == 200, body
        return "\n".join(each["content"] for each in body["log"]["entries"])

    @contextmanager
    def hosting(self, times: ProcessTimes = QUICK) -> Iterator[ProcessHost]:
        """A host of programs, which has ended afterwards."""
        host = ProcessHost(self.app.extensions["settings"], self.app.app_context, times)
        thread = threading.Thread(target=host.work)
        thread.start()
        try:
            yield host
        finally:
            host.stop()
            thread.join()
