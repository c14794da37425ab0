"""Cloudflare, Railway and a CI on loopback, as far as deployments call them. They prove our side of the calls, not the providers'."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, request

from tests.server import serving

GOOD = "good-token-12345678"


class FakeProviders:
    """What was called. `fails` is a part of a path that answers 500; `has` are the assets that Cloudflare has."""

    def __init__(self) -> None:
        self.address = ""
        self.fails = ""
        self.ci_status = 202
        self.calls: list[tuple[str, str]] = []
        self.has: dict[str, bytes] = {}
        self.workers: dict[str, Any] = {}
        self.requests: list[tuple[bytes, dict[str, str]]] = []


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    """The providers on loopback."""
    fake = FakeProviders()
    app = Flask("providers")

    def answer(path: str) -> Any:
        fake.calls.append((request.method, path))
        if fake.fails and fake.fails in path:
            return {"success": False, "errors": [{"message": "Out of order."}]}, 500
        if path == "ci":
            fake.requests.append((request.get_data(), dict(request.headers)))
            return "", fake.ci_status
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "railway":
            me = {"id": "r1", "name": "Ada"}
            return (
                {"data": {"me": me}}
                if token == GOOD
                else {"errors": [{"message": "Not Authorized"}], "data": None}
            )
        if token != GOOD and not path.endswith("assets/upload"):
            return {"success": False, "errors": [{"message": "Invalid API Token"}]}, 401
        return {"success": True, "errors": [], "result": _cloudflare(fake, path)}

    app.add_url_rule("/<path:path>", "answer", answer, methods=["GET", "POST", "PUT", "DELETE"])
    with serving(app) as address:
        fake.address = address
        yield fake


def _cloudflare(fake: FakeProviders, path: str) -> Any:
    if path.endswith("tokens/verify"):
        return {"id": "t1", "status": "active"}
    if path == "accounts":
        return [{"id": "a1", "name": "Pier"}]
    if path.endswith("assets-upload-session"):
        names = [each["hash"] for each in json.loads(request.get_data())["manifest"].values()]
        lacking = [name for name in dict.fromkeys(names) if name not in fake.has]
        return {"jwt": "begun", "buckets": [lacking[:1], lacking[1:]] if lacking else []}
    if path.endswith("assets/upload"):
        fake.has |= {name: base64.b64decode(file.read()) for name, file in request.files.items()}
        return {"jwt": "done"}
    if path.endswith("/subdomain"):
        return {"subdomain": "ada"}
    name = path.rpartition("/")[2]
    if request.method == "PUT":
        fake.workers[name] = json.loads(request.form.get("metadata") or request.files["metadata"].read())
    if request.method == "DELETE":
        fake.workers.pop(name)
    return {}
