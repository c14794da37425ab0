"""Turns that an engine drives itself: how they begin and end, and go on after a pause or the death of their process."""

import time
from typing import TYPE_CHECKING, Any

from models.conversations.conversation_engine import engine_named
from models.conversations.engine_session import GoingOn, SessionGone
from models.conversations.turn_actions import TurnActions
from models.conversations.turn_ending import TurnEnding
from models.conversations.turn_reversal import open_calls, settled_credits
from models.core.db import db
from models.core.errors import DomainError
from models.gateway.killed_calls import release_killed, state_of_call
from models.ledger.call_records import LedgerUnavailable
from models.ledger.payers import PayerHint
from models.threads import Thread, tree, turn_budgets
from models.threads.history_window import history_window
from models.threads.turn_recovery import CODE as WORKER_DIED
from models.threads.turn_recovery import written_pieces
from models.threads.turn_run import start_run
from models.turns import Turn
from models.turns.call_recovery import RecoveryDelayed

if TYPE_CHECKING:
    from models.conversations.conversation_turn import ProjectConversationTurn

POLL_SECONDS = 0.5
HISTORY_TOKENS = 60_000
"""Tokens of the messages before the prompt that an engine gets."""
MAX_TAKEN_OVER = 2
"""How often a turn is taken over from a process that died: one that ends its servers itself must end."""
STALLED_SECONDS = 5.0
"""How long the calls of the process before may take to end: one that lives and lost its lease ends them at once."""
GO_ON = "You were interrupted while you worked on this. The files are as they were after your last finished tool. Look at what is there, and go on."
DIED = "The server stopped during this answer, and the agent could not go on where it was. What it had changed and written is kept; what it cost is given back."


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
