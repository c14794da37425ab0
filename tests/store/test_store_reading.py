"""The JSON API to read the store: list, metrics, definition, dependencies."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, text
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.store import Agent, AgentConfig, AgentVersion, Publisher, StoreStamp
from models.store.catalogue import catalogue
from models.store.publishing import dependencies
from tests import factories
from tests.factories import Person, now
from views.store.api import agents

LISTED = [
    "id",
    "name",
    "description",
    "publisher",
    "version",
    "created_at",
    "usage_count",
    "weekly_runs",
    "weekly_spent",
    "total_spent",
    "avg_cost_per_invocation",
    "unique_users",
    "last_used",
    "version_stats",
    "tags",
]


@pytest.fixture
def acme(session: OrmSession, alice: Person) -> Publisher:
    return factories.publisher(alice.user, "acme", name="Acme", verified=True)


@pytest.fixture
def tools(session: OrmSession, bob: Person) -> Publisher:
    return factories.publisher(bob.user, "tools", avatar_url="https://example.org/a.png")


def listed(client: FlaskClient) -> list[dict[str, Any]]:
    answer = client.get("/api/agents")
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.get_json()
    return found


# -- the list ------------------------------------------------------------------------------------------------


def test_an_internal_error_answers_as_in_the_contract(
    client: FlaskClient, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "store_version", lambda: 1 / 0)
    answer = client.get("/api/agents")
    assert (answer.status_code, answer.get_json()) == (500, {"error": "Internal server error"})
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


def test_an_empty_store_is_an_empty_list(client: FlaskClient, session: OrmSession) -> None:
    assert listed(client) == []
    assert client.get("/api/agents/metrics").get_json() == {}


def test_an_agent_has_the_contracts_keys_in_order(
    client: FlaskClient, session: OrmSession, acme: Publisher, tools: Publisher
) -> None:
    used = datetime(2026, 11, 19, 10, 11, 12, 345678, UTC)
    factories.agent(
        acme, "reviewer", "1.2.0", {"name": "Code “reviewer”", "description": "Reads\n\\a change", "tags": ["code", 'a"b']},
        runs=4, weekly_runs=2, credits=250, weekly_credits=110, unique_users=3, last_used=used,
    )  # fmt: skip
    row = session.get_one(AgentVersion, ("acme", "reviewer", "1.2.0"))
    row.runs, row.weekly_runs, row.credits, row.weekly_credits, row.unique_users = 3, 2, 100, 110, 2
    row.last_used = used
    session.commit()
    factories.agent(tools, "quiet")
    first, second = listed(client)
    assert list(first) == LISTED
    assert first == {
        "id": "reviewer",
        "name": "Code “reviewer”",
        "description": "Reads\n\\a change",
        "publisher": {"id": "acme", "name": "Acme", "verified": True, "avatar_url": None},
        "version": "1.2.0",
        "created_at": first["created_at"],
        "usage_count": 4,
        "weekly_runs": 2,
        "weekly_spent": 1.1,
        "total_spent": 2.5,
        "avg_cost_per_invocation": 0.625,
        "unique_users": 3,
        "last_used": "2026-11-19T10:11:12.345Z",
        "version_stats": {
            "1.2.0": {
                "weekly_runs": 2,
                "weekly_dollars": 1.1,
                "total_dollars": 1.0,
                "total_invocations": 3,
                "avg_cost_per_run": pytest.approx(1 / 3),
                "unique_users": 2,
                "last_used": "2026-11-19T10:11:12.345Z",
            }
        },
        "tags": ["code", 'a"b'],
    }
    assert list(second) == [key for key in LISTED if key not in ("description", "last_used")]
    assert second["publisher"]["avatar_url"] == "https://example.org/a.png"
    assert (second["name"], second["tags"], second["version_stats"]) == ("quiet", [], {})
    assert second["avg_cost_per_invocation"] == second["weekly_spent"] == 0
    made = session.get_one(AgentConfig, ("reviewer", "1.2.0", "acme")).created_at
    assert first["created_at"] == made.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_most_spent_on_in_a_week_comes_first(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    for name, credits in (("little", 1), ("most", 300), ("none", 0), ("some", 20)):
        factories.agent(acme, name, weekly_credits=credits, runs=1)
    assert [each["id"] for each in listed(client)] == ["most", "some", "little", "none"]


def test_ids_of_one_publisher_with_one_name_show_the_newest(
    client: FlaskClient, session: OrmSession, acme: Publisher, tools: Publisher
) -> None:
    for publisher, agent_id, age in ((acme, "old", 9), (acme, "new", 1), (tools, "other", 5)):
        factories.agent(publisher, agent_id, data={"name": "Twin"})
        config = session.get_one(AgentConfig, (agent_id, "1.0.0", publisher.id))
        config.created_at = now() - timedelta(days=age)
        session.commit()
    assert {each["id"] for each in listed(client)} == {"new", "other"}


def test_yanked_versions_are_skipped_and_fully_yanked_agents_hidden(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    factories.agent_version(acme, "half", "1.0.0")
    factories.agent_version(acme, "half", "1.1.0", yanked_reason="broken")
    factories.agent_version(acme, "gone", "1.0.0", yanked_reason="broken")
    assert [(each["id"], each["version"]) for each in listed(client)] == [("half", "1.0.0")]


def test_metrics_are_of_agents_that_ran(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    factories.agent(acme, "busy", runs=2, weekly_runs=1, credits=30, weekly_credits=10, unique_users=1)
    factories.agent(acme, "idle")
    answer = client.get("/api/agents/metrics")
    assert answer.get_json() == {
        "acme/busy": {
            "usage_count": 2,
            "weekly_runs": 1,
            "weekly_spent": 0.1,
            "total_spent": 0.3,
            "avg_cost_per_invocation": 0.15,
            "unique_users": 1,
        }
    }
    assert answer.headers["Cache-Control"].startswith("public, max-age=300")


def test_headers_and_entity_tag(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    factories.agent(acme)
    answer = client.get("/api/agents")
    assert answer.headers["Cache-Control"] == (
        "public, max-age=300, s-maxage=600, stale-while-revalidate=3600"
    )
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    again = client.get("/api/agents", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == answer.headers["Cache-Control"]
    factories.agent(acme, "second")
    changed = client.get("/api/agents", headers={"If-None-Match": answer.headers["ETag"]})
    assert (changed.status_code, len(changed.get_json())) == (200, 2)
    assert client.get("/api/v1/agents").data == changed.data


def test_gzip_is_used_if_accepted(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    for number in range(5):
        factories.agent(acme, f"agent-{number}")
    plain = client.get("/api/agents")
    packed = client.get("/api/agents", headers={"Accept-Encoding": "gzip, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert packed.headers["ETag"] == plain.headers["ETag"]
    refused = client.get("/api/agents", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


def test_whatever_is_published_shows_at_once(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    factories.agent_version(acme, "reviewer", "1.0.0")
    assert [each["version"] for each in listed(client)] == ["1.0.0"]
    factories.agent_version(acme, "reviewer", "1.1.0")
    assert [each["version"] for each in listed(client)] == ["1.1.0"]
    acme.name = "Acme & Sons"
    session.commit()
    assert listed(client)[0]["publisher"]["name"] == "Acme & Sons"
    session.rollback()
    acme.verified = False
    session.commit()
    assert listed(client)[0]["publisher"]["verified"] is False
    session.get_one(Agent, ("acme", "reviewer")).latest_version = None
    session.commit()
    assert listed(client) == []


def test_a_cache_hit_reads_only_the_store_version(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    factories.agent(acme)
    listed(client)
    asked: list[str] = []

    def note(*args: Any) -> None:
        asked.append(args[2])

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        listed(client)
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    assert len(asked) == 1
    assert "store_stamp" in asked[0]


def test_statistics_are_fresh_within_seconds(
    client: FlaskClient, session: OrmSession, acme: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.agent(acme)
    assert listed(client)[0]["usage_count"] == 0
    session.execute(text("UPDATE agent SET runs = 1"))
    session.commit()
    assert listed(client)[0]["usage_count"] == 0, "figures alone do not make the list anew at once"
    clock = time.monotonic() + 6
    monkeypatch.setattr("views.store.api.agents.time.monotonic", lambda: clock)
    assert listed(client)[0]["usage_count"] == 1


def test_stale_responses_are_served_during_a_rebuild(app: Flask, session: OrmSession) -> None:
    store_stamp = StoreStamp(stamp=1)
    session.add(store_stamp)
    session.commit()
    making, go_on = threading.Event(), threading.Event()

    def write(limit: int) -> Iterator[bytes]:
        yield b"made"
        if making.is_set():
            go_on.wait(60)

    cache = agents.AgentsCache(write)

    def get() -> agents.CachedResponse:
        with app.app_context():
            return cache.get()

    first = get()
    making.set()
    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.CachedResponse, "is_fresh", False)
        maker = pool.submit(get)
        while not cache._lock.locked():
            time.sleep(0.01)
        assert get() is first, "statistics only"
        store_stamp.stamp = 2
        session.commit()
        waiting = pool.submit(get)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        go_on.set()
        assert maker.result(60).store_version == 1
        assert waiting.result(60).store_version == 2


def test_statistics_do_not_change_the_store_version(session: OrmSession, acme: Publisher) -> None:
    factories.agent(acme)
    before = catalogue.store_version()
    session.execute(text("UPDATE agent SET runs = runs + 1, last_used = now(), weekly_credits = 3"))
    session.execute(text("UPDATE agent_version SET runs = runs + 1"))
    session.commit()
    assert catalogue.store_version() == before
    session.execute(text("UPDATE agent SET deprecated_at = now()"))
    session.commit()
    assert catalogue.store_version() > before


# -- one version ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["/api/agents", "/api/v1/agents"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_version_is_returned_as_published(
    client: FlaskClient, session: OrmSession, acme: Publisher, door: str
) -> None:
    factories.agent(acme, "reviewer", "1.0.0", {"spawnerPrompt": "Ask “me”"})
    answer = client.get(f"{door}/acme/reviewer/1.0.0", headers={"Authorization": "Bearer whatever"})
    assert answer.status_code == 200
    body = answer.get_json()
    assert list(body) == ["id", "version", "publisherId", "data", "createdAt", "updatedAt"]
    config = session.get_one(AgentConfig, ("reviewer", "1.0.0", "acme"))
    assert body == {
        "id": "reviewer",
        "version": "1.0.0",
        "publisherId": "acme",
        "data": config.data,
        "createdAt": config.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "updatedAt": config.updated_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    again = client.get(f"{door}/acme/reviewer/1.0.0", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    assert answer.headers["Cache-Control"] == "no-cache"


def test_latest_is_the_highest_number_that_is_not_yanked(
    client: FlaskClient, session: OrmSession, acme: Publisher, door: str
) -> None:
    for version in ("0.9.0", "0.10.0", "0.2.11"):
        factories.agent_version(acme, "reviewer", version)
    factories.agent_version(acme, "reviewer", "1.0.0", yanked_reason="broken")
    assert client.get(f"{door}/acme/reviewer/latest").get_json()["version"] == "0.10.0"
    assert client.get(f"{door}/acme/reviewer/1.0.0").get_json()["version"] == "1.0.0"


def test_versions_that_other_programs_wrote_are_read_too(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    factories.agent_config(acme, "foreign", "2.0.0")
    assert client.get("/api/agents/acme/foreign/latest").get_json()["version"] == "2.0.0"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nobody/reviewer/1.0.0", 404, "Publisher not found"),
        ("acme/nothing/1.0.0", 404, "Agent not found"),
        ("acme/reviewer/9.9.9", 404, "Agent not found"),
        ("tools/reviewer/1.0.0", 404, "Agent not found"),
        ("acme/gone/latest", 404, "Agent not found"),
        ("acme/reviewer/%00", 404, "Agent not found"),
        ("%00/reviewer/1.0.0", 404, "Publisher not found"),
        ("acme/%27%20OR%201=1/1.0.0", 404, "Agent not found"),
        ("%20/reviewer/1.0.0", 400, "Missing required parameters"),
    ],
)
@pytest.mark.parametrize("ending", ["", "/dependencies"])
def test_what_is_not_there(
    client: FlaskClient, session: OrmSession, acme: Publisher, tools: Publisher, door: str, path: str, status: int,
    message: str, ending: str,
) -> None:  # fmt: skip
    factories.agent(acme)
    factories.agent_version(acme, "gone", "1.0.0", yanked_reason="broken")
    answer = client.get(f"{door}/{path}{ending}")
    body = answer.get_json()
    assert (answer.status_code, body["error"]) == (status, message)
    assert (
        status != 404 or " lists its agents" in body["details"] or "GET /api/agents lists" in body["details"]
    )


@pytest.mark.parametrize("who", ["alice", "bob", "mallory", "anonymous"])
def test_anybody_may_read(
    request: pytest.FixtureRequest, session: OrmSession, acme: Publisher, who: str
) -> None:
    factories.agent(acme)
    person: Person = request.getfixturevalue(who)
    for path in ("", "/metrics", "/acme/reviewer/latest", "/acme/reviewer/1.0.0/dependencies"):
        assert person.browser.get(f"/api/agents{path}", headers=person.headers).status_code == 200
        assert person.browser.post(f"/api/agents{path}").status_code in (405, 404)


# -- dependencies --------------------------------------------------------------------------------------------


def spawning(session: OrmSession, of: Publisher, id: str, *names: str, **data: Any) -> None:
    factories.agent(of, id, data={"spawnableAgents": list(names), **data})


def tree(client: FlaskClient, path: str = "acme/root/1.0.0") -> dict[str, Any]:
    answer = client.get(f"/api/agents/{path}/dependencies")
    assert answer.status_code == 200, answer.data
    found: dict[str, Any] = answer.get_json()
    return found


def test_the_tree_names_what_an_agent_may_spawn(
    client: FlaskClient, session: OrmSession, acme: Publisher, tools: Publisher
) -> None:
    spawning(session, acme, "root", "tools/leaf@1.0.0", "acme/lost@3.0.0", displayName="Root")
    spawning(session, tools, "leaf", displayName="", name="Leaf", spawnerPrompt="Spawn me")
    assert tree(client) == {
        "root": {
            "fullId": "acme/root@1.0.0",
            "agentId": "root",
            "publisher": "acme",
            "version": "1.0.0",
            "displayName": "Root",
            "spawnerPrompt": None,
            "isAvailable": True,
            "children": [
                {
                    "fullId": "tools/leaf@1.0.0",
                    "agentId": "leaf",
                    "publisher": "tools",
                    "version": "1.0.0",
                    "displayName": "Leaf",
                    "spawnerPrompt": "Spawn me",
                    "isAvailable": True,
                    "children": [],
                    "isCyclic": False,
                },
                {
                    "fullId": "acme/lost@3.0.0",
                    "agentId": "lost",
                    "publisher": "acme",
                    "version": "3.0.0",
                    "displayName": "lost",
                    "spawnerPrompt": None,
                    "isAvailable": False,
                    "children": [],
                    "isCyclic": False,
                },
            ],
            "isCyclic": False,
        },
        "totalAgents": 3,
        "maxDepth": 1,
        "hasCycles": False,
    }


def test_a_lone_agent_is_a_tree_of_one(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    spawning(session, acme, "root")
    found = tree(client, "acme/root/latest")
    assert (found["totalAgents"], found["maxDepth"], found["hasCycles"]) == (1, 0, False)


def test_a_cycle_ends_the_branch(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    spawning(session, acme, "root", "acme/other@1.0.0", "acme/root@1.0.0")
    spawning(session, acme, "other", "acme/root@1.0.0")
    found = tree(client)
    other, own = found["root"]["children"]
    assert own["isCyclic"] is True
    assert own["isAvailable"] is False
    assert other["isCyclic"] is False
    assert other["children"][0]["isCyclic"] is True
    assert other["children"][0]["children"] == []
    assert (found["totalAgents"], found["maxDepth"], found["hasCycles"]) == (2, 2, True)


def test_an_agent_on_two_branches_is_no_cycle(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    spawning(session, acme, "root", "acme/a@1.0.0", "acme/b@1.0.0")
    spawning(session, acme, "a", "acme/leaf@1.0.0")
    spawning(session, acme, "b", "acme/leaf@1.0.0")
    spawning(session, acme, "leaf")
    found = tree(client)
    assert [child["children"][0]["isAvailable"] for child in found["root"]["children"]] == [True, True]
    assert (found["totalAgents"], found["maxDepth"], found["hasCycles"]) == (4, 2, False)


def test_the_tree_ends_at_the_fifth_level(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    for number in range(8):
        spawning(session, acme, f"n{number}", f"acme/n{number + 1}@1.0.0")
    found = tree(client, "acme/n0/1.0.0")
    assert (found["totalAgents"], found["maxDepth"]) == (6, 5)
    node = found["root"]
    for _ in range(5):
        (node,) = node["children"]
    assert (node["agentId"], node["isAvailable"], node["children"]) == ("n5", True, [])


@pytest.mark.parametrize(
    "name", ["leaf", "acme/leaf", "acme/leaf@", "@1", "a/b/c@1", "", "acme/leaf@1.0.0\n"]
)
def test_a_malformed_reference_is_an_error(
    client: FlaskClient, session: OrmSession, acme: Publisher, name: str
) -> None:
    spawning(session, acme, "root", name)
    answer = client.get("/api/agents/acme/root/1.0.0/dependencies")
    assert (answer.status_code, answer.get_json()) == (500, {"error": "Internal server error"})


def statements(client: FlaskClient) -> int:
    """The number of statements for the tree of `acme/root`."""
    from models.core.db import db

    with client.application.app_context():
        engine = db.engine
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    tree(client)
    return len(asked)


def test_a_usual_tree_takes_one_statement(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    spawning(session, acme, "root", *(f"acme/n{number}@1.0.0" for number in range(30)))
    for number in range(30):
        spawning(session, acme, f"n{number}", "acme/leaf@1.0.0", "acme/lost@1.0.0")
    spawning(session, acme, "leaf")
    assert statements(client) == 2  # the version, and all below it


def test_a_large_level_takes_one_more_statement(
    client: FlaskClient, session: OrmSession, acme: Publisher
) -> None:
    names = [f"acme/n{number}@1.0.0" for number in range(130)]
    spawning(session, acme, "root", *names)
    for name in (100, 129):
        spawning(session, acme, f"n{name}", "acme/leaf@1.0.0")
    spawning(session, acme, "leaf")
    found = tree(client)["root"]["children"]
    assert [child["fullId"] for child in found] == names
    assert [len(child["children"]) for child in found if child["isAvailable"]] == [1, 1]
    assert statements(client) == 3


def test_an_exponential_tree_is_cut(client: FlaskClient, session: OrmSession, acme: Publisher) -> None:
    names = [f"acme/n{number}@1.0.0" for number in range(60)]
    spawning(session, acme, "root", *names)
    for number in range(60):
        spawning(session, acme, f"n{number}", *names)
    found = tree(client)
    assert found["truncated"] is True
    assert json.dumps(found).count('"fullId"') == dependencies.MAX_NODES
    assert found["totalAgents"] == 61
