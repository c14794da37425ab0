"""Turns that an engine drives itself: what it tells becomes messages of the thread, what it asks becomes questions, and what it spends is counted."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from models.conversations.conversation import ConversationQuestion, ProjectConversation
from models.conversations.conversation_engine import engine_named
from models.conversations.conversation_questions import new_question
from models.conversations.conversation_wire import question_json
from models.conversations.engine_session import Answers, GoingOn, SessionGone
from models.conversations.turn_ending import TurnEnding
from models.conversations.turn_reversal import open_calls, settled_credits
from models.core.db import db, now
from models.core.errors import DomainError
from models.gateway.killed_calls import release_killed, state_of_call
from models.ledger.call_records import LedgerUnavailable
from models.ledger.payers import PayerHint
from models.threads import Thread, ThreadMessage, message_json, tree, turn_budgets
from models.threads.history_window import history_window
from models.threads.kept_answer import kept_answer
from models.threads.turn_recovery import CODE as WORKER_DIED
from models.threads.turn_recovery import WrittenPieces, written_pieces
from models.threads.turn_run import start_run
from models.threads.turn_tools import MAX_RESULT
from models.turns import Turn
from models.turns.call_recovery import RecoveryDelayed
from models.turns.engine import LeaseLost
from models.turns.turn_call import PAUSING, failure_of

if TYPE_CHECKING:
    from models.conversations.conversation_turn import ProjectConversationTurn

POLL_SECONDS = 0.5
HISTORY_TOKENS = 60_000
"""Tokens of the messages before the prompt that an engine gets."""
MAX_TAKEN_OVER = 2
"""How often a turn is taken over from a process that died: one that ends its servers itself must end."""
STALLED_SECONDS = 5.0
"""How long the calls of the process before may take to end: one that lives and lost its lease ends them at once."""
MAX_SESSION = 500
"""Characters of the id of an engine's session."""
GO_ON = "You were interrupted while you worked on this. The files are as they were after your last finished tool. Look at what is there, and go on."
DIED = "The server stopped during this answer, and the agent could not go on where it was. What it had changed and written is kept; what it cost is given back."


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


class DrivenRounds:
    """One turn of an engine that drives it itself."""

    def __init__(self, turn: "ProjectConversationTurn") -> None:
        self._turn = turn
        self._actions = TurnActions(turn)

    def run(self, *, taken_over: bool) -> None:
        """Run it until it is to end, or waits. The program of one whose process died has died too: it is started again, and goes on if it knows how; else the
        turn fails on our side."""
        handle, turn_ = self._turn.handle, self._turn
        going_on: GoingOn = "no"
        taken_over = taken_over and handle.run_id is not None
        if taken_over:
            self._end_calls()
        with handle.step() as turn:
            if handle.run_id is not None:
                going_on = self._find_end(turn, taken_over)
            if handle.stopped:
                turn_.end_stopped(turn)
                return
            if taken_over and not self._may_go_on(turn):
                turn_.end_with(TurnEnding("failed", WORKER_DIED, DIED, ours=True))
                return
            if not self._started(turn):
                return
        failure: DomainError | None = None
        try:
            with handle.context():
                prompt, history = self._said(going_on)
                session = turn_.new_session(self._actions, prompt, history, going_on)
            engine_named(turn_.place.engine).drive(session)
        except DomainError as error:
            failure = error
        turn_.save_work()
        whole = failure is None and not handle.stopped and not self._actions.pausing
        with handle.step() as turn:
            self._actions.keep_rest(turn, whole=whole)
            self._actions.keep_session_place()
            self._end(turn, failure)

    # -- a turn that goes on ---------------------------------------------------------------------------------

    def _end_calls(self) -> None:
        """Wait until the calls of the process that had the turn have ended, and end those of a dead one: nothing arrived of them that is known here, so they
        are charged nothing. Raises LeaseLost if the ledger cannot be asked."""
        handle, end = self._turn.handle, time.monotonic() + STALLED_SECONDS
        while True:
            with handle.context():
                calls = open_calls(db.session.get_one(Turn, handle.id))
            try:
                states = {id: state_of_call(handle.gateway, id).state for id in calls}
                for id in (id for id, state in states.items() if state == "lost"):
                    release_killed(handle.gateway, id)
            except LedgerUnavailable as error:
                raise RecoveryDelayed from error
            if "open" not in states.values() or time.monotonic() > end:
                return
            time.sleep(POLL_SECONDS)

    def _find_end(self, turn: Turn, taken_over: bool) -> GoingOn:
        """Find the last message, also one that was being written when the process died, and what the calls have cost until now. Returns whether the engine had begun."""
        turn_, handle = self._turn, self._turn.handle
        written = turn_.written(turn)
        turn_.note_again(turn, written)
        if written:
            turn_.parent_id = written[-1].id
        begun = bool(written) or "session" in turn.request
        if not taken_over:
            return "resumed" if begun else "no"
        settled = max(settled_credits(turn) - (turn.credits or 0), 0)
        turn.credits = (turn.credits or 0) + settled
        pieces = written_pieces(handle)
        if pieces.message_id and (pieces.text or pieces.thinking):
            self._actions.keep_pieces(turn, pieces, settled)
        return "taken_over" if begun else "no"

    def _may_go_on(self, turn: Turn) -> bool:
        """Count that the turn was taken over. False: too often."""
        times = int(turn.request.get("taken_over", 0)) + 1
        turn.request = {**turn.request, "taken_over": times}
        return times <= MAX_TAKEN_OVER

    def _said(self, going_on: GoingOn) -> tuple[str, list[dict[str, Any]]]:
        """The prompt, and the messages before it, as many of the newest as fit."""
        turn_ = self._turn
        thread = db.session.get_one(Thread, turn_.handle.subject_id)
        prompt, above = turn_.prompt(), turn_.parent_id
        if going_on == "no":
            above = tree.message_of(thread, above).parent_id if above is not None else None
        else:
            last = tree.message_of(thread, above) if above is not None else None
            prompt = GO_ON
            if last is not None and last.role == "user" and last.id != turn_.wanted.parent_id:
                # what the person said when the agent made no progress
                prompt, above = last.text, last.parent_id
        if above is None:
            return prompt, []
        return prompt, history_window(thread, above, HISTORY_TOKENS, model=turn_.place.model).messages

    # -- begin and end ---------------------------------------------------------------------------------------

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

    def _end(self, turn: Turn, failure: DomainError | None) -> None:
        handle, turn_, actions = self._turn.handle, self._turn, self._actions
        thread = db.session.get_one(Thread, handle.subject_id)
        if handle.stopped:
            turn_.end_stopped(turn)
        elif actions.short is not None:
            turn_.pause_short(turn, thread, actions.short)
        elif actions.problem is not None:
            turn_.pause_and_ask(turn, thread, actions.problem)
        elif isinstance(failure, SessionGone):
            turn_.end_with(TurnEnding("failed", WORKER_DIED, DIED, ours=True))
        elif failure is not None and actions.refusal is not None:
            refusal = actions.refusal
            turn_.pause(turn, thread, refusal.code, refusal.message, status=refusal.status)
        elif failure is not None:
            turn_.end(turn, "failed", code=failure.code, message=failure.message)
        else:
            turn_.end(turn, "completed")
