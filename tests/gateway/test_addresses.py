"""Unknown URLs and methods of the API: JSON errors that name the right URL, never a redirect."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import create_environ, run_wsgi_app

from tests import factories
from tests.factories import Person

BASE = "http://localhost:8000"


class Raw:
    """The application's response to a raw path, including doubled slashes."""

    def __init__(self, app: Flask, method: str, path: str, headers: dict[str, str]) -> None:
        environ = create_environ(method=method, headers=headers, data=b"{}" if method == "POST" else None)
        environ["PATH_INFO"] = path.encode().decode("latin-1")
        body, status, self.headers = run_wsgi_app(app.wsgi_app, environ)
        self.status = int(status.split()[0])
        self.text = b"".join(body).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def call(app: Flask, method: str, path: str, **headers: str) -> Raw:
    """Call the application; header names are written as Python identifiers."""
    return Raw(app, method, path, {name.replace("_", "-"): value for name, value in headers.items()})


CHAT = f"POST {BASE}/v1/chat/completions"
MISTYPED = [
    ("/chat/completions", CHAT),
    ("/v1/v1/chat/completions", CHAT),
    ("/v1/v1/v1/chat/completions", CHAT),
    ("//v1/chat/completions", CHAT),
    ("///v1/chat/completions", CHAT),
    ("/v1//chat/completions", CHAT),
    ("/v1/chat//completions", CHAT),
    ("/v1/chat/completions/", CHAT),
    ("/v1/chat/completions//", CHAT),
    ("/v1/chat/completions ", CHAT),
    ("/V1/Chat/Completions", CHAT),
    ("/v1/chat/completion", CHAT),
    ("/v1/chat/complete", CHAT),
    ("/v1/chat", CHAT),
    ("/completions", f"POST {BASE}/v1/completions"),
    ("/embeddings", f"POST {BASE}/v1/embeddings"),
    ("/v1/images", f"POST {BASE}/v1/images/edits"),
    ("/v1/audio/transcription", f"POST {BASE}/v1/audio/transcriptions"),
    ("/chat/completions/", CHAT),
    ("/openai/v1/chat/completions", CHAT),
    ("/openai/deployments/gpt-4o/chat/completions", CHAT),
    ("/v1beta/openai/chat/completions", CHAT),
    ("/proxy/openai/v1/chat/completions", CHAT),
    ("/v1/engines/gpt-4/chat/completions", CHAT),
    ("/api/chat/completions", CHAT),
    ("/api/v1/chat/completions/", f"POST {BASE}/api/v1/chat/completions"),
    ("/api//v1/chat/completions", f"POST {BASE}/api/v1/chat/completions"),
    ("//api/v1/chat/completions", f"POST {BASE}/api/v1/chat/completions"),
    ("/api/v1/v1/chat/completions", CHAT),
    ("/API/v1/chat/completions", f"POST {BASE}/api/v1/chat/completions"),
    ("/v1/models/", f"GET {BASE}/v1/models"),
    ("/v1//models", f"GET {BASE}/v1/models"),
    ("/v1/v1/models", f"GET {BASE}/v1/models"),
    ("/v1/model", f"GET {BASE}/v1/models"),
    ("/v1/./chat/completions", CHAT),
    ("/v1/chat/../chat/completions", CHAT),
    ("/v1/chat/completions;charset=utf-8", CHAT),
    ("/v1/chat/completions?api-version=1", CHAT),
    ("/v1/v1/chat/completions?x;y", CHAT),
    ("/v1/chat/completions\r\nX-Evil: 1", CHAT),
    ("/v1/../v1/models", f"GET {BASE}/v1/models"),
    ("/V1/models", f"GET {BASE}/v1/models"),
    ("/api/v1/models", f"GET {BASE}/v1/models"),
    ("/openai/v1/models", f"GET {BASE}/v1/models"),
    ("/v1/models/openai//gpt-5", f"GET {BASE}/v1/models/openai/gpt-5"),
    ("/v1/models/openai/gpt-5/", f"GET {BASE}/v1/models/openai/gpt-5"),
    ("/v1/token-count", f"POST {BASE}/api/v1/token-count"),
    ("/token-count", f"POST {BASE}/api/v1/token-count"),
    ("/api/v1/token-count/", f"POST {BASE}/api/v1/token-count"),
    ("/api/v1/token_count", f"POST {BASE}/api/v1/token-count"),
    ("/v1/agent-runs", f"POST {BASE}/api/v1/agent-runs"),
    ("/api/v1/me/", f"GET {BASE}/api/v1/me"),
    ("/api/healthz/", f"GET {BASE}/api/healthz"),
    ("/api/agent", f"GET {BASE}/api/agents"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(("path", "meant"), MISTYPED, ids=[path for path, _ in MISTYPED])
def test_mistyped_urls_name_the_right_url(app: Flask, method: str, path: str, meant: str) -> None:
    answer = call(app, method, path)
    assert answer.status == 404
    assert "Location" not in answer.headers
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Request-Id"]
    if method != "HEAD":
        assert f"{meant}." in answer.json["error"]["message"]
        assert "moved" not in answer.text


def test_a_client_that_left_out_v1_gets_no_page_of_models(app: Flask, alice: Person) -> None:
    answer = app.test_client().get("/models", headers=alice.headers)
    assert (answer.status_code, answer.mimetype) == (404, "application/json")
    assert f"GET {BASE}/v1/models." in answer.text
    assert alice.browser.get("/models", headers=alice.headers).mimetype == "text/html"


UNKNOWN = [
    "/v1",
    "/v1/",
    "/v1/nothing",
    "/v1/nope",
    "/v1/batches",
    "/v1/foo/bar",
    "/v1/chat/completions/abc",
    "/v1/" + "x" * 5000,
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", UNKNOWN, ids=lambda path: path[:30])
def test_unknown_addresses_say_so_and_list_what_exists(app: Flask, method: str, path: str) -> None:
    answer = call(app, method, path)
    error = answer.json["error"]
    assert answer.status == 404
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")
    for there in ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/<path:name>", f"{BASE}/v1."):
        assert there in error["message"]
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/agents/a"])
def test_unknown_addresses_of_the_sdk_list_what_exists(app: Flask, path: str) -> None:
    answer = call(app, "POST", path)
    body = answer.json
    assert answer.status == 404
    assert body["message"] == body["error"]["message"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    for there in ("POST /api/v1/chat/completions", "POST /api/v1/token-count", "GET /api/v1/me"):
        assert there in body["message"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/user/nothing", "/api/auth/nothing"])
def test_unknown_addresses_of_our_api_are_json(app: Flask, path: str) -> None:
    answer = call(app, "GET", path, Accept="text/html")
    assert answer.status == 404
    assert answer.json["error"]["code"] == "unknown_url"
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/v1/messages", "/chat/completions", "/v1/chat/completions"]
)
def test_anthropics_clients_read_their_own_shape(app: Flask, path: str) -> None:
    answer = call(app, "GET", path, anthropic_version="2023-06-01")
    body = answer.json
    assert body["type"] == "error"
    assert body["error"]["type"] == ("not_found_error" if answer.status == 404 else "invalid_request_error")
    assert body["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "path", ["/nothing", "/store/nothing", "/store/", "/usage/", "/agents", "/publishers/a/b/c"]
)
def test_pages_that_are_missing_stay_pages(app: Flask, alice: Person, path: str) -> None:
    page = call(app, "GET", path, Accept="text/html,*/*")
    assert (page.status, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    program = call(app, "GET", path, Authorization=f"Bearer {alice.token}")
    assert (program.status, program.json["error"]["code"]) == (404, "unknown_url")


# -- methods -------------------------------------------------------------------------------------------------

METHODS = [
    ("/v1/chat/completions", {"POST"}),
    ("/v1/models", {"GET", "HEAD"}),
    ("/v1/models/stoa/demo", {"GET", "HEAD"}),
    ("/api/v1/chat/completions", {"POST"}),
    ("/api/v1/token-count", {"POST"}),
    ("/api/v1/me", {"GET", "HEAD"}),
    ("/api/v1/agents", {"GET", "HEAD"}),
    ("/api/healthz", {"GET", "HEAD"}),
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
@pytest.mark.parametrize(("path", "taken"), METHODS, ids=[path for path, _ in METHODS])
def test_methods(app: Flask, rich: Person, path: str, taken: set[str], method: str) -> None:
    answer = call(app, method, path, **rich.headers)
    if method in taken:
        assert answer.status in (200, 400)
        return
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) == taken | {"OPTIONS"}
    assert answer.headers["X-Request-Id"]
    if method == "HEAD":
        assert answer.text == ""
    else:
        error = answer.json["error"]
        assert f"{max(taken - {'HEAD'})} {BASE}{path}" in error["message"]
        assert error["code"] == "method_not_allowed"


@pytest.mark.parametrize(("path", "taken"), METHODS, ids=[path for path, _ in METHODS])
def test_options_lists_what_is_allowed(app: Flask, path: str, taken: set[str]) -> None:
    answer = call(app, "OPTIONS", path)
    assert answer.status == 200
    assert set(answer.headers["Allow"].split(", ")) == taken | {"OPTIONS"}


def test_head_has_the_headers_of_get(app: Flask, alice: Person) -> None:
    for path in ("/v1/models", "/v1/models/stoa/demo", "/v1/models/nothing"):
        head, get = (call(app, method, path, **alice.headers) for method in ("HEAD", "GET"))
        assert head.text == ""
        assert head.status == get.status
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_get_on_chat_completions_explains_the_method(client: FlaskClient) -> None:
    for path in ("/v1/chat/completions", "/api/v1/chat/completions"):
        answer = client.get(path)
        text = answer.json["error"]["message"]
        assert answer.status_code == 405
        for words in (f"POST {BASE}{path}", "JSON", "Authorization: Bearer"):
            assert words in text


# -- keys ----------------------------------------------------------------------------------------------------

DOORS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/stoa/demo"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/api/v1/chat/completions"),
    ("POST", "/api/v1/token-count"),
    ("GET", "/api/v1/me"),
]


@pytest.mark.parametrize(
    ("header", "write"),
    [
        ("Authorization", "Bearer {}"),
        ("Authorization", "bearer {}"),
        ("Authorization", "BEARER   {}"),
        ("Authorization", "bEaReR\t{}"),
        ("Authorization", "  Bearer {}  "),
        ("Authorization", "Bearer \t {}\t"),
        ("Authorization", "Bearer Bearer {}"),
        ("Authorization", "{}"),
        ("Authorization", " {} "),
        ("Authorization", "Bearer {0},Bearer {0}"),
        ("Authorization", "Bearer {0}, bearer {0}"),
        ("Authorization", "bearer bearer bearer {}"),
        ("Authorization", "Bearer\xa0{}"),
        ("x-api-key", "{}"),
        ("X-API-Key", " {} "),
        ("api-key", "{}"),
        ("x-goog-api-key", "{}"),
        ("x-api-key", "Bearer {}"),
        ("x-api-key", "{0},{0}"),
        ("x-goog-api-key", "bearer  {}"),
        ("x-codebuff-api-key", "{}"),
    ],
)
@pytest.mark.parametrize(("method", "path"), DOORS)
def test_key_in_every_spelling(
    app: Flask, alice: Person, method: str, path: str, header: str, write: str
) -> None:
    answer = call(app, method, path, **{header: write.format(alice.token)})
    assert answer.status in (200, 400, 402)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": " "},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer a b"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Digest x"},
        {"Authorization": "secret"},
        {"Authorization": "bearer secret"},
        {"Authorization": "BEARER  secret"},
        {"Authorization": "Bearer \xe9\xe8\xff"},
        {"Authorization": "Bearer " + "x" * 8000},
        {"Authorization": "Bearer a\x00b"},
        {"Authorization": "Bearer cb-pat-" + "0" * 64},
        {"Authorization": "cb-pat-" + "0" * 64},
        {"Authorization": "Bearer cb-pat-" + "0" * 64 + ",Bearer cb-pat-" + "1" * 64},
        {"Authorization": "Bearer,"},
        {"Authorization": ",,,"},
        {"Authorization": "Bearer bearer BEARER"},
        {"Authorization": "Token cb-pat-" + "0" * 64},
        {"x-api-key": "Bearer"},
        {"x-api-key": ","},
        {"x-api-key": ""},
        {"x-api-key": "\xe9"},
        {"x-api-key": "x" * 8000},
        {"api-key": "\x00"},
    ],
    ids=lambda headers: repr(headers)[:40],
)
@pytest.mark.parametrize(("method", "path"), DOORS)
def test_without_a_known_key_it_is_401(app: Flask, method: str, path: str, headers: dict[str, str]) -> None:
    environ = create_environ(method=method, data=b'{"messages": []}' if method == "POST" else None)
    environ["PATH_INFO"] = path
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    body, status, _ = run_wsgi_app(app.wsgi_app, environ)
    assert status.startswith("401")
    assert json.loads(b"".join(body))


@pytest.mark.parametrize("type", ["pat", "cli", "web"])
def test_every_kind_of_key_is_accepted_in_every_spelling(app: Flask, session: OrmSession, type: str) -> None:
    token = factories.token(factories.user("carol"), type=type)
    for value in (f"Bearer {token}", f"bearer   {token}", token):
        assert call(app, "GET", "/v1/models", Authorization=value).status == 200


def test_two_different_keys_in_one_header_are_refused(app: Flask, session: OrmSession, alice: Person) -> None:
    other = factories.token(factories.user("carol"), type="pat")
    for header, value in (("Authorization", "Bearer {},Bearer {}"), ("x-api-key", "{},{}")):
        answer = call(app, "GET", "/v1/models", **{header: value.format(alice.token, other)})
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")


def test_key_headers_precede_authorization_unless_empty(app: Flask, alice: Person) -> None:
    def models(**headers: str) -> int:
        return call(app, "GET", "/v1/models", **headers).status

    assert models(x_api_key=alice.token, Authorization="Bearer EMPTY") == 200
    assert models(x_api_key="EMPTY", **alice.headers) == 200
    assert models(x_codebuff_api_key="EMPTY", **alice.headers) == 401
    assert models(x_api_key=" ", **alice.headers) == 200
    assert models(api_key=alice.token, Authorization="Basic x") == 200


def test_cookies_are_ignored(app: Flask, alice: Person) -> None:
    cookie = f"next-auth.session-token={alice.token}"
    for method, path in DOORS:
        answer = call(app, method, path, Cookie=cookie)
        assert answer.status == (400 if path == "/api/v1/token-count" else 401)
    for path in ("/api/v1/agent-runs", "/api/v1/agent-runs/x/steps", "/api/v1/usage"):
        assert call(app, "POST", path, Cookie=cookie).status in (400, 401)
    both = call(
        app, "POST", "/api/v1/token-count", Cookie=cookie, Origin="https://evil.example", **alice.headers
    )
    assert both.status == 400
