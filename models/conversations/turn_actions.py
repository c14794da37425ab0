"""What the session of an engine does to its turn: what it tells becomes messages of the thread, what it asks becomes questions, and what it spends is counted."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from models.conversations.conversation import ConversationQuestion, ProjectConversation
from models.conversations.conversation_questions import new_question
from models.conversations.conversation_wire import question_json
from models.conversations.engine_session import Answers
from models.core.db import db, now
from models.core.errors import DomainError
from models.threads import Thread, ThreadMessage, message_json, tree, turn_budgets
from models.threads.kept_answer import kept_answer
from models.threads.turn_recovery import WrittenPieces
from models.threads.turn_tools import MAX_RESULT
from models.turns import Turn
from models.turns.engine import LeaseLost
from models.turns.turn_call import PAUSING, failure_of

if TYPE_CHECKING:
    from models.conversations.conversation_turn import ProjectConversationTurn

POLL_SECONDS = 0.5
MAX_SESSION = 500
"""Characters of the id of an engine's session."""


class TurnActions:
    """What the session of an engine does to its turn. Safe for several threads."""

    def __init__(self, turn: "ProjectConversationTurn") -> None:
        self._turn = turn
        self._handle = turn.handle
        self._lock = threading.RLock()
        self._message_id: str | None = None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[str, dict[str, Any]] = {}
        self._credits = 0
        self._session_opened = False
        self._pause: Callable[[], None] | None = None
        self.short: turn_budgets.Shortage | None = None
        """The budget that left too little for a call that the engine wanted."""
        self.problem: str | None = None
        """Why the agent makes no progress."""
        self.refusal: DomainError | None = None
        """Why its last call was refused that may succeed later."""

    @property
    def pausing(self) -> bool:
        """See `EngineSession`."""
        return self.short is not None or self.problem is not None

    def on_pause(self, stop: Callable[[], None] | None) -> None:
        """What to do at once when the turn is to wait."""
        self._pause = stop
        self._pause_now()

    def text(self, piece: str) -> None:
        """See `EngineSession`."""
        self._say("text.delta", self._text, piece)

    def thinking(self, piece: str) -> None:
        """See `EngineSession`."""
        self._say("thinking.delta", self._thinking, piece)

    def tool_started(self, id: str, name: str, arguments: str) -> None:
        """See `EngineSession`."""
        with self._lock:
            call = {
                "id": id[:200],
                "type": "function",
                "function": {"name": name[:200], "arguments": arguments},
            }
            self._calls[id] = call
            facts = {"tool_call_id": id[:200], "name": name[:200], "arguments": arguments}
            self._handle.emit("tool.started", facts)

    def tool_completed(
        self, id: str, result: str, *, failed: bool = False, command: str | None = None
    ) -> None:
        """See `EngineSession`."""
        with self._lock:
            call = self._calls.pop(id, None)
            if call is None:
                return
            text = result if len(result) <= MAX_RESULT else f"{result[:MAX_RESULT]}\n[cut]"
            with self._handle.step() as turn:
                thread = db.session.get_one(Thread, self._handle.subject_id)
                self._keep_message(turn, thread, [call])
                message = tree.append(
                    thread,
                    role="tool",
                    content=text.replace("\0", "").encode("utf-8", "replace").decode() or " ",
                    parent_id=self._turn.parent_id,
                    tool_call_id=call["id"],
                    name=call["function"]["name"],
                    turn_id=turn.id,
                )
                self._turn.parent_id = message.id
                self._handle.record("tool.completed", {"message": message_json(message)})
            if command is not None:
                self._turn.files.ran(command, "failed" if failed else "done")
            self._turn.save_work()
            # what has no arguments cannot be told from another call of the same tool
            if failed or call["function"]["arguments"] not in ("", "{}"):
                self._turn.guard.note(call, text, failed=failed and command is not None)
            self._check_progress()

    def ask(self, questions: Sequence[Mapping[str, Any]], kind: str, seconds: float) -> Answers | None:
        """See `EngineSession`."""
        handle = self._handle
        with self._lock, handle.step() as turn:
            question = new_question(self._turn.place.conversation_id, turn.id, kind, list(questions))
            id = question.id
            handle.record("question.asked", {"question": question_json(question)})
        end = time.monotonic() + seconds
        while time.monotonic() < end and not handle.stopped:
            with handle.context():
                found = db.session.get(ConversationQuestion, id)
                state, answers = (found.state, found.answers) if found else ("expired", None)
            if state != "open":
                return answers
            time.sleep(POLL_SECONDS)
        with self._lock, handle.step():
            found = db.session.get(ConversationQuestion, id, with_for_update=True)
            if found is not None and found.state == "answered":
                return found.answers
            if found is not None:
                found.state, found.answered_at = "expired", now()
        return None

    def reserve(self, needed: int) -> bool:
        """See `EngineSession`."""
        with self._lock, self._handle.step() as turn:
            thread = db.session.get_one(Thread, self._handle.subject_id)
            had = turn.reserved
            turn_budgets.reserve(turn, thread, None, max(needed, turn_budgets.AT_ONCE))
            if turn.reserved > had:
                return True
            self.short = turn_budgets.short_of(turn, thread, None)
        self._pause_now()
        return False

    def refused(self, error: Exception) -> bool:
        """A call of the engine's programs was refused: whether it is made again, since more of the budgets was reserved for it."""
        needed = turn_budgets.needed_by(error)
        if needed is not None:
            with suppress(LeaseLost):
                return not self._handle.stopped and self.reserve(needed)
            return False
        failure = failure_of(error, "", self._turn.settings)
        self.refusal = failure if failure.code in PAUSING else None
        return False

    def admitted(self) -> None:
        """A call of the engine's programs was admitted."""
        self.refusal = None

    def spent(self, credits: int) -> None:
        """See `EngineSession`."""
        with self._lock, self._handle.step() as turn:
            turn.credits = (turn.credits or 0) + credits
            self._credits += credits
            # the next call finds as much as this one did
            turn_budgets.reserve(turn, db.session.get_one(Thread, self._handle.subject_id), None)
            total = turn.credits
        self._check_progress(total)

    def known_session(self) -> str | None:
        """See `EngineSession`."""
        turn = self._turn
        conversation = db.session.get_one(ProjectConversation, turn.place.conversation_id)
        if turn.handle.request.get("session") or conversation.agent_session_at is None:
            return conversation.agent_session
        asked = db.session.get(ThreadMessage, turn.wanted.parent_id) if turn.wanted.parent_id else None
        # without messages before, the conversation was emptied, which leaves the session as it is
        follows = asked is None or asked.parent_id in (None, conversation.agent_session_at)
        return conversation.agent_session if follows else None

    def note_session(self, id: str) -> None:
        """See `EngineSession`."""
        with self._lock, self._handle.step() as turn:
            self._session_opened = True
            turn.request = {**turn.request, "session": id[:MAX_SESSION]}
            conversation = db.session.get(ProjectConversation, self._turn.place.conversation_id)
            if conversation is not None:
                conversation.agent_session = id[:MAX_SESSION]

    def keep_session_place(self) -> None:
        """Within a step: the session of the engine knows all until here."""
        conversation = db.session.get(ProjectConversation, self._turn.place.conversation_id)
        if self._session_opened and conversation is not None:
            conversation.agent_session_at = self._turn.parent_id

    def keep_rest(self, turn: Turn, *, whole: bool) -> None:
        """Within a step: the message that was being written."""
        if self._text or self._thinking or (whole and not self._message_id):
            self._keep_message(turn, db.session.get_one(Thread, self._handle.subject_id), None, whole=whole)

    def keep_pieces(self, turn: Turn, pieces: WrittenPieces, credits: int) -> None:
        """Within a step: what was being written when the process died, whose calls since then cost so much."""
        self._message_id, self._credits = pieces.message_id, credits
        self._text, self._thinking = [pieces.text], [pieces.thinking]
        self.keep_rest(turn, whole=False)

    def _check_progress(self, spent: int | None = None) -> None:
        """Let the turn wait if the agent makes no progress."""
        if self.problem is None:
            self.problem = self._turn.guard.problem(
                self._turn.guard.spent_at_change if spent is None else spent
            )
        self._pause_now()

    def _pause_now(self) -> None:
        if self.pausing and self._pause is not None:
            self._pause()

    def _say(self, type: str, pieces: list[str], piece: str) -> None:
        piece = piece.replace("\0", "").encode("utf-8", "replace").decode()
        if not piece:
            return
        with self._lock:
            self._handle.emit(type, {"message_id": self._begun(), "text": piece})
            pieces.append(piece)

    def _begun(self) -> str:
        """The id of the message that is being written; the watchers hear when it begins."""
        if self._message_id is None:
            self._message_id = f"msg_{uuid.uuid4()}"
            facts = {"message_id": self._message_id, "role": "assistant", "parent_id": self._turn.parent_id}
            self._handle.emit("message.started", {**facts, "model": self._turn.place.model})
        return self._message_id

    def _keep_message(
        self, turn: Turn, thread: Thread, calls: list[Any] | None, *, whole: bool = True
    ) -> None:
        id = self._begun()
        kept = kept_answer("".join(self._text), "".join(self._thinking), calls)
        message = tree.append(
            thread,
            role="assistant",
            content=kept.parts,
            parent_id=self._turn.parent_id,
            tool_calls=kept.tool_calls,
            state="completed" if whole else "incomplete",
            turn_id=turn.id,
            id=id,
            model=self._turn.place.model[:300],
            credits=self._credits,
        )
        self._text, self._thinking, self._message_id, self._credits = [], [], None, 0
        self._turn.parent_id = message.id
        self._handle.record("message.completed", {"message": message_json(message)})
