"""The OpenAPI document covers every JSON route, its references resolve, and its page renders."""

import json
import re
from functools import update_wrapper

import pytest
from flask import Flask, jsonify
from flask.testing import FlaskClient
from pydantic import TypeAdapter, ValidationError

from views.web.api_examples import example_of
from views.web.guards import JSON_DOORS
from views.web.openapi import TAGS, answer_types
from views.web.openapi import document as openapi_document
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
        if path.startswith((*JSON_DOORS, "/readyz", "/metrics", "/health")):
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


def pages_of(client: FlaskClient) -> dict[str, str]:
    """The pages of the API reference by address, the overview first."""
    overview = client.get("/docs/api").text
    addresses = dict.fromkeys(re.findall(r'href="(/docs/api/[a-z-]+)"', overview))
    return {"/docs/api": overview} | {address: client.get(address).text for address in addresses}


def test_the_reference_has_a_page_for_each_area_with_each_operation_once(
    app: Flask, client: FlaskClient
) -> None:
    overview, *areas = pages_of(client).values()
    assert len(areas) == len(TAGS)
    for route in documented_routes(app):
        (page,) = (area for area in areas if f'id="{route.id}"' in area)
        assert f'#{route.id}"' in overview
        article = page.partition(f'id="{route.id}"')[2].partition("</article>")[0]
        assert "curl " in article
        successes = [shape for status, shape in answer_types(route).items() if str(status).startswith("2")]
        if any(shape not in (None, str) for shape in successes):
            assert ">Response</span>" in article, route.id
    for area in areas:
        assert area.count('<article class="route"') <= 18
    assert client.get("/docs/api/nothing").status_code == 404


def test_the_page_shows_the_keys_of_a_body_of_two_forms(client: FlaskClient) -> None:
    page = client.get("/docs/api/runs").text
    run = page.partition('id="post__api_v1_agent_runs"')[2].partition("</article>")[0]
    for key in ("agentId", "ancestorRunIds", "totalCredits", "list of FinishedSteps"):
        assert key in run


def test_examples_are_valid_responses(app: Flask) -> None:
    with app.app_context():
        result = openapi_document(app)
        invalid = []
        for route in documented_routes(app):
            operation = result["paths"][route.path][route.method]
            for status, shape in answer_types(route).items():
                content = operation["responses"][str(status)].get("content", {})
                if str(status).startswith("2") and "application/json" in content:
                    example = example_of(
                        content["application/json"]["schema"], result["components"]["schemas"]
                    )
                    try:
                        TypeAdapter(shape).validate_python(example)
                    except ValidationError as error:
                        invalid.append((route.id, str(error)))
    assert not invalid


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("chat completions", 2),
        ("SCIM nothing", 0),
        ("<b>", 0),
        ("\x00", 0),
        ("x" * 5000, 0),
        ("referralCode", 1),
    ],
)
def test_the_reference_is_searched_by_all_words(client: FlaskClient, query: str, count: int) -> None:
    for headers in ({}, {"HX-Request": "true"}):
        answer = client.get("/docs/api", query_string={"q": query}, headers=headers)
        assert answer.status_code == 200
        results = answer.text.partition('id="results"')[2]
        assert results.partition("</main>")[0].count("#get_") + results.count("#post_") >= count
        assert ("No matching routes" in results) == (count == 0)
        assert "<b>“" not in answer.text
