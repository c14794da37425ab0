"""Search helpers of the Codebuff SDK (contract 2.5): charged once, also for nothing found, and never for a failure."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import Settings
from models.gateway.search_tools.search_providers import SearchRouter
from models.gateway.upstream import Egress
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, hang_up
from tests.gateway.conftest import Facts

WEB, DOCS = "/api/v1/web-search", "/api/v1/docs-search"


@pytest.fixture
def services(
    web: FlaskClient,
    fake: FakeUpstream,
    gateway_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> FakeUpstream:
    """The services, on loopback: Linkup and Context7, or the settings of the test's parameter."""
    keys = {"linkup_api_key": "sk-linkup", "context7_api_key": "sk-context7"}
    changes: dict[str, Any] = getattr(request, "param", keys)
    urls = {"linkup_base_url": f"{fake.url}/linkup", "context7_base_url": f"{fake.url}/context7"}
    if "stoa_searxng_url" in changes:
        urls["stoa_searxng_url"] = f"{fake.url}/searxng"
    settings = Settings.model_validate({**gateway_settings.model_dump(), **changes, **urls})
    router = web.application.extensions["gateway"].routes
    monkeypatch.setattr(router, "searches", SearchRouter(settings, Egress()))
    return fake


@pytest.mark.parametrize(("depth", "credits"), [("standard", 1), ("deep", 5), (None, 1)])
def test_web_search(
    web: FlaskClient, services: FakeUpstream, rich: Person, facts: Facts, depth: str | None, credits: int
) -> None:
    services.will(answer({"answer": "Paris.", "sources": []}))
    body = {"query": "Capital of France?"} | ({"depth": depth} if depth else {})
    found = web.post(WEB, json=body, headers=rich.headers)
    assert (found.status_code, found.json) == (200, {"result": "Paris.", "creditsUsed": credits})
    (request,) = services.requests
    assert (request.path, request.headers["authorization"]) == ("/linkup/search", "Bearer sk-linkup")
    assert request.body == {
        "q": "Capital of France?",
        "depth": depth or "standard",
        "outputType": "sourcedAnswer",
    }
    call = facts.call()
    assert (call.credits, call.micro_credits, call.door) == (credits, credits * 1_000_000, "web_search")
    assert (call.provider, call.model) == ("linkup", "stoa/web-search")
    assert facts.messages()[0].response == "Paris."


@pytest.mark.parametrize("services", [{"stoa_searxng_url": ""}], indirect=True)
def test_the_operators_own_metasearch(web: FlaskClient, services: FakeUpstream, rich: Person) -> None:
    results = [{"title": f"T{n}", "url": f"https://example.org/{n}", "content": "Text"} for n in range(30)]
    services.will(answer({"results": [*results, 7]}))
    found = web.post(WEB, json={"query": "a b&c"}, headers=rich.headers).json["result"]
    assert found.startswith("1. T0\nhttps://example.org/0\nText\n\n2. T1")
    assert found.count("Text") == 8
    assert (services.requests[0].method, services.requests[0].path) == (
        "GET",
        "/searxng/search?q=a+b%26c&format=json",
    )


def test_docs_search(web: FlaskClient, services: FakeUpstream, rich: Person, facts: Facts) -> None:
    services.will(answer({"results": [{"id": "/facebook/react"}]}), answer(b"useState returns a pair."))
    body = {"libraryTitle": "react", "topic": "hooks", "maxTokens": 500}
    found = web.post(DOCS, json=body, headers=rich.headers)
    assert found.json == {"documentation": "useState returns a pair.", "creditsUsed": 1}
    assert [request.path for request in services.requests] == [
        "/context7/search?query=react",
        "/context7/facebook/react?type=txt&topic=hooks&tokens=500",
    ]
    assert facts.call().credits == 1


NOTHING = [
    (WEB, {"query": "xyz"}, {"answer": ""}, 'No search results found for "xyz"'),
    (DOCS, {"libraryTitle": "xyz"}, {"results": []}, 'No documentation found for "xyz"'),
    (
        DOCS,
        {"libraryTitle": "xyz", "topic": "t"},
        {"results": []},
        'No documentation found for "xyz" with topic "t"',
    ),
]


