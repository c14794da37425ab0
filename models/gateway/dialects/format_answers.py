"""Whole answers in formats other than chat completions: read from one body, or collected from a stream."""

from collections.abc import Callable, Mapping
from typing import Any

from models.gateway import lenient_json, sse
from models.gateway.chat_format import Call, UsageMeter
from models.gateway.dialects.dialect import WholeAnswer
from models.gateway.dialects.reading import check_passed_answer, passed_error, read_passed_answer
from models.gateway.formats.wire_formats import WIRE_FORMATS
from models.gateway.lenient_json import write
from models.gateway.route import Route
from models.gateway.sse import SseEvent
from models.gateway.upstream import BrokenConnection

Headers = Mapping[str, str]


def read_format_answer(raw: bytes, call: Call, route: Route, headers: Headers) -> WholeAnswer:
    """Parse a whole answer in the format of `call`. Raises ProviderError, UpstreamError."""
    return read_passed_answer(raw, route, headers, route.provider.meter(call))


class FormatCollector:
    """See `AnswerCollector`. `convert` makes the client's answer of the provider's."""

    def __init__(
        self,
        call: Call,
        route: Route,
        headers: Headers,
        convert: Callable[[Call, WholeAnswer], WholeAnswer] = lambda call, answer: answer,
    ) -> None:
        self.meter: UsageMeter = route.provider.meter(call)
        self.done = False
        self._call = call
        self._route = route
        self._headers = headers
        self._convert = convert
        self._parser = sse.SseParser(route.provider.title)
        assembler = WIRE_FORMATS[call.format].assembler
        assert assembler is not None
        self._assembler = assembler()
        self._events = 0
        self._failed: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> None:
        self._add(self._parser.feed(chunk))

    def answer(self) -> WholeAnswer:
        self._add(self._parser.end())
        route, meter = self._route, self.meter
        if not self._events:
            # a whole answer, an error, a web page, or nothing
            return self._convert(
                self._call, read_format_answer(self._parser.stray, self._call, route, self._headers)
            )
        if not (meter.ended or meter.billed or meter.failure):
            raise BrokenConnection(
                f"{route.provider.title} closed the connection before its response was complete."
            )
        if meter.failure is not None and not (meter.finished or meter.billed):
            raise passed_error(meter.failure, write(self._failed), route, self._headers)
        body = self._assembler.body()
        whole = check_passed_answer(WholeAnswer(write(body), body, meter), route, self._headers)
        return self._convert(self._call, whole)

    def partial(self) -> WholeAnswer:
        body = self._assembler.body()
        return self._convert(self._call, WholeAnswer(write(body), body, self.meter))

    def _add(self, events: list[SseEvent]) -> None:
        for event in events:
            if event.data is not None and not self.done:
                self._add_data(event.data, event)

    def _add_data(self, data: bytes, event: SseEvent) -> None:
        if sse.is_done(data):
            self.done = True
            return
        for parsed in lenient_json.read_all(data):
            self._add_event(parsed.value, event)

    def _add_event(self, value: Any, event: SseEvent) -> None:
        if not isinstance(value, dict):
            return
        self._events += 1
        if value.get("object") == "response":
            # from a provider that does not stream
            self.meter.body(value)
        else:
            self.meter.event(value, is_error=event.name == b"error")
        if self.meter.failure is not None:
            self._failed = value
        else:
            self._assembler.add(value)
