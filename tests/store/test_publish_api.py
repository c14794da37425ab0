"""`POST /api/agents/publish`: every row of the contract's table, in order, and the resulting database state."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.core.db import db
from models.orgs import Org, OrgMember
from models.store import Agent, AgentConfig, AgentVersion, Publisher
from models.store.publishing.publish import HINT
from tests import factories
from tests.factories import Person
from views.web.guards import limiter

PATH = "/api/agents/publish"


def definition(id: str = "reviewer", **more: Any) -> dict[str, Any]:
    return {"id": id, "displayName": id.title(), "model": "stoa/demo", "publisher": "acme", **more}


def publish(who: Person, *definitions: Any, **more: Any) -> tuple[int, Any]:
    answer = who.browser.post(PATH, json={"data": definitions, **more}, headers=who.headers)
    return answer.status_code, answer.get_json()


def published(session: OrmSession) -> int:
    session.rollback()
    return sum(
        session.execute(select(func.count()).select_from(table)).scalar_one()
        for table in (AgentConfig, Agent, AgentVersion)
    )


@pytest.fixture
def mine(session: OrmSession, alice: Person) -> Publisher:
    """Alice's publisher `acme`."""
    assert alice.user
    return factories.publisher(alice.user)


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """The SQL statements of the application."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


# -- 10: published -------------------------------------------------------------------------------------------


def test_a_first_version_is_published(mine: Publisher, alice: Person, session: OrmSession) -> None:
    status, body = publish(alice, definition(junk=1))
    assert (status, body) == (
        201,
        {
            "success": True,
            "publisherId": "acme",
            "agents": [{"id": "reviewer", "version": "0.0.1", "displayName": "Reviewer"}],
        },
    )
    row = session.scalars(select(AgentConfig)).one()
    assert row.data == {
        "id": "reviewer",
        "version": "0.0.1",
        "publisher": "acme",
        "displayName": "Reviewer",
        "model": "stoa/demo",
        "systemPrompt": "",
        "instructionsPrompt": "",
        "stepPrompt": "",
        "toolNames": [],
        "spawnableAgents": [],
        "mcpServers": {},
        "outputMode": "last_message",
        "includeMessageHistory": False,
        "inheritParentSystemPrompt": False,
    }
    assert (row.major, row.minor, row.patch) == (0, 0, 1)
    version = session.scalars(select(AgentVersion)).one()
    assert (version.published_by, version.credential) == (alice.id, "web")
    log = session.scalars(select(AuditLog).where(AuditLog.action == "agent.published")).one()
    assert (log.subject, log.actor_id) == ("acme/reviewer@0.0.1", alice.id)


def test_store_metadata_is_stored(mine: Publisher, alice: Person, session: OrmSession) -> None:
    publish(alice, definition(name="Café Reviewer", description="Reads it.", tags=["code", "review"]))
    agent = session.scalars(select(Agent)).one()
    assert (agent.name, agent.description, agent.tags) == ("Café Reviewer", "Reads it.", ["code", "review"])
    assert (agent.latest_version, agent.versions, agent.model) == ("0.0.1", 1, "stoa/demo")
    for word in ("reviewer", "café", "reads", "review", "acme"):
        found = session.scalar(
            select(Agent.id).where(Agent.search.bool_op("@@")(func.websearch_to_tsquery("simple", word)))
        )
        assert found == "reviewer", word


def test_null_store_metadata_is_dropped(mine: Publisher, alice: Person, session: OrmSession) -> None:
    status, _ = publish(alice, definition(name=None, description=None, tags=None))
    assert status == 201
    assert not {"name", "description", "tags"} & set(session.scalars(select(AgentConfig.data)).one())


def test_versions_follow_one_another(mine: Publisher, alice: Person, session: OrmSession) -> None:
    for sent, becomes in ((None, "0.0.1"), ("1.2.9", "1.2.9"), (None, "1.2.10"), ("1.10.0", "1.10.0")):
        _, body = publish(alice, definition(**({"version": sent} if sent else {})))
        assert body["agents"][0]["version"] == becomes
    agent = session.scalars(select(Agent)).one()
    assert (agent.latest_version, agent.versions) == ("1.10.0", 4)


def test_agents_of_a_request_may_call_each_other_in_a_circle(
    mine: Publisher, alice: Person, session: OrmSession
) -> None:
    tools = ["spawn_agents"]
    status, body = publish(
        alice,
        definition("one", toolNames=tools, spawnableAgents=["two"]),
        definition("two", toolNames=tools, spawnableAgents=["one", "acme/one@3.0.0"], version="2.0.0"),
        definition("three", version="3.0.0", toolNames=tools, spawnableAgents=["acme/two@2.0.0"]),
        definition("four", toolNames=tools, subagents=["three"]),
        allLocalAgentIds=["acme/one@3.0.0"],
    )
    assert status == 400
    assert body["details"] == (
        "Invalid spawnable agent: 'acme/one@3.0.0' is not published and not included in this request."
    )
    status, _ = publish(
        alice,
        definition("one", toolNames=tools, spawnableAgents=["two", "acme/two"], version="3.0.0"),
        definition("two", toolNames=tools, spawnableAgents=["one"], version="2.0.0"),
        definition("three", toolNames=tools, spawnableAgents=["acme/two@2.0.0"]),
        definition("four", toolNames=tools, subagents=["three"]),
        allLocalAgentIds=["acme/two"],
    )
    assert status == 201
    stored = {row.id: row.data for row in session.scalars(select(AgentConfig))}
    assert stored["one"]["spawnableAgents"] == ["acme/two@2.0.0", "acme/two@2.0.0"]
    assert stored["two"]["spawnableAgents"] == ["acme/one@3.0.0"]
    assert stored["four"]["spawnableAgents"] == ["acme/three@0.0.1"]
    assert "subagents" not in stored["four"]


def test_runs_from_before_count_at_once(
    mine: Publisher, alice: Person, bob: Person, session: OrmSession
) -> None:
    for version in ("0.0.1", "0.0.2", "0.0.2"):
        made = factories.run(alice.user, f"acme/reviewer@{version}", status="completed")
        made.completed_at = made.created_at
        made.user_id = bob.id
        factories.call(bob.user, run_id=made.id)
    session.commit()
    publish(alice, definition())
    agent = session.get_one(Agent, ("acme", "reviewer"))
    assert agent.runs == 3
    publish(alice, definition())
    version = session.get_one(AgentVersion, ("acme", "reviewer", "0.0.2"))
    assert version.runs == 2


# -- 1: the body ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "data: Invalid input: expected array, received undefined"),
        ({"data": {}}, "data: Invalid input: expected array, received object"),
        ({"data": []}, "data: Too small: expected array to have >=1 items"),
        ({"data": [5]}, "data.0: Invalid input: expected object, received number"),
        ([], ": Invalid input: expected object, received array"),
        (
            {"data": [{}], "allLocalAgentIds": "a"},
            "allLocalAgentIds: Invalid input: expected array, received string",
        ),
    ],
)
def test_a_body_of_another_shape_is_refused(anonymous: Person, body: Any, message: str) -> None:
    answer = anonymous.browser.post(PATH, json=body)
    assert answer.status_code == 400
    output = answer.get_json()
    assert (output["error"], output["details"]) == ("Invalid request body", message)
    assert output["validationErrors"][0]["message"] in message


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 300 + b"]" * 300, b"[" * 3000 + b"]" * 3000])
def test_what_is_no_json_is_refused(anonymous: Person, raw: bytes) -> None:
    answer = anonymous.browser.post(PATH, data=raw)
    assert (answer.status_code, answer.get_json()) == (
        400,
        {
            "error": "Invalid request body",
            "details": "Invalid JSON in request body",
            "validationErrors": [],
        },
    )


@pytest.fixture
def uncounted(app: Flask) -> Iterator[None]:
    """Reset the rate limits."""
    with app.app_context():
        limiter.reset()
    yield
    with app.app_context():
        limiter.reset()


@pytest.mark.parametrize("path", [PATH, "/api/agents/validate"])
def test_too_large_and_too_frequent_requests(
    uncounted: None, anonymous: Person, alice: Person, path: str
) -> None:
    answer = anonymous.browser.post(path, data=b" " * 20_971_521, headers=alice.headers)
    assert (answer.status_code, answer.get_json()) == (
        413,
        {"error": "The request body is larger than 20 MB. Send a smaller body."},
    )
    answers = [anonymous.browser.post(path, json=[]) for _ in range(601)]
    assert answers[0].status_code == 400
    assert (answers[-1].status_code, answers[-1].get_json()) == (
        429,
        {"error": "Too many requests. Wait a minute, then try again."},
    )
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_a_nul_is_reported_for_its_definition(anonymous: Person) -> None:
    status, body = publish(anonymous, {"id": "reviewer", "displayName": "R\0", "model": "m"})
    assert (status, body["error"]) == (400, "Agent config validation failed")
    assert body["validationErrors"] == [
        {
            "filePath": "reviewer",
            "message": 'Agent "reviewer" (R\0): The definition contains a NUL character. Remove it.',
        }
    ]


# -- 2 and 3: definitions before the caller ------------------------------------------------------------------


def test_definitions_are_checked_before_the_caller(anonymous: Person) -> None:
    status, body = publish(anonymous, {"id": "reviewer", "displayName": "R"})
    assert status == 400
    assert body["error"] == "Agent config validation failed"
    problem = body["validationErrors"][0]
    assert problem["filePath"] == "reviewer"
    assert problem["message"].startswith('Agent "reviewer" (R): Schema validation failed: [\n  {\n')
    assert body["details"] == problem["message"]


def test_the_same_agent_twice_is_refused(anonymous: Person) -> None:
    _, body = publish(anonymous, definition(), definition())
    assert body["details"] == 'Agent "reviewer" (Reviewer): Duplicate agent ID'


def test_authentication_is_checked_after_validation(
    anonymous: Person, mine: Publisher, session: OrmSession
) -> None:
    assert publish(anonymous, definition()) == (401, {"error": "Unauthorized"})
    answer = anonymous.browser.post(
        PATH, json={"data": [definition()], "authToken": "x"}, headers={"authorization": "Bearer y"}
    )
    assert (answer.status_code, answer.get_json()) == (401, {"error": "Unauthorized"})
    assert published(session) == 0


def test_cookie_then_key_then_body(
    app: Flask, mine: Publisher, alice: Person, mallory: Person, session: OrmSession
) -> None:
    assert alice.user
    cli = factories.token(alice.user, type="cli")
    bare = app.test_client()
    answers = [
        alice.browser.post(PATH, json={"data": [definition()]}, headers=mallory.headers),
        bare.post(PATH, json={"data": [definition()], "authToken": mallory.token}, headers=alice.headers),
        bare.post(PATH, json={"data": [definition()], "authToken": cli}),
        bare.post(
            PATH,
            json={"data": [definition()], "authToken": cli},
            headers={"authorization": "Bearer nobody"},
        ),
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    kinds = session.scalars(select(AgentVersion.credential).order_by(AgentVersion.version)).all()
    assert kinds == ["web", "pat", "cli", "cli"]


def test_another_site_cannot_publish_with_the_cookie(mine: Publisher, alice: Person) -> None:
    answer = alice.browser.post(
        PATH, json={"data": [definition()]}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403


# -- 4 to 6: the publisher -----------------------------------------------------------------------------------


def test_every_agent_names_its_publisher(alice: Person) -> None:
    sent = [definition("a"), definition("b"), definition("c")]
    del sent[0]["publisher"], sent[2]["publisher"]
    assert publish(alice, *sent) == (
        400,
        {
            "error": "Publisher field required",
            "details": 'All agents must have the "publisher" field set. Missing for agents: a, c',
        },
    )


def test_there_is_one_publisher(alice: Person) -> None:
    assert publish(alice, definition("a", publisher="x"), definition("b", publisher="y")) == (
        400,
        {
            "error": "Multiple publishers not allowed",
            "details": "All agents in a single request must use the same publisher. Found: x, y",
        },
    )


@pytest.mark.parametrize("name", ["nobody", "Acme", "аcme", "../acme", "x" * 200])
def test_a_publisher_that_is_not_there(mine: Publisher, alice: Person, name: str) -> None:
    assert publish(alice, definition(publisher=name)) == (
        403,
        {
            "error": "Publisher not found or not accessible",
            "details": f"Publisher '{name}' not found or you don't have permission to publish to it",
        },
    )


def test_only_the_owner_of_a_personal_publisher_publishes(
    mine: Publisher, bob: Person, mallory: Person, session: OrmSession
) -> None:
    for person in (bob, mallory):
        status, body = publish(person, definition())
        assert (status, body["error"]) == (403, "Publisher not found or not accessible")
    assert published(session) == 0


def test_owners_and_admins_of_an_organisation_publish(
    acme: Org, alice: Person, bob: Person, mallory: Person, session: OrmSession
) -> None:
    factories.publisher(acme)
    statuses = [publish(person, definition())[0] for person in (alice, bob, mallory)]
    assert statuses == [201, 403, 403]
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert publish(bob, definition())[0] == 201


# -- 7 and 8: versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("v2.0.0", "Invalid version format: v2.0.0. Must be in semver format (e.g., 1.0.0)"),
        ("2.0", "Invalid version format: 2.0. Must be in semver format (e.g., 1.0.0)"),
        ("2.0.0-beta", "Invalid version format: 2.0.0-beta. Must be in semver format (e.g., 1.0.0)"),
        ("２.0.0", "Invalid version format: ２.0.0. Must be in semver format (e.g., 1.0.0)"),
        (
            "2.0.2147483648",
            "Invalid version format: 2.0.2147483648. Must be in semver format (e.g., 1.0.0), and each number may be at most 2147483647",
        ),
        ("1.0.0", "Provided version 1.0.0 must be greater than the latest version (1.0.0)"),
        ("0.9.9", "Provided version 0.9.9 must be greater than the latest version (1.0.0)"),
    ],
)
def test_versions_that_cannot_follow(
    mine: Publisher, alice: Person, session: OrmSession, version: str, reason: str
) -> None:
    factories.agent(mine)
    assert publish(alice, definition("other"), definition(version=version)) == (
        400,
        {"error": "Version determination failed", "details": f"Failed for agent 'reviewer': {reason}"},
    )
    assert published(session) == 3


def test_after_the_last_patch_a_version_is_required(
    mine: Publisher, alice: Person, session: OrmSession
) -> None:
    factories.agent(mine, version="1.0.2147483647")
    status, body = publish(alice, definition())
    assert status == 400
    assert "has no next patch" in body["details"]


def test_a_yanked_version_is_not_published_again(mine: Publisher, alice: Person, session: OrmSession) -> None:
    factories.agent_version(mine, version="1.0.0")
    factories.agent_version(mine, version="2.0.0", yanked_reason="broken")
    status, body = publish(alice, definition(version="1.5.0"))
    assert status == 400
    assert "latest version (2.0.0)" in body["details"]
    assert publish(alice, definition())[1]["agents"][0]["version"] == "2.0.1"


def test_twenty_publish_one_version_at_once(
    app: Flask, mine: Publisher, alice: Person, session: OrmSession
) -> None:
    answers: list[tuple[int, Any]] = []
    start = threading.Barrier(20)

    def one() -> None:
        client = app.test_client()
        start.wait()
        answer = client.post(PATH, json={"data": [definition(version="1.0.0")]}, headers=alice.headers)
        answers.append((answer.status_code, answer.get_json()))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    statuses = Counter(status for status, _ in answers)
    assert statuses[201] == 1
    assert statuses[409] >= 1
    assert set(statuses) <= {201, 400, 409}
    for status, body in answers:
        if status == 409:
            assert body == {
                "error": "Version already exists",
                "details": "Agent 'reviewer' version '1.0.0' already exists for publisher 'acme'",
                "hint": "Versions are immutable. Publish a greater version, or omit version to use the next one.",
            }
        elif status == 400:  # came after the winner had finished
            assert body["error"] == "Version determination failed"
    assert published(session) == 3


def test_twenty_publish_without_a_version_at_once(
    app: Flask, mine: Publisher, alice: Person, session: OrmSession
) -> None:
    statuses = []
    start = threading.Barrier(20)

    def one() -> None:
        client = app.test_client()
        start.wait()
        statuses.append(client.post(PATH, json={"data": [definition()]}, headers=alice.headers).status_code)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert statuses == [201] * 20
    agent = session.scalars(select(Agent)).one()
    assert (agent.latest_version, agent.versions) == ("0.0.20", 20)


# -- 9: references -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("file-picker", "'file-picker' has no published versions to resolve to."),
        ("local", "'local' has no published versions to resolve to."),
        ("acme/local", "'acme/local' has no published versions to resolve to."),
        ("acme/local@1.0.0", "'acme/local@1.0.0' is not published and not included in this request."),
        ("a/b/c", "'a/b/c' has no published versions to resolve to."),
    ],
)
def test_local_agents_cannot_be_referenced(
    mine: Publisher, alice: Person, session: OrmSession, reference: str, message: str
) -> None:
    calling = definition(toolNames=["spawn_agents"], spawnableAgents=[reference])
    assert publish(alice, definition("other"), calling, allLocalAgentIds=[reference]) == (
        400,
        {
            "error": "Invalid spawnable agent",
            "details": f"Invalid spawnable agent: {message}",
            "hint": HINT,
        },
    )
    assert published(session) == 0


def test_references_are_resolved_to_versions(
    mine: Publisher, alice: Person, bob: Person, session: OrmSession
) -> None:
    assert bob.user
    other = factories.publisher(bob.user, "other")
    factories.agent_version(other, "thinker", "1.10.0")
    factories.agent_version(other, "thinker", "1.9.0")
    factories.agent_version(other, "thinker", "2.0.0", yanked_reason="broken")
    factories.agent_version(mine, "planner", "0.3.0")
    names = ["planner", "acme/planner@0.3.0", "other/thinker@1.9.0", "other/thinker@2.0.0", "other/thinker"]
    status, _ = publish(
        alice,
        definition(toolNames=["spawn_agents"], spawnableAgents=names),
        allLocalAgentIds=["other/thinker"],
    )
    assert status == 201
    data = session.scalars(select(AgentConfig.data).where(AgentConfig.id == "reviewer")).one()
    assert data["spawnableAgents"] == [
        "acme/planner@0.3.0",
        "acme/planner@0.3.0",
        "other/thinker@1.9.0",
        "other/thinker@2.0.0",
        "other/thinker@1.10.0",
    ]


def test_a_hundred_agents_at_once_take_few_statements(
    mine: Publisher, alice: Person, session: OrmSession, statements: list[str]
) -> None:
    sent = [
        definition(
            f"agent-{at}",
            toolNames=["spawn_agents"],
            spawnableAgents=[f"agent-{other}" for other in range(max(0, at - 5), at)],
        )
        for at in range(100)
    ]
    del statements[:]
    status, body = publish(alice, *sent)
    assert status == 201
    assert len(body["agents"]) == 100
    assert published(session) == 300
    assert len(statements) < 30


def test_an_organisations_key_does_not_publish_as_a_person(
    session: OrmSession, alice: Person, acme: Org, client: FlaskClient
) -> None:
    """Whoever made it before it was handed to alice knows it."""
    assert alice.user is not None
    factories.publisher(alice.user, "harbor")
    token = factories.token(alice.user, org_id=acme.id)
    body = {"data": [definition(publisher="harbor")]}
    for key, status in ((token, 403), (alice.token, 201)):
        answer = client.post(PATH, json=body, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status, answer.text
    version = session.scalars(select(AgentVersion.version)).one()
    yank = f"/api/agents/harbor/reviewer/{version}/yank"
    for key, status in ((token, 403), (alice.token, 200)):
        answer = client.post(yank, json={"reason": "broken"}, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status, answer.text
