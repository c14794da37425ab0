"""Runs chat completions that name an assistant and no thread: rounds of model calls and the server's tools, of which nothing is kept but what they cost.

It is a turn while it runs, so that it can be stopped, and its budget is kept; then it is deleted.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete

from models.accounts.key_format import PresentedKey
from models.core.db import db
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.streamed_answer import StreamedAnswer
from models.ledger.payers import PayerHint
from models.threads import turn_budgets
from models.threads.answer_citations import check_answer
from models.threads.thread_turn_start import TurnRequest
from models.threads.turn_recovery import written_pieces
from models.threads.turn_run import finish_run, start_run
from models.threads.turn_setup import TurnSetup, chosen_assistant, chosen_model, set_up
from models.threads.turn_tools import run_tools
from models.turns import Turn
from models.turns.call_recovery import keeping_the_turn, recover_call
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind
from models.turns.turn_call import TurnCallFailed, open_call, tell_pieces
from models.turns.turn_verbs import NewTurn, begin_turn

KIND = "assistant_call"


def begin_call(
    user_id: str,
    account_id: str,
    wanted: TurnRequest,
    messages: Sequence[Mapping[str, Any]],
    *,
    key: PresentedKey,
    owner: str,
    budget: int | None = None,
) -> Turn:
    """Begin a call with the assistant of `wanted`, that spends at most `budget` credits. The caller commits, then runs it. Raises NotFound, Forbidden, AgentDeleted, Invalid,
    and DomainError without a model."""
    saved = chosen_assistant(wanted, user_id, account_id, None)
    chosen_model(wanted, None, saved)
    assert saved is not None
    request = {
        **asdict(wanted),
        "assistant_version": saved.version.version,
        "messages": [dict(each) for each in messages],
    }
    branch = f"call_{uuid.uuid4()}"
    new = NewTurn(KIND, saved.assistant.id, branch, account_id, user_id, key, request, budget)
    return begin_turn(new, owner=owner, busy=None)


class AssistantCalls:
    """The work of calls without a thread."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        call = AssistantCall(handle, handle.gateway.settings)
        try:
            call.run(taken_over=taken_over)
        except LeaseLost:
            raise
        except Exception:
            call.fail()
            raise
        finally:
            with handle.context():
                db.session.execute(delete(Turn).where(Turn.id == handle.id, Turn.ended_at.is_not(None)))
                db.session.commit()


