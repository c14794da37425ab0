"""The relay serves a new dialect unchanged: other requests, events, end events and errors."""

import ast
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import models.gateway
from models.core.settings import load_settings
from models.gateway import sse
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused
from models.gateway.chat_format import Call, UsageMeter
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    Reply,
    StreamTranslator,
    WholeAnswer,
)
from models.gateway.relay import Gateway
from models.gateway.route import Route
from models.gateway.stream import AnswerStream
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunks, completion, pausing
from tests.gateway.conftest import Facts

ROOM = Path(models.gateway.__file__ or "").parent


class NoteStream:
    """Named events, with usage in the first and the last."""

    def __init__(self, meter: UsageMeter) -> None:
        self.meter = meter
        self.done = False
        self._parser = sse.SseParser()

    def feed(self, piece: bytes) -> bytes:
        out = b""
        for event in self._parser.feed(piece):
            if event.data == b"[DONE]":
                self.done = True
            elif event.data:
                chunk = json.loads(event.data)
                self.meter.event(chunk)
                words = [choice["delta"].get("content") for choice in chunk["choices"]]
                out += b"".join(_event("word", word) for word in words if word)
        return out

    def end(self, *, cut: bool = False) -> bytes:
        return b""

    def final_chunk(self, bill: Bill | None) -> bytes:
        return _event("cost", None if bill is None else str(bill.cost))

    def end_event(self) -> bytes:
        return _event("stop", None)

    def error(self, message: str, code: str, kind: str) -> bytes:
        return _event("failed", code)


def _event(name: str, value: Any) -> bytes:
    return sse.frame(json.dumps(value).encode(), name.encode())


class Notes(Dialect):
    """Requests with a note and a word limit."""

    door = "notes"

    def __init__(self, *, words: int | None = 50) -> None:
        self.words = words

    def read(self, received: IncomingRequest) -> CallRequest:
        body = received.body
        message = {"role": "user", "content": body["note"]}
        call = Call(
            model=body["model"],
            stream=body.get("stream", False),
            n=1,
            max_output=self.words,
            input_tokens=len(body["note"]),
            text_bytes=len(body["note"]),
            body={"model": body["model"], "messages": [message]},
        )
        return CallRequest(self, received.request_id, received.key, call)

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        return [{"note": call.body["messages"][0]["content"]}], None

    def count_text(self, call: Call) -> int:
        return call.text_bytes

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return call.text_bytes, {}

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Any) -> WholeAnswer:
        meter = route.provider.meter(call)
        body = json.loads(raw)
        meter.body(body)
        return WholeAnswer(raw, body, meter)

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        return Reply(str(answers[0].meter.answer).encode(), "text/plain")

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        return NoteStream(route.provider.meter(call))

    def greeting(self) -> bytes:
        return _event("start", None)

    def heartbeat(self) -> bytes:
        return _event("ping", None)

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        return ErrorAnswer(418, str(error), {"x-should-retry": "false"})


@pytest.fixture
def gateway(gateway_app: Flask, fake: FakeUpstream) -> Gateway:
    return gateway_app.extensions["gateway"]


def call_request(dialect: Dialect, person: Person, **more: Any) -> CallRequest:
    body = {"model": "openrouter-only/model", "note": "Say hello.", **more}
    key = person.headers["authorization"].removeprefix("Bearer ")
    return dialect.read(IncomingRequest("a" * 32, key, {}, body))


def test_a_whole_answer_of_another_form(gateway: Gateway, rich: Person, facts: Facts) -> None:
    reply = gateway.open(call_request(Notes(), rich))
    assert isinstance(reply, Reply)
    assert (reply.body, reply.content_type) == (b"Hello there.", "text/plain")
    call = facts.call()
    assert (call.door, call.state, call.credits) == ("notes", "settled", 1)
    (message,) = facts.messages()
    assert message.request == [{"note": "Say hello."}]


def test_a_stream_of_other_events(gateway: Gateway, rich: Person, facts: Facts) -> None:
    reply = gateway.open(call_request(Notes(), rich, stream=True))
    assert isinstance(reply, AnswerStream)
    events = [block for part in reply for block in part.split(b"\n\n") if block]
    names = [event.split(b"\n")[0].removeprefix(b"event: ") for event in events]
    assert names == [b"start", *[b"word"] * 4, b"cost", b"stop"]
    assert events[-2].endswith(b'"0.0123"')
    assert facts.call().state == "settled"


def test_a_silent_and_a_broken_stream(
    gateway: Gateway, rich: Person, fake: FakeUpstream, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gateway.stream.HEARTBEAT_SECONDS", 0.05)
    gate = threading.Event()
    fake.will(pausing(chunks()[:4], gate, after=2))
    reply = gateway.open(call_request(Notes(), rich, stream=True))
    seen = b""
    for block in reply:
        seen += block
        if b"event: ping" in seen:
            gate.set()
    assert seen.endswith(_event("failed", "upstream_cut"))
    assert facts.call().error == "upstream_cut"


def test_without_output_only_the_input_is_held(
    gateway: Gateway, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    held: list[int] = []

    def note(exchange: Any) -> None:
        held.append(
            facts.fresh().connection().exec_driver_sql("SELECT sum(amount) FROM credit_hold").scalar()
        )
        answer(completion())(exchange)

    fake.will(note)
    gateway.open(call_request(Notes(words=0), rich))
    gateway.open(replace(call_request(Notes(words=1000), rich), request_id="b" * 32))
    assert held[0] < held[1]


def test_errors_are_the_dialects(gateway: Gateway, mallory: Person) -> None:
    stranger = CallRequest(Notes(), "c" * 32, "cb-pat-unknown", call_request(Notes(), mallory).call)
    with pytest.raises(CallRefused) as refused:
        gateway.open(stranger)
    context = ErrorContext("c" * 32, {}, load_settings(_env_file=None))
    told = Notes().error(refused.value, context)
    assert (told.status, told.body, told.headers["x-should-retry"]) == (418, "unknown_key", "false")


def test_relay_and_stream_import_no_dialect_and_no_cycle() -> None:
    def imported(name: str) -> set[str]:
        tree = ast.parse((ROOM / f"{name}.py").read_text())
        return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    for name in ("relay", "admitter", "call_answers", "stream"):
        formats = {each for each in imported(name) if each.startswith("models.gateway.chat_format.")}
        dialects = {each for each in imported(name) if each.startswith("models.gateway.dialects")}
        assert (formats, dialects) == (set(), {"models.gateway.dialects.dialect"})
    assert "models.gateway.relay" not in imported("stream")
