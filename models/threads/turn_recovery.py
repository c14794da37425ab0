"""What becomes of a turn whose worker was killed, or has failed: what its call has written is kept and charged; without any, the turn goes on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from models.core.db import db
from models.core.errors import DomainError
from models.threads import tree
from models.threads.kept_answer import kept_answer
from models.threads.thread import Thread
from models.turns.call_recovery import RecoveredCall, recover_call
from models.turns.engine import TurnHandle

if TYPE_CHECKING:
    from models.threads.thread_turn import ThreadTurn

CODE = "worker_died"
MESSAGE = (
    "The server stopped during this answer. What it had written is kept and charged; ask again for the rest."
)


class WrittenPieces(NamedTuple):
    """The message that was being written: what the turn's events say of it."""

    message_id: str
    parent_id: str
    model: str
    text: str
    thinking: str


def goes_on(running: "ThreadTurn") -> bool:
    """Whether a turn that was taken over goes on where it was, because its call gave nothing and was not charged. Else what was written is kept, the
    call is charged, and the turn ends as interrupted. Raises LeaseLost."""
    written = written_pieces(running.handle)
    call = _recovered(running, written)
    if call.free:
        return True
    if running.handle.stopped in ("stop", "interrupt"):
        keep_pieces(running, written, call, "cancelled")
    else:
        keep_pieces(running, written, call, "interrupted", code=CODE, message=MESSAGE)
    return False


def fail_with_pieces(running: "ThreadTurn", code: str, message: str) -> bool:
    """End the turn as failed, with what its call has written and cost, after an error on our side. Returns False if there is no such
    call. Raises as `goes_on` does."""
    written = written_pieces(running.handle)
    call = _recovered(running, written)
    if not call.free:
        keep_pieces(running, written, call, "failed", code=code, message=message)
    return not call.free


def written_pieces(handle: TurnHandle) -> WrittenPieces:
    """What the turn has told of the message that is not whole yet; empty texts if there is none."""
    found = WrittenPieces("", "", "", "", "")
    pieces: dict[str, list[str]] = {"text.delta": [], "thinking.delta": []}
    for event in handle.events():
        data = event.data
        if event.type == "message.started":
            found = WrittenPieces(data["message_id"], data["parent_id"], data["model"], "", "")
            pieces = {type: [] for type in pieces}
        elif event.type in pieces:
            if data["message_id"] != found.message_id:
                found = WrittenPieces(data["message_id"], "", "", "", "")
                pieces = {type: [] for type in pieces}
            pieces[event.type].append(data["text"])
        elif event.type == "message.completed":
            found = WrittenPieces("", "", "", "", "")
            pieces = {type: [] for type in pieces}
    return found._replace(text="".join(pieces["text.delta"]), thinking="".join(pieces["thinking.delta"]))


def keep_pieces(
    running: "ThreadTurn",
    written: WrittenPieces,
    call: RecoveredCall,
    state: str,
    *,
    code: str | None = None,
    message: str | None = None,
) -> None:
    """Add the message with its charge, and end the turn."""
    handle = running.handle
    with handle.step() as turn:
        turn.credits = (turn.credits or 0) + (call.credits or 0)
        turn.call_id = None
        if written.message_id and (call.text or call.thinking or call.message_id):
            thread = db.session.get_one(Thread, handle.subject_id)
            kept = tree.append(
                thread,
                role="assistant",
                content=kept_answer(call.text, call.thinking).parts,
                parent_id=written.parent_id,
                state="incomplete",
                turn_id=turn.id,
                id=written.message_id,
                model=written.model,
                finish_reason="interrupted",
                message_id=call.message_id,
                credits=call.credits,
            )
            handle.record("message.completed", {"message": tree.message_json(kept)})
        running.end(turn, state, code=code, message=message)


def _recovered(running: "ThreadTurn", written: WrittenPieces) -> RecoveredCall:
    handle = running.handle
    with handle.step() as turn:
        call_id = turn.call_id

    def body() -> Mapping[str, Any]:
        """What the call was asked, as far as it is there still: the text is what it wrote in any case."""
        with handle.context():
            thread = db.session.get_one(Thread, handle.subject_id)
            running.parent_id = written.parent_id
            try:
                return running.body(thread)
            except DomainError:
                return {"model": written.model or thread.model or "", "messages": []}

    return recover_call(handle, call_id, body, text=written.text, thinking=written.thinking)
