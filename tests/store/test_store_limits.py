"""Limits of accounts and publishers in the store, and their error messages."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts.sessions import Session
from models.core.db import db
from models.core.settings import Settings
from models.store import Agent, AgentConfig, Publisher
from models.store.catalogue import catalogue
from tests import factories
from tests.factories import Person
from tests.store.listings import post as send

PUBLISH = "/api/agents/publish"


@pytest.fixture
def limit(app: Flask, settings: Settings) -> Iterator[Any]:
    """Change limits of the application for one test."""

    def change(**limits: int) -> None:
        app.extensions["settings"] = app.extensions["settings"].model_copy(update=limits)

    yield change
    app.extensions["settings"] = settings


@pytest.fixture
def acme(session: OrmSession, alice: Person) -> Publisher:
    return factories.publisher(alice.user, "acme")


def definition(id: str = "reviewer", **more: Any) -> dict[str, Any]:
    return {"id": id, "publisher": "acme", "displayName": id, "model": "stoa/demo"} | more


def publish(who: Person, *definitions: Any) -> TestResponse:
    return who.browser.post(PUBLISH, data=json.dumps({"data": definitions}), headers=who.headers)


def refusal(answer: TestResponse, status: int, setting: str) -> str:
    body = answer.get_json()
    output = str(body.get("details") or body["error"])
    assert answer.status_code == status, body
    assert setting in output
    assert ("Retry-After" in answer.headers) == (status == 429)
    return output


@pytest.mark.usefixtures("acme")
def test_versions_and_bytes_a_day(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_versions_per_day=3)
    assert publish(alice, definition("a"), definition("b")).status_code == 201
    refused = publish(alice, definition("a"), definition("b"))
    assert refused.get_json()["error"] == "Publishing limit reached"
    assert "3 versions a day and has used 2" in refusal(refused, 429, "STOA_VERSIONS_PER_DAY")
    assert publish(alice, definition("a")).status_code == 201
    refusal(publish(alice, *(definition(f"x-{n}") for n in range(4))), 413, "STOA_VERSIONS_PER_DAY")
    limit(stoa_versions_per_day=99, stoa_publish_bytes_per_day=9_000)
    assert publish(alice, definition("c", systemPrompt="x" * 5_000)).status_code == 201
    refusal(publish(alice, definition("d", systemPrompt="x" * 5_000)), 429, "STOA_PUBLISH_BYTES_PER_DAY")
    refusal(publish(alice, definition("d", systemPrompt="x" * 9_000)), 413, "STOA_PUBLISH_BYTES_PER_DAY")
    session.rollback()
    assert session.scalar(select(func.count()).select_from(AgentConfig)) == 4


@pytest.mark.usefixtures("acme")
def test_agents_and_bytes_of_a_publisher(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_agents_per_publisher=2)
    assert publish(alice, definition("a"), definition("b")).status_code == 201
    output = refusal(publish(alice, definition("c")), 409, "STOA_AGENTS_PER_PUBLISHER")
    assert "Agents of @acme: 2 of 2" in output
    assert (
        publish(alice, definition("a"), definition("b")).status_code == 201
    )  # new versions of existing agents
    limit(stoa_agents_per_publisher=1)
    assert publish(alice, definition("a")).status_code == 201
    session.rollback()
    counted = sum(session.scalars(select(Agent.bytes)))
    stored = session.scalar(select(func.sum(func.octet_length(func.cast(AgentConfig.data, db.Text))))) or 0
    assert 0.8 < counted / int(stored) <= 1.05
    limit(stoa_publisher_bytes=counted + 3_000)
    assert publish(alice, definition("a", systemPrompt="x" * 2_000)).status_code == 201
    output = refusal(publish(alice, definition("a", systemPrompt="x" * 2_000)), 413, "STOA_PUBLISHER_BYTES")
    assert "of all definitions of @acme" in output


def test_publishers_of_an_account(alice: Person, bob: Person, limit: Any) -> None:
    limit(stoa_publishers_per_account=2)
    answers = [
        alice.browser.post("/api/publishers", json={"id": f"p-{n}-x", "name": "Pub"}) for n in range(3)
    ]
    assert [each.status_code for each in answers] == [201, 201, 409]
    assert "2 of 2" in refusal(answers[2], 409, "STOA_PUBLISHERS_PER_ACCOUNT")
    page = send(alice, "/publishers/new", publisher="p-9-x", name="Pub")
    assert page.status_code == 409
    assert bob.browser.post("/api/publishers", json={"id": "bobs", "name": "Bobs"}).status_code == 201


def test_keys_of_an_account(session: OrmSession, alice: Person, bob: Person, limit: Any) -> None:
    mine = select(func.count()).where(Session.user_id == alice.id, Session.type == "pat")
    has = session.scalar(mine)
    session.rollback()
    limit(stoa_keys_per_account=int(has or 0) + 2)
    answers = [alice.browser.post("/api/api-keys", json={"name": f"key {n}"}) for n in range(3)]
    assert [each.status_code for each in answers] == [201, 201, 409]
    output = refusal(answers[2], 409, "STOA_KEYS_PER_ACCOUNT")
    assert "Revoke an API key that is not used" in output
    page = send(alice, "/profile/keys", name="one more", days="30")
    assert page.status_code == 409
    assert "Revoke an API key that is not used" in page.text
    assert bob.browser.post("/api/api-keys", json={"name": "mine"}).status_code == 201


def test_command_line_sessions_of_an_account(session: OrmSession, alice: Person, limit: Any) -> None:
    mine = select(func.count()).where(Session.user_id == alice.id, Session.type == "cli")
    has = int(session.scalar(mine) or 0)
    session.rollback()
    limit(stoa_cli_sessions_per_account=has + 2)
    answers = []
    for number in range(3):
        asked = alice.browser.post(
            "/api/auth/cli/code", json={"fingerprintId": f"device-{number}"}
        ).get_json()
        code = f"{asked['fingerprintId']}.{asked['expiresAt']}.{asked['fingerprintHash']}"
        answers.append(alice.browser.get("/onboard", query_string={"auth_code": code}))
    assert [each.status_code for each in answers] == [200, 200, 409]
    assert "Sign out a command line that is not used" in answers[2].text
    assert session.scalar(mine) == has + 2


def test_parallel_publishers_share_one_limit(
    app: Flask, session: OrmSession, alice: Person, limit: Any
) -> None:
    limit(stoa_publishers_per_account=3, stoa_versions_per_day=5)
    cookies = alice.headers

    def make(number: int) -> int:
        with app.app_context():
            client = app.test_client()
        token = next(iter(alice.browser._cookies.values()))  # type: ignore[attr-defined]
        client.set_cookie(token.key, token.value)
        return client.post("/api/publishers", json={"id": f"many-{number}", "name": "Many"}).status_code

    with ThreadPoolExecutor(10) as pool:
        assert Counter(pool.map(make, range(15))) == {201: 3, 409: 12}
    names = session.scalars(select(Publisher.id)).all()

    def one(number: int) -> int:
        body = {"data": [definition(f"agent-{number}", publisher=names[number % 3])]}
        return app.test_client().post(PUBLISH, json=body, headers=cookies).status_code

    with ThreadPoolExecutor(10) as pool:
        assert Counter(pool.map(one, range(20))) == {201: 5, 429: 15}
    session.rollback()
    assert session.scalar(select(func.count()).select_from(AgentConfig)) == 5


CHANGES = [
    ("POST", "/api/agents/acme/reviewer/1.0.0/yank", {"reason": "Broken."}),
    ("DELETE", "/api/agents/acme/reviewer/1.0.0/yank", None),
    ("POST", "/api/agents/acme/reviewer/deprecation", {"reason": "Old."}),
    ("DELETE", "/api/agents/acme/reviewer/deprecation", None),
    ("PATCH", "/api/publishers/acme", {"bio": "New."}),
    ("POST", "/api/publishers/acme/organization", {"org_id": "nowhere"}),
    ("DELETE", "/api/publishers/acme/organization", None),
    ("POST", "/api/publishers", {"id": "another", "name": "Another"}),
]
FORMS = [
    ("/publishers/acme/agents/reviewer/1.0.0/yank", {"reason": "Broken."}),
    ("/publishers/acme/agents/reviewer/1.0.0/unyank", {}),
    ("/publishers/acme/agents/reviewer/deprecation", {"reason": "Old."}),
    ("/publishers/acme/agents/reviewer/edit", {"readme": "Words.", "seen": ""}),
    ("/publishers/acme/edit", {"name": "Acme", "email": "", "bio": ""}),
    ("/publishers/acme/owner", {"org": "nowhere"}),
    ("/publishers/new", {"publisher": "another", "name": "Another"}),
]


def test_changes_a_day(session: OrmSession, alice: Person, acme: Publisher, limit: Any) -> None:
    factories.agent(acme, "reviewer", "1.0.0")
    limit(stoa_store_changes_per_day=1)
    first = alice.browser.open(CHANGES[0][1], method="POST", json={"reason": "x"}, headers=alice.headers)
    assert first.status_code == 200
    for method, path, body in CHANGES:
        answer = alice.browser.open(path, method=method, json=body, headers=alice.headers)
        assert "has used 1" in refusal(answer, 429, "STOA_STORE_CHANGES_PER_DAY"), path
    for path, fields in FORMS:
        page = send(alice, path, **fields)
        assert page.status_code == 429, (path, page.status_code)
        assert int(page.headers["Retry-After"]) > 80_000


# -- large publications --------------------------------------------------------------------------------------


def heavy(number: int) -> dict[str, Any]:
    """A definition with long fields, sized so that 400 fit into a request."""
    return definition(
        f"agent-{number}",
        description=" ".join(f"word{number}x{n}" for n in range(700)),
        tags=[f"tag {number} {n}" for n in range(50)],
        systemPrompt="You do this. " * 1_000,
        toolNames=["spawn_agents", *(f"tool-{n}" for n in range(100))],
        spawnableAgents=[f"agent-{n}" for n in range(400)],
    )


@pytest.mark.usefixtures("acme")
def test_four_hundred_agents_are_published_again_and_again(session: OrmSession, alice: Person) -> None:
    sent = [heavy(number) for number in range(400)]
    took = []
    for _ in range(2):
        began = time.monotonic()
        answer = publish(alice, *sent)
        took.append(time.monotonic() - began)
        assert answer.status_code == 201, answer.text[:500]
    assert max(took) < 20
    assert len(answer.get_json()["agents"]) == 400
    session.rollback()
    assert session.scalar(select(func.count()).select_from(Agent)) == 400


TABLES = {
    "agent": "(publisher_id, id, name, model) SELECT 'other', 'x' || n, 'x', ''",
    "agent_config": "(publisher_id, id, version, data) SELECT 'other', 'x' || n, '1.0.0', '{}'",
    "agent_version": "(publisher_id, agent_id, version, credential) SELECT 'other', 'x' || n, '1.0.0', 'cli'",
}


@pytest.mark.usefixtures("acme")
def test_publishing_is_fast_with_outdated_planner_statistics(session: OrmSession, alice: Person) -> None:
    """Planner statistics from before the publisher existed once caused a scan per agent."""
    factories.publisher(alice.user, "other")
    for table, rows in TABLES.items():
        session.execute(text(f"INSERT INTO {table} {rows} FROM generate_series(1, 2000) n"))
    session.commit()
    for table in TABLES:
        session.execute(text(f"ANALYZE {table}"))
    session.commit()
    for table in reversed(TABLES):
        session.execute(text(f"DELETE FROM {table}"))
    session.commit()
    for _ in range(2):
        began = time.monotonic()
        assert publish(alice, *(heavy(number) for number in range(400))).status_code == 201
        assert time.monotonic() - began < 12


@pytest.mark.usefixtures("acme")
def test_a_request_of_too_many_says_how_many(alice: Person) -> None:
    answer = publish(alice, *(definition(f"a-{n}") for n in range(501)))
    assert answer.status_code == 400
    assert "<=500" in answer.get_json()["details"]


def test_the_row_of_an_agent_is_made_without_reading_its_older_definitions(
    session: OrmSession, acme: Publisher
) -> None:
    factories.agent(acme, "reviewer", "1.0.0", data={"systemPrompt": "x" * 900_000})
    session.execute(
        text(
            "INSERT INTO agent_config (publisher_id, id, version, data) SELECT publisher_id, id, '1.0.' || n, data"
            " FROM agent_config, generate_series(1, 60) n"
        )
    )
    session.execute(
        text(
            "INSERT INTO agent_version (publisher_id, agent_id, version, credential) SELECT 'acme', 'reviewer',"
            " '1.0.' || n, 'pat' FROM generate_series(1, 60) n"
        )
    )
    session.commit()
    began = time.monotonic()
    for _ in range(20):
        catalogue.refresh("acme", ["reviewer"])
    assert time.monotonic() - began < 4
    session.commit()
    agent = session.get_one(Agent, ("acme", "reviewer"), populate_existing=True)
    assert (agent.latest_version, agent.versions) == ("1.0.60", 61)


# -- the list ------------------------------------------------------------------------------------------------


def fill(session: OrmSession, publisher: Publisher, count: int, **data: Any) -> None:
    for number in range(count):
        factories.agent(publisher, f"agent-{number:03}", "1.0.0", data=data)
    session.execute(
        text("UPDATE agent SET runs = split_part(id, '-', 2)::int WHERE publisher_id = :id"),
        {"id": publisher.id},
    )
    session.commit()


@pytest.mark.parametrize("door", ["/api/agents", "/api/v1/agents"])
def test_the_list_has_the_most_used_of_each_publisher(
    client: FlaskClient, session: OrmSession, acme: Publisher, bob: Person, limit: Any, door: str
) -> None:
    fill(session, acme, 12)
    other = factories.publisher(bob.user, "other")
    fill(session, other, 2)
    limit(stoa_listed_agents=5)
    listed = client.get(door).get_json()
    of = Counter(each["publisher"]["id"] for each in listed)
    assert of == {"acme": 5, "other": 2}
    assert {each["id"] for each in listed if each["publisher"]["id"] == "acme"} == {
        f"agent-{n:03}" for n in range(7, 12)
    }
    metrics = client.get(f"{door}/metrics").get_json()
    assert Counter(name.split("/")[0] for name in metrics) == {"acme": 5, "other": 1}


def test_long_texts_do_not_fill_the_list(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    long = {"description": "d" * 10_000, "tags": [f"{n}" + "t" * 190 for n in range(50)]}
    fill(session, acme, 60, **long)
    answer = client.get("/api/agents")
    assert 5 <= len(answer.get_json()) <= 10
    assert len(answer.data) < 500_000
    assert answer.get_json()[0]["description"] == long["description"]


def test_versions_do_not_fill_the_list(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    factories.agent(acme, "reviewer", "1.0.0")
    session.execute(
        text(
            "INSERT INTO agent_config (publisher_id, id, version, data) SELECT publisher_id, id, '1.0.' || n, data"
            " FROM agent_config, generate_series(1, 80) n"
        )
    )
    session.execute(
        text(
            "INSERT INTO agent_version (publisher_id, agent_id, version, credential, runs) SELECT 'acme', 'reviewer',"
            " '1.0.' || n, 'pat', n FROM generate_series(1, 80) n"
        )
    )
    catalogue.refresh("acme")
    session.commit()
    (only,) = client.get("/api/agents").get_json()
    assert set(only["version_stats"]) == {f"1.0.{n}" for n in range(31, 81)}


@pytest.mark.parametrize("door", ["/api/publishers", "/api/v1/publishers"])
def test_all_agents_of_a_publisher_a_page_at_a_time(
    client: FlaskClient, session: OrmSession, acme: Publisher, door: str
) -> None:
    fill(session, acme, 205)
    factories.agent_version(acme, "gone", "1.0.0", yanked_reason="broken")
    found, after, pages = [], "", 0
    while after is not None:
        page = client.get(f"{door}/acme/agents", query_string={"after": after}).get_json()
        found += page["agents"]
        after, pages = page["next"], pages + 1
    assert pages == 3
    assert [each["id"] for each in found] == [f"agent-{n:03}" for n in range(205)]
    listed = client.get("/api/agents").get_json()
    assert next(each for each in listed if each["id"] == "agent-204") == found[-1]
    for wrong in ("nobody", "%00"):
        answer = client.get(f"{door}/{wrong}/agents")
        assert (answer.status_code, answer.get_json()["error"]) == (404, "Publisher not found")
        assert "GET /api/agents lists" in answer.get_json()["details"]
    assert client.get(f"{door}/acme/agents?after=%00").status_code == 404
    assert client.get(f"{door}/acme/agents?after=zzz").get_json() == {"agents": [], "next": None}


# -- versions and messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version",
    [
        "01.13.0", "1.02.0", "1.0.00", "00.0.1", "1.0.0-01", "1.0.0-beta", "1.0.0+build", "1.0.0 ", " 1.0.0", "1. 0.0",
        "v1.0.0", "V1.0.0", "1", "1.0", "1.0.0.0", "1..0", ".1.0", "1.0.", "", "1.0.x", "-1.0.0", "+1.0.0", "1e3.0.0",
        "\u0661.\u0662.\u0663", "\uff11.\uff10.\uff10", "1.0.\u00b2", "1\uff0e0\uff0e0", "1_0.0.0", "0x1.0.0", "latest",
        "99999999999.0.0", "1.0.2147483648", "1" * 190 + ".0.0",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("acme")
def test_what_is_no_version_is_refused_in_the_contracts_words(
    session: OrmSession, alice: Person, version: str
) -> None:
    answer = publish(alice, definition(version=version))
    body = answer.get_json()
    assert (answer.status_code, body["error"]) == (400, "Version determination failed")
    output = f"Failed for agent 'reviewer': Invalid version format: {version}. Must be in semver format (e.g., 1.0.0)"
    assert body["details"].startswith(output)
    session.rollback()
    assert session.scalar(select(func.count()).select_from(AgentConfig)) == 0


@pytest.mark.parametrize("version", ["0.0.1", "1.13.0", "10.20.30", "0.10.0", "2147483647.0.0"])
@pytest.mark.usefixtures("acme")
def test_what_is_a_version_is_published(alice: Person, version: str) -> None:
    assert publish(alice, definition(version=version)).get_json()["agents"][0]["version"] == version


REFUSALS: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/api/agents/nobody/x/1.0.0", None, 404, "GET /api/agents lists"),
    ("GET", "/api/agents/acme/none/1.0.0", None, 404, "GET /api/publishers/acme/agents lists"),
    ("GET", "/api/agents/acme/none/latest", None, 404, "GET /api/publishers/acme/agents lists"),
    ("GET", "/api/agents/acme/reviewer/7.0.0", None, 404, "GET /api/publishers/acme/agents lists"),
    (
        "GET",
        "/api/agents/acme/reviewer/7.0.0/dependencies",
        None,
        404,
        "GET /api/publishers/acme/agents lists",
    ),
    ("GET", "/api/v1/agents/nobody/x/latest", None, 404, "GET /api/agents lists"),
    ("GET", "/api/publishers/nobody/agents", None, 404, "GET /api/agents lists"),
    ("POST", "/api/agents/nobody/x/1.0.0/yank", {"reason": "x"}, 404, "GET /api/publishers lists yours"),
    ("POST", "/api/agents/acme/none/1.0.0/yank", {"reason": "x"}, 404, "/publishers/acme lists"),
    ("DELETE", "/api/agents/acme/reviewer/7.0.0/yank", None, 404, "/reviewer/versions lists"),
    ("POST", "/api/agents/acme/none/deprecation", {"reason": "x"}, 404, "/publishers/acme lists"),
    ("DELETE", "/api/agents/nobody/none/deprecation", None, 404, "GET /api/publishers lists yours"),
    ("PATCH", "/api/publishers/nobody", {}, 404, "GET /api/publishers lists yours"),
    ("POST", "/api/publishers/nobody/organization", {"org_id": "x"}, 404, "GET /api/publishers lists yours"),
    ("DELETE", "/api/publishers/nobody/organization", None, 404, "GET /api/publishers lists yours"),
    ("POST", "/api/publishers", {"id": "new-one", "name": "New", "org_id": "x"}, 404, "Omit org_id"),
    ("POST", "/api/v1/agent-runs/none/steps", {"stepNumber": 1}, 404, "START one"),
    ("POST", "/api/agents/publish", "x" * 21_000_000, 413, "larger than 20 MB"),
    ("POST", "/api/agents/validate", "x" * 21_000_000, 413, "larger than 20 MB"),
    ("POST", "/api/agents/acme/reviewer/1.0.0/yank", "x" * 21_000_000, 413, "larger than 20 MB"),
    ("POST", "/api/v1/agent-runs", "x" * 6_000_000, 413, "in several requests"),
    ("POST", "/api/v1/agent-runs/none/steps", "x" * 2_000_000, 413, "shorten them"),
    ("PATCH", "/api/publishers/acme", "x" * 21_000_000, 413, "larger than 20 MB"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "cure"), REFUSALS)
def test_an_error_names_cause_and_remedy(
    session: OrmSession,
    alice: Person,
    acme: Publisher,
    method: str,
    path: str,
    body: Any,
    status: int,
    cure: str,
) -> None:
    factories.agent(acme, "reviewer", "1.0.0")
    data = body if isinstance(body, str) else json.dumps(body)
    answer = alice.browser.open(path, method=method, data=data, headers=alice.headers)
    assert answer.status_code == status, answer.text[:300]
    assert cure in answer.text
    assert "error" in answer.get_json()
