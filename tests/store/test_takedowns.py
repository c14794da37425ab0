"""Takedowns: removed from lists, pages show the reason, no loading, running or publishing; statistics are kept; restore."""

import io
import re
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.store import Agent, Publisher, Takedown
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.store import ledger

LISTS = (
    "/api/agents",
    "/api/v1/agents",
    "/api/agents/metrics",
    "/store",
    "/store?search=reviewer",
    "/store?publisher=acme",
    "/store?sort=newest",
    "/store/feed.atom",
    "/sitemap.xml",
    "/publishers/other/agents/planner/1.0.0",
)
AGENT_PAGES = (
    "/publishers/acme/agents/reviewer/1.0.0",
    "/publishers/acme/agents/reviewer/2.0.0",
    "/publishers/acme/agents/reviewer/2.0.0/definition.json",
    "/publishers/acme/agents/reviewer/2.0.0/card.png",
    "/publishers/acme/agents/reviewer/diff/1.0.0/2.0.0",
)
OF_AGENT = ("/publishers/acme/agents/reviewer", "/publishers/acme/agents/reviewer/versions")
OF_PUBLISHER = ("/publishers/acme", "/publishers/acme/card.png", "/publishers/acme/feed.atom")
REASON = "It sends what it reads to a stranger."


@pytest.fixture(autouse=True)
def agents(session: OrmSession, alice: Person, bob: Person) -> None:
    """`acme/reviewer` in two versions and `acme/helper`; the reviewer spawns `other/planner`, which spawns it."""
    assert alice.user is not None
    assert bob.user is not None
    acme = factories.publisher(alice.user)
    other = factories.publisher(bob.user, "other")
    factories.agent_version(acme, version="1.0.0")
    factories.agent_version(
        acme,
        version="2.0.0",
        data={"spawnableAgents": ["other/planner@1.0.0"], "tags": ["only-here"]},
    )
    factories.agent(acme, "helper")
    factories.agent(other, "planner", data={"spawnableAgents": ["acme/reviewer@2.0.0"]})


@pytest.fixture
def store(app: Flask) -> Any:
    """Run `flask store …`."""

    def run(*args: str) -> Result:
        return app.test_cli_runner().invoke(args=["store", *args])

    return run


def agent(session: OrmSession, id: str = "reviewer") -> Agent:
    ledger.count_waiting(session)
    return session.get_one(Agent, ("acme", id), populate_existing=True)


def listed(client: FlaskClient) -> list[str]:
    """The lists that include the reviewer."""
    found = []
    for path in LISTS:
        answer = client.get(path)
        assert answer.status_code == 200, path
        links = ("acme/reviewer", "acme/agents/reviewer", '"id":"reviewer"')
        if any(each in answer.text.replace('"id": "', '"id":"') for each in links):
            found.append(path)
    return found


