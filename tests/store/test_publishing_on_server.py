"""The largest possible publications, one per worker of a real server, do not block other requests."""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.factories import Person
from tests.server import running


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def definitions(publisher: str) -> list[dict[str, Any]]:
    """Five hundred definitions of 38 kB each that reference each other."""
    return [
        {
            "id": f"agent-{number}",
            "publisher": publisher,
            "displayName": f"Agent {number}",
            "model": "stoa/demo",
            "description": " ".join(f"word{number}x{n}" for n in range(700)),
            "tags": [f"tag {number} {n}" for n in range(50)],
            "systemPrompt": "You do this. " * 1_800,
            "toolNames": ["spawn_agents"],
            "spawnableAgents": [f"agent-{n}" for n in range(499)],
        }
        for number in range(500)
    ]


def test_the_largest_publication_does_not_block_other_requests(
    app: Flask, postgres_url: str, session: OrmSession, alice: Person, tmp_path: Path
) -> None:
    publishers = ("acme", "harbor")
    for name in publishers:
        factories.publisher(alice.user, name)
    done = threading.Event()
    waits: list[float] = []

    def probe(address: str) -> None:
        while not done.is_set():
            began = time.monotonic()
            assert ask(address, "GET", "/api/healthz")[0] == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.01)

    def publish(address: str, name: str) -> int:
        body = json.dumps({"data": definitions(name)}).encode()
        assert 18_000_000 < len(body) < 20_000_000
        return ask(address, "POST", "/api/agents/publish", body, **alice.headers)[0]

    with running(postgres_url, tmp_path) as address, ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(probe, address) for _ in range(2)]
        began = time.monotonic()
        statuses = [pool.submit(publish, address, name) for name in publishers]
        try:
            assert [each.result() for each in statuses] == [201, 201]
            took = time.monotonic() - began
        finally:
            done.set()
        for each in looking:
            each.result()
    assert max(waits) < took / 3, sorted(waits)[-10:]
