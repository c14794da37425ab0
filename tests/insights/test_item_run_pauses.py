"""Runs without credits: they pause, go on where they were, and are paid once. What failed on our side is given back."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import PresentedKey
from models.core import jobs
from models.core.db import db
from models.core.errors import Invalid
from models.gateway import GatewayCall
from models.insights import ActionItem, ActionItemRun
from models.insights.item_run_control import resume_run, stop_run
from models.insights.item_run_ending import fail_left_runs, owed_runs, return_charges
from models.insights.item_run_reading import WrongState
from models.insights.item_run_starting import RunInProgress
from models.ledger import CreditLedger, prove
from models.projects import ProjectCaller, Workspace
from models.threads import Thread
from models.turns import Turn, TurnEngine
from models.turns.engine import TurnHandle
from tests import factories
from tests.factories import Person
from tests.insights.item_run_rows import (
    MENDED,
    ItemPlace,
    Start,
    ended,
    item_of,
    pausing,
    use_agent,
    waiting_for_stop,
)
from tests.insights.test_item_run_routes import send
from tests.projects.project_calls import ProjectsApi

pytestmark = pytest.mark.usefixtures("processes")
USED_UP = pausing(
    "budget_exceeded", "The budget of this thread (10 credits) is used up. Raise it, then resume the turn."
)


def go_on(caller: ProjectCaller, turns: TurnEngine, run: ActionItemRun, **more: Any) -> ActionItemRun:
    """Resume it, and wait for what follows."""
    resumed = resume_run(caller, run.id, owner=turns.owner, **more)
    db.session.commit()
    for turn_id in resumed.turns:
        turns.run(turn_id)
    return ended(turns, run)


def test_a_budget_that_is_used_up_pauses_the_run_and_a_raise_lets_it_go_on(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine, caller: ProjectCaller
) -> None:
    agent = use_agent(monkeypatch, USED_UP, {"add.py": MENDED})
    run = ended(engine_of_turns, start(budget=10))
    assert (run.status, run.error_code, run.attempt_count, run.credits) == ("paused", "budget_exceeded", 1, 4)
    assert run.error == "The budget of this run (10 credits) is used up. Raise it, then let it go on."
    assert (run.completed_at, item_of(run).status) == (None, "running")
    states = db.session.scalars(select(Turn.state)).all()
    assert states == ["paused", "paused"]
    with pytest.raises(RunInProgress):
        start(run=False)
    db.session.rollback()
    with pytest.raises(Invalid, match="must be more"):
        resume_run(caller, run.id, owner=engine_of_turns.owner, budget=4)
    db.session.rollback()
    run = go_on(caller, engine_of_turns, run, budget=500)
    assert (run.status, run.verified, run.budget, run.error) == ("ready", True, 500, None)
    assert (run.attempt_count, run.credits, len(agent.prompts)) == (1, 7, 1)
    assert [thread.budget for thread in db.session.scalars(select(Thread)) if thread.budget] == [500]
    with pytest.raises(WrongState):
        resume_run(caller, run.id, owner=engine_of_turns.owner)


@pytest.mark.parametrize("code", ["insufficient_credits", "credits_held", "rate_limit_exceeded"])
def test_without_a_change_it_pauses_again(
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    engine_of_turns: TurnEngine,
    caller: ProjectCaller,
    code: str,
) -> None:
    pause = pausing(code, "Not now.")
    use_agent(monkeypatch, pause, pause, {"add.py": MENDED})
    run = ended(engine_of_turns, start())
    for _ in range(2):
        assert (run.status, run.error_code, run.error) == ("paused", code, "Not now.")
        run = go_on(caller, engine_of_turns, run, key=PresentedKey(caller.session.session_token, None))
    assert (run.status, run.credits) == ("ready", 7)


def test_a_paused_run_is_stopped_and_its_agent_with_it(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine, caller: ProjectCaller
) -> None:
    use_agent(monkeypatch, USED_UP, USED_UP)
    run = ended(engine_of_turns, start(budget=10))
    stopped = stop_run(caller, run.id, engine_of_turns.owner)
    db.session.commit()
    assert stopped.turns == [run.turn_id]
    engine_of_turns.run(stopped.turns[0])
    run = ended(engine_of_turns, run)
    assert (run.status, run.error_code, run.credits, item_of(run).status) == (
        "failed",
        "stopped",
        4,
        "pending",
    )
    assert not db.session.scalars(select(Turn.id).where(Turn.ended_at.is_(None))).all()


def test_a_real_agent_goes_on_where_its_budget_stopped_it_and_is_paid_once(
    session: OrmSession, start: Start, engine_of_turns: TurnEngine, place: ItemPlace, caller: ProjectCaller
) -> None:
    prompt = "In add.py replace 'a - b' with 'a + b'."
    session.execute(update(ActionItem).values(suggested_prompt=prompt))
    session.commit()
    run = ended(engine_of_turns, start(model="stoa/demo", budget=1))
    assert (run.status, run.error_code) == ("paused", "budget_exceeded"), run.error
    assert run.credits <= 1
    run = go_on(caller, engine_of_turns, run, budget=500)
    assert (run.status, run.verified, run.error) == ("ready", True, None)
    calls = session.scalars(select(GatewayCall)).all()
    assert run.credits == sum(call.credits or 0 for call in calls)
    assert session.get_one(Workspace, place.workspace_id).current_snapshot_id == place.base_id
    assert prove().differences == 0


def test_what_failed_on_our_side_is_given_back_once(
    monkeypatch: pytest.MonkeyPatch, session: OrmSession, start: Start, engine_of_turns: TurnEngine
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("models.insights.item_run_checking.judge", broken)
    use_agent(monkeypatch, {"add.py": MENDED})
    run = ended(engine_of_turns, start())
    assert (run.status, run.error_code, run.ours, run.credits) == ("failed", "internal_error", True, 7)
    assert run.returned == 7
    given = session.get_one(CreditLedger, f"returned-run-{run.id}")
    assert (given.principal, given.type) == (7, "admin")
    assert "failed on our side" in (given.description or "")
    assert return_charges(run.id) is None
    assert owed_runs() == []
    assert prove().differences == 0


def test_what_a_turn_gives_back_itself_is_not_given_back_again(
    monkeypatch: pytest.MonkeyPatch, session: OrmSession, start: Start, engine_of_turns: TurnEngine
) -> None:
    def failing(handle: TurnHandle) -> None:
        with handle.step() as turn:
            turn.credits = 9
            handle.end(turn, "failed", code="internal_error", message="It broke.")

    use_agent(monkeypatch, {"a": "1"}, failing)
    run = ended(engine_of_turns, start())
    assert (run.status, run.error_code, run.ours, run.credits) == ("failed", "internal_error", True, 16)
    assert run.returned == 7
    total = select(func.sum(CreditLedger.principal)).where(CreditLedger.operation_id.like("returned-%"))
    assert session.scalar(total) == 7


def test_a_lost_run_is_given_back_once_its_agent_has_ended(
    monkeypatch: pytest.MonkeyPatch, session: OrmSession, start: Start, engine_of_turns: TurnEngine
) -> None:
    use_agent(monkeypatch, USED_UP, USED_UP)
    run = ended(engine_of_turns, start(budget=10))
    session.execute(update(ActionItemRun).values(turn_id=None))
    assert fail_left_runs() == 1
    session.commit()
    assert (run.status, run.ours, run.returned) == ("failed", True, None)
    assert return_charges(run.id) is None  # its agent is about to end
    session.rollback()
    engine_of_turns.tick()
    run = ended(engine_of_turns, run)
    for _ in range(2):
        jobs.fail_left_runs(0)
        session.expire_all()
    assert session.get_one(ActionItemRun, run.id).returned == 4
    total = select(func.sum(CreditLedger.principal)).where(CreditLedger.operation_id.like("returned-%"))
    assert session.scalar(total) == 4


def test_a_failure_that_is_not_ours_is_not_given_back(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    use_agent(monkeypatch, {"a": "1"})
    run = ended(engine_of_turns, start(attempts=1))
    assert (run.status, run.ours, run.returned, run.credits) == ("failed", False, None, 7)
    assert owed_runs() == []


def test_a_pause_over_the_api(
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    engine_of_turns: TurnEngine,
    alice: Person,
    app: Flask,
) -> None:
    api = ProjectsApi(app.test_client(), alice)
    use_agent(monkeypatch, USED_UP, {"add.py": MENDED})
    run = ended(engine_of_turns, start(budget=10))
    path = f"/action-items/runs/{run.id}"
    status, body = api("get", path)
    assert (body["run"]["status"], body["run"]["error_code"]) == ("paused", "budget_exceeded")
    for sent, expected in (({"budget": 3}, 422), ({"budget": 0}, 422), ({"budget": "x"}, 422), ([], 422)):
        assert api("post", f"{path}/resume", sent)[0] == expected
    status, body = api("post", f"{path}/resume", {"budget": 100})
    assert (status, body["run"]["status"], body["run"]["budget"]) == (200, "running", 100)
    assert "error" not in body["run"]
    assert ended(engine_of_turns, run).status == "ready"
    status, body = api("post", f"{path}/resume")
    assert (status, body["error"]["code"]) == (400, "INVALID_STATE")


def test_a_pause_in_the_browser(
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    engine_of_turns: TurnEngine,
    alice: Person,
    place: ItemPlace,
) -> None:
    use_agent(
        monkeypatch, USED_UP, pausing("insufficient_credits", "There are no credits."), waiting_for_stop
    )
    run = ended(engine_of_turns, start(budget=10))
    address = f"/projects/{place.project_id}/runs/{run.id}"
    page = alice.browser.get(address).text
    assert "Paused: the budget is used up" in page
    assert 'value="20"' in page
    assert "hx-trigger" not in page.split('id="item-run"')[1].split(">")[0]
    for entered, says in (
        ("4", "must be more"),
        ("much", "Enter whole credits"),
        ("1" * 9, "at most 1,000,000"),
    ):
        refused = send(alice, f"{address}/resume", budget=entered)
        assert (refused.status_code, says in refused.text, f'value="{entered}"' in refused.text) == (
            422,
            True,
            True,
        )
    assert send(alice, f"{address}/resume", budget="30").status_code == 303
    ended(engine_of_turns, run)
    page = alice.browser.get(address).text
    assert "Paused: there are no credits left" in page
    assert "See your credits" in page
    assert send(alice, f"{address}/resume").status_code == 303
    live = alice.browser.get(address, headers={"HX-Request": "true"}).text
    seen = live.split("seen=")[1].split('"')[0]
    assert "/runs/" in live
    assert alice.browser.get(f"{address}?seen={seen}", headers={"HX-Request": "true"}).status_code == 204
    assert send(alice, f"{address}/stop").status_code == 303
    assert ended(engine_of_turns, run).error_code == "stopped"
    assert alice.browser.get(f"{address}?seen={seen}", headers={"HX-Request": "true"}).status_code == 200
    assert send(alice, f"{address}/resume").status_code == 303
    factories.grant(alice.user, 1)
