"""Collects a whole chat completion from a stream of chunks, and checks that an answer is one."""

from collections.abc import Mapping
from typing import Any, Protocol

from models.gateway import lenient_json, sse
from models.gateway.call_errors import ProviderError, client_error, redact_keys
from models.gateway.chat_format import Call, ProviderFailure, find_failure
from models.gateway.chat_format.assembly import AnswerAssembler
from models.gateway.dialects.dialect import WholeAnswer
from models.gateway.lenient_json import read, write
from models.gateway.route import Route
from models.gateway.sse import SseEvent
from models.gateway.upstream import BrokenConnection, EmptyAnswer


class _AnswerReader(Protocol):
    def read_answer(
        self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]
    ) -> WholeAnswer: ...


class ChatCollector:
    """See `AnswerCollector`. A body that is a whole answer is read by `reader`, and passed on unchanged."""

    def __init__(self, reader: _AnswerReader, call: Call, route: Route, headers: Mapping[str, str]) -> None:
        self.meter = route.provider.meter(call)
        self.done = False
        self._reader = reader
        self._call = call
        self._route = route
        self._headers = headers
        self._parser = sse.SseParser(route.provider.title)
        self._assembler = AnswerAssembler()
        self._chunks = 0
        self._received = self._ended = False
        # the body, if it is a whole answer so far
        self._whole: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        self._received = self._received or bool(chunk.strip())
        if not self.done:
            self._add(self._parser.feed(chunk))

    def ends_with_chunks(self) -> bool:
        """End the body. Returns whether it had any chunk."""
        if not (self._ended or self.done):
            self._add(self._parser.end())
        self._ended = True
        return self._chunks > 0

    def answer(self) -> WholeAnswer:
        route, meter = self._route, self.meter
        # without a chunk: a web page, JSON that is no object, or nothing
        whole = self._whole if self.ends_with_chunks() else self._parser.stray
        if whole or not self._received:
            return self._reader.read_answer(whole or b"", self._call, route, self._headers)
        if not self._chunks or not (self.done or meter.ended or meter.billed or meter.failure):
            raise BrokenConnection(
                f"{route.provider.title} closed the connection before its response was complete."
            )
        answer = self.partial()
        if meter.failure and meter.started and not (meter.finished or meter.billed):
            raise _error(meter.failure, answer.raw, route, self._headers)
        return check_answer(answer, route, self._headers)

    def partial(self) -> WholeAnswer:
        body = self._assembler.body(self.meter.output, self.meter.raw_usage)
        return WholeAnswer(write(body), body, self.meter)

    def _add(self, events: list[SseEvent]) -> None:
        for event in events:
            if event.data is None:
                continue
            if sse.is_done(event.data):
                self.done = True
                return
            for parsed in lenient_json.read_all(event.data):
                self._add_chunk(parsed, event)

    def _add_chunk(self, parsed: lenient_json.ParsedJson, event: SseEvent) -> None:
        chunk = parsed.value
        is_error = event.name == b"error"
        if isinstance(chunk, dict):
            self._chunks += 1
            self._whole = parsed.text if self._chunks == 1 and _is_whole(chunk) else None
            self.meter.event(chunk, is_error=is_error)
            self._assembler.add(chunk)
        elif failure := find_failure(chunk, is_error=is_error):
            self._chunks += 1
            self._whole = None
            self.meter.failure = failure


def check_answer(answer: WholeAnswer, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
    """The answer, unless it is an error, empty or cannot be read. Raises ProviderError, UpstreamError."""
    raw, body, meter = answer.raw, answer.value, answer.meter
    title = route.provider.title
    failure = meter.failure or (None if meter.started else find_failure(body))
    if failure and not meter.started:
        raise _error(failure, raw, route, headers)
    choices = body.get("choices") if isinstance(body, dict) else 0
    if not isinstance(body, dict) or not (choices is None or isinstance(choices, list)):
        raise BrokenConnection(f"{title} sent an answer that cannot be read.")
    if meter.empty and not meter.ended:
        raise EmptyAnswer(
            f"{title} sent an answer without content and without usage. Nothing was charged; try again."
        )
    return answer


def _is_whole(body: dict[str, Any]) -> bool:
    """Whether the body is a whole answer rather than a chunk."""
    choices = body.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) and not choice.get("delta")
        for choice in choices
    )


def _error(failure: ProviderFailure, raw: bytes, route: Route, headers: Mapping[str, str]) -> ProviderError:
    """The error for the client, without the key that it may quote."""
    if (redacted := redact_keys(raw, route)) != raw:
        failure = find_failure(read(redacted).value) or failure
    return client_error(failure, failure.status or 502, route, headers.get("Retry-After"))
