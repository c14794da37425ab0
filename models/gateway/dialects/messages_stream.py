"""Streams in the format of Anthropic's Messages API: passed on, or translated from those of another format."""

from collections.abc import Mapping
from typing import Any

import orjson

from models.gateway import sse
from models.gateway.bill import Bill
from models.gateway.chat_format import Call
from models.gateway.dialects.format_stream import FormatStream
from models.gateway.dialects.translation import TranslatedAnswer
from models.gateway.formats.messages_answer import (
    STOP,
    MessagesAnswerReader,
    MessagesWriter,
    error_event,
)
from models.gateway.route import Route
from models.gateway.sse import SseEvent

ERROR_TYPES: Mapping[str, str] = {
    "insufficient_credits": "billing_error",
    "budget_exceeded": "billing_error",
    "overloaded_error": "overloaded_error",
    "rate_limit_error": "rate_limit_error",
    "rate_limit_exceeded": "rate_limit_error",
    "invalid_request_error": "invalid_request_error",
    "upstream_timeout": "timeout_error",
}
"""Error types by our codes and by providers' types."""


class _MessagesStream(FormatStream):
    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self._writer = MessagesWriter(f"msg_{request_id}")

    def end_event(self) -> bytes:
        return STOP

    def error(self, message: str, code: str, kind: str) -> bytes:
        error_type = ERROR_TYPES.get(code) or ERROR_TYPES.get(kind) or "api_error"
        return error_event(error_type, message, self._request_id)


class MessagesStream(_MessagesStream):
    """The events of a provider that speaks this format, unchanged; the last one waits until the call is billed."""

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        kind = value.get("type")
        if kind == "message_stop":
            self.done = True
            return b""
        if kind == "message":
            return self._whole(value)
        if not event.name and isinstance(kind, str):
            # clients see only events with a name
            return sse.frame(orjson.dumps(value), kind.encode("utf-8", "replace"))
        return event.text

    def _whole(self, message: dict[str, Any]) -> bytes:
        """A whole message from a provider that does not stream."""
        events = MessagesAnswerReader().read_whole(message)
        out = self._writer.start(self.meter.model or self._call.model)
        out += b"".join(self._writer.write(event) for event in events)
        self.done = True
        return out + self._writer.finish(self.meter.reported)

    def final_chunk(self, bill: Bill | None) -> bytes:
        return b""


class TranslatedMessagesStream(_MessagesStream):
    """The events of another format as events of this one."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self._reader = TranslatedAnswer(call)

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        out = self._writer.start(self.meter.model or self._call.model)
        return out + b"".join(self._writer.write(each) for each in self._reader.read(value))

    def final_chunk(self, bill: Bill | None) -> bytes:
        if not self._complete():
            return b""
        self._reader.end()
        start = self._writer.start(self.meter.model or self._call.model)
        return start + self._writer.finish(bill.usage if bill else None)
