"""Two keys in the headers of a request, and many attempts with wrong keys, at doors of every error format."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts.key_format import new_id, new_secret
from models.accounts.scopes import NAMES
from tests import factories
from tests.factories import Person
from views.web.guards import limiter

HELLO: dict[str, Any] = {
    "model": "stoa/demo",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 9,
}
CONTENTS = {"contents": [{"parts": [{"text": "Hello"}]}]}
DOORS: list[tuple[str, str, Any, str]] = [
    ("POST", "/v1/chat/completions", HELLO, "openai"),
    ("POST", "/v1/responses", {"model": "stoa/demo", "input": "Hello"}, "openai"),
    ("POST", "/v1/messages", HELLO, "anthropic"),
    ("POST", "/v1/messages/count_tokens", HELLO, "anthropic"),
    ("POST", "/v1beta/models/stoa/demo:generateContent", CONTENTS, "gemini"),
    ("POST", "/api/v1/web-search", {"query": "x"}, "any"),
    ("GET", "/v1/models", None, "openai"),
    ("GET", "/v1/key", None, "any"),
    ("GET", "/api/v1/me", None, "any"),
    ("GET", "/api/v1/api-keys", None, "any"),
]
REFUSED = (401, 403, 429)
IDS = [path for _, path, _, _ in DOORS]


def ask(web: FlaskClient, method: str, path: str, body: Any, shape: str, headers: dict[str, str]) -> Any:
    version = {"anthropic-version": "2023-06-01"} if shape == "anthropic" else {}
    return web.open(path, method=method, json=body, headers={**version, **headers})


def check_shape(answer: Any, shape: str, code: str, types: dict[str, str]) -> None:
    if shape in ("openai", "anthropic", "gemini"):
        error = answer.json["error"]
        key = {"openai": "code", "anthropic": "type", "gemini": "status"}[shape]
        assert error[key] == (code if shape == "openai" else types[shape])
    else:
        assert "API key" in answer.text


@pytest.mark.parametrize(("method", "path", "body", "shape"), DOORS, ids=IDS)
def test_two_different_keys_are_ambiguous_and_placeholders_are_not(
    web: FlaskClient, rich: Person, method: str, path: str, body: Any, shape: str
) -> None:
    assert rich.user
    own, other = (factories.api_key(rich.user, permissions=NAMES) for _ in range(2))
    bearer = {"authorization": f"Bearer {own}"}
    for header, harmless in (
        ("x-api-key", ["sk-ant-api03-placeholder", own]),
        ("x-goog-api-key", ["EMPTY", ""]),
    ):
        answer = ask(web, method, path, body, shape, bearer | {header: other})
        assert answer.status_code == 401
        types = {"anthropic": "authentication_error", "gemini": "UNAUTHENTICATED"}
        check_shape(answer, shape, "ambiguous_credentials", types)
        for value in harmless:
            assert ask(web, method, path, body, shape, bearer | {header: value}).status_code not in REFUSED
    placeholder = {"authorization": "Bearer sk-placeholder", "x-api-key": own}
    assert ask(web, method, path, body, shape, placeholder).status_code not in REFUSED


@pytest.fixture
def few_failures(gateway_app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings = gateway_app.extensions["settings"]
    limited = settings.model_copy(update={"stoa_failed_keys_per_minute": 3})
    monkeypatch.setitem(gateway_app.extensions, "settings", limited)
    with gateway_app.app_context():
        limiter.reset()
        yield
        limiter.reset()


@pytest.mark.parametrize(("method", "path", "body", "shape"), DOORS, ids=IDS)
def test_wrong_keys_are_limited_by_address_and_id_and_right_ones_never(
    web: FlaskClient, rich: Person, few_failures: None, method: str, path: str, body: Any, shape: str
) -> None:
    assert rich.user
    own = factories.api_key(rich.user, permissions=NAMES)

    def status(key: str, address: str) -> int:
        web.environ_base["REMOTE_ADDR"] = address
        answer = ask(web, method, path, body, shape, {"authorization": f"Bearer {key}"})
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            types = {"anthropic": "rate_limit_error", "gemini": "RESOURCE_EXHAUSTED"}
            check_shape(answer, shape, "rate_limit_exceeded", types)
        return int(answer.status_code)

    wrong = [new_secret(new_id("live")), "sk-mistyped", "sk_live_mistyped", "cb-pat-" + "0" * 64]
    assert [status(key, "192.0.2.1") for key in wrong] == [401, 401, 401, 429]
    assert status(own, "192.0.2.1") not in REFUSED
    guesses = [new_secret(own[:32]) for _ in range(4)]  # the public id is no secret
    assert [status(key, f"192.0.2.{n}") for n, key in enumerate(guesses, 2)] == [401, 401, 401, 429]
    assert status(own, "192.0.2.9") not in REFUSED
    assert status("sk-other", "192.0.2.9") == 401
