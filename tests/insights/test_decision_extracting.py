"""Decisions that are looked for after every fifth turn: by rules always, by a model where a setting names one, once and within a limit."""

import uuid
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.core.db import db, now
from models.core.job_queue import transaction
from models.gateway import GatewayCall
from models.insights import DecisionExtraction, ProjectDecision
from models.insights.decision_extracting import EVERY, LOST, change_setting, extract_after_turn
from models.turns import Turn
from tests.conversations.conftest import engine_of_turns, rich, talk
from tests.conversations.talks import Talk
from tests.factories import Person
from tests.insights.model_answers import ModelAnswers

__all__ = ["engine_of_turns", "rich", "talk"]
SAID = "We decided to use oak beams because they last."
READ = '[{"decision": "Use oak beams for ever", "message": 0, "quote": "decided to use oak beams"}]'


def look(talk: Talk, turn: Turn) -> DecisionExtraction:
    """Look at the conversation after a turn."""
    if db.session.get(DecisionExtraction, turn.id) is None:
        row = DecisionExtraction(turn_id=turn.id, project_id=talk.project_id, conversation_id=talk.id)
        db.session.add(row)
        db.session.commit()
    extract_after_turn(transaction, turn.id)
    return db.session.get_one(DecisionExtraction, turn.id, populate_existing=True)


def let_read(talk: Talk, credits: int = 20) -> None:
    change_setting(talk.caller(), talk.project_id, "stoa/demo", credits)
    db.session.commit()


def decisions() -> list[tuple[str, str, str]]:
    rows = db.session.scalars(
        select(ProjectDecision).order_by(ProjectDecision.created_at, ProjectDecision.id)
    )
    return [(row.decision, row.found_by, row.state) for row in rows]


def calls(client: str = "stoa-decisions") -> int:
    query = text("SELECT count(*) FROM message WHERE client_id = :client")
    return int(db.session.execute(query, {"client": client}).scalar_one())


def test_after_every_fifth_turn_the_rules_look(talk: Talk) -> None:
    turns = [talk.said(SAID if number == 1 else f"Say {number}.") for number in range(EVERY + 1)]
    rows = db.session.scalars(select(DecisionExtraction)).all()
    assert [row.turn_id for row in rows] == [turns[EVERY - 1].id]
    waiting = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'insights.extract_decisions'"
    assert db.session.execute(text(waiting)).scalar_one() == 1
    found = look(talk, turns[EVERY - 1])
    assert (found.state, found.found, found.model, found.problem) == ("done", 1, None, None)
    assert decisions() == [("We decided to use oak beams", "rules", "proposed")]
    assert calls() == 0


def test_a_model_reads_along_where_the_setting_names_one(talk: Talk, rich: Person) -> None:
    let_read(talk)
    turn = talk.said("I think that we will go with oak beams for the roof.")
    found = look(talk, turn)
    assert (found.state, found.problem, found.model) == ("done", None, "stoa/demo")
    made = db.session.scalars(select(ProjectDecision).where(ProjectDecision.found_by == "model")).all()
    assert {(row.model, row.state) for row in made} == {("stoa/demo", "proposed")}
    assert all("oak beams" in (row.quote or "") for row in made)
    call = db.session.get_one(GatewayCall, found.request_id or "")
    assert (call.account_id, call.user_id, call.micro_credits) == (rich.id, rich.id, found.micro_credits)
    before = calls()
    assert before == 1
    again = look(talk, turn)
    assert (calls(), again.found, len(decisions())) == (before, found.found, found.found)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(READ, None), (None, "The provider is down."), ("No.", "The model did not answer")],
)
def test_what_a_model_says_is_a_proposal_or_a_problem(
    talk: Talk, answers: ModelAnswers, answer: str | None, problem: str | None
) -> None:
    answers.texts = [answer]
    let_read(talk)
    found = look(talk, talk.said(SAID))
    assert (found.problem is None) == (problem is None)
    assert (found.problem or "").startswith(problem or "")
    assert [each[1] for each in decisions()] == (["rules", "model"] if problem is None else ["rules"])
    assert {each[2] for each in decisions()} == {"proposed"}
    assert answers.bodies[0]["request_id"] == found.request_id


def test_the_limit_of_a_day_holds(talk: Talk, answers: ModelAnswers) -> None:
    let_read(talk, 1)
    spent = DecisionExtraction(
        turn_id=talk.said("One.").id,
        project_id=talk.project_id,
        conversation_id=talk.id,
        state="done",
        model="stoa/demo",
        request_id=uuid.uuid4().hex,
        micro_credits=1_000_000,
        asked_at=now(),
        done_at=now(),
    )
    db.session.add(spent)
    db.session.commit()
    found = look(talk, talk.said(SAID))
    assert answers.bodies == []
    assert "limit of 1 credits a day" in (found.problem or "")
    assert decisions()[0][1] == "rules"


def test_a_look_whose_server_died_asks_no_model_again(talk: Talk, answers: ModelAnswers) -> None:
    let_read(talk)
    turn = talk.said(SAID)
    row = DecisionExtraction(
        turn_id=turn.id,
        project_id=talk.project_id,
        conversation_id=talk.id,
        state="asking",
        model="stoa/demo",
        request_id=uuid.uuid4().hex,
        most=3,
        asked_at=now(),
    )
    db.session.add(row)
    db.session.commit()
    found = look(talk, turn)
    assert (found.state, found.problem, answers.bodies) == ("done", LOST, [])


def test_a_key_that_is_gone_pays_nothing(talk: Talk) -> None:
    let_read(talk)
    turn = talk.said(SAID)
    for session in db.session.scalars(select(Session).where(Session.user_id == talk.person.id)):
        db.session.delete(session)
    db.session.commit()
    found = look(talk, turn)
    assert (found.state, found.micro_credits, calls()) == ("done", 0, 0)
    assert found.problem
    assert [each[1] for each in decisions()] == ["rules"]


def test_what_is_gone_is_no_error(talk: Talk, answers: ModelAnswers) -> None:
    extract_after_turn(transaction, "turn_nothing")
    let_read(talk)
    turn = talk.said(SAID)
    answers.texts = [READ]
    said = answers.__call__

    def forgetting(*sent: Any, **more: Any) -> Any:
        answer = said(*sent, **more)
        db.session.execute(text("UPDATE thread_message SET parent_id = NULL"))
        db.session.execute(text("DELETE FROM project_decision"))
        db.session.execute(text("DELETE FROM thread_message"))
        db.session.commit()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.insights.decision_extracting.chat_once", forgetting)
        found = look(talk, turn)
    assert (found.state, decisions()) == ("done", [])


def test_only_those_who_manage_a_project_let_a_model_read(
    session: OrmSession, talk: Talk, rich: Person, mallory: Person
) -> None:
    path = f"/projects/{talk.project_id}/decisions/settings"

    def save(who: Person, **data: str) -> int:
        token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
        return who.browser.post(path, data={"csrf_token": token, **data}).status_code

    good = {"model": "stoa/demo", "daily_credits": "5"}
    for wrong in (
        {"model": "nobody/nothing"},
        {"daily_credits": ""},
        {"daily_credits": "0"},
        {"daily_credits": "1e3"},
    ):
        assert save(rich, **{**good, **wrong}) == 422, wrong
    assert save(rich, **good) == 303
    page = rich.browser.get(f"/projects/{talk.project_id}/decisions").text
    assert "at most 5 credits a day" in page
    assert save(mallory, **good) == 404
    assert save(rich, model="", daily_credits="5") == 303
    assert "No model reads along" in rich.browser.get(f"/projects/{talk.project_id}/decisions").text
