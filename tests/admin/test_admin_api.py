"""The operators' JSON routes and those of evaluation results: callers, bodies, answers, and what the audit log keeps."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import JSON, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.admin import TraceRelabel
from models.core.audit_log import AuditLog
from models.orgs import Org
from models.usage import Message
from models.usage.pruning import drop_bodies
from tests import factories
from tests.factories import Person
from views.web.guards import limiter

NOT_ADMIN = {"error": "Forbidden - not an admin"}
BAD_VISIBILITY = {"error": "Missing or invalid required fields: id, is_public"}
BAD_LIMIT = {"error": "Limit must be a positive number between 1 and 1000"}
BAD_KEY = {"authorization": "Bearer cb-pat-" + "0" * 64}
EVAL = {
    "cost_mode": "normal",
    "reasoner_model": "openai/o3",
    "agent_model": "base2",
    "metadata": {"suite": "codebuff", "avgScore": 7.5, "inner": {"numCases": 3}},
    "cost": 12,
}


def actions(session: OrmSession) -> list[tuple[str, str, str]]:
    session.rollback()
    return [(row.action, row.subject, row.actor) for row in session.query(AuditLog).order_by(AuditLog.id)]


ROUTES = [
    # method, path, body, statuses of operator and auditor
    ("GET", "/api/admin/orgs", None, 200, 200),
    ("GET", "/api/admin/orgs?after=nobody", None, 400, 400),
    ("GET", "/api/admin/orgs?after=a%00b", None, 400, 400),
    ("GET", "/api/admin/orgs/export", None, 200, 200),
    ("GET", "/api/admin/orgs/ACME/features/beta", None, 404, 404),
    ("GET", "/api/admin/orgs/a%00b/features/beta", None, 404, 404),
    ("GET", "/api/admin/orgs/ACME/features/a%00b", None, 404, 404),
    ("POST", "/api/admin/orgs/ACME/features/beta", {"percent": 5}, 200, 403),
    ("POST", "/api/admin/orgs/ACME/features/beta", [1], 400, 403),
    ("POST", "/api/admin/orgs/ACME/features/beta", "{", 400, 403),
    ("POST", "/api/admin/orgs/ACME/features/beta", {"x": "a\0"}, 400, 403),
    ("POST", "/api/admin/orgs/ACME/features/Be", {}, 400, 403),
    ("POST", "/api/admin/orgs/nobody/features/beta", {}, 404, 403),
    ("GET", "/api/admin/traces/RUN/messages", None, 200, 200),
    ("GET", "/api/admin/traces/RUN/messages?after=nobody", None, 400, 400),
    ("GET", "/api/admin/traces/nobody/messages", None, 404, 404),
    ("GET", "/api/admin/traces/a%00b/messages", None, 404, 404),
    ("GET", f"/api/admin/traces/{'x' * 3000}/messages", None, 404, 404),
    ("GET", "/api/admin/traces/RUN/timeline", None, 200, 200),
    ("GET", "/api/admin/traces/nobody/timeline", None, 404, 404),
    ("GET", "/api/admin/traces/client/laptop/sessions", None, 200, 200),
    ("GET", "/api/admin/traces/client/nobody/sessions", None, 404, 404),
    ("GET", "/api/admin/traces/client/a%00b/sessions", None, 404, 404),
    ("GET", "/api/admin/relabel-for-user?userId=ALICE", None, 200, 200),
    ("GET", "/api/admin/relabel-for-user?userId=nobody", None, 200, 200),
    ("GET", "/api/admin/relabel-for-user?userId=a%00b", None, 400, 400),
    ("GET", "/api/admin/relabel-for-user", None, 400, 400),
    ("POST", "/api/admin/relabel-for-user", {}, 400, 403),
    ("POST", "/api/admin/relabel-for-user?userId=ALICE", {}, 401, 403),
    ("PATCH", "/api/git-evals/visibility", {"id": "nobody", "is_public": True}, 404, 403),
    ("PATCH", "/api/git-evals/visibility", {"id": "a\0", "is_public": True}, 400, 403),
    *(
        ("PATCH", "/api/git-evals/visibility", body, 400, 403)
        for body in ({}, [], {"id": "x"}, {"id": 1, "is_public": True}, {"id": "x", "is_public": "true"}, "{")
    ),
    ("POST", "/api/git-evals", {}, 201, 403),
    ("POST", "/api/git-evals", EVAL, 201, 403),
    *(
        ("POST", "/api/git-evals", body, 400, 403)
        for body in (
            *([], "{", {"cost": "1"}, {"cost": 1.5}, {"cost": 2**31}, {"cost": None}, {"metadata": []}),
            *({"cost_mode": 1}, {"agent_model": "a\0"}, {"agent_model": "x" * 501}, {"metadata": "x"}),
        )
    ),
]


@pytest.fixture
def traced(session: OrmSession, alice: Person, bob: Person) -> tuple[str, str]:
    """Alice's run of two calls, and one that it spawned, in one session of a client; a call of Bob's elsewhere."""
    with factories.one_commit():
        user = session.get_one(User, alice.id)
        run = factories.run(user, "codebuff/base@1.0.0", created_at=factories.now() - timedelta(minutes=2))
        child = factories.run(user, "codebuff/helper@1.0.0", parent=run)
        tools = [{"id": "c1", "function": {"name": "read_files", "arguments": '{"paths": ["a.py"]}'}}]
        first = {"role": "assistant", "content": "Looking", "tool_calls": tools}
        for number, (of, answer) in enumerate(((run, first), (child, "Helped"), (run, "Done"))):
            factories.message(
                user,
                client_id="laptop",
                client_request_id=of.id,
                agent_id=of.agent_id,
                response=answer,
                request=[{"role": "user", "content": f"Prompt {number}"}],
                finished_at=factories.now() - timedelta(seconds=60 - number),
            )
        factories.message(session.get_one(User, bob.id), client_id="desktop", client_request_id="other")
    return run.id, child.id


def send(who: FlaskClient, method: str, path: str, body: Any, **kw: Any) -> Any:
    sent = {} if body is None else {"data": body} if isinstance(body, str) else {"json": body}
    return who.open(path, method=method, **sent, **kw)


def test_operators_act_auditors_read_and_nobody_else(
    session: OrmSession,
    traced: tuple[str, str],
    root: Person,
    auditor: Person,
    alice: Person,
    mallory: Person,
    anonymous: Person,
    acme: Org,
) -> None:
    org_id = acme.id
    for method, path, body, operator, reader in ROUTES:
        address = path.replace("ACME", org_id).replace("RUN", traced[0]).replace("ALICE", alice.id)
        for who, status in (
            (root, operator),
            (auditor, reader),
            (alice, 403),
            (mallory, 403),
            (anonymous, 403),
        ):
            answer = send(who.browser, method, address, body)
            name = who.user and who.user.email
            assert answer.status_code == status, (method, address, str(body)[:80], name, answer.text[:300])
            if status == 403:
                assert answer.json == NOT_ADMIN
        # a key is no sign-in here, except that operators record results with one
        for headers in (root.headers, alice.headers, BAD_KEY):
            answer = send(anonymous.browser, method, address, body, headers=headers)
            by_key = path == "/api/git-evals" and headers is root.headers
            assert answer.status_code == (operator if by_key else 403), (method, address, headers)
    done = {action for action, _, actor in actions(session) if actor == "root@example.org"}
    assert done == {
        "organizations.exported",
        "feature.changed",
        "trace.viewed",
        "relabels.viewed",
        "eval.recorded",
    }
    assert {action for action, _, actor in actions(session) if actor == "auditor@example.org"} == {
        "organizations.exported",
        "trace.viewed",
        "relabels.viewed",
    }
    assert {actor for _, _, actor in actions(session)} == {"root@example.org", "auditor@example.org"}


def test_organisations_are_listed_with_balance_and_use(
    session: OrmSession, root: Person, alice: Person, acme: Org
) -> None:
    user = session.get_one(User, alice.id)
    factories.grant(user, 300, "organization", org_id=acme.id)
    call = factories.message(user, org_id=acme.id)
    rich = factories.org(user, "Rich")
    factories.grant(user, 5000, "organization", org_id=rich.id)
    factories.org(user, "Gone", deleted_at=factories.now())
    factories.org(user, "Empty")
    found = root.browser.get("/api/admin/orgs").json["organizations"]
    assert [(each["name"], each["credit_balance"], each["health_status"]) for each in found] == [
        ("Empty", 0, "critical"),
        ("Rich", 5000, "healthy"),
        ("Acme", 300, "warning"),
    ]
    assert (found[2]["member_count"], found[2]["owner_name"]) == (2, "alice")
    assert found[2]["last_activity"][:19] == call.finished_at.isoformat()[:19]
    after = root.browser.get(f"/api/admin/orgs?after={rich.id}").json
    assert [each["name"] for each in after["organizations"]] == ["Acme"]
    file = root.browser.get("/api/admin/orgs/export")
    assert file.headers["Content-Disposition"].startswith('attachment; filename="organizations-export-20')
    head, *lines = file.text.splitlines()
    assert head.startswith("Organization ID,Name,Slug,Description,Owner Name,Owner Email,Created At")
    assert len(lines) == 3
    assert '"Acme","acme","","alice","alice@example.org"' in lines[2]
    assert lines[2].endswith('"No","500","2000","","Yes","Yes"')


def test_a_feature_keeps_its_configuration_and_its_state(
    session: OrmSession, root: Person, acme: Org
) -> None:
    address = f"/api/admin/orgs/{acme.id}/features/beta"
    assert root.browser.get(address).json == {"config": None}
    made = root.browser.post(address, json={"percent": 5, "nested": {"a": [1]}}).json
    assert (made["config"], made["is_active"]) == ({"percent": 5, "nested": {"a": [1]}}, True)
    session.execute(text("UPDATE org_feature SET is_active = false"))
    session.commit()
    changed = root.browser.post(address, json={"percent": 6}).json
    assert (changed["config"], changed["is_active"]) == ({"percent": 6}, False)
    assert root.browser.get(address).json == changed


def test_a_trace_shows_the_messages_and_the_timeline(
    session: OrmSession, root: Person, traced: tuple[str, str]
) -> None:
    run, child = traced
    shown = root.browser.get(f"/api/admin/traces/{run}/messages").json["messages"]
    assert [each["request"][0]["content"] for each in shown] == ["Prompt 0", "Prompt 2"]
    assert (shown[1]["response"], shown[1]["client_request_id"]) == ("Done", run)
    page = root.browser.get(f"/api/admin/traces/{run}/messages?after={shown[0]['id']}").json["messages"]
    assert [each["id"] for each in page] == [shown[1]["id"]]
    events = root.browser.get(f"/api/admin/traces/{run}/timeline").json["events"]
    assert sorted((each["type"], each["name"], each.get("parentId")) for each in events) == [
        ("agent_step", "codebuff/base@1.0.0", None),
        ("agent_step", "codebuff/base@1.0.0", None),
        ("agent_step", "codebuff/helper@1.0.0", child),
        ("spawned_agent", "codebuff/helper@1.0.0", run),
        ("tool_call", "read_files", shown[0]["id"]),
    ]
    talk = root.browser.get("/api/admin/traces/client/laptop/sessions").json
    assert [(each["user_prompt"], each["assistant_response"]) for each in talk["messages"]] == [
        ("Prompt 0", "Looking"),
        ("Prompt 1", "Helped"),
        ("Prompt 2", "Done"),
    ]
    assert (talk["client_id"], talk["total_credits"]) == ("laptop", 15)
    assert talk["date_range"]["start"] < talk["date_range"]["end"]
    assert [(action, subject) for action, subject, _ in actions(session)] == [
        ("trace.viewed", run),
        ("trace.viewed", "laptop"),
    ]


def test_results_are_recorded_listed_and_published(
    session: OrmSession, root: Person, auditor: Person, alice: Person, anonymous: Person
) -> None:
    made = [root.browser.post("/api/git-evals", json=EVAL | {"cost": cost}).json for cost in (1, 2)]
    assert made[0] == EVAL | {
        "cost": 1,
        "id": made[0]["id"],
        "is_public": False,
        "created_at": made[0]["created_at"],
    }
    newest_first = [made[1]["id"], made[0]["id"]]
    assert sorted(newest_first, reverse=True) == newest_first
    published = {"id": made[0]["id"], "is_public": True}
    for _ in range(2):
        assert root.browser.patch("/api/git-evals/visibility", json=published).json == made[0] | published
    for who, admin, seen in (
        (root, True, newest_first),
        (auditor, False, newest_first),
        (alice, False, newest_first[1:]),
        (anonymous, False, newest_first[1:]),
    ):
        answer = who.browser.get("/api/git-evals").json
        assert ([row["id"] for row in answer["results"]], answer["isAdmin"]) == (seen, admin)
    assert [row["id"] for row in root.browser.get("/api/git-evals?limit=1").json["results"]] == newest_first[
        :1
    ]
    for limit in ("0", "1001", "-1", "x", "1.5", "٣", "9" * 30, "%00"):
        answer = root.browser.get(f"/api/git-evals?limit={limit}")
        assert (answer.status_code, answer.json) == (400, BAD_LIMIT), limit
    assert [action for action, _, _ in actions(session)] == ["eval.recorded"] * 2 + ["eval.visibility"]


@pytest.fixture
def relabelling(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that sets STOA_RELABEL_MODELS."""

    def set_models(models: str) -> None:
        names = tuple(models.split(",")) if models else ()
        changed = app.extensions["settings"].model_copy(update={"stoa_relabel_models": names})
        monkeypatch.setitem(app.extensions, "settings", changed)

    monkeypatch.setattr(limiter, "enabled", False)
    return set_models