@pytest.mark.parametrize(("path", "body", "said", "text"), NOTHING)
def test_nothing_found_is_charged(
    web: FlaskClient,
    services: FakeUpstream,
    rich: Person,
    facts: Facts,
    path: str,
    body: dict[str, Any],
    said: Any,
    text: str,
) -> None:
    services.will(answer(said))
    found = web.post(path, json=body, headers=rich.headers)
    assert (found.status_code, found.json) == (200, {"error": text})
    assert (facts.call().state, facts.call().credits) == ("settled", 1)


@pytest.mark.parametrize(
    "behaviour", [answer({"error": "x"}, 500), answer({}, 401), hang_up, answer(b"<html>")]
)
@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (WEB, {"query": "x"}, "Error performing web search"),
        (DOCS, {"libraryTitle": "x"}, "Error fetching documentation"),
    ],
)
def test_failures_are_not_charged(
    web: FlaskClient,
    services: FakeUpstream,
    rich: Person,
    facts: Facts,
    path: str,
    body: dict[str, Any],
    text: str,
    behaviour: Any,
) -> None:
    services.will(behaviour)
    found = web.post(path, json=body, headers=rich.headers)
    assert (found.status_code, found.json) == (500, {"error": text})
    assert facts.call().state == "failed"
    assert facts.messages() == []


BAD: list[tuple[str, Any, int]] = [
    (WEB, b"{", 400),
    (WEB, {}, 400),
    (WEB, [], 400),
    (WEB, {"query": ""}, 400),
    (WEB, {"query": 5}, 400),
    (WEB, {"query": "x", "depth": "wide"}, 400),
    (WEB, {"query": "x" * 20_001}, 400),
    (WEB, {"query": "a\u0000b"}, 400),
    (DOCS, {"libraryTitle": "x", "maxTokens": 0}, 400),
    (DOCS, {"libraryTitle": "x", "maxTokens": 1.5}, 400),
    (DOCS, {"libraryTitle": None}, 400),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
def test_bad_bodies_come_before_the_key(
    web: FlaskClient, services: FakeUpstream, path: str, body: Any, status: int
) -> None:
    sent = {"data": body} if isinstance(body, bytes) else {"json": body}
    found = web.post(path, **sent)
    assert found.status_code == status
    assert found.json["error"] in ("Invalid JSON in request body", "Invalid request body")
    assert services.requests == []


def test_who_may_search(
    web: FlaskClient, session: OrmSession, services: FakeUpstream, mallory: Person
) -> None:
    body = {"query": "x"}
    assert web.post(WEB, json=body).json == {"message": "Unauthorized"}
    unknown = web.post(WEB, json=body, headers={"authorization": f"Bearer cb-pat-{'0' * 64}"})
    assert (unknown.status_code, unknown.json) == (401, {"message": "Invalid Codebuff API key"})
    refused = web.post(WEB, json={**body, "depth": "deep"}, headers=mallory.headers)
    assert (refused.status_code, refused.json["message"]) == (402, "Insufficient credits")
    assert refused.json["totalRemaining"] == 0
    assert mallory.user is not None
    factories.grant(mallory.user, 2)
    refused = web.post(WEB, json={**body, "depth": "deep"}, headers=mallory.headers)
    assert (refused.status_code, refused.json["totalRemaining"], refused.json["required"]) == (402, 2, 5)
    assert services.requests == []


def test_without_a_service_it_says_so(web: FlaskClient, rich: Person, facts: Facts) -> None:
    for path, body, name in (
        (WEB, {"query": "x"}, "LINKUP_API_KEY"),
        (DOCS, {"libraryTitle": "x"}, "CONTEXT7"),
    ):
        found = web.post(path, json=body, headers=rich.headers)
        assert found.status_code == 503
        assert name in found.json["error"]
    assert facts.messages() == []
