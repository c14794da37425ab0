"""Streams in the format of OpenAI's Responses API: passed on, or translated from those of another format."""

from collections.abc import Mapping
from typing import Any

from models.gateway import sse
from models.gateway.bill import Bill
from models.gateway.chat_format import Call, KeptAnswer
from models.gateway.dialects.format_stream import FormatStream
from models.gateway.dialects.translation import TranslatedAnswer
from models.gateway.formats.responses_answer import ResponseHead, ResponsesAnswerReader, ResponsesWriter
from models.gateway.formats.responses_meter import TERMINAL
from models.gateway.lenient_json import write
from models.gateway.route import Route
from models.gateway.sse import SseEvent

ERROR_CODES: Mapping[str, str] = {
    "insufficient_credits": "insufficient_quota",
    "budget_exceeded": "insufficient_quota",
    "rate_limit_exceeded": "rate_limit_exceeded",
    "rate_limit_error": "rate_limit_exceeded",
    "context_length_exceeded": "context_length_exceeded",
}
"""Codes that clients know, by our codes and by providers' codes and types."""


def response_id(id: str) -> str:
    """The id of a response from that of the call or of a chat completion."""
    return f"resp_{id.removeprefix('chatcmpl-').removeprefix('resp_')}"


def kept_bytes(answer: KeptAnswer, response: dict[str, Any]) -> bytes:
    """An ended response as JSON, with its id of ours, as it is kept when it is settled."""
    response.update(answer.facts)
    raw = write(response)
    answer.ended = response, raw
    return raw


class _ResponsesStream(FormatStream):
    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        head = ResponseHead(response_id(request_id), call.model, call.client_body)
        if call.answer is not None:
            head.facts = call.answer.facts
        self._writer = ResponsesWriter(head)

    def end_event(self) -> bytes:
        return b""

    def _keep(self, bill: Bill | None, response: dict[str, Any] | None) -> None:
        """The response that is kept when the call is settled."""
        if self._call.answer is not None and bill is not None and response is not None:
            kept_bytes(self._call.answer, response)

    def error(self, message: str, code: str, kind: str) -> bytes:
        return self._writer.fail(ERROR_CODES.get(code) or ERROR_CODES.get(kind) or "server_error", message)


class ResponsesStream(_ResponsesStream):
    """The events of a provider that speaks this format, unchanged but for the id of a response that is kept; the last one waits until
    the call is billed."""

    def __init__(self, request_id: str, call: Call, route: Route) -> None:
        super().__init__(request_id, call, route)
        self._answer = call.answer
        self._last = b""
        self._response: dict[str, Any] | None = None

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        kind = value.get("type")
        if value.get("object") == "response":
            return self._whole(value)
        response = value.get("response")
        text = event.text
        if self._answer is not None and isinstance(response, dict):
            response.update(self._answer.facts)
            text = sse.frame(write(value), str(kind).encode())
        if kind in TERMINAL:
            self.done = True
            self._last, self._response = text, response if isinstance(response, dict) else None
            return b""
        self._writer.follow(value)
        return text

    def _whole(self, response: dict[str, Any]) -> bytes:
        """A whole response from a provider that does not stream."""
        self.meter.body(response)
        events = ResponsesAnswerReader().read_whole(response)
        out = self._writer.start(self.meter.model or self._call.model)
        out += b"".join(self._writer.write(event) for event in events)
        self.done = True
        self._last = self._writer.finish(self.meter.reported)
        self._response = self._writer.response
        return out

    def final_chunk(self, bill: Bill | None) -> bytes:
        last, self._last = self._last, b""
        self._keep(bill, self._response)
        return last


class TranslatedResponsesStream(_ResponsesStream):
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
        end = self._writer.finish(bill.usage if bill else None)
        self._keep(bill, self._writer.response)
        return start + end
