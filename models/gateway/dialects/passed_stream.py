"""Streams that are passed on: the events as they are, the last one after it was billed."""

import orjson

from models.gateway import sse
from models.gateway.bill import Bill
from models.gateway.chat_format import Call
from models.gateway.dialects.format_stream import FormatStream
from models.gateway.dialects.reading import passed_meter
from models.gateway.route import Route
from models.gateway.sse import SseEvent


class PassedStream(FormatStream):
    """Holds back each event that may be the last. Errors have OpenAI's format."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self.meter = passed_meter(call, route)
        self._last = b""

    def final_chunk(self, bill: Bill | None) -> bytes:
        last, self._last = self._last, b""
        return last

    def end_event(self) -> bytes:
        return b""

    def error(self, message: str, code: str, kind: str) -> bytes:
        error = {"message": message, "type": kind, "code": code, "param": None}
        return sse.frame(orjson.dumps({"type": "error", "error": error}), b"error")

    def _event(self, value: dict[str, object], event: SseEvent) -> bytes:
        out, self._last = self._last, b""
        text = self.passed(value, event)
        if self.meter.billed:
            self._last = text
            return out
        return out + text

    def passed(self, value: dict[str, object], event: SseEvent) -> bytes:
        """An event for the client."""
        return event.text or sse.frame(orjson.dumps(value), event.name)
