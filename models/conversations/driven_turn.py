"""Turns that an engine drives itself: what it tells becomes messages of the thread, what it asks becomes questions, and what it spends is counted."""

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.conversations.conversation import ConversationQuestion
from models.conversations.conversation_engine import engine_named
from models.conversations.conversation_questions import new_question
from models.conversations.conversation_wire import question_json
from models.conversations.engine_session import Answers
from models.core.db import db, now
from models.core.errors import DomainError
from models.ledger.payers import PayerHint
from models.threads import Thread, message_json, tree, turn_budgets
from models.threads.history_window import history_window
from models.threads.kept_answer import kept_answer
from models.threads.turn_recovery import CODE as WORKER_DIED
from models.threads.turn_run import start_run
from models.threads.turn_tools import MAX_RESULT
from models.turns import Turn

if TYPE_CHECKING:
    from models.conversations.conversation_turn import ProjectConversationTurn

POLL_SECONDS = 0.5
HISTORY_TOKENS = 60_000
"""Tokens of the messages before the prompt that an engine gets."""
DIED = "The server stopped during this answer. What the agent had changed and written is kept; ask again for the rest."


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
        self.short: turn_budgets.Shortage | None = None
        """The budget that left too little for a call that the engine wanted."""

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

    def tool_completed(self, id: str, result: str) -> None:
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
        self._turn.save_work()

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
            return False

    def spent(self, credits: int) -> None:
        """See `EngineSession`."""
        with self._lock, self._handle.step() as turn:
            turn.credits = (turn.credits or 0) + credits
            self._credits += credits
            # the next call finds as much as this one did
            turn_budgets.reserve(turn, db.session.get_one(Thread, self._handle.subject_id), None)

    def keep_rest(self, turn: Turn, *, whole: bool) -> None:
        """Within a step: the message that was being written."""
        if self._text or self._thinking or (whole and not self._message_id):
            self._keep_message(turn, db.session.get_one(Thread, self._handle.subject_id), None, whole=whole)

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


class DrivenRounds:
    """One turn of an engine that drives it itself."""

    def __init__(self, turn: "ProjectConversationTurn") -> None:
        self._turn = turn
        self._actions = TurnActions(turn)

    def run(self, *, taken_over: bool) -> None:
        """Run it until it is to end, or waits. One whose process died ends, with what it had changed: its program died too."""
        handle, turn_ = self._turn.handle, self._turn
        with handle.step() as turn:
            if handle.stopped:
                turn_.end_stopped(turn)
                return
            if taken_over and turn.run_id is not None:
                turn_.end(turn, "interrupted", code=WORKER_DIED, message=DIED)
                return
            if not self._started(turn):
                return
        failure: DomainError | None = None
        try:
            with handle.context():
                history = self._history()
                session = turn_.new_session(self._actions, history)
            engine_named(turn_.place.engine).drive(session)
        except DomainError as error:
            failure = error
        turn_.save_work()
        with handle.step() as turn:
            self._actions.keep_rest(turn, whole=failure is None and not handle.stopped)
            self._end(turn, failure)

    def _started(self, turn: Turn) -> bool:
        """Reserve, and start the run. False: the turn has ended, or waits."""
        handle, turn_ = self._turn.handle, self._turn
        thread = db.session.get_one(Thread, handle.subject_id)
        try:
            turn_.begin_input(thread, turn)
            shortage = turn_budgets.reserve(turn, thread, None)
            if shortage is not None:
                turn_.pause_short(turn, thread, shortage)
                return False
            if turn.run_id is None:
                agent_id, hint = turn_.plan.agent_id, PayerHint(turn_.wanted.org_id or None)
                handle.run_id = turn.run_id = start_run(turn, agent_id, hint, turn_.settings)
                handle.record("turn.started", {"dropped_messages": 0})
        except DomainError as error:
            turn_.end(turn, "failed", code=error.code, message=error.message, status=error.status)
            return False
        turn.rounds += 1
        return True

    def _history(self) -> list[dict[str, Any]]:
        """The messages before the prompt, as many of the newest as fit."""
        parent_id = self._turn.wanted.parent_id
        if parent_id is None:
            return []
        thread = db.session.get_one(Thread, self._turn.handle.subject_id)
        above = tree.message_of(thread, parent_id).parent_id
        if above is None:
            return []
        return history_window(thread, above, HISTORY_TOKENS, model=self._turn.place.model).messages

    def _end(self, turn: Turn, failure: DomainError | None) -> None:
        handle, turn_ = self._turn.handle, self._turn
        if handle.stopped:
            turn_.end_stopped(turn)
        elif self._actions.short is not None:
            thread = db.session.get_one(Thread, handle.subject_id)
            turn_.pause_short(turn, thread, self._actions.short)
        elif failure is not None:
            turn_.end(turn, "failed", code=failure.code, message=failure.message)
        else:
            turn_.end(turn, "completed")
