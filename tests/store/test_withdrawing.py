"""Yanking versions and deprecating agents: permissions and effects."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.orgs import Org
from models.store import Agent, AgentConfig, AgentVersion
from tests import factories
from tests.factories import Person

YANK = "/api/agents/acme/reviewer/1.0.0/yank"
DEPRECATION = "/api/agents/acme/reviewer/deprecation"


@pytest.fixture(autouse=True)
def agents(session: OrmSession, acme: Org) -> None:
    """A publisher of an organisation, with two versions of an agent."""
    of = factories.publisher(acme)
    factories.agent_version(of, version="1.0.0", data={"description": "First."})
    factories.agent_version(of, version="2.0.0", data={"description": "Second."})
    factories.agent_version(of, "successor")


def call(who: Person, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = who.browser.open(path, method=method, json=body, headers=who.headers)
    body = answer.get_json()
    assert answer.status_code != 404 or len(body.pop("details")) > 20
    return answer.status_code, body


def agent(session: OrmSession) -> Agent:
    session.rollback()
    return session.get_one(Agent, ("acme", "reviewer"), populate_existing=True)


def test_latest_skips_a_yanked_version(session: OrmSession, alice: Person) -> None:
    path = "/api/agents/acme/reviewer/2.0.0/yank"
    status, body = call(alice, "POST", path, {"reason": " Leaks keys. "})
    assert status == 200
    assert body.pop("yankedAt").endswith("Z")
    assert body == {
        "publisherId": "acme",
        "id": "reviewer",
        "version": "2.0.0",
        "yankedReason": "Leaks keys.",
    }
    assert (agent(session).latest_version, agent(session).description) == ("1.0.0", "First.")
    assert session.get(AgentConfig, ("reviewer", "2.0.0", "acme"))
    row = session.get_one(AgentVersion, ("acme", "reviewer", "2.0.0"))
    assert (row.yanked_by, row.yanked_reason) == (alice.id, "Leaks keys.")
    moment = row.yanked_at

    assert call(alice, "POST", path, {"reason": "Worse."})[1]["yankedReason"] == "Worse."
    session.refresh(row)
    assert row.yanked_at == moment

    assert call(alice, "POST", YANK, {"reason": "Too."})[0] == 200
    assert (agent(session).latest_version, agent(session).description) == (None, "Second.")

    for _ in range(2):
        status, body = call(alice, "DELETE", path)
        assert (status, body["yankedAt"], body["yankedReason"]) == (200, None, None)
    assert agent(session).latest_version == "2.0.0"
    log = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert log == ["agent.yanked"] * 3 + ["agent.unyanked"] * 2


def test_a_deprecated_agent_names_its_successor(session: OrmSession, alice: Person) -> None:
    status, body = call(alice, "POST", DEPRECATION, {"reason": "Old.", "successor": "acme/successor"})
    assert status == 200
    assert body.pop("deprecatedAt").endswith("Z")
    assert body == {
        "publisherId": "acme",
        "id": "reviewer",
        "deprecatedReason": "Old.",
        "successor": "acme/successor",
    }
    assert agent(session).latest_version == "2.0.0"
    assert call(
        alice,
        "POST",
        "/api/agents/acme/successor/deprecation",
        {"reason": "Circle.", "successor": "acme/reviewer"},
    ) == (400, {"error": "Invalid successor. That agent is deprecated too."})
    for _ in range(2):
        status, body = call(alice, "DELETE", DEPRECATION)
        assert (status, body["deprecatedAt"], body["successor"]) == (200, None, None)
    log = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert log == ["agent.deprecated"] + ["agent.undeprecated"] * 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"reason": "  "}, "Invalid reason. Say why in one sentence."),
        ({"reason": "x" * 501}, "Invalid reason. Use at most 500 characters."),
        ({"reason": "\x1b[2J"}, "Invalid reason. Remove control characters."),
        ({}, "Invalid request body"),
        ({"reason": 5}, "Invalid request body"),
        ([], "Invalid request body"),
    ],
)
def test_a_reason_is_needed(session: OrmSession, alice: Person, body: Any, message: str) -> None:
    for path in (YANK, DEPRECATION):
        status, output = call(alice, "POST", path, body)
        assert (status, output["error"]) == (400, message)
    assert alice.browser.post(YANK, data=b"{").get_json() == {"error": "Invalid JSON in request body"}
    assert agent(session).deprecated_at is None
    assert session.get_one(AgentVersion, ("acme", "reviewer", "1.0.0")).yanked_at is None


def test_a_successor_is_optional(alice: Person) -> None:
    status, body = call(alice, "POST", DEPRECATION, {"reason": "Old.", "successor": None})
    assert (status, body["deprecatedReason"], body["successor"]) == (200, "Old.", None)


@pytest.mark.parametrize(
    ("successor", "message"),
    [
        ("acme/none", "Agent not found. Write it as publisher/agent."),
        ("successor", "Agent not found. Write it as publisher/agent."),
        ("acme/successor@1.0.0", "Agent not found. Write it as publisher/agent."),
        ("acme/reviewer", "An agent cannot be its own successor."),
    ],
)
def test_a_successor_is_another_agent_of_the_store(alice: Person, successor: str, message: str) -> None:
    body = {"reason": "Old.", "successor": successor}
    assert call(alice, "POST", DEPRECATION, body) == (
        400,
        {"error": f"Invalid successor. {message}"},
    )


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("path", [YANK, DEPRECATION])
def test_who_may(
    session: OrmSession,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
    path: str,
    method: str,
) -> None:
    body = {"reason": "Because."}
    assert call(anonymous, method, path, body) == (401, {"error": "Unauthorized"})
    assert call(mallory, method, path, body) == (404, {"error": "Publisher not found"})
    assert call(bob, method, path, body) == (403, {"error": "Insufficient permissions"})
    assert agent(session).deprecated_at is None
    assert call(alice, method, path, body)[0] == 200
    assert (
        alice.browser.open(path, method=method, json=body, headers={"Origin": "https://x.org"}).status_code
        == 403
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/agents/nobody/reviewer/1.0.0/yank", "Publisher not found"),
        ("/api/agents/acme/none/1.0.0/yank", "Agent not found"),
        ("/api/agents/acme/reviewer/9.0.0/yank", "Version not found"),
        ("/api/agents/acme/reviewer/%00/yank", "Version not found"),
        ("/api/agents/acme/%00/deprecation", "Agent not found"),
        ("/api/agents/%00/x/deprecation", "Agent not found"),
        ("/api/agents/nobody/x/deprecation", "Publisher not found"),
    ],
)
def test_what_is_not_there(alice: Person, path: str, message: str) -> None:
    assert call(alice, "POST", path, {"reason": "x"}) == (404, {"error": message})