@pytest.mark.parametrize(
    ("name", "gone", "stays"),
    [
        ("acme", (*AGENT_PAGES, *OF_AGENT, *OF_PUBLISHER), ()),
        ("@acme", (*AGENT_PAGES, *OF_AGENT, *OF_PUBLISHER), ()),
        ("acme/reviewer", (*AGENT_PAGES, *OF_AGENT), OF_PUBLISHER),
    ],
)
def test_it_leaves_every_list_and_its_pages_show_the_reason(
    store: Any, session: OrmSession, client: FlaskClient, name: str, gone: Any, stays: Any
) -> None:
    before = listed(client)
    assert set(before) >= set(LISTS) - {"/api/agents/metrics"}
    for path in (*gone, *stays):
        assert client.get(path).status_code in (200, 302), path
    result = store("takedown", name, "--reason", REASON)
    assert (result.exit_code, result.output) == (0, f"{name.removeprefix('@')} is taken down now.\n")
    # the planner's page still names its dependency, marked as taken down
    assert listed(client) == ["/publishers/other/agents/planner/1.0.0"]
    for path in gone:
        answer = client.get(path)
        assert answer.status_code == 410, path
        assert REASON in answer.text, path
        assert name.removeprefix("@") in answer.text, path
    for path in stays:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert b"/agents/reviewer" not in answer.data, path
    assert store("restore", name).output == f"{name.removeprefix('@')} is no longer taken down.\n"
    assert listed(client) == before
    for path in (*gone, *stays):
        assert client.get(path).status_code in (200, 302), path


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
@pytest.mark.parametrize("path", [*AGENT_PAGES, *OF_AGENT, *OF_PUBLISHER])
def test_cached_responses_are_invalidated(
    store: Any, client: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    before = client.get(path, headers=headers)
    stored = {
        "If-None-Match": before.headers.get("ETag", "*"),
        "If-Modified-Since": before.headers.get("Last-Modified", "Fri, 01 Jan 2100 00:00:00 GMT"),
    }
    store("takedown", "acme", "--reason", REASON)
    assert client.get(path, headers=headers | stored).status_code == 410


def test_its_avatar_is_hidden(store: Any, session: OrmSession, client: FlaskClient, alice: Person) -> None:
    image = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(image, "PNG")
    upload = {"avatar": (io.BytesIO(image.getvalue()), "a.png")}
    picture = alice.browser.post("/api/upload/avatar", data=upload).get_json()["avatar_url"]
    told = {"If-None-Match": f'"{picture.rpartition("/")[2].removesuffix(".webp")}"'}

    def statuses() -> list[int]:
        return [client.get(picture).status_code, client.get(picture, headers=told).status_code]

    assert alice.browser.patch("/api/publishers/acme", json={"avatar_url": picture}).status_code == 200
    store("takedown", "acme/reviewer", "--reason", REASON)
    assert statuses() == [200, 304]
    store("takedown", "acme", "--reason", REASON)
    assert statuses() == [404, 404]
    session.get_one(Publisher, "other").avatar_url = picture
    session.commit()
    assert statuses() == [200, 304]
    store("takedown", "other", "--reason", REASON)
    assert statuses() == [404, 404]
    store("restore", "acme")
    assert statuses() == [200, 304]


def test_its_owner_sees_the_reason(store: Any, alice: Person, bob: Person) -> None:
    store("takedown", "acme", "--reason", REASON)
    assert "taken down" in alice.browser.get("/publishers").text
    assert "taken down" not in bob.browser.get("/publishers").text
    assert REASON in alice.browser.get("/publishers/acme/edit").text
    store("restore", "acme")
    assert "taken down" not in alice.browser.get("/publishers").text
    assert REASON not in alice.browser.get("/publishers/acme/edit").text


@pytest.mark.parametrize(
    ("down", "compared"),
    [("3.0.0", ["1.0.0/2.0.0"]), ("2.0.0", ["1.0.0/3.0.0"]), ("1.0.0", ["2.0.0/3.0.0"])],
)
def test_it_cannot_be_compared(
    store: Any, session: OrmSession, client: FlaskClient, down: str, compared: list[str]
) -> None:
    acme = session.get_one(Publisher, "acme")
    factories.agent_version(acme, version="3.0.0")
    store("takedown", f"acme/reviewer@{down}", "--reason", REASON)
    page = client.get("/publishers/acme/agents/reviewer/versions").text
    assert re.findall(r"/diff/([\d./]+)", page) == compared
    assert f'<option value="{down}"' not in page
    assert len(re.findall("<option", page)) == 4
    for each in compared:
        assert client.get(f"/publishers/acme/agents/reviewer/diff/{each}").status_code == 200


@pytest.mark.parametrize("name", ["acme", "acme/reviewer", "acme/reviewer@2.0.0"])
def test_its_definition_is_not_found(store: Any, client: FlaskClient, name: str) -> None:
    path = "/api/agents/acme/reviewer/2.0.0"
    assert client.get(path).status_code == 200
    store("takedown", name, "--reason", REASON)
    for each in (path, f"{path}/dependencies", path.replace("/api/", "/api/v1/")):
        answer = client.get(each)
        assert answer.status_code == 404
        assert answer.get_json()["error"].startswith(
            f"Agent not found. {name} was taken down by the operator"
        )
        assert REASON in answer.get_json()["error"]
    latest = client.get("/api/agents/acme/reviewer/latest")
    assert latest.status_code == (200 if "@" in name else 404)
    store("restore", name)
    assert client.get(path).status_code == 200
    assert client.get("/api/agents/acme/reviewer/latest").get_json()["version"] == "2.0.0"


def test_latest_skips_a_version_taken_down(store: Any, session: OrmSession, client: FlaskClient) -> None:
    store("takedown", "acme/reviewer@2.0.0", "--reason", REASON)
    assert (agent(session).latest_version, agent(session).tags) == ("1.0.0", [])
    assert client.get("/api/agents/acme/reviewer/latest").get_json()["version"] == "1.0.0"
    assert client.get("/publishers/acme/agents/reviewer/1.0.0").status_code == 200
    assert client.get("/publishers/acme/agents/reviewer/2.0.0").status_code == 410
    versions = client.get("/publishers/acme/agents/reviewer/versions").text
    assert f"Taken down by the operator: {REASON}" in versions
    assert "2.0.0" not in client.get("/publishers/acme/feed.atom").text
    store("takedown", "acme/reviewer@1.0.0", "--reason", REASON)
    assert agent(session).latest_version is None
    assert "/agents/reviewer" not in client.get("/store").text


def test_dependents_show_the_takedown(store: Any, client: FlaskClient) -> None:
    path = "/publishers/other/agents/planner/1.0.0"
    assert "taken down" not in client.get(path).text
    store("takedown", "acme", "--reason", REASON)
    page = client.get(path).text
    assert "An agent it spawns was taken down." in page
    assert "/publishers/acme/agents/reviewer/2.0.0" in page
    tree = client.get("/api/agents/other/planner/1.0.0/dependencies").get_json()
    (child,) = tree["root"]["children"]
    assert (child["fullId"], child["isAvailable"], child["children"]) == ("acme/reviewer@2.0.0", False, [])
    store("restore", "acme")
    assert "taken down" not in client.get(path).text


@pytest.mark.parametrize(
    ("down", "run", "status"),
    [
        ("acme", "acme/reviewer@1.0.0", 403),
        ("acme", "acme/anything@9.9.9", 403),
        ("acme", "acme/reviewer", 403),
        ("acme/reviewer", "acme/reviewer@1.0.0", 403),
        ("acme/reviewer", "acme/reviewer", 403),
        ("acme/reviewer", "acme/helper@1.0.0", 200),
        ("acme/reviewer@2.0.0", "acme/reviewer@2.0.0", 403),
        ("acme/reviewer@2.0.0", "acme/reviewer@1.0.0", 200),
        ("acme/reviewer", "reviewer", 200),
        ("acme/reviewer", "other/planner@1.0.0", 200),
    ],
)
def test_no_run_of_it_starts(
    store: Any, client: FlaskClient, alice: Person, down: str, run: str, status: int
) -> None:
    store("takedown", down, "--reason", REASON)
    answer = client.post(
        "/api/v1/agent-runs", json={"action": "START", "agentId": run}, headers=alice.headers
    )
    assert answer.status_code == status
    if status == 403:
        assert REASON in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("down", "published", "status"),
    [
        ("acme", "reviewer", 403),
        ("acme", "brand-new", 403),
        ("acme/reviewer", "reviewer", 403),
        ("acme/reviewer", "brand-new", 201),
        ("acme/reviewer@2.0.0", "reviewer", 201),
    ],
)
def test_nothing_is_published_there(
    store: Any, session: OrmSession, alice: Person, down: str, published: str, status: int
) -> None:
    store("takedown", down, "--reason", REASON)
    body = {"data": [factories.definition(published, version="3.0.0")]}
    answer = alice.browser.post("/api/agents/publish", json=body)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.get_json()["error"] == f"{down} is taken down"
        assert REASON in answer.get_json()["details"]
        store("restore", down)
        assert alice.browser.post("/api/agents/publish", json=body).status_code == 201


