"""Runs responses of the Responses API as turns: those in the background, those of conversations, and those of saved prompts."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import delete

from models.core.db import db
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import sse
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.dialects import RESPONSES
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest
from models.gateway.formats.chat_request import write_chat
from models.gateway.formats.responses_meter import TERMINAL
from models.gateway.lenient_json import read, write
from models.gateway.response_state.response_items import REFERENCE
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import AnswerStopped
from models.gateway.upstream import UpstreamError
from models.ledger.sanitizing import clean_json
from models.threads import conversation_items, turn_budgets
from models.threads.response_budget import AT_ONCE, ConversationSpent, reserve_response
from models.threads.response_request import ConversationMemory, ResponseRequest, SmallHeaders
from models.threads.thread import Thread
from models.threads.turn_run import finish_run
from models.turns import Turn, TurnEvent
from models.turns.call_recovery import keeping_the_turn, recover_call
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind
from models.turns.turn_call import stop_with

log = logging.getLogger("stoa.turns")

KIND = "response"
REFUSED = "response.refused"
"""The event of a response that was refused before it began, with the status and error of the HTTP answer."""
CANCELLED = "response.cancelled"
ENDS = (*TERMINAL, REFUSED, CANCELLED)
"""The last event of a response."""
KILLED = "The server stopped while it wrote this response. What it had written was charged."
_FAILURES = (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed)
_STATES = {"response.completed": "completed", "response.incomplete": "completed", "response.failed": "failed"}


class ResponseTurns:
    """The work of turns of responses."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        running = RunningResponse(handle, handle.gateway.settings)
        try:
            running.run()
        except LeaseLost:
            raise
        except Exception:
            running.fail()
            raise
        if not ResponseRequest.read(handle.request).background:
            _forget(handle)


