"""Runs of action items: attempts, checks, what makes a run ready, stop and take-over."""

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.conversations import ProjectConversation
from models.core.db import db
from models.core.errors import Conflict
from models.gateway import GatewayCall
from models.insights import ActionItem, ActionItemRun
from models.insights.item_run_applying import apply_run
from models.insights.item_run_control import stop_run
from models.insights.item_run_ending import fail_left_runs
from models.insights.item_run_reading import WrongState
from models.insights.item_run_starting import RunInProgress
from models.projects import ProjectCaller, Snapshot, Workspace
from models.projects.workspaces.head_moves import Mover
from models.runners import CommandResult, LevelUnavailable, levels
from models.threads import Thread
from models.turns import Turn, TurnEngine
from tests.factories import Person
from tests.insights.item_run_rows import (
    MENDED,
    PAST,
    PROGRAM,
    TEST,
    ItemPlace,
    Start,
    checks_end,
    ended,
    item_of,
    pausing,
    use_agent,
    waiting_for_stop,
)
from tests.projects.project_rows import manifest_of

UNITTEST = """import unittest

from add import add


class AddTest(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
"""


@pytest.mark.usefixtures("processes")
def test_a_fix_with_green_checks_is_ready_and_verified(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine, place: ItemPlace
) -> None:
    agent = use_agent(monkeypatch, {"add.py": MENDED})
    begun = start()
    assert (begun.status, item_of(begun).status) == ("queued", "running")
    run = ended(engine_of_turns, begun)
    assert (run.status, run.verified, run.doubts, run.error) == ("ready", True, None, None)
    assert (run.attempt_count, run.credits, run.level) == (1, 7, "process")
    assert [each["success"] for each in run.checks or []] == [True]
    assert run.summary == "I mended it.\nIt adds."
    assert item_of(run).status == "ready"
    assert "Make it add." in agent.prompts[0]
    assert "pytest" in agent.prompts[0]
    turn = db.session.get_one(Turn, run.turn_id)
    assert (turn.state, turn.credits) == ("completed", None)


