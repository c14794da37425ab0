"""Every route that reaches a provider holds credits before: a walk of the routes. A new route fails until it is named here."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from models.core.settings import ROOT, Settings
from models.gateway.search_tools.search_providers import SearchRouter
from models.gateway.upstream import Egress
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

CHAT = {"model": "openai/house-model", "messages": MESSAGES, "max_tokens": 50}
SPEECH = {"model": "tts-1", "input": "Hello " * 200, "voice": "nova"}
RANKED = {"model": "openai/house-rerank", "query": "a", "documents": ["b"]}
IMAGE = {"model": "gpt-image-1.5", "prompt": "A cat"}


def audio() -> dict[str, Any]:
    return {"model": "whisper-1", "file": (BytesIO(b"x" * 400_000), "a.webm")}


def picture() -> dict[str, Any]:
    return {**IMAGE, "image": (BytesIO(b"x"), "a.png")}


# JSON, or a function that makes a form
CALLS: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"model": "openai/house-model", "input": "Hi"},
    "/v1/responses/compact": {"model": "openai/house-model", "input": "Hi"},
    "/v1beta/models/openai/house-model:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}]
    },
    "/v1/completions": {"model": "openai/house-model", "prompt": "Say", "max_tokens": 50},
    "/v1/embeddings": {"model": "text-embedding-3-large", "input": "word " * 40_000},
    "/v1/moderations": {"model": "openai/house-moderation", "input": "Hi"},
    "/v1/rerank": RANKED,
    "/v1/images/generations": IMAGE,
    "/v1/images/edits": picture,
    "/v1/audio/speech": SPEECH,
    "/v1/audio/transcriptions": audio,
    "/v1/audio/translations": audio,
    "/api/v1/web-search": {"query": "Capital of France?"},
    "/api/v1/docs-search": {"libraryTitle": "react"},
}
WITHOUT_HOLD = {
    "POST /v1/messages/count_tokens": "a count, which providers do not charge",
    "POST /v1/responses/input_tokens": "a count",
    "POST /api/v1/token-count": "a count",
    "GET /v1/responses": "a socket, whose turns are those of POST /v1/responses",
    "POST /v1/responses/<id>/cancel": "of a stored answer",
    "POST /v1/traces": "of clients",
    "POST /v1/logs": "of clients",
    "POST /v1/metrics": "of clients",
    "POST /api/logs": "of clients",
    "POST /api/v1/ads": "of clients",
    "POST /api/v1/ads/impression": "of clients",
    "POST /api/v1/provider-keys": "checks a key where the provider does not charge for it",
    "PATCH /api/v1/provider-keys/<key_id>": "changes a row",
}
SENDERS = {"call_answers.py", "token_counts.py", "provider_key_check.py", "server_check.py"}
"""Modules that send something to a provider: calls, free counts, and checks of keys and of servers."""


def routes(app: Flask) -> set[str]:
    """The routes of the gateway's doors that may change something, with their methods."""
    found = set()
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if view.__module__.startswith("views.gateway.api"):
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS", "DELETE"}
            found |= {
                f"{method} {rule.rule}" for method in methods if method != "GET" or "socket" in rule.endpoint
            }
    return found


def test_every_route_is_held_or_known_to_cost_nothing(gateway_app: Flask) -> None:
    adapter = gateway_app.url_map.bind("localhost")
    held = set()
    for path in (*CALLS, *(f"/api{path}" for path in CALLS if path.startswith("/v1/"))):
        try:
            rule, _ = adapter.match(path, method="POST", return_rule=True)
        except Exception:  # not every route is also below /api
            continue
        held.add(f"POST {rule.rule}")
    assert routes(gateway_app) == held | WITHOUT_HOLD.keys()


@pytest.mark.parametrize("path", [*CALLS, "/api/v1/chat/completions", "/api/v1/embeddings"])
def test_credits_are_held_when_the_provider_is_reached(
    web: FlaskClient,
    fake: FakeUpstream,
    engine: Engine,
    run: AgentRun,
    rich: Person,
    facts: Facts,
    path: str,
    gateway_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = {f"{name}_base_url": f"{fake.url}/{name}" for name in ("linkup", "context7")}
    keys = {f"{name}_api_key": "sk" for name in ("linkup", "context7")}
    settings = Settings.model_validate({**gateway_settings.model_dump(), **services, **keys})
    searches = SearchRouter(settings, Egress())
    monkeypatch.setattr(web.application.extensions["gateway"].routes, "searches", searches)
    held: list[int] = []

    def watch(exchange: Exchange) -> None:
        with engine.connect() as connection:
            held.append(
                connection.execute(text("SELECT coalesce(sum(amount), 0) FROM credit_hold")).scalar_one()
            )
        exchange.head(500, {"Content-Length": "0"})

    fake.will(watch)
    given = CALLS.get(path) or CALLS[path.removeprefix("/api")]
    if path == "/api/v1/chat/completions":
        given = {**given, "codebuff_metadata": {"run_id": factories.id_of(run)}}
    sent = {"data": given()} if callable(given) else {"json": given}
    assert web.post(path, headers=rich.headers, **sent).status_code == 500
    assert held[0] > 0
    assert facts.holds() == 0


def test_only_these_modules_send_to_providers() -> None:
    sending = re.compile(r"\bupstream\.send\(")
    found = {path.name for path in Path(ROOT / "models").rglob("*.py") if sending.search(path.read_text())}
    assert found == SENDERS
