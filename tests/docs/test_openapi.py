"""The document names every JSON route, is valid OpenAPI in its references, and its page is readable."""

import re

from flask import Flask
from flask.testing import FlaskClient

from views.api.openapi import operations

# Hypermedia of the sign-in dance: redirects and forms, not an API.
NOT_AN_API = {
    "/api/auth/signin",
    "/api/auth/signin/{provider}",
    "/api/auth/callback/{provider}",
    "/api/auth/signout",
}


def routes(app: Flask) -> set[tuple[str, str]]:
    found = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
        if path.startswith(("/api/", "/v1/")):
            found |= {(method.lower(), path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found


def shape(path: str) -> str:
    return re.sub(r"{[^}]+}", "{}", path)


def test_every_json_route_is_documented_and_nothing_else(app: Flask) -> None:
    written = {(method, shape(path)) for method, path, _ in operations()}
    real = {(method, shape(path)) for method, path in routes(app)}
    hidden = {shape(path) for path in NOT_AN_API}
    assert {route for route in real if route[1] not in hidden} == written


def test_the_document_is_served_with_its_own_address(client: FlaskClient) -> None:
    answer = client.get("/api/openapi.json")
    assert answer.status_code == 200
    document = answer.get_json()
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "http://localhost:8000"}]
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids))
    for path, item in document["paths"].items():
        wanted = set(re.findall(r"{([^}]+)}", path))
        for operation in item.values():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == wanted, path


def test_the_page_lists_every_operation(client: FlaskClient) -> None:
    page = client.get("/docs/api").get_data(as_text=True)
    for method, path, _ in operations():
        assert f'id="{operations_id(method, path)}"' in page


def operations_id(method: str, path: str) -> str:
    return next(op["operationId"] for m, p, op in operations() if (m, p) == (method, path))
