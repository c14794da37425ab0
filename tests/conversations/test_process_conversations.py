"""Conversations of the server's own loop at the level `process`: commands run in the sandbox, and a fault of ours gives back what they led to."""

import pytest
from sqlalchemy import func, select

from models.conversations import TimelineItem, conversation_turn, start_conversation
from models.conversations.conversation_questions import answer_question
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger.ledger import CreditLedger
from models.runners import levels
from models.threads import ThreadMessage
from models.turns import Turn
from tests.conversations.talks import FILES, Talk
from tests.conversations.test_engine_control import question

RUN = "Run `{}`."


@pytest.fixture
def sandboxed(talk: Talk) -> Talk:
    """A conversation at the level `process`; skips where that does not work."""
    if not (state := levels()["process"]).available:
        pytest.skip(f"process: {state.sentence}")
    made = start_conversation(talk.caller(), talk.workspace_id, level="process")
    db.session.commit()
    talk.id = made.conversation.id
    return talk


def results(turn: Turn) -> list[str]:
    query = select(ThreadMessage.text).where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "tool")
    return list(db.session.scalars(query.order_by(ThreadMessage.seq)))


@pytest.mark.usefixtures("proved")
def test_a_command_changes_the_files_of_the_conversation(sandboxed: Talk) -> None:
    turn = sandboxed.said(f"{RUN.format('echo Thirteen > roof.txt')} {RUN.format('cat no-such-file')}")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert sandboxed.files() == {**FILES, "roof.txt": "Thirteen\n"}
    assert [each.split(" after")[0] for each in results(turn)] == [
        "The command ended with exit code 0",
        "The command failed with exit code 1",
    ]
    [item] = db.session.scalars(select(TimelineItem))
    assert item.summary == (
        "1 file changed: roof.txt added. Ran echo Thirteen > roof.txt (exit code 0), cat no-such-file (exit code 1)."
    )


def test_the_same_command_failing_three_times_pauses(sandboxed: Talk) -> None:
    fail, look = RUN.format("false"), "Read README.md."
    turn = sandboxed.said(f"{fail} {look} {fail} {look} {fail} Then read docs/roof.md.")
    assert (turn.state, turn.error_code) == ("paused", "loop_guard"), turn.error_message
    assert "The same command failed 3 times" in question(turn).questions[0]["question"]
    reply = answer_question(
        sandboxed.found(), question(turn).id, [["Leave it."]], owner=sandboxed.engine.owner
    )
    db.session.commit()
    assert reply.resumed
    sandboxed.engine.run(turn.id)
    assert sandboxed.ended(turn).state == "completed"


def test_a_fault_of_ours_gives_back_what_the_turn_cost(
    sandboxed: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(conversation_turn, "work_delta", broken)
    turn = sandboxed.said(f"{RUN.format('echo x > x')} {'More words. ' * 500}")
    assert (turn.state, turn.error_code) == ("failed", "internal_error")
    cost = sum(db.session.scalars(select(GatewayCall.credits).where(GatewayCall.run_id == turn.run_id)))
    given = select(func.sum(CreditLedger.principal)).where(
        CreditLedger.operation_id.startswith(f"returned-{turn.id}")
    )
    assert db.session.scalar(given) == cost > 0
    assert sandboxed.files() == FILES