@pytest.mark.parametrize("reference", ["acme/reviewer@2.0.0", "acme/reviewer"])
def test_no_new_version_can_spawn_it(store: Any, bob: Person, reference: str) -> None:
    store("takedown", "acme/reviewer", "--reason", REASON)
    body = {"data": [factories.definition("caller", "other", spawnableAgents=[reference])]}
    answer = bob.browser.post("/api/agents/publish", json=body)
    assert answer.status_code == 400


def test_statistics_are_kept_and_prove(store: Any, session: OrmSession, mallory: Person) -> None:
    started = ledger.start(session, mallory.id)
    over = ledger.start(session, mallory.id)
    ledger.finish(session, over)
    before = (agent(session).runs, agent(session).credits, agent(session).unique_users)
    assert before[0] == 1
    store("takedown", "acme", "--reason", REASON)
    assert (agent(session).runs, agent(session).credits, agent(session).unique_users) == before
    ledger.finish(session, started)  # it was running at the takedown
    assert agent(session).runs == 2
    ledger.assert_proved(session)
    store("restore", "acme")
    ledger.assert_proved(session)
    assert session.scalars(select(Message)).all() == []


def test_a_publisher_down_keeps_its_agents_down(store: Any, session: OrmSession) -> None:
    store("takedown", "acme/reviewer", "--reason", REASON)
    store("takedown", "acme", "--reason", "Spam.")
    result = store("restore", "acme/reviewer")
    assert "It stays hidden because acme is taken down." in result.output
    assert agent(session).latest_version is None
    store("takedown", "acme/reviewer", "--reason", REASON)
    store("restore", "acme")
    assert agent(session).latest_version is None
    assert agent(session, "helper").latest_version == "1.0.0"


