"""The OpenAPI document covers every JSON route, its references resolve, and its page renders."""

import json
import re
from functools import update_wrapper

import pytest
from flask import Flask, jsonify
from flask.testing import FlaskClient

from views.web.openapi import routes as documented_routes

# Sign-in redirects and forms, not an API.
NOT_API = {
    "/api/auth/signin",
    "/api/auth/signin/{provider}",
    "/api/auth/callback/{provider}",
    "/api/auth/signout",
}


def real_routes(app: Flask) -> set[tuple[str, str]]:
    found = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
        if path.startswith(("/api/", "/v1/", "/readyz", "/metrics")):
            found |= {(method.lower(), path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found


def shape(path: str) -> str:
    return re.sub(r"{[^}]+}", "{}", path)


def test_every_json_route_is_documented_and_nothing_else(app: Flask) -> None:
    documented = {(route.method, shape(route.path)) for route in documented_routes(app)}
    real = {(method, shape(path)) for method, path in real_routes(app)}
    hidden = {shape(path) for path in NOT_API}
    assert {route for route in real if route[1] not in hidden} == documented


def test_the_document_is_served_with_its_own_address(client: FlaskClient) -> None:
    answer = client.get("/api/openapi.json")
    assert answer.status_code == 200
    document = answer.get_json()
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "http://localhost:8000"}]
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids))
    for path, item in document["paths"].items():
        expected = set(re.findall(r"{([^}]+)}", path))
        for operation in item.values():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == expected, path

        for operation in item.values():
            assert operation["summary"]
            assert operation["responses"]


def test_every_reference_leads_to_a_schema(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named
    assert named <= set(document["components"]["schemas"])
    assert "x-component" not in json.dumps(document)


def test_limits_of_calls_and_bytes_are_told(client: FlaskClient) -> None:
    paths = client.get("/api/openapi.json").get_json()["paths"]
    code = paths["/api/auth/cli/code"]["post"]
    assert code["x-rate-limits"] == ["30 per 1 minute", "300 per 1 hour"]
    assert "30 per 1 minute" in code["responses"]["429"]["description"]
    steps = paths["/api/v1/agent-runs/{runId}/steps"]["post"]
    assert steps["x-max-bytes"] == 1_000_000
    assert "1,000,000 bytes" in steps["responses"]["413"]["description"]


def test_whoever_takes_a_credential_refuses_that_of_a_banned_account(client: FlaskClient) -> None:
    paths = client.get("/api/openapi.json").get_json()["paths"]
    for path, item in paths.items():
        for operation in item.values():
            if operation["security"] and path != "/api/auth/cli/logout":
                assert "suspended" in operation["responses"]["403"]["description"], path


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"status": "ok", "cached_agents": 0}, 200, "does not match"),
        (
            {"status": "ok", "cached_agents": 0, "timestamp": "2026-01-01T00:00:00Z", "more": 1},
            200,
            "does not match",
        ),
        ({"status": "ok", "cached_agents": "0", "timestamp": "2026-01-01T00:00:00Z"}, 200, "does not match"),
        ({}, 418, "not documented"),
    ],
)
def test_a_test_fails_on_an_undocumented_response(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, body: object, status: int, message: str
) -> None:
    name = "gateway_api.healthz"

    def changed() -> object:
        return jsonify(body), status

    monkeypatch.setitem(app.view_functions, name, update_wrapper(changed, app.view_functions[name]))
    with pytest.raises(AssertionError, match=message):
        client.get("/api/healthz")


def test_the_page_lists_every_operation(app: Flask, client: FlaskClient) -> None:
    page = client.get("/docs/api").get_data(as_text=True)
    for route in documented_routes(app):
        assert f'id="{route.id}"' in page


def test_the_page_shows_the_keys_of_a_body_of_two_forms(client: FlaskClient) -> None:
    page = client.get("/docs/api").get_data(as_text=True)
    run = page.partition('id="post__api_v1_agent_runs"')[2].partition("</article>")[0]
    for key in ("agentId", "ancestorRunIds", "totalCredits", "list of FinishedSteps"):
        assert key in run
