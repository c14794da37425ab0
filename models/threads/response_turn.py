"""Runs responses of the Responses API as turns: those in the background, those of conversations, and those of saved prompts."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete

from models.core.db import db, extension
from models.core.errors import DomainError
from models.core.sealing import SealBroken, open_sealed, seal
from models.core.settings import Settings
from models.gateway import sse
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.dialects import RESPONSES
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest
from models.gateway.formats.chat_request import write_chat
from models.gateway.formats.responses_answer import ResponseHead
from models.gateway.formats.responses_meter import TERMINAL
from models.gateway.killed_calls import settle_killed
from models.gateway.lenient_json import read, write
from models.gateway.response_state.response_items import REFERENCE
from models.gateway.response_state.response_store import (
    ResponseChain,
    ResponseOwner,
    ResponseRecord,
    ResponseStore,
)
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import AnswerStopped
from models.gateway.upstream import UpstreamError
from models.ledger.sanitizing import clean_json
from models.threads import conversation_items, tree
from models.threads.thread import Thread
from models.turns import Turn, TurnEvent
from models.turns.engine import TurnHandle, register_kind

log = logging.getLogger("stoa.turns")

KIND = "response"
REFUSED = "response.refused"
"""The event of a response that was refused before it began, with the status and error of the HTTP answer."""
CANCELLED = "response.cancelled"
ENDS = (*TERMINAL, REFUSED, CANCELLED)
"""The last event of a response."""
KILLED = "The server stopped while it wrote this response. What it had written was charged."
SECRET_HEADERS = ("x-openrouter-api-key",)
"""Headers of clients that hold a key of theirs."""
_PURPOSE = "response"
_FAILURES = (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed)
_STATES = {"response.completed": "completed", "response.incomplete": "completed", "response.failed": "failed"}


@dataclass(frozen=True)
class ResponseRequest:
    """What a turn of a response is asked for. `body` is that of `/v1/responses` without `conversation`, `prompt` and `background`;
    `facts` is what its response says of those; `given` are its own items, that are added to the conversation `thread_id`."""

    request_id: str
    body: Mapping[str, Any]
    facts: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    thread_id: str | None = None
    given: Sequence[Mapping[str, Any]] = ()

    @property
    def response_id(self) -> str:
        """The id of the response."""
        return f"resp_{self.request_id}"

    @property
    def background(self) -> bool:
        """Whether the response is kept with its events, for clients that left."""
        return bool(self.facts.get("background"))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "ResponseRequest":
        """As it was stored with the turn."""
        return cls(**{name: value for name, value in stored.items() if name in cls.__dataclass_fields__})

    def head(self) -> ResponseHead:
        """What the response says about its request."""
        facts = {"id": self.response_id, "store": self.body.get("store") is not False, **self.facts}
        return ResponseHead(self.response_id, str(self.body.get("model")), self.body, facts)

    def sent_headers(self) -> dict[str, str]:
        """The headers of the client, with its secrets. One that was sealed with another key of the server is left out."""
        found: dict[str, str] = {}
        for name, value in self.headers.items():
            if name not in SECRET_HEADERS:
                found[name] = value
                continue
            with suppress(SealBroken):
                opened = open_sealed(_secret_key(), _PURPOSE, value, context=self.response_id)
                found[name] = opened.decode("latin-1")
        return found


def stored_headers(headers: Mapping[str, str], response_id: str) -> dict[str, str]:
    """The headers of a request as they are stored with its turn: secrets are sealed for this response."""
    return {
        name: seal(_secret_key(), _PURPOSE, value.encode("latin-1", "replace"), context=response_id)
        if name in SECRET_HEADERS
        else value
        for name, value in headers.items()
    }


def _secret_key() -> str:
    return str(extension("settings").secret_key)


class ConversationMemory:
    """Where a response is kept whose items follow those of a conversation. See `ResponseMemory`."""

    def __init__(
        self, store: ResponseStore, context: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> None:
        self._store = store
        self.context = context
        self.facts = facts

    def keeps(self, body: Mapping[str, Any]) -> bool:
        """Its facts are told in any case."""
        return True

    def stores(self, body: Mapping[str, Any]) -> bool:
        return self._store.keeps(body)

    def chain(self, owner: ResponseOwner, id: str) -> ResponseChain:
        return self._store.chain(owner, id)

    def items(self, owner: ResponseOwner, ids: Sequence[str]) -> dict[str, Any]:
        found = {item["id"]: item for item in self.context if item.get("id") in ids}
        return self._store.items(owner, [id for id in ids if id not in found]) | found

    def keep(self, record: ResponseRecord) -> None:
        if record.store:
            self._store.keep(record)


class ResponseTurns:
    """The work of turns of responses."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        RunningResponse(handle, handle.gateway.settings).run()
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
        if request is None:
            return
        try:
            answer = self.handle.gateway.open(request)
        except _FAILURES as error:
            self._refuse(error)
            return
        assert isinstance(answer, AnswerStream)
        self._stream(answer)
        self._finish(answer)

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
                    request = self._request()
                except DomainError as error:
                    self._end_refused(turn, error)
                    return None
                turn.call_id, turn.rounds = self.wanted.request_id, 1
        if killed is not None:
            self._end_killed(killed)
            return None
        return request

    def _request(self) -> CallRequest:
        """Raises DomainError."""
        wanted, context = self.wanted, []
        if wanted.thread_id is not None:
            thread = db.session.get(Thread, wanted.thread_id)
            context = conversation_items.context_items(thread) if thread is not None else []
        body = {**wanted.body, "stream": True}
        if context and not body.get("input"):
            # a response may be asked for without anything new
            body["input"], context = context[-1:], context[:-1]
        memory = ConversationMemory(self.handle.gateway.responses, context, wanted.facts)
        received = IncomingRequest(
            wanted.request_id,
            self.handle.key.id,
            _Headers(wanted.sent_headers()),
            body,
            write(body),
            wanted.address,
            memory,
            acts_for=self.handle.key,
        )
        return RESPONSES.read(received)

    def _refuse(self, error: Exception) -> None:
        with self.handle.step() as turn:
            if self.handle.stopped:
                self._cancel(turn)
            else:
                self._end_refused(turn, error)

    def _end_refused(self, turn: Turn, error: Exception) -> None:
        answer = RESPONSES.error(error, ErrorContext(self.wanted.request_id, {}, self.settings))
        found = answer.body.get("error") if isinstance(answer.body, dict) else None
        shown = found if isinstance(found, dict) else {}
        code, message = str(shown.get("code") or "server_error"), str(shown.get("message") or "")
        told = {"code": code, "message": message}
        response = self.wanted.head().response("failed", [], error=told)
        more = {"http_status": answer.status, "param": shown.get("param")}
        self._tell_end(turn, REFUSED, response, "failed", code=code, message=message, **more)

    def _end_killed(self, call_id: str) -> None:
        """Charge what the killed worker had written. It is not written again."""
        text = "".join(
            event.data["delta"]
            for event in self.handle.events()
            if event.type == "response.output_text.delta" and isinstance(event.data.get("delta"), str)
        )
        try:
            sent = {key: value for key, value in self.wanted.body.items() if key != "previous_response_id"}
            body = write_chat(RESPONSES.conversation({**sent, "input": self._input_of_killed()}))
            credits = settle_killed(
                self.handle.gateway, call_id, {**body, "model": self.wanted.body["model"]}, text=text
            ).credits
        except DomainError as error:
            if error.status >= 500:
                raise
            credits = None
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"id": f"msg_{self.wanted.request_id}", "type": "message", "role": "assistant"}
        output = [{**message, "status": "incomplete", "content": [part]}] if text else []
        with self.handle.step() as turn:
            turn.credits = credits or 0
            told = {"code": "server_error", "message": KILLED}
            response = self.wanted.head().response("failed", output, error=told)
            self._tell_end(
                turn, "response.failed", response, "interrupted", code="worker_died", message=KILLED
            )

    def _input_of_killed(self) -> list[Any]:
        """What the call had been sent, without the responses that it continues: the conversation, and its own items."""
        own: Any = self.wanted.given or self.wanted.body.get("input") or []
        if isinstance(own, str):
            own = [{"type": "message", "role": "user", "content": own}]
        with self.handle.context():
            thread = db.session.get(Thread, self.wanted.thread_id) if self.wanted.thread_id else None
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
            state = _STATES[kind]
            if state == "completed":
                self._add_to_conversation(turn, response)
            self._tell_end(
                turn,
                kind,
                response,
                state,
                code=_text(shown.get("code")),
                message=_text(shown.get("message")),
            )

    def _charge_conversation(self, turn: Turn) -> None:
        """Add what the response cost to what the conversation has spent."""
        thread = db.session.get(Thread, self.wanted.thread_id) if self.wanted.thread_id else None
        if thread is not None and turn.credits:
            tree.lock(thread).spent += turn.credits

    def _add_to_conversation(self, turn: Turn, response: Mapping[str, Any]) -> None:
        """The response was paid for, so it ends as it is, even if the conversation cannot take it."""
        thread = db.session.get(Thread, self.wanted.thread_id) if self.wanted.thread_id else None
        if thread is None:
            return
        output = response.get("output")
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        try:
            with db.session.begin_nested():
                conversation_items.add_items(thread, self.wanted.given, turn_id=turn.id)
                checked = conversation_items.checked_items(items, limit=None, name="output")
                conversation_items.add_items(thread, checked, turn_id=turn.id, keep_ids=True)
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
        self._charge_conversation(turn)
        self.handle.end(turn, state, code=code, message=message)


class _Headers(dict[str, str]):
    """Headers of the client's request, whose names have small letters."""

    def get(self, name: str, default: Any = None, /) -> Any:
        return super().get(name.lower(), default)


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
