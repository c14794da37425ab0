"""Static deployments over HTTP: from the snapshot to the first page, rolling back, and readers while releases switch."""

import argparse
import hashlib
import threading
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import orjson

from bench.load import quantile

FILES, ROUNDS = 100, 20
RELEASE_BUDGET, ROLLBACK_BUDGET = 1_000, 200
"""Milliseconds."""


class _Server:
    """A server that runs, and a key with the scopes of projects."""

    def __init__(self, address: str, key: str) -> None:
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "localhost", parts.port or 80
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer. Raises RuntimeError for an error."""
        data = body if isinstance(body, bytes) else orjson.dumps(body or {})
        status, answer = self.fetch(method, f"/v1{path}", data, self.headers)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return orjson.loads(answer)

    def fetch(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def measure(server: _Server) -> tuple[list[float], list[float], int, int]:
    """Milliseconds of releases and of rollbacks, and the requests of readers meanwhile, all and failed."""
    project = server.call("POST", "/projects", {"name": "bench"})["project"]["id"]
    workspace = server.call("POST", f"/projects/{project}/workspaces", {"name": "main"})["workspace"]["id"]
    releases: list[float] = []
    ids: list[str] = []
    url = ""
    for number in range(2):
        _push(server, project, workspace, number)
        began = time.perf_counter()
        made = server.call("POST", f"/workspaces/{workspace}/deploy")
        url = made["url"]
        host = {"Host": urlsplit(url).netloc}
        assert f"page {number}".encode() in server.fetch("GET", "/", None, host)[1]
        releases.append((time.perf_counter() - began) * 1000)
        ids.append(made["deployment_id"])
    done, counts = threading.Event(), [0, 0]
    reader = threading.Thread(target=_read, args=(server, urlsplit(url).netloc, done, counts))
    reader.start()
    rollbacks: list[float] = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        server.call("POST", f"/infrastructure/deployments/{ids[number % 2]}/release")
        rollbacks.append((time.perf_counter() - began) * 1000)
    done.set()
    reader.join()
    return releases, rollbacks, counts[0], counts[1]


def _push(server: _Server, project: str, workspace: str, number: int) -> None:
    texts = {f"pages/{each}.html": f"<p>{each}" for each in range(FILES - 1)}
    texts["index.html"] = f"<p>page {number}"
    hashes = {path: hashlib.sha256(each.encode()).hexdigest() for path, each in texts.items()}
    for path, each in texts.items():
        if number == 0 or path == "index.html":
            server.call("PUT", f"/blobs/upload/{hashes[path]}", each.encode())
    files = [
        {"path": path, "type": "file", "mode": 420, "hash": hashes[path], "size": len(each)}
        for path, each in sorted(texts.items())
    ]
    manifest = orjson.dumps({"version": "1", "files": files})
    hash = hashlib.sha256(manifest).hexdigest()
    server.call("PUT", f"/blobs/manifests/{hash}", manifest)
    server.call("POST", f"/projects/{project}/snapshots", {"manifest_hash": hash, "workspace_id": workspace})


def _read(server: _Server, host: str, done: threading.Event, counts: list[int]) -> None:
    while not done.is_set():
        status, _ = server.fetch("GET", "/", None, {"Host": host})
        counts[0] += 1
        counts[1] += status != 200


def main() -> None:
    """Measure a server that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="such as http://localhost:8000")
    parser.add_argument("key", help="an API key of the scopes projects:read and projects:write")
    given = parser.parse_args()
    releases, rollbacks, requests, failed = measure(_Server(given.address, given.key))
    print(f"release of {FILES:,} files: {max(releases):.0f} ms at most (budget {RELEASE_BUDGET})")
    p95 = quantile(rollbacks, 0.95)
    print(f"rollback: p50 {quantile(rollbacks, 0.5):.0f} ms, p95 {p95:.0f} ms (budget {ROLLBACK_BUDGET})")
    print(f"readers meanwhile: {requests:,} requests, {failed} failed")


if __name__ == "__main__":
    main()
