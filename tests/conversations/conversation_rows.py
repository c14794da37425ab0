"""Rows for pages of conversations: one with an answer that used tools, a change, a race that it lost, and a question that waits."""

from models import threads
from models.conversations import TimelineItem, start_conversation
from models.conversations.conversation_questions import new_question
from models.projects import ProjectCaller
from models.projects.snapshots.snapshot_making import parents_of, snapshot_in
from models.projects.workspaces.head_moves import operations_page
from models.turns import Turn, TurnEvent
from tests import factories

LONG = "a-name-that-does-not-wrap-" + "y" * 90
PROMPT = "Count the columns, and say · in | the docs how many there are. " + LONG


def conversation_rows(
    caller: ProjectCaller, project_id: str, workspace_id: str, snapshot_id: str
) -> dict[str, str]:
    """Make them in the current transaction. Ids for the arguments of routes."""
    found = start_conversation(caller, workspace_id, title="Count the columns · all | of them?", budget=5_000)
    thread, conversation = found.thread, found.conversation
    asked = threads.append(thread, role="user", content=PROMPT)
    turn = factories.save(
        Turn(
            kind="conversation",
            subject_id=thread.id,
            branch_id=asked.branch_id,
            account_id=thread.account_id,
            user_id=caller.user_id,
            key_id="none",
            state="paused",
            error_code="loop_guard",
            error_message="The same command failed three times.",
            request={"parent_id": asked.id},
            last_seq=1,
        )
    )
    factories.save(TurnEvent(turn_id=turn.id, seq=1, type="turn.started", data={}))
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "edit_file", "arguments": '{"path": "README.md"}'},
    }
    threads.append(
        thread, role="assistant", content="Let me see.", tool_calls=[call], model="stoa/demo", turn_id=turn.id
    )
    threads.append(thread, role="tool", content="Replaced it.", tool_call_id="call_1", turn_id=turn.id)
    threads.append(thread, role="assistant", content=f"There are `12`. {LONG}", model="stoa/demo", credits=3)
    options = [{"label": "Go on", "description": "with another command"}, {"label": LONG}]
    new_question(conversation.id, turn.id, "loop_guard", [{"question": "Go on?", "options": options}])
    new_question(
        conversation.id, turn.id, "permission", [{"question": f"Run make?\n{LONG}", "options": options}]
    )
    snapshot = snapshot_in(project_id, snapshot_id)
    assert snapshot is not None
    parent = snapshot_in(project_id, parents_of(project_id, [snapshot_id])[snapshot_id][0])
    assert parent is not None
    items = [
        factories.save(
            TimelineItem(
                conversation_id=conversation.id,
                project_id=project_id,
                workspace_id=workspace_id,
                message_id=turn.id,
                snapshot_id=snapshot_id,
                operation_id=operations_page(project_id, 1)[0].id,
                manifest_hash=snapshot.manifest_hash,
                previous_manifest_hash=parent.manifest_hash,
                files=[
                    {"path": "README.md", "change": "modified"},
                    {"path": f"docs/{LONG}.md", "change": "added"},
                    {"path": "old.md", "change": "deleted"},
                ],
                files_count=900,
                state=state,
                summary="900 files changed: 899 added, 1 modified.",
                summary_status="completed",
                lost_race=lost,
                credits=12,
            )
        )
        for state, lost in (("completed", False), ("cancelled", True))
    ]
    return {
        "conversation_id": conversation.id,
        "timeline/item_id": items[0].id,
        "questions/question_id": "none",
    }
