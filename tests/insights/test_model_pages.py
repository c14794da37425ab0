"""Pages that ask a model for next steps and decisions: what they say beforehand, who pays, and each way it can fail."""

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.gateway import GatewayCall
from models.insights import NextStep, ProjectDecision
from models.ledger import Account
from models.orgs import Org
from models.projects import Project
from tests import factories
from tests.factories import Person
from tests.insights.model_answers import ModelAnswers
from tests.projects.project_rows import project_rows

STEP = '[{"title": "Ask <b>five</b> people", "rationale": "Nobody uses it", "status": "completed"}]'


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


@pytest.fixture
def start(session: OrmSession, alice: Person) -> str:
    ids = project_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    return f"/projects/{ids['project_id']}"


def credited(session: OrmSession, who: Person, amount: int = 1_000) -> None:
    factories.grant(who.user, amount)  # type: ignore[arg-type]
    session.commit()


def test_the_cost_is_said_before_and_after(session: OrmSession, alice: Person, start: str) -> None:
    credited(session, alice)
    assert "Ask a model" in alice.browser.get(f"{start}/next-steps").text
    page = alice.browser.get(f"{start}/next-steps/ask?model=stoa/demo").text
    assert re.search(r"Suggest, (at most \d+ credits?|free)<", page), page
    assert "Twelve columns" not in page
    assert send(alice, f"{start}/next-steps/ask", model="stoa/demo").status_code == 303
    shown = alice.browser.get(f"{start}/next-steps").text
    assert re.search(r"new steps?\. It cost [\d.]+ credits|new steps?\. It was free", shown)
    assert "Written by stoa/demo" in shown
    call = session.scalars(select(GatewayCall)).one()
    assert (call.account_id, call.user_id, call.state) == (alice.id, alice.id, "settled")


def test_the_same_form_asks_once(
    session: OrmSession, alice: Person, start: str, answers: ModelAnswers
) -> None:
    answers.texts = [STEP]
    form = {"model": "stoa/demo", "form_token": "once-" + "x" * 20}
    first, second = (send(alice, f"{start}/next-steps/ask", **form) for _ in range(2))
    assert (first.status_code, second.status_code, first.location) == (303, 303, second.location)
    assert len(answers.bodies) == 1
    row = session.scalars(select(NextStep).where(NextStep.model.is_not(None))).one()
    assert (row.title, row.status) == ("Ask <b>five</b> people", "pending")
    assert "Ask &lt;b&gt;five" in alice.browser.get(f"{start}/next-steps").text


@pytest.mark.parametrize("text", [None, "", "No.", "[1]", '[{"title": "x"'])
def test_an_answer_that_is_none_is_said_in_place(
    session: OrmSession, alice: Person, start: str, answers: ModelAnswers, text: str | None
) -> None:
    answers.texts = [text]
    answer = send(alice, f"{start}/next-steps/ask", model="stoa/demo", form_token="again-" + "x" * 20)
    assert (answer.status_code, "The model gave no answer" in answer.text) == (422, True)
    assert ("provider is down" in answer.text) == (text is None)
    kept = session.scalars(select(NextStep)).all()
    assert {each.model for each in kept} <= {None}
    answers.texts = [STEP]
    again = send(alice, f"{start}/next-steps/ask", model="stoa/demo", form_token="again-" + "x" * 20)
    assert again.status_code == 303, "a form that failed may be sent again"


@pytest.mark.parametrize("model", ["", "nobody/nothing", "x" * 300, "a\0b", "rules"])
def test_a_model_that_nobody_serves_is_said(alice: Person, start: str, model: str) -> None:
    for what in ("next-steps", "decisions"):
        answer = send(alice, f"{start}/{what}/ask", model=model)
        assert answer.status_code in ((422,) if what == "next-steps" else (422, 303)), (what, model)
        assert alice.browser.get(f"{start}/{what}/ask", query_string={"model": model}).status_code == 200


def test_without_credits_the_page_leads_to_them(alice: Person, start: str) -> None:
    answer = send(alice, f"{start}/next-steps/ask", model="stoa/demo")
    assert (answer.status_code, "Not enough credits" in answer.text) == (422, True)
    assert re.search(r'href="[^"]+"[^>]*>Credits<', answer.text)


def test_without_a_purpose_there_is_nothing_to_ask(session: OrmSession, alice: Person, start: str) -> None:
    project = session.get_one(Project, start.rsplit("/", 1)[1])
    project.intent, project.brief = None, None
    session.commit()
    page = alice.browser.get(f"{start}/next-steps/ask").text
    assert ("neither an intent nor a brief" in page, "Suggest," in page) == (True, False)
    assert send(alice, f"{start}/next-steps/ask", model="stoa/demo").status_code == 422


def test_decisions_are_read_out_of_conversations(
    session: OrmSession, alice: Person, start: str, answers: ModelAnswers
) -> None:
    page = alice.browser.get(f"{start}/decisions/ask").text
    assert ("Read, " in page, "The last 12 messages" in page) == (True, True)
    answers.texts = ['[{"decision": "Fly", "message": 0, "quote": "we decided to fly to the moon"}]'] * 4
    assert send(alice, f"{start}/decisions/ask", model="stoa/demo").status_code == 303
    assert {each["client_id"] for each in answers.bodies} == {"stoa-decisions"}
    assert session.scalars(select(ProjectDecision).where(ProjectDecision.found_by == "model")).all() == []
    answers.texts = [None] * 4
    failed = send(alice, f"{start}/decisions/ask", model="stoa/demo")
    assert (failed.status_code, "provider is down" in failed.text) == (422, True)


def test_an_organisation_pays_for_its_projects(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    ids = project_rows(alice.id, Account(org_id=acme.id))
    factories.grant(alice.user, 1_000, org_id=acme.id)  # type: ignore[arg-type]
    session.commit()
    at = f"/orgs/acme/projects/{ids['project_id']}"
    assert send(bob, f"{at}/next-steps/ask", model="stoa/demo").status_code == 303
    call = session.scalars(select(GatewayCall)).one()
    assert (call.account_id, call.user_id) == (acme.id, bob.id)
    for what in ("next-steps", "decisions"):
        for who, statuses in ((vic, (403,)), (mallory, (404,)), (anonymous, (303, 400))):
            assert send(who, f"{at}/{what}/ask", model="stoa/demo").status_code in statuses, what
        for who, status in ((vic, 403), (mallory, 404), (anonymous, 302), (bob, 200)):
            assert who.browser.get(f"{at}/{what}/ask").status_code == status, what
        assert "Ask a model" not in vic.browser.get(f"{at}/{what}").text
