"""CORS on the model routes: preflights, responses, errors and streams."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from models.core.db import db
from models.core.settings import Settings, SettingsError, load_settings
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES

ORIGIN = {"Origin": "https://app.example.org"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}
ROUTES = [
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/openai/gpt-5",
    "/v1/nothing",
    "/v1",
    "/api/v1/chat/completions",
    "/api/v1/token-count",
    "/api/v1/agents",
    "/api/v1/nothing",
    "/chat/completions",
    "/v1/v1/chat/completions",
    "/openai/v1/models",
    "/V1/chat/completions/",
]


@pytest.mark.parametrize("path", ROUTES)
def test_preflight(client: FlaskClient, path: str) -> None:
    answer = client.options(path, headers=PREFLIGHT)
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} <= set(methods)
    assert int(answer.headers["Access-Control-Max-Age"]) > 600
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("asked", [None, "", "x" * 5000, "a\x00b", "<script>"])
def test_preflight_does_not_echo_invalid_header_names(client: FlaskClient, asked: str | None) -> None:
    headers = {**ORIGIN, "Access-Control-Request-Method": "POST"}
    environ = {} if asked is None else {"HTTP_ACCESS_CONTROL_REQUEST_HEADERS": asked}
    answer = client.options("/v1/models", headers=headers, environ_overrides=environ)
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Api-Key"


def test_preflight_from_a_public_page_to_a_private_network(client: FlaskClient) -> None:
    asked = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    assert (
        client.options("/v1/models", headers=asked).headers["Access-Control-Allow-Private-Network"] == "true"
    )
    assert (
        "Access-Control-Allow-Private-Network" not in client.options("/v1/models", headers=PREFLIGHT).headers
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", "/v1/models", 200),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/chat/completions", 404),
        ("POST", "/openai/v1/chat/completions", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/chat/completions", 400),
        ("POST", "/api/v1/chat/completions", 400),
        ("GET", "/api/v1/chat/completions", 405),
        ("POST", "/api/v1/token-count", 400),
        ("GET", "/api/v1/agents", 200),
        ("GET", "/api/v1/me", 200),
    ],
)
@pytest.mark.parametrize("origin", [ORIGIN, {}, {"Origin": "null"}], ids=["origin", "none", "null"])
def test_answers_and_errors_can_be_read(
    client: FlaskClient, rich: Person, method: str, path: str, status: int, origin: dict[str, str]
) -> None:
    answer = client.open(path, method=method, headers={**rich.headers, **origin})
    assert answer.status_code == status
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]
    exposed = answer.headers["Access-Control-Expose-Headers"].lower().split(", ")
    assert {"*", "x-request-id", "retry-after"} <= set(exposed)
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/chat/completions", "/v1/models"])
def test_refusals_can_be_read(client: FlaskClient, path: str) -> None:
    method = client.get if path.endswith("models") else client.post
    stranger = method(path, headers=ORIGIN, **({} if path.endswith("models") else {"json": {}}))
    assert (stranger.status_code, stranger.headers["Access-Control-Allow-Origin"]) == (401, "*")
    if not path.endswith("models"):
        large = method(path, headers={**ORIGIN, "Authorization": "Bearer x"}, data=b" " * (20 << 20) + b"{}")
        assert large.status_code in (401, 413)
        assert large.headers["Access-Control-Allow-Origin"] == "*"


def test_bugs_can_be_read(
    app: Flask, client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.extensions["gateway"], "open", None)
    monkeypatch.setattr(app.extensions["gateway"].routes, "all_models", None)
    body = {"model": "stoa/demo", "messages": MESSAGES}
    for answer in (
        client.post("/v1/chat/completions", json=body, headers=alice.headers),
        client.get("/v1/models", headers=alice.headers),
    ):
        assert answer.status_code == 500
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_streams_can_be_read(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    fake.will(fakes.stream(fakes.chunks(use=fakes.usage())))
    body = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "stream": True}
    answer = web.post("/v1/chat/completions", json=body, headers={**rich.headers, **ORIGIN})
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]


@pytest.mark.parametrize(
    "path", ["/", "/store", "/api/user/sessions", "/api/api-keys", "/login", "/v10", "/api/v10/x"]
)
def test_other_routes_are_closed_to_other_pages(client: FlaskClient, path: str) -> None:
    for answer in (client.get(path, headers=ORIGIN), client.options(path, headers=PREFLIGHT)):
        assert "Access-Control-Allow-Origin" not in answer.headers


# -- the setting ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(app: Flask, postgres_url: str, settings: Settings) -> Iterator[Flask]:
    """An application that allows two origins."""
    own = settings.model_copy(update={"stoa_cors_origins": ("https://app.example.org", "tauri://localhost")})
    made = create_app(own, database_url=postgres_url)
    yield made
    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.org", True),
        ("HTTPS://App.Example.org", True),
        ("tauri://localhost", True),
        ("https://app.example.org.evil.example", False),
        ("https://app.example.org:8443", False),
        ("http://app.example.org", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_listed_origins(listed: Flask, origin: str, allowed: bool) -> None:
    client = listed.test_client()
    preflight = client.options("/v1/models", headers={**PREFLIGHT, "Origin": origin})
    for answer in (client.get("/v1/models", headers={"Origin": origin}), preflight):
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
        assert "Origin" in ", ".join(answer.headers.getlist("Vary"))
    assert preflight.status_code == 204
    assert ("Access-Control-Allow-Headers" in preflight.headers) == allowed


def test_none(app: Flask, postgres_url: str, settings: Settings) -> None:
    made = create_app(settings.model_copy(update={"stoa_cors_origins": ()}), database_url=postgres_url)
    client = made.test_client()
    preflight = client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert set(preflight.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    for answer in (
        preflight,
        client.get("/v1/models", headers=ORIGIN),
        client.get("/models", headers=ORIGIN),
    ):
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    made.extensions["gateway"].pool.close()


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", ("*",)),
        ("none", ()),
        ("", ()),
        (
            "https://App.example.org/, http://localhost:3000",
            ("https://app.example.org", "http://localhost:3000"),
        ),
        ("chrome-extension://abcdefgh", ("chrome-extension://abcdefgh",)),
        ("moz-extension://0a-1,http://[::1]:3000", ("moz-extension://0a-1", "http://[::1]:3000")),
        ("https://a.example:443, http://a.example:80/", ("https://a.example", "http://a.example")),
        ("http://a.example:443,https://a.example:80", ("http://a.example:443", "https://a.example:80")),
        ("https://a.example,,https://A.example/ ,", ("https://a.example",)),
        ("*,https://a.example", ("*", "https://a.example")),
        (" None ", ()),
    ],
)
def test_setting(value: str, origins: tuple[str, ...]) -> None:
    assert load_settings(_env_file=None, stoa_cors_origins=value).stoa_cors_origins == origins
    assert load_settings(_env_file=None).stoa_cors_origins == ("*",)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "example.org",
            "https://a.example/path",
            "https://*.example.org",
            "https://",
            "null",
            "localhost:3000",
        ),
        *(
            "https://a.example https://b.example",
            "https://a.example;https://b.example",
            '["https://a.example"]',
        ),
        *(
            "'*'",
            "all",
            "none,https://a.example",
            "https://bücher.example",
            "chrome-extension://*",
            "file://",
        ),
    ],
)
def test_wrong_settings_stop_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="STOA_CORS_ORIGINS"):
        load_settings(_env_file=None, stoa_cors_origins=value)
