"""The base of translators of streams in formats other than chat completions."""

from typing import Any

from models.gateway import call_errors, lenient_json, sse
from models.gateway.chat_format import Call, ProviderFailure, UsageMeter, parse_failure
from models.gateway.route import Route
from models.gateway.sse import SseEvent


class FormatStream:
    """Parses and meters a stream, and finds its errors. See `StreamTranslator`; subclasses translate its events and write errors."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        self.meter: UsageMeter = route.provider.meter(call)
        self.done = False
        self._request_id = request_id
        self._call = call
        self._route = route
        self._parser = sse.SseParser(route.provider.title)

    def feed(self, chunk: bytes) -> bytes:
        return self._translate(self._parser.feed(chunk))

    def end(self, *, cut: bool = False) -> bytes:
        out = self._translate(self._parser.end())
        meter = self.meter
        if cut or self.done or not meter.empty or meter.failure is not None:
            return out
        # not an event stream: a web page, or an error in JSON
        meter.failure = parse_failure(self._parser.stray)
        return out + self._failure(meter.failure) if meter.failure else out

    def error(self, message: str, code: str, kind: str) -> bytes:
        """The event that ends the answer with an error."""
        raise NotImplementedError

    def _translate(self, events: list[SseEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.done:
                break
            if event.data is not None:
                out += self._parsed(event.data, event)
        return b"".join(out)

    def _parsed(self, data: bytes, event: SseEvent) -> list[bytes]:
        """Translate one event. Data that is not JSON is left out: clients would raise on it, and lose the rest of the answer."""
        if sse.is_done(data):
            self.done = True
            return []
        try:
            value = lenient_json.read(data).value
        except lenient_json.NotJson:
            return [
                out
                for each in lenient_json.split(data)
                if not self.done
                for out in self._parsed(each, SseEvent(each, b"", event.name))
            ]
        if not isinstance(value, dict):
            return []
        failure = self.meter.failure
        self.meter.event(value, is_error=event.name == b"error")
        if self.meter.failure is not failure and self.meter.failure is not None:
            return [self._failure(self.meter.failure)]
        return [self._event(value, event)]

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        """Translate an event that is no error, after it was metered."""
        raise NotImplementedError

    def _failure(self, failure: ProviderFailure) -> bytes:
        """A provider's error inside the stream. What concerns the operator's key is not the client's to see."""
        shown = call_errors.client_error(failure, failure.status or 502, self._route, None).failure
        text = call_errors.redact_keys(shown.message.encode("utf-8", "replace"), self._route)
        message = text.decode("utf-8", "replace")
        return self.error(message, str(shown.code), str(shown.type))

    def _complete(self) -> bool:
        """Whether the answer came to its end; otherwise an error follows."""
        return self.done or self.meter.ended or self.meter.billed
