"""How turns of conversations end otherwise: races, stops, budgets, questions, loops, dead workers, faults of ours."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import present
from models.conversations import (
    ConversationQuestion,
    Scratch,
    TimelineItem,
    conversation_turn,
    say,
    turn_files,
    turn_result,
)
from models.conversations.conversation_questions import answer_question, reject_question
from models.conversations.conversation_turn import ProjectConversationTurn
from models.conversations.turn_control import resume_conversation, stop_conversation
from models.conversations.turn_files import TurnFiles
from models.conversations.turn_reversal import operation_of_turn
from models.core.db import db, now
from models.gateway.demo_model import DemoModel
from models.ledger.ledger import CreditLedger
from models.projects import Snapshot, SyncPreview, Workspace
from models.projects.snapshots.blob_packs import QuotaExceeded
from models.projects.workspaces.workspace_editing import create_workspace
from models.runners import LevelUnavailable
from models.runs import AgentRun
from models.threads import Thread, ThreadMessage
from models.turns import Turn, TurnEngine
from models.turns.engine import LeaseLost
from models.turns.turn_verbs import reclaim
from tests.conversations.talks import FILES, Talk
from tests.factories import Person
from tests.projects.project_rows import pushed

EDIT = "In README.md replace 'Twelve' with 'Twenty'."
ASK = f"{EDIT} Use ask_user to know 'Which roof?'"


def items() -> list[TimelineItem]:
    return list(db.session.scalars(select(TimelineItem).order_by(TimelineItem.created_at)))


def question_of(turn: Turn) -> ConversationQuestion:
    query = select(ConversationQuestion).where(ConversationQuestion.turn_id == turn.id)
    return db.session.scalars(query.order_by(ConversationQuestion.created_at.desc()).limit(1)).one()


def answer(talk: Talk, turn: Turn, *texts: str) -> Turn:
    answered = answer_question(talk.found(), question_of(turn).id, [list(texts)], owner=talk.engine.owner)
    resumed = answered.resumed
    db.session.commit()
    assert resumed
    talk.engine.run(turn.id)
    return talk.ended(turn)


# -- questions -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("proved")
def test_a_turn_asks_waits_and_goes_on_with_the_answer(talk: Talk) -> None:
    turn = talk.said(ASK)
    assert turn.state == "requires_action"
    assert turn.expires_at is not None
    assert turn.expires_at - now() > timedelta(days=6)
    question = question_of(turn)
    assert (question.kind, question.questions[0]["question"]) == ("ask", "Twelve")
    assert talk.files() == FILES  # no head moves before the end
    turn = answer(talk, turn, "The red one.")
    assert turn.state == "completed"
    assert talk.files()["README.md"] == "# Pier\n\nTwenty columns.\n"
    said = select(ThreadMessage.text).where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "tool")
    assert "The red one." in list(db.session.scalars(said))


def test_a_question_is_answered_once_and_expires_with_its_turn(talk: Talk) -> None:
    turn = talk.said(ASK)
    id = question_of(turn).id
    turn.expires_at = now() - timedelta(seconds=1)
    db.session.commit()
    talk.engine.tick()
    turn = talk.ended(turn)
    assert (turn.state, question_of(turn).state) == ("expired", "expired")
    assert [item.state for item in items()] == ["expired"]
    for verb in (
        lambda: answer_question(talk.found(), id, [["x"]], owner="o"),
        lambda: reject_question(talk.found(), id, owner="o"),
    ):
        with pytest.raises(Exception, match="answered already"):
            verb()
        db.session.rollback()


# -- races ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("proved")
def test_the_work_of_a_lost_race_is_kept_in_a_side_workspace_and_offered_as_a_sync(talk: Talk) -> None:
    turn = talk.said(ASK)
    head = talk.workspace.current_snapshot_id
    other = pushed(
        talk.caller(), talk.project_id, talk.workspace_id, {**FILES, "b.txt": "b\n"}, "B", head or ""
    )
    db.session.commit()
    turn = answer(talk, turn, "None.")
    assert turn.state == "completed"
    assert talk.workspace.current_snapshot_id == other
    [item] = items()
    side = db.session.get_one(Workspace, item.workspace_id)
    assert item.lost_race
    assert side.id != talk.workspace_id
    assert side.name.startswith("main (conversation ")
    assert (side.base_snapshot_id, side.current_snapshot_id) == (head, item.snapshot_id)
    assert talk.files(side.current_manifest_hash)["README.md"] == "# Pier\n\nTwenty columns.\n"
    preview = db.session.get_one(SyncPreview, item.sync_preview_id)
    assert (preview.workspace_id, preview.main_workspace_id) == (side.id, talk.workspace_id)
    told = [data for type, data in talk.events(turn) if type == "warning"]
    assert [each["syncPreviewId"] for each in told] == [preview.id]
    snapshot = db.session.get_one(Snapshot, (talk.project_id, item.snapshot_id))
    assert snapshot.run_id == turn.run_id


def test_a_snapshot_of_the_same_files_is_no_lost_race(talk: Talk) -> None:
    turn = talk.said(ASK)
    head = talk.workspace.current_snapshot_id or ""
    same = pushed(talk.caller(), talk.project_id, talk.workspace_id, FILES, "Again", head)
    db.session.commit()
    answer(talk, turn, "None.")
    [item] = items()
    assert (item.lost_race, talk.workspace.current_snapshot_id) == (False, item.snapshot_id)
    assert item.snapshot_id != same


def test_a_project_with_all_its_workspaces_keeps_the_work_beside_the_head(
    app: Flask, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = app.extensions["settings"].model_copy(update={"stoa_workspaces_per_project": 1})
    monkeypatch.setitem(app.extensions, "settings", settings)
    turn = talk.said(ASK)
    head = talk.workspace.current_snapshot_id or ""
    other = pushed(talk.caller(), talk.project_id, talk.workspace_id, {"b.txt": "b\n"}, "B", head)
    db.session.commit()
    answer(talk, turn, "None.")
    [item] = items()
    assert (item.lost_race, item.workspace_id, item.operation_id) == (True, talk.workspace_id, None)
    assert talk.workspace.current_snapshot_id == other
    assert (
        db.session.get_one(Snapshot, (talk.project_id, item.snapshot_id)).manifest_hash == item.manifest_hash
    )


# -- stops and budgets ---------------------------------------------------------------------------------------


def test_a_stopped_turn_keeps_what_it_did(app: Flask, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.05))
    turn = talk.begin(f"{EDIT} Then write 5 pages.")
    waiting = talk.begin("In README.md replace 'Twenty' with 'Thirty'")
    for _ in range(400):
        if any(type == "text.delta" for type, _ in talk.events(turn)):
            break
        db.session.rollback()
        time.sleep(0.05)
    stopped = stop_conversation(talk.found(), talk.engine.owner)
    assert stopped is not None
    db.session.commit()
    turn = talk.ended(turn)
    assert turn.state == "cancelled"
    assert db.session.get_one(Turn, waiting.id).state == "cancelled"
    [item] = items()
    assert (item.state, talk.files()["README.md"]) == ("cancelled", "# Pier\n\nTwenty columns.\n")
    told = [data for type, data in talk.events(turn) if type == "message_status"]
    assert told == [{"messageId": item.message_id, "status": "failed"}]
    assert stop_conversation(talk.found(), talk.engine.owner) is None


def test_a_used_up_budget_pauses_and_a_raised_one_resumes(talk: Talk) -> None:
    db.session.get_one(Thread, talk.found().thread.id).budget = 0
    db.session.commit()
    turn = talk.said(EDIT)
    assert (turn.state, turn.error_code) == ("paused", "budget_exceeded")
    assert items() == []
    db.session.get_one(Thread, talk.found().thread.id).budget = 5_000
    resume_conversation(talk.found(), talk.engine.owner)
    db.session.commit()
    talk.engine.run(turn.id)
    turn = talk.ended(turn)
    assert (turn.state, turn.error_code) == ("completed", None)
    assert len(items()) == 1


# -- loops ---------------------------------------------------------------------------------------------------


def test_the_same_call_three_times_in_a_row_pauses_and_asks(talk: Talk) -> None:
    turn = talk.said("Read README.md. Read README.md. Read README.md. Then read docs/roof.md.")
    question = question_of(turn)
    assert (turn.state, turn.error_code, question.kind) == ("paused", "loop_guard", "loop_guard")
    assert "read_file 3 times" in question.questions[0]["question"]
    with pytest.raises(Exception, match="waits for an answer"):
        resume_conversation(talk.found(), talk.engine.owner)
    db.session.rollback()
    turn = answer(talk, turn, "Go on.")
    assert turn.state == "completed"
    roles = select(ThreadMessage.role, ThreadMessage.text).where(ThreadMessage.turn_id == turn.id)
    assert ("user", "Go on.") in [tuple(row) for row in db.session.execute(roles)]


def test_an_agent_without_progress_is_ended_by_rejecting(talk: Talk) -> None:
    turn = talk.said(f"{EDIT} Read README.md. Read README.md. Read README.md.")
    answered = reject_question(talk.found(), question_of(turn).id, owner=talk.engine.owner)
    assert answered.resumed
    db.session.commit()
    talk.engine.run(turn.id)
    assert talk.ended(turn).state == "cancelled"
    assert [item.state for item in items()] == ["cancelled"]


def test_credits_without_a_change_pause(app: Flask, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = app.extensions["gateway"]
    settings = gateway.settings.model_copy(update={"stoa_conversation_idle_credits": 1})
    monkeypatch.setattr(gateway, "settings", settings)
    monkeypatch.setattr(TurnFiles, "note", lambda *_: None)
    prompt = f"Read README.md. Read docs/roof.md. {'Look at the columns. ' * 1_500}"
    turn = talk.said(prompt)
    assert (turn.state, turn.error_code) == ("paused", "loop_guard")
    assert "without changing a file" in (turn.error_message or "")


# -- dead workers and faults of ours -------------------------------------------------------------------------


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets the worker die when it calls this method of the turn for the nth time."""

    def let(method: str, time: int) -> None:
        real, calls = getattr(ProjectConversationTurn, method), [0]

        def dying(self: ProjectConversationTurn, *args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == time:
                raise LeaseLost
            return real(self, *args, **kwargs)

        monkeypatch.setattr(ProjectConversationTurn, method, dying)

    return let


def taken_over(talk: Talk, turn: Turn) -> Turn:
    """The turn after another worker has taken it from a dead one."""
    turn = talk.ended(turn)
    assert turn.state == "running"
    turn.lease_owner, turn.lease_until = "gone:1:x", now() - timedelta(seconds=1)
    db.session.commit()
    for each in reclaim(talk.engine.owner):
        db.session.commit()
        talk.engine.run(each.id, taken_over=True)
    return talk.ended(turn)


DEATHS = [
    ("_round", 1),
    ("_round", 2),
    ("_round", 3),
    ("tools_ran", 1),
    ("tools_ran", 2),
    ("_finish", 1),
    ("_end_now", 1),
]


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(("method", "time"), DEATHS)
def test_a_turn_of_a_dead_worker_goes_on_and_changes_things_once(
    talk: Talk, dies: Any, method: str, time: int
) -> None:
    dies(method, time)
    turn = taken_over(talk, talk.begin(f"{EDIT} Add a file notes.md saying 'Once.'"))
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert talk.files() == {**FILES, "README.md": "# Pier\n\nTwenty columns.\n", "notes.md": "Once.\n"}
    assert [(item.state, item.files_count) for item in items()] == [("completed", 2)]
    assert len(list(db.session.scalars(select(AgentRun)))) == 1
    called = select(ThreadMessage.message_id).where(
        ThreadMessage.turn_id == turn.id, ThreadMessage.role == "assistant"
    )
    billed = list(db.session.scalars(called))
    assert len(billed) == len(set(billed)) == 3


def test_what_a_turn_cost_that_failed_on_our_side_is_given_back_once(
    talk: Talk, rich: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(conversation_turn, "work_delta", broken)
    turn = talk.said(f"{EDIT} Then write 3 pages. {'More words. ' * 500}")
    assert (turn.state, turn.error_code) == ("failed", "internal_error")
    assert (turn.credits or 0) > 0
    query = select(CreditLedger).where(CreditLedger.operation_id == operation_of_turn(turn.id))
    given = db.session.scalars(query).one()
    assert given.principal == turn.credits
    assert turn.id in (given.description or "")
    assert talk.files() == FILES


def test_files_that_cannot_be_stored_fail_the_turn(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise QuotaExceeded("The account is full.")

    monkeypatch.setattr(turn_files, "store_changes", full)
    turn = talk.said(EDIT)
    assert (turn.state, turn.error_code) == ("failed", "quota_exceeded")
    assert "could not be stored" in (turn.error_message or "")
    assert items() == []
    assert talk.files() == FILES
    types = [type for type, _ in talk.events(turn)]
    assert [each for each in types if each in ("error", "message_status", "message_complete")] == [
        "error",
        "message_status",
        "message_complete",
    ]


# -- scratch -------------------------------------------------------------------------------------------------


def test_a_scratch_moves_no_head_and_keeps_its_files(talk: Talk) -> None:
    before = talk.workspace
    head, version, files = before.current_snapshot_id, before.version, before.current_manifest_hash
    turn = talk.said(EDIT, scratch=Scratch(files))
    assert turn.state == "completed"
    after = talk.workspace
    assert (after.current_snapshot_id, after.version) == (head, version)
    assert items() == []
    result = turn_result(turn)
    assert result is not None
    assert [each["path"] for each in result.files] == ["README.md"]
    assert talk.files(result.manifest_hash)["README.md"] == "# Pier\n\nTwenty columns.\n"
    assert talk.found().conversation.work_manifest_hash == result.manifest_hash


def test_a_deleted_workspace_fails_the_turn(
    session: OrmSession, rich: Person, engine_of_turns: TurnEngine
) -> None:
    talk = Talk(rich, engine_of_turns)
    side = create_workspace(talk.caller(), talk.project_id, "side")
    row = talk.found().conversation
    row.workspace_id, side.deleted_at = side.id, now()
    session.commit()
    turn = talk.said(EDIT)
    assert (turn.state, turn.error_code) == ("failed", "workspace_deleted")


def test_a_level_that_does_not_work_here_is_refused_with_its_sentence(talk: Talk) -> None:
    row = talk.found().conversation
    row.level = "machine"
    db.session.commit()
    with pytest.raises(LevelUnavailable, match="runner"):
        talk.begin(EDIT)
    db.session.rollback()
    row = talk.found().conversation
    row.level = "virtual"
    turn = say_of_a_dead_worker(talk)
    talk.found().conversation.level = "machine"
    db.session.commit()
    turn = taken_over(talk, turn)
    assert (turn.state, turn.error_code) == ("failed", "level_unavailable")


def say_of_a_dead_worker(talk: Talk) -> Turn:
    """A turn that no worker has begun."""
    turn = say(talk.caller(), talk.found(), EDIT, key=present(talk.person.token), owner="gone:1:x")
    db.session.commit()
    return turn
