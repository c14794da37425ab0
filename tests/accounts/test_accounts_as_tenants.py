"""One user, two accounts: keys of the organisation and of the user do not see each other's data."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session, User
from models.gateway import GatewayCall
from models.orgs import Org, OrgMember
from models.runs import AgentRun
from models.usage import Message
from tests import factories
from tests.factories import Person

CALL = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Say hello."}]}


@pytest.fixture
def headers(session: OrmSession, bob: Person, acme: Org) -> dict[str, str]:
    """An organisation key of acme, owned by bob, a plain member."""
    assert bob.user is not None
    return {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}


def start(client: FlaskClient, headers: dict[str, str]) -> str:
    body = {"action": "START", "agentId": "helper"}
    return str(client.post("/api/v1/agent-runs", json=body, headers=headers).get_json()["runId"])


def call(client: FlaskClient, headers: dict[str, str], run_id: str) -> Any:
    return client.post("/v1/chat/completions", json=CALL, headers=headers | {"x-stoa-run-id": run_id})


def test_each_key_pays_and_records_on_its_own_account(
    app: Flask,
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    alice: Person,
    acme: Org,
    headers: dict[str, str],
) -> None:
    assert bob.user is not None
    factories.grant(bob.user, 100)
    factories.grant(alice.user, 900, "organization", org_id=acme.id)  # type: ignore[arg-type]
    runs = {"own": start(client, bob.headers), "acme": start(client, headers)}
    assert call(client, bob.headers, runs["own"]).status_code == 200
    assert call(client, headers, runs["acme"]).status_code == 200
    # a run of the other account is not visible to this key
    assert call(client, bob.headers, runs["acme"]).status_code == 400
    assert call(client, headers, runs["own"]).status_code == 400

    rows = {row.run_id: row for row in session.query(GatewayCall)}
    assert {run_id: row.account_id for run_id, row in rows.items()} == {
        runs["own"]: bob.id,
        runs["acme"]: acme.id,
    }
    assert {row.org_id for row in session.query(Message)} == {None, acme.id}
    assert session.get_one(AgentRun, runs["acme"]).org_id == acme.id

    browser = bob.browser
    for home, mine, other in (("", "own", "acme"), ("/orgs/acme", "acme", "own")):
        request = rows[runs[mine]].request_id
        hidden = rows[runs[other]].request_id
        assert browser.get(f"{home}/runs/{runs[mine]}").status_code == 200
        assert browser.get(f"{home}/runs/{runs[mine]}/calls/{request}").status_code == 200
        assert browser.get(f"{home}/calls/{request}").status_code == 200
        assert browser.get(f"{home}/runs/{runs[other]}").status_code == 404
        assert browser.get(f"{home}/runs/{runs[other]}/calls/{hidden}").status_code == 404
        assert browser.get(f"{home}/runs/{runs[mine]}/calls/{hidden}").status_code == 404
        assert browser.get(f"{home}/calls/{hidden}").status_code == 404
        listed = browser.get(f"{home}/runs").text
        assert runs[mine] in listed
        assert runs[other] not in listed
        export = browser.get(f"{home}/usage/export" if home else "/profile/usage.csv").text
        assert request in export
        assert hidden not in export


def test_an_organisations_key_opens_nothing_of_the_person_who_has_it(
    app: Flask, client: FlaskClient, session: OrmSession, bob: Person, headers: dict[str, str]
) -> None:
    """Whoever made the key before it moved to bob knows it."""
    browser = app.test_client()
    browser.set_cookie("next-auth.session-token", headers["authorization"].removeprefix("Bearer "))
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and not rule.arguments and not rule.rule.startswith("/api/"):
            with browser.get(rule.rule) as found, client.get(rule.rule) as anonymous:
                same = (found.status_code, found.location) == (anonymous.status_code, anonymous.location)
                assert same, rule.rule
                assert bob.id.encode() not in found.data, rule.rule
    for path in ("/api/user/usage", "/api/user/profile", "/api/referrals", "/api/orgs"):
        assert browser.get(path).status_code in (401, 404), path
    assert client.get("/api/user/subscription", headers=headers).json == {
        "hasSubscription": False,
        "fallbackToALaCarte": False,
    }
    for method, path, body in (
        ("PATCH", "/api/user/preferences", {"fallbackToALaCarte": True}),
        ("POST", "/api/referrals", {"referralCode": "ref-x"}),
    ):
        answer = client.open(path, method=method, json=body, headers=headers)
        assert (answer.status_code, "belongs to an organisation" in answer.text) == (403, True), path
    assert not session.get_one(User, bob.id).fallback_to_a_la_carte


def test_a_run_is_finished_and_stepped_by_a_key_of_its_account_alone(
    client: FlaskClient, session: OrmSession, bob: Person, headers: dict[str, str]
) -> None:
    for mine, other in ((headers, bob.headers), (bob.headers, headers)):
        run_id = start(client, mine)
        step = client.post(f"/api/v1/agent-runs/{run_id}/steps", json={"stepNumber": 1}, headers=other)
        assert (step.status_code, step.json) == (403, {"error": "Unauthorized to add steps to this run"})
        body = {"action": "FINISH", "runId": run_id, "status": "completed"}
        body |= {"totalSteps": 0, "directCredits": 0, "totalCredits": 0}  # type: ignore[dict-item]
        assert client.post("/api/v1/agent-runs", json=body, headers=other).status_code == 200
        assert session.get_one(AgentRun, run_id).status == "running"
        session.rollback()
        assert client.post("/api/v1/agent-runs", json=body, headers=mine).status_code == 200
        session.expire_all()
        assert session.get_one(AgentRun, run_id).status == "completed"
        session.rollback()


def test_the_balance_is_that_of_the_account_that_the_key_is_charged_to(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person, acme: Org, headers: dict[str, str]
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(bob.user, 70)
    factories.grant(alice.user, 900, "organization", org_id=acme.id)
    other = factories.org(alice.user, "Other", members=(bob.user,))
    factories.grant(alice.user, 11, "organization", org_id=other.id)

    def remaining(headers: dict[str, str], org_id: str | None = None) -> int:
        body = {"fingerprintId": "cli-usage"} | ({"orgId": org_id} if org_id else {})
        return int(client.post("/api/v1/usage", json=body, headers=headers).get_json()["remainingBalance"])

    assert remaining(bob.headers) == 70
    assert remaining(bob.headers, acme.id) == 900
    assert remaining(headers) == 900
    # an organisation's key shows only that organisation
    assert remaining(headers, other.id) == 900


@pytest.mark.parametrize("end", ["leaves", "organisation is deleted"])
def test_a_key_ends_with_the_membership(
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    acme: Org,
    headers: dict[str, str],
    end: str,
) -> None:
    run_id = start(client, headers)
    acme_id = acme.id
    if end == "leaves":
        session.execute(delete(OrgMember).where(OrgMember.org_id == acme_id, OrgMember.user_id == bob.id))
    else:
        session.execute(delete(Org).where(Org.id == acme_id))
    session.commit()
    assert call(client, headers, run_id).status_code == 401
    body = {"action": "START", "agentId": "helper"}
    assert client.post("/api/v1/agent-runs", json=body, headers=headers).status_code == 404
    assert bob.browser.get(f"/orgs/acme/runs/{run_id}").status_code == 404
    assert session.query(Session).filter_by(org_id=acme_id).count() == 0
    assert client.get("/api/v1/me", headers=bob.headers).status_code == 200


def test_a_ban_is_the_persons_whichever_account_pays(
    client: FlaskClient, session: OrmSession, bob: Person, headers: dict[str, str]
) -> None:
    assert bob.user is not None
    bob.user.banned = True
    session.commit()
    assert call(client, headers, "any").status_code == 403