class AssistantCall:
    """One call, while this process runs it."""

    def __init__(self, handle: TurnHandle, settings: Settings) -> None:
        self.handle = handle
        self.settings = settings
        self.wanted = TurnRequest.read(handle.request)
        self.messages: list[Mapping[str, Any]] = list(handle.request["messages"])
        self._setup: TurnSetup | None = None

    def run(self, *, taken_over: bool = False) -> None:
        """Run it to its end. One that was taken over ends: its client is gone with the worker."""
        if taken_over:
            self._recover("interrupted", code="worker_died", message="The server stopped.")
            return
        with self.handle.context():
            setup = self._set_up()
        if isinstance(setup, DomainError):
            with self.handle.step() as turn:
                self._end(turn, "failed", code=setup.code, message=setup.message, status=setup.status)
            return
        setup.toolbox.pay_with(self.handle, self.wanted.org_id)
        setup = setup.with_tools()
        self._setup = setup
        while (begun := self._begin_round(setup)) is not None:
            message_id, answer = f"msg_{uuid.uuid4()}", self._open(*begun)
            if answer is None:
                return
            tell_pieces(self.handle, answer, message_id)
            if not self._finish_round(setup, message_id, answer):
                return

    def _set_up(self) -> TurnSetup | DomainError:
        handle = self.handle
        try:
            return set_up(self.wanted, handle.gateway.routes, handle.user_id, handle.account_id)
        except DomainError as error:
            return error

    def _begin_round(self, setup: TurnSetup) -> tuple[dict[str, Any], str] | None:
        """The next call and its id, noted so that whoever takes the turn over knows of it. None: the turn has ended."""
        handle = self.handle
        with handle.step() as turn:
            turn.credits = (turn.credits or 0) + setup.toolbox.take_credits()
            if handle.stopped:
                self._end(turn, "cancelled")
                return None
            try:
                shortage = turn_budgets.reserve(turn, None, self.wanted.assistant_id)
                if shortage is not None:
                    self._end(turn, "failed", code=turn_budgets.CODE, message=shortage.message, status=402)
                    return None
                if turn.run_id is None:
                    handle.run_id = turn.run_id = start_run(
                        turn, setup.agent_id, PayerHint(self.wanted.org_id or None), self.settings
                    )
            except DomainError as error:
                self._end(turn, "failed", code=error.code, message=error.message, status=error.status)
                return None
            turn.rounds, turn.call_id = turn.rounds + 1, uuid.uuid4().hex
            most = self.wanted.max_rounds or self.settings.stoa_turn_rounds
            last = turn.rounds >= most and setup.runs_any
            return setup.body(self.messages, first=turn.rounds == 1, last=last), turn.call_id

    def _open(self, body: dict[str, Any], request_id: str) -> StreamedAnswer | None:
        """Make the call. None: it was refused or failed, and the turn has ended."""
        handle = self.handle
        while True:
            try:
                return open_call(handle, body, request_id, self.settings, org_id=self.wanted.org_id)
            except TurnCallFailed as error:
                with handle.step() as turn:
                    turn.call_id = request_id = uuid.uuid4().hex
                    if handle.stopped:
                        self._end(turn, "cancelled")
                    elif not self._reserved_more(turn, error):
                        self._end(turn, "failed", code=error.code, message=error.message, status=error.status)
                    if turn.state != "running":
                        return None

    def _reserved_more(self, turn: Turn, error: TurnCallFailed) -> bool:
        """Whether the budgets left more for a call that needs more than was reserved."""
        needed, had = turn_budgets.needed_by(error), turn.reserved
        if needed is None:
            return False
        turn_budgets.reserve(turn, None, self.wanted.assistant_id, max(needed, turn_budgets.AT_ONCE))
        return turn.reserved > had

    def _finish_round(self, setup: TurnSetup, message_id: str, answer: StreamedAnswer) -> bool:
        """Returns whether another round follows."""
        handle, cut = self.handle, bool(answer.error)
        calls = [] if cut else answer.message.get("tool_calls", [])
        own = [call for call in calls if setup.runs(call)]
        # of a mixture the client gets its part: nothing keeps results of the others until it answers
        theirs = [call for call in calls if call not in own]
        with handle.step() as turn:
            self._record(turn, setup, message_id, answer)
            if cut and handle.stopped:
                self._end(turn, "cancelled")
            elif cut:
                self._end(turn, "failed", code=answer.code, message=answer.error, status=502)
            elif theirs:
                handle.record("turn.requires_action", {"tool_calls": theirs, "credits": turn.credits})
                self._end(turn, "completed")
            elif not calls:
                self._end(turn, "completed")
            elif turn.rounds >= (self.wanted.max_rounds or self.settings.stoa_turn_rounds):
                problem = f"The model still asked for tools after {turn.rounds} rounds."
                self._end(turn, "failed", code="max_rounds_reached", message=problem, status=502)
            if turn.state != "running":
                return False
        self._run_tools(setup, own, answer)
        return True

    def _record(self, turn: Turn, setup: TurnSetup, message_id: str, answer: StreamedAnswer) -> None:
        settled, text, citations = answer.settled, answer.text, None
        turn.call_id = None
        turn.credits = (turn.credits or 0) + (settled.credits if settled else 0)
        if setup.documents.scopes and text:
            text, citations = check_answer(text, setup.documents.scopes)
        message = {
            "id": message_id,
            "role": "assistant",
            "content": [{"type": "text", "text": text}] if text else [],
            "model": answer.model or setup.model,
            "finish_reason": answer.finish_reason or "stop",
            "citations": citations or None,
            "message_id": settled.message_id if settled else None,
            "credits": settled.credits if settled else 0,
            "usage": answer.usage,
        }
        self.handle.record("message.completed", {"message": message})

    def _run_tools(
        self, setup: TurnSetup, calls: Sequence[Mapping[str, Any]], answer: StreamedAnswer
    ) -> None:
        handle, seconds = self.handle, self.settings.stoa_tool_seconds
        results = run_tools(calls, setup.call, handle.context, seconds, handle.on_stop)
        self.messages.append(answer.message)
        self.messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": text}
            for call, text in zip(calls, results, strict=True)
        ]

    def fail(self) -> None:
        """End it after an error on our side, if this worker still has it: with what it has cost, its run and what it has reserved. Does its best. Raises
        LeaseLost."""
        why = {"code": "internal_error", "message": FAILED, "status": 500}
        with keeping_the_turn(self.handle):
            self._recover("failed", **why)
        # without effect if that has ended it
        with suppress(Exception), self.handle.step() as turn:
            if turn.state == "running":
                self._end(turn, "failed", **why)

    def _recover(self, state: str, **why: Any) -> None:
        """Charge the call that was in flight, and end the turn."""
        handle, written = self.handle, written_pieces(self.handle)
        with handle.step() as turn:
            call_id, over = turn.call_id, turn.state != "running"
        if over:
            return
        call = recover_call(handle, call_id, self._known_body, text=written.text, thinking=written.thinking)
        with handle.step() as turn:
            turn.credits = (turn.credits or 0) + (call.credits or 0)
            self._end(turn, state, **why)

    def _known_body(self) -> Mapping[str, Any]:
        """What the call was asked, as far as it is known still: not what tools had found before."""
        with self.handle.context():
            setup = self._setup or self._set_up()
        if isinstance(setup, DomainError):
            return {"model": self.wanted.model or "", "messages": self.messages}
        return setup.body(self.messages)

    def _end(self, turn: Turn, state: str, **why: Any) -> None:
        turn.credits = (turn.credits or 0) + (self._setup.toolbox.take_credits() if self._setup else 0)
        turn_budgets.settle(turn, None, self.wanted.assistant_id)
        finish_run(turn, state, why.get("message"), self.settings)
        self.handle.end(turn, state, **why)


register_kind(KIND, AssistantCalls())
