"""Runs the turns of threads: rounds of a model call and the server's tools, until the answer is whole or the client has to do something."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import Conflict, DomainError
from models.core.settings import Settings
from models.gateway.streamed_answer import StreamedAnswer
from models.ledger.payers import PayerHint
from models.threads import tree, turn_budgets
from models.threads.answer_citations import check_answer
from models.threads.history_window import HistoryWindow
from models.threads.kept_answer import CODE as TOO_LARGE
from models.threads.kept_answer import MAX_NAME, FittingAnswer, kept_answer, kept_usage
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_turn_start import KIND, TurnRequest, add_messages
from models.threads.turn_budgets import Shortage
from models.threads.turn_recovery import fail_with_pieces, goes_on
from models.threads.turn_run import finish_run, start_run
from models.threads.turn_setup import TurnSetup, set_up
from models.threads.turn_tools import run_tools
from models.turns import Turn
from models.turns.call_recovery import keeping_the_turn
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind
from models.turns.turn_call import PAUSING, TurnCallFailed, open_call, tell_pieces

MAX_ROUNDS = 100
"""Model calls of a turn, also of one whose tools the client runs."""
Calls = Sequence[Mapping[str, Any]]


@dataclass
class Round:
    """One model call: what is sent, and the message that it writes."""

    body: dict[str, Any]
    message_id: str
    parent_id: str
    request_id: str


class ThreadTurns:
    """The work of turns of threads."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        turn = ThreadTurn(handle, handle.gateway.settings)
        try:
            turn.run(taken_over=taken_over)
        except LeaseLost:
            raise
        except Exception:
            turn.fail()
            raise


