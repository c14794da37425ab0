"""Cloudflare, Railway and a CI on loopback, as far as deployments call them. They are fakes: they check the shapes that they get and prove our
side of the calls, not the providers'."""

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request

from tests.fakes.railway import FakeRailway
from tests.server import serving

GOOD = "good-token-12345678"


class FakeProviders:
    """What was called. `fails` is a part of a path that answers 500; `fault` what every call of Cloudflare, Railway and the CI answers instead:
    a status with headers, `slow` or `garbage`. `has` are the assets that Cloudflare has, `versions` those of its Workers and `served` the one
    that each serves."""

    def __init__(self) -> None:
        self.address = ""
        self.fails = ""
        self.fault: tuple[int, dict[str, str]] | str | None = None
        self.ci_status = 202
        self.calls: list[tuple[str, str]] = []
        self.has: dict[str, bytes] = {}
        self.workers: dict[str, Any] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.served: dict[str, list[str]] = {}
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        self.railway = FakeRailway(GOOD)


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    """The providers on loopback."""
    fake = FakeProviders()
    app = Flask("providers")

    def answer(path: str) -> Any:
        fake.calls.append((request.method, path))
        if fake.fault is not None and path != "app":
            return _faulty(fake.fault)
        if fake.fails and fake.fails in path:
            return {"success": False, "errors": [{"message": "Out of order."}]}, 500
        if path == "ci":
            fake.requests.append((request.get_data(), dict(request.headers)))
            return "", fake.ci_status
        if path == "app":
            return "", 200
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "railway" or path.startswith("project/"):
            return fake.railway.answer(path, token)
        if token != GOOD and not path.endswith("assets/upload"):
            return {"success": False, "errors": [{"message": "Invalid API Token"}]}, 401
        try:
            result = _cloudflare(fake, path)
        except KeyError:
            return {"success": False, "errors": [{"message": "This Worker does not exist"}]}, 404
        except AssertionError as error:
            return {"success": False, "errors": [{"message": f"The fake refuses: {error}"}]}, 400
        return {"success": True, "errors": [], "result": result}

    app.add_url_rule("/<path:path>", "answer", answer, methods=["GET", "POST", "PUT", "DELETE"])
    with serving(app) as address:
        fake.address = address
        yield fake


def _faulty(fault: tuple[int, dict[str, str]] | str) -> Any:
    if fault == "slow":
        time.sleep(1.0)
        return {}, 200
    if isinstance(fault, str):
        return Response("<p>no JSON", content_type="text/html")
    return {"errors": [{"message": "Told by the fake."}]}, fault[0], fault[1]


def _cloudflare(fake: FakeProviders, path: str) -> Any:
    if path.endswith("tokens/verify"):
        return {"id": "t1", "status": "active"}
    if path == "accounts":
        return [{"id": "a1", "name": "Pier"}]
    if path.endswith("assets-upload-session"):
        manifest = json.loads(request.get_data())["manifest"]
        for name, each in manifest.items():
            assert name.startswith("/"), name
            assert re.fullmatch("[0-9a-f]{32}", each["hash"]), each
            assert isinstance(each["size"], int), each
        names = [each["hash"] for each in manifest.values()]
        lacking = [name for name in dict.fromkeys(names) if name not in fake.has]
        return {"jwt": "begun", "buckets": [lacking[:1], lacking[1:]] if lacking else []}
    if path.endswith("assets/upload"):
        assert request.args["base64"] == "true"
        fake.has |= {name: base64.b64decode(file.read()) for name, file in request.files.items()}
        return {"jwt": "done"}
    return _worker(fake, *_worker_path(path))


def _worker_path(path: str) -> tuple[str, str]:
    """The name of the Worker, empty for the account, and what follows it."""
    match = re.fullmatch(r"accounts/a1/workers(?:/scripts/([a-z0-9-]+))?(?:/(\w+))?", path)
    assert match, path
    return match[1] or "", match[2] or ""


def _worker(fake: FakeProviders, name: str, part: str) -> Any:
    method = request.method
    if part == "subdomain":
        assert method == "GET" or (name and request.get_json() == {"enabled": True})
        return {"subdomain": "ada"}
    if method == "PUT":
        made = _version(fake, name)
        fake.served.setdefault(name, []).insert(0, made["id"])
        return {"id": name}
    if method == "DELETE":
        fake.workers.pop(name)
        fake.versions.pop(name)
        fake.served.pop(name)
        return None
    known = fake.versions[name]
    if part == "versions":
        return _version(fake, name) if method == "POST" else {"items": list(reversed(known))}
    assert part == "deployments", part
    if method == "POST":
        wanted = request.get_json()
        assert wanted["strategy"] == "percentage"
        ((id, share),) = [(each["version_id"], each["percentage"]) for each in wanted["versions"]]
        assert share == 100
        if id not in [each["id"] for each in known]:
            raise KeyError(id)
        fake.served[name].insert(0, id)
        return {"id": f"d{len(fake.served[name])}"}
    rows = [
        {
            "id": f"d{number}",
            "created_on": "2026-11-30T10:00:00Z",
            "strategy": "percentage",
            "versions": [{"version_id": id, "percentage": 100}],
        }
        for number, id in enumerate(fake.served[name])
    ]
    return {"deployments": rows}


def _version(fake: FakeProviders, name: str) -> dict[str, Any]:
    metadata = json.loads(request.form.get("metadata") or request.files["metadata"].read())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", metadata["compatibility_date"])
    assert metadata["assets"]["jwt"] in ("done", "begun")
    assert len(metadata["annotations"]["workers/tag"]) <= 100
    fake.workers[name] = metadata
    known = fake.versions.setdefault(name, [])
    made = {"id": f"{name}-v{len(known) + 1}", "annotations": metadata["annotations"]}
    known.append(made)
    return made