@pytest.mark.usefixtures("processes")
def test_the_next_attempt_starts_anew_and_sees_what_failed(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    agent = use_agent(monkeypatch, {"add.py": "def add(a, b): ...\n", "left.py": ""}, {}, {"add.py": MENDED})
    run = ended(engine_of_turns, start())
    assert (run.status, run.attempt_count, run.credits) == ("ready", 3, 21)
    assert [each["state"] for each in run.attempts] == ["failed", "failed", "passed"]
    assert "assert -1 == 3" in agent.prompts[1]
    assert run.attempts[1]["problem"] == "The agent changed no file."
    first = run.attempts[0]["manifest_hash"]
    assert first not in (run.base_manifest_hash, run.result_manifest_hash)
    threads = db.session.scalars(select(Thread).join(ProjectConversation)).all()
    assert [each.budget for each in threads] == [run.budget]


@pytest.mark.usefixtures("processes")
def test_after_the_last_attempt_the_run_fails_with_its_output(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    use_agent(monkeypatch, {"a": "1"}, {"a": "2"}, {"a": "3"}, {"add.py": MENDED})
    run = ended(engine_of_turns, start())
    assert (run.status, run.attempt_count, run.verified, run.error_code) == (
        "failed",
        3,
        None,
        "attempts_failed",
    )
    assert "pytest" in (run.error or "")
    assert run.checks
    assert run.checks[-1]["output"] == "assert -1 == 3"
    assert run.result_manifest_hash == run.attempts[-1]["manifest_hash"]
    assert item_of(run).status == "pending"


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("edits", "allow", "status", "verified"),
    [
        ({"add.py": MENDED, "test_add.py": "\n"}, False, "failed", None),
        ({"add.py": MENDED, "test_add.py": None}, False, "failed", None),
        ({"add.py": MENDED, "test_add.py": f"# sums\n{TEST}"}, True, "ready", True),
        ({"add.py": MENDED, "test_add.py": "\n"}, True, "ready", False),
        ({"add.py": MENDED, "test_more.py": "\n"}, False, "ready", True),
        ({"add.py": MENDED, "pyproject.toml": "[tool.pytest]\n"}, False, "ready", False),
        ({"add.py": MENDED, "pyproject.toml": "[tool.pytest]\n"}, True, "ready", True),
    ],
    ids=[
        "changed test",
        "removed test",
        "allowed",
        "emptied, allowed",
        "new test",
        "how to check",
        "how to check, allowed",
    ],
)
def test_changed_tests_prove_nothing(
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    engine_of_turns: TurnEngine,
    edits: dict[str, str | None],
    allow: bool,
    status: str,
    verified: bool | None,
) -> None:
    use_agent(monkeypatch, edits)
    run = ended(engine_of_turns, start(attempts=1, allow_test_changes=allow))
    assert (run.status, run.verified) == (status, verified)
    assert run.tests_touched == (["test_add.py"] if "test_add.py" in edits else [])


def test_where_no_command_runs_a_patch_is_never_verified(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    use_agent(monkeypatch, {"add.py": MENDED})
    run = ended(engine_of_turns, start(level="virtual"))
    assert (run.status, run.verified, run.checks) == ("ready", False, [])
    assert "no check ran" in (run.doubts or "")


@pytest.mark.usefixtures("processes")
def test_without_checks_a_patch_is_never_verified(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine, place: ItemPlace
) -> None:
    run = start(run=False)
    bare = {"add.py": "x = 1\n"}
    db.session.execute(
        update(ActionItemRun).values(
            base_manifest_hash=manifest_of(db.session.get_one(Turn, run.turn_id).account_id, bare)
        )
    )
    db.session.commit()
    use_agent(monkeypatch, {"add.py": MENDED})
    engine_of_turns.run(run.turn_id or "")
    run = ended(engine_of_turns, run)
    assert (run.status, run.verified) == ("ready", False)
    assert "no check that builds or tests" in (run.doubts or "")


@pytest.mark.usefixtures("processes")
def test_an_agent_that_runs_in_circles_gets_another_attempt(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    pause = pausing("loop_guard", "The same call three times.")
    agent = use_agent(monkeypatch, pause, pause, {"add.py": MENDED})
    run = ended(engine_of_turns, start())
    assert (run.status, run.attempt_count, run.credits) == ("ready", 2, 11)
    assert "The same call three times." in agent.prompts[0]


@pytest.mark.usefixtures("processes")
def test_stop_ends_the_agent_and_pays_what_it_cost(
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    engine_of_turns: TurnEngine,
    caller: ProjectCaller,
) -> None:
    use_agent(monkeypatch, waiting_for_stop)
    run = start()
    for _ in range(2):
        assert stop_run(caller, run.id, engine_of_turns.owner).turns == []
        db.session.commit()
    run = ended(engine_of_turns, run)
    assert (run.status, run.error_code) == ("failed", "stopped")
    assert run.credits in (0, 3)
    assert item_of(run).status == "pending"
    assert db.session.get_one(Turn, run.turn_id).state == "cancelled"


@pytest.mark.usefixtures("processes")
def test_an_item_has_one_run_at_a_time(start: Start, caller: ProjectCaller) -> None:
    first = start(run=False)
    with pytest.raises(RunInProgress):
        start(run=False)
    db.session.rollback()
    made = db.session.scalars(select(ActionItemRun.id)).all()
    assert made == [first.id]


@pytest.mark.parametrize("status", ["dismissed", "applied"])
def test_what_is_over_is_not_run(start: Start, place: ItemPlace, status: str) -> None:
    db.session.execute(update(ActionItem).values(status=status))
    db.session.commit()
    with pytest.raises(WrongState):
        start(run=False)


def test_a_level_that_does_not_work_is_refused(start: Start) -> None:
    with pytest.raises(LevelUnavailable):
        start(run=False, level="machine")


def test_a_workspace_without_files_is_refused(start: Start, place: ItemPlace) -> None:
    db.session.execute(update(Workspace).values(current_manifest_hash=None, current_snapshot_id=None))
    db.session.commit()
    with pytest.raises(Conflict):
        start(run=False, level="virtual")
    db.session.rollback()


@pytest.mark.usefixtures("processes")
def test_a_run_whose_worker_died_is_taken_over_where_it_was(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    agent = use_agent(monkeypatch, {"add.py": MENDED})
    run = start(run=False)
    db.session.execute(update(Turn).values(lease_owner="gone:1", lease_until=PAST))
    db.session.commit()
    engine_of_turns.tick()
    run = ended(engine_of_turns, run)
    assert (run.status, run.attempt_count, len(agent.prompts)) == ("ready", 1, 1)


@pytest.mark.usefixtures("processes")
def test_an_attempt_that_a_server_stop_cut_off_is_made_again_and_not_counted(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    def interrupted(handle: Any) -> None:
        with handle.step() as turn:
            turn.credits = 2
            handle.end(turn, "interrupted", code="worker_died", message="The server stopped.")

    use_agent(monkeypatch, interrupted, {"add.py": MENDED})
    run = ended(engine_of_turns, start(attempts=1))
    assert (run.status, run.attempt_count, run.credits) == ("ready", 1, 9)
    assert [each["state"] for each in run.attempts] == ["lost", "passed"]


def test_checks_whose_runner_is_lost_run_again(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    outcomes = [CommandResult("lost", None, "", 0.0), CommandResult("exit", 0, "ok", 0.0)]
    use_agent(monkeypatch, {"add.py": MENDED})
    with checks_end(monkeypatch, lambda place, command: outcomes.pop(0)):
        run = ended(engine_of_turns, start())
    assert (run.status, run.verified, run.attempts[0]["restarts"]) == ("ready", True, 2)


@pytest.mark.usefixtures("processes")
def test_an_error_on_our_side_fails_the_run_and_frees_the_item(
    monkeypatch: pytest.MonkeyPatch, start: Start, engine_of_turns: TurnEngine
) -> None:
    use_agent(monkeypatch, {"add.py": MENDED})

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("models.insights.item_run_checking.judge", broken)
    run = ended(engine_of_turns, start())
    assert (run.status, run.error_code, item_of(run).status) == ("failed", "internal_error", "pending")


def test_a_run_without_its_turn_is_ended(start: Start) -> None:
    run = start(run=False, level="virtual")
    db.session.execute(update(ActionItemRun).values(turn_id=None))
    assert fail_left_runs() == 1
    assert fail_left_runs() == 0
    db.session.commit()
    assert (run.status, item_of(run).status) == ("failed", "pending")


def test_checks_run_in_the_sandbox_of_this_server(
    monkeypatch: pytest.MonkeyPatch,
    session: OrmSession,
    start: Start,
    engine_of_turns: TurnEngine,
    place: ItemPlace,
    alice: Person,
) -> None:
    state = levels()["process"]
    if not state.available:
        pytest.skip(f"level process: {state.sentence}; the virtual level's run is tested above")
    run = start(run=False, level="process", attempts=2)
    files = {"add.py": PROGRAM, "test_add.py": UNITTEST}
    session.execute(update(ActionItemRun).values(base_manifest_hash=manifest_of(alice.id, files)))
    session.commit()
    agent = use_agent(monkeypatch, {"add.py": PROGRAM + "\n"}, {"add.py": MENDED})
    engine_of_turns.run(run.turn_id or "")
    assert engine_of_turns.idle(120)
    run = ended(engine_of_turns, run)
    assert (run.status, run.verified, run.attempt_count) == ("ready", True, 2), run.error
    assert "-1 != 3" in agent.prompts[1]
    assert [(each["kind"], each["exit_code"]) for each in run.checks or []] == [("test", 0)]


@pytest.mark.usefixtures("processes")
def test_a_real_conversation_mends_it_pays_once_and_moves_no_head(
    session: OrmSession, start: Start, engine_of_turns: TurnEngine, place: ItemPlace, caller: ProjectCaller
) -> None:
    prompt = "In add.py replace 'a - b' with 'a + b'."
    session.execute(update(ActionItem).values(suggested_prompt=prompt))
    session.commit()
    run = ended(engine_of_turns, start(model="stoa/demo"))
    assert (run.status, run.verified, run.error) == ("ready", True, None)
    calls = session.scalars(select(GatewayCall)).all()
    assert run.credits == sum(call.credits or 0 for call in calls)
    workspace = session.get_one(Workspace, place.workspace_id)
    assert workspace.current_snapshot_id == place.base_id
    done, operation = apply_run(caller, run.id, Mover(caller.user_id, "web"))
    snapshot = session.get_one(Snapshot, (place.project_id, operation.after_snapshot_id))
    assert (snapshot.credits, operation.cost) == (run.credits, run.credits)
    assert snapshot.run_id == session.get_one(Turn, done.attempts[0]["turn_id"]).run_id