class RunningResponse:
    """One response, while this process runs it."""

    def __init__(self, handle: TurnHandle, settings: Settings) -> None:
        self.handle = handle
        self.settings = settings
        self.wanted = ResponseRequest.read(handle.request)
        self._number = len(handle.events())
        self._last: dict[str, Any] | None = None

    def run(self) -> None:
        """Run it to its end."""
        request = self._begin()
        while request is not None:
            try:
                answer = self.handle.gateway.open(request)
            except _FAILURES as error:
                self.handle.on_stop(None)
                request = self._after_refusal(error)
                continue
            assert isinstance(answer, AnswerStream)
            self._stream(answer)
            self._finish(answer)
            return

    # -- before the call -------------------------------------------------------------------------------------

    def _begin(self) -> CallRequest | None:
        """The call, noted so that whoever takes the turn over knows of it. None: the response has ended."""
        with self.handle.step() as turn:
            killed = turn.call_id
            if killed is None:
                if self.handle.stopped:
                    self._cancel(turn)
                    return None
                try:
                    self._reserve(turn)
                    request = self._request()
                except DomainError as error:
                    self._end_refused(turn, error)
                    return None
                turn.call_id, turn.rounds = self.wanted.request_id, 1
        if killed is not None:
            self._end_killed(killed)
            return None
        return request

    def _thread(self) -> Thread | None:
        """The conversation, if there is one still."""
        return db.session.get(Thread, self.wanted.thread_id) if self.wanted.thread_id else None

    def _reserve(self, turn: Turn, wanted: int = AT_ONCE) -> bool:
        """Reserve of the conversation's budget. Returns whether the response has more than before. Raises DomainError."""
        thread, headers = self._thread(), self.wanted.headers
        if thread is None:
            return False
        org, repo = headers.get("x-stoa-org"), headers.get("x-stoa-repo")
        more = reserve_response(turn, thread, org, repo, self.settings, wanted)
        self.handle.run_id = turn.run_id
        return more

    def _request(self) -> CallRequest:
        """Raises DomainError."""
        wanted, thread = self.wanted, self._thread()
        context = conversation_items.context_items(thread) if thread is not None else []
        body = {**wanted.body, "stream": True}
        if context and not body.get("input"):
            # a response may be asked for without anything new
            body["input"], context = context[-1:], context[:-1]
        memory = ConversationMemory(self.handle.gateway.responses, context, wanted.facts)
        own_run = {"x-stoa-run-id": self.handle.run_id} if self.handle.run_id else {}
        received = IncomingRequest(
            wanted.request_id,
            self.handle.key.id,
            SmallHeaders({**wanted.sent_headers(), **own_run}),
            body,
            write(body),
            wanted.address,
            memory,
            acts_for=self.handle.key,
            admitted=partial(stop_with, self.handle),
        )
        return RESPONSES.read(received)

    def _after_refusal(self, error: Exception) -> CallRequest | None:
        """The same call once more, if more could be reserved for it. None: the response has ended."""
        with self.handle.step() as turn:
            needed = turn_budgets.needed_by(error)
            if self.handle.stopped:
                self._cancel(turn)
                return None
            try:
                if needed is not None and self._reserve(turn, max(needed, AT_ONCE)):
                    return self._request()
            except DomainError as refused:
                error = refused
            thread = self._thread()
            if needed is not None and thread is not None:
                error = ConversationSpent(thread.budget, little=True)
            self._end_refused(turn, error)
            return None

    def _end_refused(self, turn: Turn, error: Exception) -> None:
        answer = RESPONSES.error(error, ErrorContext(self.wanted.request_id, {}, self.settings))
        found = answer.body.get("error") if isinstance(answer.body, dict) else None
        shown = found if isinstance(found, dict) else {}
        code, message = str(shown.get("code") or "server_error"), str(shown.get("message") or "")
        told = {"code": code, "message": message}
        response = self.wanted.head().response("failed", [], error=told)
        more = {"http_status": answer.status, "param": shown.get("param")}
        self._tell_end(turn, REFUSED, response, "failed", code=code, message=message, **more)

    def fail(self) -> None:
        """End it after an error on our side, if this worker still has it: with what was written and paid for, and what it has reserved. Does its
        best. Raises LeaseLost."""
        with keeping_the_turn(self.handle):
            with self.handle.step() as turn:
                call_id, over = turn.call_id, turn.state != "running"
            if over:
                return
            if call_id is not None:
                self._end_killed(call_id, "failed", "internal_error", FAILED)
                return
        with suppress(Exception), self.handle.step() as turn:
            if turn.state == "running":
                self._end_refused(turn, RelayFailed())

    def _end_killed(
        self, call_id: str, state: str = "interrupted", code: str = "worker_died", message: str = KILLED
    ) -> None:
        """Charge what the killed worker had written. It is not written again."""
        text = "".join(
            event.data["delta"]
            for event in self.handle.events()
            if event.type == "response.output_text.delta" and isinstance(event.data.get("delta"), str)
        )
        call = recover_call(self.handle, call_id, self._body_of_killed, text=text)
        part = {"type": "output_text", "text": call.text, "annotations": []}
        item = {"id": f"msg_{self.wanted.request_id}", "type": "message", "role": "assistant"}
        output = [{**item, "status": "incomplete", "content": [part]}] if call.text else []
        with self.handle.step() as turn:
            turn.credits = call.credits or 0
            told = {"code": "server_error", "message": message}
            response = self.wanted.head().response("failed", output, error=told)
            self._add_to_conversation(turn, response)
            self._tell_end(turn, "response.failed", response, state, code=code, message=message)

    def _body_of_killed(self) -> Mapping[str, Any]:
        """Raises DomainError."""
        sent = {key: value for key, value in self.wanted.body.items() if key != "previous_response_id"}
        body = write_chat(RESPONSES.conversation({**sent, "input": self._input_of_killed()}))
        return {**body, "model": self.wanted.body["model"]}

    def _input_of_killed(self) -> list[Any]:
        """What the call had been sent, without the responses that it continues: the conversation, and its own items."""
        own: Any = self.wanted.given or self.wanted.body.get("input") or []
        if isinstance(own, str):
            own = [{"type": "message", "role": "user", "content": own}]
        with self.handle.context():
            thread = self._thread()
            before = conversation_items.context_items(thread) if thread is not None else []
        return [*before, *(item for item in own if item.get("type") != REFERENCE)]

    # -- the answer ------------------------------------------------------------------------------------------

    def _stream(self, answer: AnswerStream) -> None:
        handle, parser = self.handle, sse.SseParser("The gateway")
        handle.on_stop(lambda: answer.in_flight.stop(self._reason()))
        try:
            for block in answer:
                for event in parser.feed(block):
                    if event.data is not None:
                        self._hear(read(event.data).value)
        except ConnectionResetError:
            # said by the last event, or by its absence
            pass
        except BaseException:
            answer.in_flight.stop(self._reason())
            answer.close()
            raise
        finally:
            handle.on_stop(None)

    def _reason(self) -> UpstreamError:
        if self.handle.stopped == "shutdown":
            return AnswerStopped("This server is stopping, so the response ends here.")
        return AnswerStopped("The response was cancelled.")

    def _hear(self, event: Any) -> None:
        kind = event.get("type") if isinstance(event, dict) else None
        if not isinstance(kind, str):
            return
        event = clean_json(event)
        if kind in TERMINAL:
            self._last = event
        elif kind.startswith("response."):
            self.handle.emit(kind, self._numbered(event))

    def _numbered(self, event: Mapping[str, Any]) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {**event, "sequence_number": number}

    def _finish(self, answer: AnswerStream) -> None:
        """Keep the response's items in the conversation, with the end of the turn."""
        settled = answer.in_flight.settled
        with self.handle.step() as turn:
            turn.credits = settled.credits if settled else 0
            last = self._last or {}
            response, kind = last.get("response"), str(last.get("type"))
            if self.handle.stopped and _STATES.get(kind) != "completed":
                self._cancel(turn, response)
                return
            if not isinstance(response, dict):
                told = {"code": "server_error", "message": "The answer broke off."}
                response, kind = self.wanted.head().response("failed", [], error=told), "response.failed"
            error = response.get("error")
            shown = error if isinstance(error, dict) else {}
            if turn.run_id and turn.run_id in str(shown.get("message")):
                # nobody knows the run that keeps the budget
                thread = self._thread()
                shown["message"] = ConversationSpent(thread.budget if thread is not None else None).message
            state = _STATES[kind]
            if state == "completed" or turn.credits:
                self._add_to_conversation(turn, response)
            self._tell_end(
                turn,
                kind,
                response,
                state,
                code=_text(shown.get("code")),
                message=_text(shown.get("message")),
            )

    def _add_to_conversation(self, turn: Turn, response: Mapping[str, Any]) -> None:
        """Keep what was written and paid for, cut to what a conversation may have. The response ends as it is, even if that fails."""
        thread, output = self._thread(), response.get("output")
        if thread is None or not (isinstance(output, list) and output):
            return
        try:
            with db.session.begin_nested():
                conversation_items.add_items(thread, self.wanted.given, turn_id=turn.id)
                kept = conversation_items.kept_items(output)
                conversation_items.add_items(thread, kept, turn_id=turn.id, keep_ids=True)
        except DomainError as error:
            log.warning(
                "response %s was not added to its conversation: %s", self.wanted.response_id, error.code
            )

    def _cancel(self, turn: Turn, response: Any = None) -> None:
        """Within a step: end the turn as cancelled, or as interrupted if the server stops, with what was written."""
        output = response.get("output") if isinstance(response, dict) else None
        if self.handle.stopped == "shutdown":
            told = {"code": "server_error", "message": "This server was stopped during the response."}
            whole = self.wanted.head().response("failed", output or [], error=told)
            self._tell_end(turn, "response.failed", whole, "interrupted", **told)
            return
        whole = self.wanted.head().response("cancelled", output or [])
        self._tell_end(turn, CANCELLED, whole, "cancelled")

    def _tell_end(
        self,
        turn: Turn,
        kind: str,
        response: Mapping[str, Any],
        state: str,
        *,
        code: str | None = None,
        message: str | None = None,
        **more: Any,
    ) -> None:
        """Within a step: the last event of the response, and the end of its turn."""
        self.handle.record(kind, clean_json(self._numbered({"type": kind, "response": response, **more})))
        turn.credits = turn.credits or 0
        turn_budgets.settle(turn, self._thread(), None)
        finish_run(turn, state, message, self.settings)
        self.handle.end(turn, state, code=code, message=message)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _forget(handle: TurnHandle) -> None:
    """The client has its answer: what it says is kept as a response or in its conversation only."""
    with handle.after_end() as turn:
        if turn is not None:
            told = TurnEvent.turn_id == handle.id, TurnEvent.type.startswith("response.")
            db.session.execute(delete(TurnEvent).where(*told))
            turn.request = {key: turn.request[key] for key in ("request_id", "facts") if key in turn.request}


register_kind(KIND, ResponseTurns())