RELABEL = "/api/admin/relabel-for-user?userId="


def test_requests_are_answered_by_other_models_and_the_operator_pays(
    session: OrmSession,
    root: Person,
    alice: Person,
    bob: Person,
    relabelling: Callable[[str], None],
) -> None:
    user, operator = session.get_one(User, alice.id), session.get_one(User, root.id)
    with factories.one_commit():
        for number in range(3):
            message = factories.message(
                user,
                model="openai/gpt-5",
                request=[{"role": "user", "content": f"Prompt {number}"}],
                finished_at=factories.now() - timedelta(minutes=number),
            )
            factories.call(user, message=message, requested_model="openai/gpt-5")
        pruned = factories.message(user, request=None, response=JSON.NULL)
        factories.call(user, message=pruned)
    path = f"{RELABEL}{alice.id}"
    relabelling("stoa/demo")
    for headers in ({}, BAD_KEY, bob.headers):
        answer = root.browser.post(path, json={}, headers=headers)
        assert (answer.status_code, answer.json["error"]) == (401, "API key required")
    for body in ({"limit": 0}, {"limit": 51}, {"limit": "1"}, {"limit": 1.5}, [], "{"):
        assert send(root.browser, "POST", path, body, headers=root.headers).status_code == 400, body
    for models, words in (("", "STOA_RELABEL_MODELS"), ("nobody/none", "nobody/none")):
        relabelling(models)
        answer = root.browser.post(path, json={}, headers=root.headers)
        assert (answer.status_code, words in answer.text) == (503, True), answer.text
    relabelling("stoa/demo")
    refused = root.browser.post(path, json={}, headers=root.headers)
    assert (refused.status_code, "credits" in refused.json["error"]) == (402, True)
    factories.grant(operator, 1000)
    before = session.query(Message).filter_by(user_id=alice.id).count()
    made = root.browser.post(path, json={"limit": 2}, headers=root.headers).json
    assert (made["success"], made["message"]) == (True, "Traces relabeled successfully")
    assert [each["query"] for each in made["data"]] == ["Prompt 0", "Prompt 1"]
    for each in made["data"]:
        assert each["outputs"]["openai/gpt-5"] == "Hello yourself"
        assert each["outputs"]["stoa/demo"]
    root.browser.post(path, headers=root.headers)  # again, and the third
    shown = root.browser.get(path).json["data"]
    assert [(each["query"], len(each["outputs"])) for each in shown] == [(f"Prompt {n}", 2) for n in range(3)]
    session.rollback()
    assert session.query(Message).filter_by(user_id=alice.id).count() == before
    paid = session.query(Message).filter_by(user_id=root.id).all()
    assert {each.client_id for each in paid} == {"stoa-relabel"}
    assert len(paid) == 5
    assert session.query(TraceRelabel).count() == 3
    assert root.browser.get(f"{RELABEL}{root.id}").json == {"data": []}
    drop_bodies(factories.now() - timedelta(seconds=90))
    session.commit()
    assert session.query(TraceRelabel).count() == 2
    assert [subject for action, subject, _ in actions(session) if action == "trace.relabelled"] == [
        alice.id
    ] * 3
