"""Pages of the inbox, next steps and decisions: what they show and do, for each of the cast."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.insights import ActionItem, NextStep, ProjectDecision
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.insights.insight_rows import insight_rows
from tests.projects.project_rows import project_rows


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


def made(user_id: str, account: Account) -> dict[str, str]:
    ids = project_rows(user_id, account)
    return ids | insight_rows(ids)


@pytest.fixture
def ids(session: OrmSession, alice: Person) -> dict[str, str]:
    found = made(alice.id, Account(user_id=alice.id))
    session.commit()
    return found


def start(ids: dict[str, str]) -> str:
    return f"/projects/{ids['project_id']}"


def test_the_inbox_lists_what_waits_with_what_is_next(alice: Person, ids: dict[str, str]) -> None:
    page = alice.browser.get(f"{start(ids)}/inbox").text
    for text in (
        "· critical?",
        "A decision to review",
        "Sync of agent with main",
        "Continue",
        "Analyse again",
    ):
        assert text in page, text
    assert page.index("· critical?") < page.index("· warning?") < page.index("· info?")
    only = alice.browser.get(f"{start(ids)}/inbox?severity=info&type=test_coverage").text
    assert ("· info?" in only, "· critical?" in only, "Clear filters" in only) == (True, False, True)
    assert "No such item" in alice.browser.get(f"{start(ids)}/inbox?mine=1").text
    for view, text in (
        ("snoozed", "Nothing is snoozed"),
        ("done", "Nothing is done"),
        ("nothing", "Nothing here"),
    ):
        assert text in alice.browser.get(f"{start(ids)}/inbox?view={view}").text or view == "nothing"


def test_an_empty_inbox_says_what_is_watched(session: OrmSession, alice: Person, ids: dict[str, str]) -> None:
    for row in session.scalars(select(ActionItem)):
        session.delete(row)
    for decision in session.scalars(select(ProjectDecision)):
        decision.state = "rejected"
        decision.superseded_by_id = None
    session.commit()
    page = alice.browser.get(f"{start(ids)}/inbox?workspace={ids['workspace_id']}&view=done").text
    assert "No such item" in page
    alice.browser.get(f"{start(ids)}/sync")
    empty = alice.browser.get(f"{start(ids)}/inbox").text
    assert "Sync of agent" in empty or "no model is asked" in empty


def test_an_item_is_snoozed_assigned_dismissed_and_reopened(
    session: OrmSession, alice: Person, ids: dict[str, str], mason: str
) -> None:
    path = f"{start(ids)}/items/{ids['item_id']}"
    assert "What an agent is asked" in alice.browser.get(path).text

    def row() -> ActionItem:
        session.rollback()
        return session.get_one(ActionItem, ids["item_id"], populate_existing=True)

    assert send(alice, path, do="snooze-week").headers["location"].endswith("/inbox")
    assert row().snoozed_until is not None
    assert "· critical?" in alice.browser.get(f"{start(ids)}/inbox?view=snoozed").text
    assert "· critical?" not in alice.browser.get(f"{start(ids)}/inbox").text
    assert send(alice, path, do="wake").status_code == 303
    assert send(alice, path, do="mine").status_code == 303
    assert row().assignee_id == alice.id
    assert "· critical?" in alice.browser.get(f"{start(ids)}/inbox?mine=1").text
    assert mason in alice.browser.get(path).text, "agents of the store are offered"
    assert send(alice, path, do="agent", agent=mason).status_code == 303
    assert (row().assignee_id, row().assigned_agent) == (None, mason)
    assert send(alice, path, do="nobody").status_code == 303
    for wrong in (
        {"do": "fly"},
        {"do": "agent", "agent": ""},
        {"do": "agent", "agent": "harbor/nobody"},
        {"do": "dismiss", "reason": "x" * 501},
    ):
        assert send(alice, path, **wrong).status_code == 422
    assert send(alice, path, do="dismiss", reason="<b>Meant</b>").status_code == 303
    assert "&lt;b&gt;Meant" in alice.browser.get(path).text
    assert "&lt;b&gt;Meant" in alice.browser.get(f"{start(ids)}/inbox?view=dismissed").text
    assert send(alice, path, do="reopen").status_code == 303
    assert row().status == "pending"


def test_an_item_is_written_by_hand(session: OrmSession, alice: Person, ids: dict[str, str]) -> None:
    assert alice.browser.get(f"{start(ids)}/items/new").status_code == 200
    good = {"title": "Tidy", "type": "refactoring", "severity": "info", "workspace": ids["workspace_id"]}
    for wrong in (
        {"title": ""},
        {"type": "drift"},
        {"severity": "x"},
        {"workspace": "none"},
        {"files": "a\n" * 51},
        {"description": "x" * 4_001},
    ):
        answer = send(alice, f"{start(ids)}/items", **{**good, **wrong})
        assert answer.status_code == 422, wrong
        assert 'aria-invalid="true"' in answer.text, wrong
    answer = send(alice, f"{start(ids)}/items", **good, files="a.py\r\n\r\nb.py")
    assert answer.status_code == 303
    row = session.get_one(ActionItem, answer.headers["location"].rsplit("/", 1)[1])
    assert (row.title, row.affected_files, row.source) == ("Tidy", ["a.py", "b.py"], "manual")


def test_the_analysis_is_asked_for(alice: Person, ids: dict[str, str]) -> None:
    assert send(alice, f"{start(ids)}/inbox").headers["location"].endswith("/inbox")
    assert "being analysed" in alice.browser.get(f"{start(ids)}/inbox").text


def test_next_steps_are_proposed_begun_and_rated(
    session: OrmSession, alice: Person, ids: dict[str, str]
) -> None:
    path = f"{start(ids)}/next-steps"
    assert "Draw a-word" in alice.browser.get(path).text
    assert "Draw a-word" in alice.browser.get(start(ids)).text
    assert send(alice, path).status_code == 303
    page = alice.browser.get(path).text
    assert ("Mend the critical findings" in page, "Review the proposed decisions" in page) == (True, True)
    step = session.scalars(select(NextStep).where(NextStep.title.like("Draw%"))).one()
    for verb in ("started", "completed", "pending", "helpful", "not_helpful", "dismissed"):
        assert send(alice, f"{path}/{step.id}", do=verb).status_code == 303, verb
    session.refresh(step)
    assert (step.status, step.helpful_count, step.not_helpful_count) == ("dismissed", 1, 1)
    assert "Draw a-word" in alice.browser.get(f"{path}?status=dismissed").text
    assert "Draw a-word" not in alice.browser.get(start(ids)).text
    assert send(alice, f"{path}/{step.id}", do="fly").status_code == 422
    assert send(alice, f"{path}/none", do="started").status_code == 404


def test_decisions_are_reviewed_written_and_downloaded(
    session: OrmSession, alice: Person, ids: dict[str, str]
) -> None:
    path = f"{start(ids)}/decisions"
    page = alice.browser.get(path).text
    assert ("Paint a-word" in page, "We decided: Paint" in page, "Build it of wood" in page) == (
        True,
        True,
        False,
    )
    assert send(alice, f"{path}/{ids['decision_id']}", state="accepted").status_code == 303
    accepted = alice.browser.get(f"{path}?state=accepted").text
    assert ("Paint a-word" in accepted, "Supersede" in accepted) == (True, True)
    wrong = send(alice, f"{path}/{ids['decision_id']}", state="superseded")
    assert wrong.status_code == 303
    assert "superseded_by" in alice.browser.get(path).text
    assert send(alice, path, decision="", rationale="Why").status_code == 422
    assert send(alice, path, decision="No ads", rationale="Calm", category="product").status_code == 303
    assert "No ads" in alice.browser.get(f"{path}?state=accepted").text
    assert send(alice, f"{path}/search").status_code == 303
    file = alice.browser.get(f"{start(ids)}/decisions.md")
    assert ("Status: Superseded by" in file.text, "attachment" in file.headers["content-disposition"]) == (
        True,
        True,
    )
    assert "paper" not in file.text


def test_each_role_sees_and_does_what_it_may(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    ids = made(alice.id, Account(org_id=acme.id))
    session.commit()
    at = f"/orgs/acme{start(ids)}"
    item = f"/items/{ids['item_id']}"
    for path in ("/inbox", "/next-steps", "/decisions", "/decisions.md", item):
        for who, status in ((alice, 200), (bob, 200), (vic, 200), (mallory, 404), (anonymous, 302)):
            assert who.browser.get(at + path).status_code == status, (path, who)
        assert bob.browser.get(start(ids) + path).status_code == 404
    assert vic.browser.get(f"{at}/items/new").status_code == 403
    page = vic.browser.get(at + item).text
    assert ("Dismiss" in page, "Snooze" in page) == (False, False)
    forms = (
        ("/inbox", {}),
        ("/items", {"title": "x"}),
        (item, {"do": "mine"}),
        ("/next-steps", {}),
        ("/next-steps/x", {"do": "started"}),
        ("/decisions", {"decision": "x"}),
        ("/decisions/search", {}),
        (f"/decisions/{ids['decision_id']}", {"state": "accepted"}),
    )
    for path, data in forms:
        for who, statuses in ((vic, (403,)), (mallory, (404,)), (anonymous, (303, 400))):
            assert send(who, at + path, **data).status_code in statuses, (path, who)
        assert send(bob, start(ids) + path, **data).status_code == 404, path
    assert send(bob, at + item, do="mine").status_code == 303


def test_ids_of_another_project_are_404(session: OrmSession, alice: Person, ids: dict[str, str]) -> None:
    other = made(alice.id, Account(user_id=alice.id))
    session.commit()
    for path in (f"/items/{other['item_id']}", "/items/none", "/items/%00"):
        assert alice.browser.get(start(ids) + path).status_code == 404
        assert send(alice, start(ids) + path, do="mine").status_code == 404
    assert send(alice, f"{start(ids)}/decisions/{other['decision_id']}", state="accepted").status_code == 404
