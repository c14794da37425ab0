"""Streams in the format of Google's Gemini API: passed on, or translated from those of another format."""

from collections.abc import Mapping
from typing import Any

from models.gateway.bill import Bill
from models.gateway.chat_format import Call
from models.gateway.dialects.format_stream import FormatStream
from models.gateway.dialects.translation import TranslatedAnswer
from models.gateway.formats.gemini_answer import GeminiWriter, error_chunk
from models.gateway.route import Route
from models.gateway.sse import SseEvent

STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Names of errors by status."""
_CODES: Mapping[str, int] = {
    "insufficient_credits": 402,
    "budget_exceeded": 402,
    "ledger_unavailable": 503,
    "rate_limit_error": 429,
    "overloaded_error": 503,
}


class GeminiStream(FormatStream):
    """The chunks of a provider that speaks this format, unchanged; the last one waits until the call is billed."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self._last = b""

    def end_event(self) -> bytes:
        return b""

    def error(self, message: str, code: str, kind: str) -> bytes:
        status = _CODES.get(code) or _CODES.get(kind) or 500
        return error_chunk(status, STATUSES[status], message)

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        out, self._last = self._last, b""
        if self.meter.finished:
            self._last = event.text
            return out
        return out + event.text

    def final_chunk(self, bill: Bill | None) -> bytes:
        last, self._last = self._last, b""
        return last


class TranslatedGeminiStream(GeminiStream):
    """The events of another format as chunks of this one."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self._reader = TranslatedAnswer(call)
        self._writer = GeminiWriter(request_id)

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        model = self.meter.model or self._call.model
        return b"".join(self._writer.write(each, model) for each in self._reader.read(value))

    def final_chunk(self, bill: Bill | None) -> bytes:
        if not self._complete():
            return b""
        self._reader.end()
        return self._writer.finish(self.meter.model or self._call.model, bill.usage if bill else None)