def test_both_are_idempotent_and_audited(store: Any, session: OrmSession) -> None:
    output = [
        store("takedown", "acme", "--reason", "Spam.").output,
        store("takedown", "acme", "--reason", " Spam. ").output,
        store("takedown", "acme", "--reason", "Malware.").output,
    ]
    assert output == [
        "acme is taken down now.\n",
        "acme is taken down already.\n",
        "acme is taken down now.\n",
    ]
    assert session.scalars(select(Takedown.reason)).all() == ["Malware."]
    output = [store("restore", "acme").output for _ in range(2)]
    assert output == ["acme is no longer taken down.\n", "acme is not taken down itself.\n"]
    session.expire_all()
    rows = session.scalars(select(AuditLog).order_by(AuditLog.id)).all()
    assert [(row.action, row.subject, row.after) for row in rows] == [
        ("store.taken_down", "acme", {"reason": "Spam."}),
        ("store.taken_down", "acme", {"reason": "Malware."}),
        ("store.restored", "acme", None),
    ]
    assert all(row.actor.startswith("cli") for row in rows)


@pytest.mark.parametrize("command", [["takedown", "--reason", REASON], ["restore"]])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "Publisher not found"),
        ("nobody/reviewer", "Publisher not found"),
        ("acme/nothing", "@acme has no agent nothing."),
        ("acme/reviewer@9.0.0", "acme/reviewer has no version 9.0.0."),
        ("acme/reviewer@", "Invalid name"),
        ("acme/", "Invalid name"),
        ("a/b/c", "Invalid name"),
        ("", "Invalid name"),
    ],
)
def test_an_unknown_name_is_an_error(store: Any, command: list[str], name: str, says: str) -> None:
    result = store(*command, name)
    assert result.exit_code == 1
    assert says in result.output


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501, "a\x07b"])
def test_a_reason_is_needed(store: Any, session: OrmSession, reason: str) -> None:
    assert store("takedown", "acme", "--reason", reason).exit_code == 1
    assert store("takedown", "acme").exit_code == 2
    assert session.scalars(select(Takedown)).all() == []


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("<script>alert(1)</script>", "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>"),
        ("First line.\n\nSecond line.", "<bdi>First line.\n\nSecond line.</bdi>"),
        ("\u202eturned", "<bdi>\u202eturned</bdi>"),
        ("\u0628\u0631\u064a\u062f", "<bdi>\u0628\u0631\u064a\u062f</bdi>"),
    ],
)
def test_a_reason_is_shown_as_text(store: Any, client: FlaskClient, reason: str, shown: str) -> None:
    store("takedown", "acme/reviewer", "--reason", reason)
    assert shown in client.get("/publishers/acme/agents/reviewer").text
