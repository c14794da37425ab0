"""What becomes of a turn whose worker was killed: the text that was written is kept and charged; without any, the turn goes on."""

from typing import TYPE_CHECKING

from models.core.db import db
from models.core.errors import DomainError
from models.gateway.killed_calls import KilledCall, settle_killed
from models.threads import tree
from models.threads.message_content import answer_parts
from models.threads.thread import Thread, ThreadMessage
from models.turns import Turn

if TYPE_CHECKING:
    from models.threads.thread_turn import ThreadTurn

MESSAGE = (
    "The server stopped during this answer. What it had written is kept and charged; ask again for the rest."
)


def interrupted_answer(running: "ThreadTurn") -> ThreadMessage | None:
    """Keep the message that the killed worker was writing, charge its call, and end the turn as interrupted. None if it had written nothing
    yet: then the turn goes on where it was. Raises LeaseLost, LedgerUnavailable."""
    handle = running.handle
    written = {"text.delta": "", "thinking.delta": ""}
    message_id, model, parent_id = "", "", ""
    for event in handle.events():
        if event.type == "message.started":
            message_id, model, parent_id = (
                event.data["message_id"],
                event.data["model"],
                event.data["parent_id"],
            )
            written = dict.fromkeys(written, "")
        elif event.type in written and event.data["message_id"] == message_id:
            written[event.type] += event.data["text"]
        elif event.type == "message.completed":
            message_id, written = "", dict.fromkeys(written, "")
    text, thinking = written["text.delta"], written["thinking.delta"]
    if not (text or thinking):
        return None
    call = _charge(running, parent_id, text, thinking)
    with handle.step() as turn:
        thread = db.session.get_one(Thread, handle.subject_id)
        message = tree.append(
            thread,
            role="assistant",
            content=answer_parts(thinking, text),
            parent_id=parent_id,
            state="incomplete",
            turn_id=turn.id,
            id=message_id,
            model=model,
            finish_reason="interrupted",
            message_id=call.message_id,
            credits=call.credits,
        )
        turn.credits = (turn.credits or 0) + (call.credits or 0)
        handle.record("message.completed", {"message": tree.message_json(message)})
        running.end(turn, "interrupted", code="worker_died", message=MESSAGE)
    return message


def _charge(running: "ThreadTurn", parent_id: str, text: str, thinking: str) -> KilledCall:
    """Charge the call that the worker was reading. It is sent nowhere again."""
    handle = running.handle
    with handle.context():
        turn = db.session.get_one(Turn, handle.id)
        call_id = turn.call_id
        thread = db.session.get_one(Thread, handle.subject_id)
        running.parent_id = parent_id
        try:
            body = running.body(thread)
        except DomainError:
            # what it was asked with is gone; the text still is what it wrote
            body = {"model": turn.request.get("model") or thread.model or "", "messages": []}
    if call_id is None:
        return KilledCall(None, None)
    try:
        return settle_killed(handle.gateway, call_id, body, text=text, thinking=thinking)
    except DomainError as error:
        if error.status >= 500:
            raise
        # the model has gone; its hold is on the operators' list of lost calls
        return KilledCall(None, None)