class ThreadTurn:
    """One turn, while this process runs it."""

    def __init__(self, handle: TurnHandle, settings: Settings) -> None:
        self.handle = handle
        self.settings = settings
        self.wanted = TurnRequest.read(handle.request)
        self.parent_id = self.wanted.parent_id
        self.next_id = self.wanted.answer_id or f"msg_{uuid.uuid4()}"
        self._setup: TurnSetup | None = None

    def run(self, *, taken_over: bool = False) -> None:
        """Run it to its end, or until it waits."""
        if taken_over and not goes_on(self):
            return
        calls: Calls | None = () if self.handle.run_id is None else self._where_it_was()
        if calls is not None and not self._prepare():
            return
        while calls is not None:
            if calls and not self._answer_calls(calls):
                return
            calls = self._round()

    def _prepare(self) -> bool:
        """Resolve what the calls are made of. False: that cannot be, and the turn has ended."""
        handle = self.handle
        try:
            with handle.context():
                thread = db.session.get_one(Thread, handle.subject_id)
                setup = self.setup(thread)
        except DomainError as error:
            with handle.step() as turn:
                if handle.stopped:
                    self._end_stopped(turn)
                else:
                    self.end(turn, "failed", code=error.code, message=error.message, status=error.status)
            return False
        setup.toolbox.pay_with(handle, self.wanted.org_id)
        self._setup = setup.with_tools()
        return True

    def _where_it_was(self) -> Calls | None:
        """The tool calls that have no results yet, of a turn that goes on. None: it is to end."""
        handle = self.handle
        with handle.step() as turn:
            if handle.stopped:
                self._end_stopped(turn)
                return None
            for message_id in turn.request.get("answered", ()):
                message = db.session.get_one(ThreadMessage, message_id)
                handle.record("tool.completed", {"message": tree.message_json(message)})
            turn.request = {key: value for key, value in turn.request.items() if key != "answered"}
            written = db.session.scalars(
                select(ThreadMessage)
                .where(ThreadMessage.turn_id == turn.id, ThreadMessage.role.in_(("assistant", "tool")))
                .order_by(ThreadMessage.seq)
            ).all()
            answers = [message for message in written if message.role == "assistant"]
            if not answers:
                return ()
            self.parent_id, self.next_id = written[-1].id, f"msg_{uuid.uuid4()}"
            done = {message.tool_call_id for message in written}
            return [call for call in answers[-1].tool_calls or () if call["id"] not in done]

    # -- a round ---------------------------------------------------------------------------------------------

    def _round(self) -> Calls | None:
        """One model call. Returns the tool calls that are to be answered; None: the turn has ended, or waits."""
        current = self._begin_round()
        if current is None:
            return None
        answer = self._open(current)
        if answer is None:
            return None
        tell_pieces(self.handle, answer, current.message_id)
        return self._finish_round(current, answer)

    def _begin_round(self) -> Round | None:
        """Prepare the next call, and note it, so that whoever takes the turn over knows of it. None: the turn has ended, or waits."""
        handle = self.handle
        with handle.step() as turn:
            thread = db.session.get_one(Thread, handle.subject_id)
            if handle.stopped or thread.deleted_at is not None:
                # a deleted thread keeps the answer that is being written, and spends no more
                self._end_stopped(turn)
                return None
            try:
                if self.parent_id is None:
                    self.parent_id = self._add_input(thread, turn)
                setup = self.setup(thread)
                shortage = turn_budgets.reserve(turn, thread, self.wanted.assistant_id)
                if shortage is not None:
                    self._pause_short(turn, thread, shortage)
                    return None
                window = setup.window(thread, self.parent_id)
                if turn.run_id is None:
                    handle.run_id = turn.run_id = start_run(
                        turn, setup.agent_id, PayerHint(self.wanted.org_id or None), self.settings
                    )
                    handle.record("turn.started", {"dropped_messages": window.dropped})
            except DomainError as error:
                self.end(turn, "failed", code=error.code, message=error.message, status=error.status)
                return None
            turn.call_id, turn.rounds = uuid.uuid4().hex, turn.rounds + 1
            body = self._body_of(window, turn.rounds)
            current = Round(body, self.next_id, self.parent_id, turn.call_id)
            facts = {"message_id": current.message_id, "role": "assistant", "parent_id": self.parent_id}
            handle.record("message.started", {**facts, "model": body["model"]})
        return current

    def _open(self, current: Round) -> StreamedAnswer | None:
        """Make the call. None: it was refused or failed, and the turn has ended, or waits."""
        while True:
            try:
                return open_call(
                    self.handle, current.body, current.request_id, self.settings, org_id=self.wanted.org_id
                )
            except TurnCallFailed as error:
                current.request_id = uuid.uuid4().hex
                if not self._may_repeat(error, current.request_id):
                    return None

    def _may_repeat(self, error: TurnCallFailed, request_id: str) -> bool:
        """The call was refused, or failed before its answer began: whether the same one is made again, since more of the budgets was reserved
        for it."""
        with self.handle.step() as turn:
            turn.call_id = None
            thread = db.session.get_one(Thread, self.handle.subject_id)
            if self.handle.stopped:
                self._end_stopped(turn)
            elif (needed := turn_budgets.needed_by(error)) is not None:
                had = turn.reserved
                turn_budgets.reserve(
                    turn, thread, self.wanted.assistant_id, max(needed, turn_budgets.AT_ONCE)
                )
                if turn.reserved > had:
                    turn.call_id = request_id
                    return True
                shortage = turn_budgets.short_of(turn, thread, self.wanted.assistant_id)
                turn.rounds -= 1
                self._pause_short(turn, thread, shortage or Shortage("turn", turn.reserved))
            elif error.code in PAUSING:
                turn.rounds -= 1
                self._pause(turn, thread, error.code, error.message, status=error.status)
            else:
                self.end(turn, "failed", code=error.code, message=error.message, status=error.status)
        return False

    def _finish_round(self, current: Round, answer: StreamedAnswer) -> Calls | None:
        """Keep the round's message, with its charge. Returns the tool calls to answer; None: the turn has ended, or waits."""
        handle, cut = self.handle, bool(answer.error)
        calls = None if cut else _with_ids(answer.message.get("tool_calls"))
        with handle.step() as turn:
            thread = db.session.get_one(Thread, handle.subject_id)
            settled = answer.settled
            turn.call_id = None
            turn.credits = (turn.credits or 0) + (settled.credits if settled else 0)
            scopes = self.setup(thread).documents.scopes
            check = partial(check_answer, scopes=scopes) if scopes else None
            kept = kept_answer(answer.text, answer.thinking, calls, check)
            calls = kept.tool_calls
            message = tree.append(
                thread,
                role="assistant",
                content=kept.parts,
                parent_id=current.parent_id,
                tool_calls=calls,
                state="incomplete" if cut or kept.problem else "completed",
                turn_id=turn.id,
                id=current.message_id,
                model=(answer.model or current.body["model"])[:MAX_NAME],
                finish_reason=_finish_reason(answer, kept),
                citations=kept.citations or None,
                message_id=settled.message_id if settled else None,
                credits=settled.credits if settled else 0,
                usage=kept_usage(answer.usage),
            )
            self.parent_id, self.next_id = message.id, f"msg_{uuid.uuid4()}"
            handle.record("message.completed", {"message": tree.message_json(message)})
            if cut:
                self._end_early(turn, thread, answer)
            elif kept.problem:
                self.end(turn, "failed", code=TOO_LARGE, message=kept.problem, status=502)
            elif not calls:
                self.end(turn, "completed")
            elif problem := self._ends_with(turn, thread, calls):
                self.end(turn, "failed", code=problem[0], message=problem[1])
            else:
                return calls
        return None

    def _ends_with(self, turn: Turn, thread: Thread, calls: Calls) -> tuple[str, str] | None:
        """The code and message of what stands against another round."""
        if turn.rounds >= self._most_rounds(calls):
            return "max_rounds_reached", f"The model still asked for tools after {turn.rounds} rounds."
        try:
            tree.check_room(thread)
        except Conflict as full:
            return full.code, full.message
        return None

    def _most_rounds(self, calls: Calls) -> int:
        """The client bounds the rounds of its own tools."""
        assert self._setup is not None
        return self._limit if any(map(self._setup.runs, calls)) else MAX_ROUNDS

    @property
    def tool_seconds(self) -> float:
        """How long a tool of the server may take."""
        return self.settings.stoa_tool_seconds

    @property
    def _limit(self) -> int:
        return self.wanted.max_rounds or self.settings.stoa_turn_rounds

    # -- tools -----------------------------------------------------------------------------------------------

    def _answer_calls(self, calls: Calls) -> bool:
        """Run the server's tools, and wait for the client's. Returns whether another round follows."""
        handle = self.handle
        setup = self._setup
        assert setup is not None
        own = [call for call in calls if setup.runs(call)]
        for call in own:
            function = call["function"]
            facts = {"name": function["name"], "arguments": function["arguments"]}
            handle.emit("tool.started", {"tool_call_id": call["id"], **facts})
        results = self.run_own(own, setup)
        with handle.step() as turn:
            self.tools_ran(turn, own)
            turn.credits = (turn.credits or 0) + setup.toolbox.take_credits()
            thread = db.session.get_one(Thread, handle.subject_id)
            for call, text in zip(own, results, strict=True):
                message = tree.append(
                    thread,
                    role="tool",
                    content=text or " ",
                    parent_id=self.parent_id,
                    tool_call_id=call["id"],
                    name=call["function"]["name"][:200],
                    turn_id=turn.id,
                )
                self.parent_id = message.id
                handle.record("tool.completed", {"message": tree.message_json(message)})
            if handle.stopped:
                self._end_stopped(turn)
                return False
            owed = [call for call in calls if call not in own]
            if owed:
                self._wait_for_client(turn, thread, owed)
            return not owed

    def run_own(self, calls: Calls, setup: TurnSetup) -> list[str]:
        """The results of these calls of the server's tools, in their order. Outside of any transaction; never raises."""
        return run_tools(calls, setup.call, self.handle.context, self.tool_seconds, self.handle.on_stop)

    def tools_ran(self, turn: Turn, calls: Calls) -> None:
        """Within the step that keeps the results of these calls."""

    def _wait_for_client(self, turn: Turn, thread: Thread, calls: Calls) -> None:
        turn_budgets.give_back(turn, thread, self.wanted.assistant_id)
        turn.state = "requires_action"
        turn.required_action = {"type": "submit_tool_outputs", "tool_calls": list(calls)}
        turn.expires_at = now() + timedelta(seconds=self.settings.stoa_tool_wait_seconds)
        waits = {
            "tool_calls": list(calls),
            "expires_at": turn.expires_at.isoformat(),
            "credits": turn.credits or 0,
        }
        self.handle.record("turn.requires_action", waits)

    # -- the end ---------------------------------------------------------------------------------------------

    def _end_stopped(self, turn: Turn) -> None:
        """End a turn that was stopped, or whose client did not send what it owed in time."""
        if self.handle.stopped == "shutdown":
            self.end(
                turn, "interrupted", code="server_stopping", message="The server stopped during this turn."
            )
        elif turn.required_action and turn.expires_at is not None and turn.expires_at <= now():
            message = "The results of the tool calls did not come in time."
            self.end(turn, "expired", code="tool_outputs_expired", message=message)
        else:
            self.end(turn, "cancelled")

    def _end_early(self, turn: Turn, thread: Thread, answer: StreamedAnswer) -> None:
        if self.handle.stopped:
            self._end_stopped(turn)
        elif answer.code == turn_budgets.CODE:
            shortage = turn_budgets.short_of(turn, thread, self.wanted.assistant_id)
            if shortage is not None:
                self._pause_short(turn, thread, shortage)
            else:
                self._pause(turn, thread, answer.code, answer.error, status=402)
        elif answer.code in PAUSING:
            self._pause(turn, thread, answer.code, answer.error, status=402)
        else:
            self.end(turn, "failed", code=answer.code, message=answer.error, status=502)

    def _pause_short(self, turn: Turn, thread: Thread, shortage: Shortage) -> None:
        self._pause(turn, thread, turn_budgets.CODE, shortage.message, status=402, level=shortage.level)

    def _pause(self, turn: Turn, thread: Thread, code: str, message: str, **more: Any) -> None:
        turn_budgets.give_back(turn, thread, self.wanted.assistant_id)
        turn.state, turn.call_id = "paused", None
        turn.error_code, turn.error_message = code, message
        why = {"code": code, "message": message, "credits": turn.credits or 0, **more}
        self.handle.record("turn.paused", why)

    def end(
        self, turn: Turn, state: str, *, code: str | None = None, message: str | None = None, **more: Any
    ) -> None:
        """Within a step: end the turn, its run and what it has reserved."""
        # searches that were left behind included
        turn.credits = (turn.credits or 0) + (self._setup.toolbox.take_credits() if self._setup else 0)
        thread = db.session.get_one(Thread, self.handle.subject_id)
        turn_budgets.settle(turn, thread, self.wanted.assistant_id)
        finish_run(turn, state, message, self.settings)
        self.handle.end(turn, state, code=code, message=message, head_id=thread.head_id, **more)

    def fail(self) -> None:
        """End it after an error on our side, if this worker still has it: with what was written and paid for, its run and what it has
        reserved. Does its best. Raises LeaseLost."""
        with keeping_the_turn(self.handle):
            if fail_with_pieces(self, "internal_error", FAILED):
                return
        with suppress(Exception), self.handle.step() as turn:
            if turn.state == "running":
                self.end(turn, "failed", code="internal_error", message=FAILED)

    # -- what is sent ----------------------------------------------------------------------------------------

    def _add_input(self, thread: Thread, turn: Turn) -> str:
        """Add the messages of a turn that waited, at the end of its branch as it is now."""
        thread = tree.lock(thread)
        last = db.session.scalars(
            select(ThreadMessage.id)
            .where(ThreadMessage.branch_id == turn.branch_id)
            .order_by(ThreadMessage.seq.desc())
            .limit(1)
        ).one_or_none()
        message = add_messages(thread, self.wanted.input, last)
        message.turn_id = turn.id
        self.wanted = replace(self.wanted, parent_id=message.id, input=())
        turn.request = {**turn.request, "parent_id": message.id, "input": []}
        return message.id

    def setup(self, thread: Thread) -> TurnSetup:
        """What its calls are made of. Raises DomainError."""
        if self._setup is None:
            routes = self.handle.gateway.routes
            self._setup = set_up(self.wanted, routes, thread.user_id, thread.account_id, thread)
        return self._setup

    def body(self, thread: Thread) -> dict[str, Any]:
        """The chat completion that answers `parent_id`. Raises DomainError."""
        assert self.parent_id is not None
        return self._body_of(self.setup(thread).window(thread, self.parent_id), 1)

    def _body_of(self, window: HistoryWindow, number: int) -> dict[str, Any]:
        assert self._setup is not None
        return self._setup.body(
            window.messages, first=number == 1, last=number >= self._limit and self._setup.runs_any
        )


def _with_ids(calls: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The tool calls, each with an id of its own: some providers send none."""
    seen: set[str] = set()
    for call in calls or ():
        if not call["id"] or call["id"] in seen or len(call["id"]) > MAX_NAME:
            call["id"] = f"call_{uuid.uuid4().hex[:24]}"
        seen.add(call["id"])
    return calls or None


def _finish_reason(answer: StreamedAnswer, kept: FittingAnswer) -> str:
    if answer.error:
        return "interrupted"
    return "length" if kept.problem else (answer.finish_reason or "stop")[:MAX_NAME]


register_kind(KIND, ThreadTurns())
