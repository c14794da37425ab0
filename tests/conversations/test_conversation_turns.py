"""Turns of conversations: what they change, what becomes of it, and in which order they tell it."""

import pytest
from sqlalchemy import select

from models.conversations import TimelineItem, turn_result
from models.core.db import db
from models.projects import Snapshot, WorkspaceOperation
from models.projects.workspaces.head_moves import Mover
from models.projects.workspaces.operation_undo import undo_operation
from models.turns import Turn
from tests.conversations.talks import FILES, Talk

EDIT = "In README.md replace 'Twelve' with 'Twenty' and add a file notes.md saying Remember the roof."


def items(talk: Talk) -> list[TimelineItem]:
    return list(db.session.scalars(select(TimelineItem).order_by(TimelineItem.created_at)))


@pytest.mark.usefixtures("proved")
def test_a_turn_edits_files_and_its_changes_become_a_snapshot(talk: Talk) -> None:
    before = talk.workspace.version
    turn = talk.said(EDIT)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert talk.files() == {
        **FILES,
        "README.md": "# Pier\n\nTwenty columns.\n",
        "notes.md": "Remember the roof\n",
    }
    [item] = items(talk)
    workspace = talk.workspace
    snapshot = db.session.get_one(Snapshot, (talk.project_id, workspace.current_snapshot_id))
    operation = db.session.get_one(WorkspaceOperation, item.operation_id)
    assert workspace.version == before + 1
    assert (item.snapshot_id, item.state, item.lost_race) == (snapshot.id, "completed", False)
    assert item.files == [
        {"path": "README.md", "change": "modified"},
        {"path": "notes.md", "change": "added"},
    ]
    assert item.summary == "2 files changed: README.md modified, notes.md added."
    assert (snapshot.run_id, operation.kind, operation.cause) == (turn.run_id, "turn", turn.run_id)
    assert snapshot.credits == item.credits == operation.cost == turn.credits
    result = turn_result(turn)
    assert result is not None
    assert result.snapshot_id == snapshot.id


def test_the_events_come_in_the_order_of_the_contract(talk: Talk) -> None:
    turn = talk.said(EDIT)
    types = [type for type, _ in talk.events(turn)]
    told = [type for type in types if not type.startswith(("text.", "message.", "tool."))]
    assert told == [
        "turn.started",
        "message_status",
        "message_complete",
        "timeline_item",
        "files_changed",
        "message_update",
        "timeline_summary",
        "turn.completed",
    ]


def test_an_answer_without_changes_makes_no_snapshot(talk: Talk) -> None:
    before = talk.workspace.version
    turn = talk.said("What is a pier?")
    assert (turn.state, items(talk), talk.workspace.version) == ("completed", [], before)
    result = turn_result(turn)
    assert result is not None
    assert result.count == 0


def test_what_a_turn_changed_is_undone_as_any_operation(talk: Talk) -> None:
    talk.said(EDIT)
    [item] = items(talk)
    caller = talk.caller()
    undo_operation(caller, talk.workspace_id, item.operation_id or "", Mover(caller.user_id, "web"))
    db.session.commit()
    assert talk.files() == FILES


def test_an_empty_workspace_gets_its_first_files(rich, engine_of_turns) -> None:  # type: ignore[no-untyped-def]
    talk = Talk(rich, engine_of_turns, {})
    turn = talk.said("Add a file notes.md saying 'Begin here.'")
    assert turn.state == "completed", turn.error_message
    assert talk.files() == {"notes.md": "Begin here.\n"}


def test_two_prompts_are_answered_one_after_the_other(talk: Talk) -> None:
    first = talk.begin("In src/pier.py replace '12' with '13'")
    second = talk.begin("In src/pier.py replace '13' with '14'")
    assert talk.ended(first).state == "completed"
    assert db.session.get_one(Turn, second.id).state == "completed"
    assert talk.files()["src/pier.py"] == "COLUMNS = 14\n"
    assert [each.files_count for each in items(talk)] == [1, 1]


def test_a_turn_that_changes_how_the_project_is_deployed_says_so(talk: Talk) -> None:
    turn = talk.said("Add a file wrangler.toml saying 'name = \"pier\"'")
    assert turn.state == "completed"
    told = [(type, data) for type, data in talk.events(turn) if type in ("project_info", "timeline_summary")]
    info = {"type": "wrangler", "name": "pier", "configFile": "wrangler.toml"}
    assert told[0] == ("project_info", {"info": info})
    assert told[1][1]["summary"] == "1 file changed: wrangler.toml added."
