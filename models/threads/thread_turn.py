"""Runs the turns of threads: rounds of a model call and the server's tools, until the answer is whole or the client has to do something."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from models.accounts.sessions import Session
from models.core.db import db, extension
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.streamed_answer import AnswerStopped, StreamedAnswer
from models.gateway.upstream import UpstreamError
from models.ledger.payers import PayerHint
from models.runs import recording
from models.runs.recording import StepReport
from models.threads import tree
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_turn_start import KIND, TurnRequest, add_messages
from models.threads.turn_recovery import interrupted_answer
from models.turns import Turn
from models.turns.engine import TurnHandle, register_kind
from models.turns.turn_call import PAUSING, TurnCallFailed, open_call

AGENT = "thread"
"""What runs of threads without an assistant are called."""


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
        with handle.context():
            settings: Settings = extension("settings")
        ThreadTurn(handle, settings).run(taken_over=taken_over)


class ThreadTurn:
    """One turn, while this process runs it."""

    def __init__(self, handle: TurnHandle, settings: Settings) -> None:
        self.handle = handle
        self.settings = settings
        self.wanted = TurnRequest.read(handle.request)
        self.parent_id = self.wanted.parent_id
        self.next_id = self.wanted.answer_id or f"msg_{uuid.uuid4()}"

    def run(self, *, taken_over: bool = False) -> None:
        """Run it to its end, or until it waits."""
        if taken_over and interrupted_answer(self) is not None:
            return
        while (current := self._begin_round()) is not None:
            try:
                answer = open_call(
                    self.handle, current.body, current.request_id, self.settings, org_id=self.wanted.org_id
                )
            except TurnCallFailed as error:
                self._fail(error)
                return
            self._stream(current, answer)
            if not self._finish_round(current, answer):
                return

    # -- a round ---------------------------------------------------------------------------------------------

    def _begin_round(self) -> Round | None:
        """Prepare the next call, and note it, so that whoever takes the turn over knows of it. None: the turn has ended."""
        handle = self.handle
        with handle.step() as turn:
            thread = db.session.get_one(Thread, handle.subject_id)
            try:
                if self.parent_id is None:
                    self.parent_id = self._add_input(thread, turn)
                if turn.run_id is None:
                    handle.run_id = turn.run_id = self._start_run(thread)
                    handle.record("turn.started", {})
                body = self.body(thread)
            except DomainError as error:
                self.end(turn, "failed", code=error.code, message=error.message)
                return None
            if handle.stopped:
                self.end(turn, "cancelled")
                return None
            request_id = uuid.uuid4().hex
            turn.call_id, turn.rounds = request_id, turn.rounds + 1
            current = Round(body, self.next_id, self.parent_id, request_id)
            facts = {"message_id": current.message_id, "role": "assistant", "parent_id": self.parent_id}
            handle.record("message.started", {**facts, "model": body["model"]})
        return current

    def _stream(self, current: Round, answer: StreamedAnswer) -> None:
        handle = self.handle
        handle.on_stop(lambda: answer.stop(self._reason()))
        try:
            for kind, piece in answer:
                if kind:
                    handle.emit(f"{kind}.delta", {"message_id": current.message_id, "text": piece})
        except ConnectionResetError:
            # said by `answer.error`
            pass
        finally:
            handle.on_stop(None)

    def _reason(self) -> UpstreamError:
        if self.handle.stopped == "shutdown":
            return AnswerStopped("This server is stopping, so the answer ends here.")
        return AnswerStopped("The answer was stopped.")

    def _finish_round(self, current: Round, answer: StreamedAnswer) -> bool:
        """Keep the round's message, with its charge. Returns whether another round follows."""
        handle, calls = self.handle, answer.message.get("tool_calls")
        cut = bool(answer.error)
        with handle.step() as turn:
            thread = db.session.get_one(Thread, handle.subject_id)
            settled = answer.settled
            turn.call_id = None
            turn.credits = (turn.credits or 0) + (settled.credits if settled else 0)
            message = tree.append(
                thread,
                role="assistant",
                content=_parts(answer),
                parent_id=current.parent_id,
                tool_calls=None if cut else calls,
                state="incomplete" if cut else "completed",
                turn_id=turn.id,
                id=current.message_id,
                model=answer.model or current.body["model"],
                finish_reason="interrupted" if cut else answer.finish_reason or "stop",
                message_id=settled.message_id if settled else None,
                credits=settled.credits if settled else 0,
                usage=answer.usage,
            )
            handle.record("message.completed", {"message": tree.message_json(message)})
            if cut:
                self._end_early(turn, answer)
            else:
                self.end(turn, "completed")
        return False

    def _end_early(self, turn: Turn, answer: StreamedAnswer) -> None:
        stopped = self.handle.stopped
        if stopped == "shutdown":
            self.end(turn, "interrupted", code="server_stopping", message=answer.error)
        elif stopped:
            self.end(turn, "cancelled")
        else:
            self.end(turn, "failed", code=answer.code, message=answer.error)

    # -- the end ---------------------------------------------------------------------------------------------

    def _fail(self, error: TurnCallFailed) -> None:
        """The call was refused, or failed before its answer began."""
        with self.handle.step() as turn:
            if self.handle.stopped:
                self.end(turn, "cancelled")
            elif error.code in PAUSING:
                turn.state, turn.call_id = "paused", None
                turn.error_code, turn.error_message = error.code, error.message
                self.handle.record("turn.paused", {"code": error.code, "message": error.message})
            else:
                self.end(turn, "failed", code=error.code, message=error.message)

    def end(self, turn: Turn, state: str, *, code: str | None = None, message: str | None = None) -> None:
        """Within a step: end the turn and its run."""
        turn.credits = turn.credits or 0
        thread = db.session.get_one(Thread, self.handle.subject_id)
        self._finish_run(turn, state, message)
        self.handle.end(turn, state, code=code, message=message, head_id=thread.head_id)

    # -- the run ---------------------------------------------------------------------------------------------

    def _start_run(self, thread: Thread) -> str:
        session = self._session()
        return recording.start(
            thread.user_id,
            AGENT,
            [],
            self.settings,
            org_id=session.org_id if session else None,
            team_id=session.team_id if session else None,
            hint=PayerHint(self.wanted.org_id) if self.wanted.org_id else PayerHint(),
            key_id=self.handle.key.id,
        )

    def _finish_run(self, turn: Turn, state: str, message: str | None) -> None:
        if turn.run_id is None:
            return
        session = self._session()
        status = {"completed": "completed", "cancelled": "cancelled"}.get(state, "failed")
        recording.finish(
            turn.user_id,
            turn.run_id,
            status=status,  # type: ignore[arg-type]
            total_steps=turn.rounds,
            direct_credits=Decimal(turn.credits or 0),
            total_credits=Decimal(turn.credits or 0),
            settings=self.settings,
            org_id=session.org_id if session else None,
            error_message=message,
            steps=_steps(turn),
        )

    def _session(self) -> Session | None:
        return db.session.get(Session, self.handle.key.id)

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
        turn.request = {**turn.request, "parent_id": message.id, "input": []}
        return message.id

    def body(self, thread: Thread) -> dict[str, Any]:
        """The chat completion that answers `parent_id`. Raises DomainError."""
        model = self.wanted.model or thread.model
        if not model:
            raise DomainError(
                "Neither the request nor the thread names a model. Send 'model'.",
                status=400,
                code="model_missing",
            )
        history = reversed(tree.path(thread, self.parent_id))
        system = [text for text in (thread.instructions, self.wanted.instructions) if text]
        messages: list[dict[str, Any]] = (
            [{"role": "system", "content": "\n\n".join(system)}] if system else []
        )
        messages += [chat_message(message) for message in history]
        return {**self.wanted.params, "model": model, "messages": messages}


def chat_message(message: ThreadMessage) -> dict[str, Any]:
    """A message as chat completions take it."""
    parts = [part for part in message.content if part["type"] in ("text", "image_url")]
    only_text = all(part["type"] == "text" for part in parts)
    content: Any = "\n".join(part["text"] for part in parts) if only_text else parts
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        found |= {"tool_calls": message.tool_calls, "content": content or None}
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _parts(answer: StreamedAnswer) -> Sequence[dict[str, Any]]:
    thinking = [{"type": "reasoning", "text": answer.thinking}] if answer.thinking else []
    return [*thinking, *([{"type": "text", "text": answer.text}] if answer.text else [])]


def _steps(turn: Turn) -> list[StepReport]:
    """The rounds of the turn as steps of its run."""
    query = (
        select(ThreadMessage.message_id, ThreadMessage.credits)
        .where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "assistant")
        .order_by(ThreadMessage.seq)
    )
    return [
        StepReport(number, Decimal(credits or 0), message_id=message_id)
        for number, (message_id, credits) in enumerate(db.session.execute(query), 1)
    ]


register_kind(KIND, ThreadTurns())
