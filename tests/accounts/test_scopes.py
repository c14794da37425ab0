"""Scopes of keys: every route that takes a key declares one, keys without it are refused, and each opens exactly its routes."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import scopes
from models.accounts.scopes import allows, normal_scopes
from models.core.errors import Invalid
from tests import factories
from tests.factories import Person
from views.web.openapi import JsonRoute, routes

NAMED = {"target": "stoa/demo:generateContent", "conversationId": "conv_x"}
BODIES: dict[str, Any] = {
    "/api/v1/token-count": {"messages": []},
    "/api/v1/feedback": {"text": "Good", "category": "other", "type": "general"},
    "/api/v1/web-search": {"query": "x"},
    "/api/v1/docs-search": {"libraryTitle": "x"},
    "/api/v1/usage": {"fingerprintId": "f"},
    "/api/agents/publish": {
        "data": [{"id": "reviewer", "displayName": "Reviewer", "publisher": "x", "model": "openai/gpt-5"}]
    },
    "/api/referrals": {"referralCode": "ref-1"},
    "/api/auth/cli/logout": {"userId": "u", "fingerprintId": "f", "fingerprintHash": "h"},
}
"""Of routes that read the body before the key."""
CLOSED_OTHERWISE = ("/v1/traces", "/v1/logs", "/v1/metrics", "get /v1/responses")
"""Telemetry is discarded, whoever sends it; a request that is no WebSocket is refused before its key is read."""


def key_routes(app: Flask) -> list[JsonRoute]:
    return [route for route in routes(app) if "key" in route.operation.caller or route.operation.scope]


def refused(client: FlaskClient, route: JsonRoute, key: str) -> bool:
    """Whether the key is refused for its scopes."""
    path = re.sub(r"{(\w+)}", lambda match: NAMED.get(match[1], "x"), route.path)
    body = BODIES.get(path, {}) if route.method in ("post", "patch", "put") else None
    answer = client.open(path, method=route.method, json=body, headers={"authorization": f"Bearer {key}"})
    return answer.status_code == 403 and "This API key" in answer.text


def test_every_route_with_a_key_declares_a_scope(app: Flask) -> None:
    known = {*scopes.NAMES, scopes.ANY, scopes.ANY_INFERENCE}
    missing = [route.id for route in key_routes(app) if route.operation.scope not in known]
    assert missing == [], "\n".join(missing)


def test_a_key_opens_the_routes_of_its_scopes_and_no_others(
    app: Flask, client: FlaskClient, alice: Person
) -> None:
    assert alice.user
    names = {route.operation.scope for route in key_routes(app)} - {scopes.ANY, scopes.ANY_INFERENCE}
    keys = {name: factories.api_key(alice.user, permissions=[name]) for name in names if name}
    nothing = factories.api_key(alice.user, permissions=[])
    wrong = []
    for route in key_routes(app):
        if route.operation.caller == "cookie":
            continue  # takes a key beside the cookie of an operator
        if route.path in CLOSED_OTHERWISE or f"{route.method} {route.path}" in CLOSED_OTHERWISE:
            continue
        scope = route.operation.scope or ""
        without = (
            next(key for name, key in keys.items() if not allows([name], scope))
            if scope in names
            else nothing
        )
        with_it = keys.get(scope) or keys[scopes.CHAT]
        outcome = [refused(client, route, key) for key in (nothing, without, with_it)]
        if outcome != [True, True, False]:
            wrong.append((route.id, outcome))
    assert wrong == [], "\n".join(map(str, wrong))


def test_the_older_kind_of_key_may_do_everything(app: Flask, client: FlaskClient, alice: Person) -> None:
    assert [route.id for route in key_routes(app) if refused(client, route, alice.token)] == []


@pytest.mark.parametrize(
    ("entered", "stored"),
    [
        (
            ["chat", "image", "thread"],
            ["inference:chat", "inference:images", "threads:read", "threads:write"],
        ),
        (["usage:read", "inference:chat", "usage:read"], ["inference:chat", "usage:read"]),
        ([], []),
        (["chat", "everything"], None),
        (["*"], None),
    ],
)
def test_scopes_are_a_closed_list_with_three_older_words(
    entered: list[str], stored: list[str] | None
) -> None:
    if stored is None:
        with pytest.raises(Invalid):
            normal_scopes(entered)
    else:
        assert normal_scopes(entered) == stored


def test_a_key_with_scopes_is_no_browser_and_closed_to_routes_without_one(
    app: Flask, client: FlaskClient, alice: Person
) -> None:
    assert alice.user
    key = factories.api_key(alice.user, permissions=scopes.NAMES)
    client.set_cookie("next-auth.session-token", key)
    assert client.get("/profile").status_code == 302
    assert client.get("/api/user/sessions").status_code == 401
