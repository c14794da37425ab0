"""Meters answers in the format of OpenAI's Responses API."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import find_failure, read_usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.formats.format_meter import FormatMeter
from models.gateway.served_ways import served_ways

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
"""The events that end a stream."""
_KEYS: Mapping[str, str] = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "content",
    "response.output_audio_transcript.delta": "content",
    "response.reasoning_summary_text.delta": "reasoning_content",
    "response.reasoning_text.delta": "reasoning_content",
}
_ARGUMENTS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_CALLS = ("function_call", "custom_tool_call")


class ResponsesMeter(FormatMeter):
    """See `UsageMeter`. The usage comes with the last event."""

    def __init__(self) -> None:
        super().__init__()
        self._status: str | None = None
        self._searches: set[str] = set()
        self._streamed: set[str] = set()

    @property
    def finished(self) -> bool:
        return self._status in ("completed", "incomplete")

    @property
    def empty(self) -> bool:
        return not self.started and self.reported is None

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        kind, item = str(event.get("type")), event.get("item")
        if kind == "error" or is_error:
            self.failure = find_failure(
                event if event.get("error") else {"error": dict(event)}, is_error=True
            )
            return False
        response = event.get("response")
        if isinstance(response, dict):
            self._read_head(response)
            if kind in TERMINAL:
                return self._end(response)
        elif kind in _KEYS:
            self._streamed.add(str(event.get("item_id")))
            self.add({_KEYS[kind]: event.get("delta")})
        elif kind in _ARGUMENTS:
            self._streamed.add(str(event.get("item_id")))
            self.add_call(event.get("output_index"), {"arguments": event.get("delta")})
        elif kind == "response.output_item.added" and isinstance(item, dict):
            if item.get("type") in _CALLS:
                self.add_call(event.get("output_index"), {"name": item.get("name")}, item.get("call_id"))
        elif kind == "response.output_item.done" and isinstance(item, dict):
            self._add_item(event.get("output_index"), item)
        return False

    def body(self, body: Mapping[str, Any]) -> None:
        if body.get("error") and not body.get("output"):
            self.failure = find_failure(body, is_error=True)
        self._read_head(body)
        output = body.get("output")
        for index, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict):
                if item.get("type") in _CALLS:
                    self.add_call(index, {"name": item.get("name")}, item.get("call_id"))
                self._add_item(index, item)
        self._end(body)

    def _read_head(self, response: Mapping[str, Any]) -> None:
        self.served = served_ways(response) or self.served
        for name in ("id", "model"):
            value = response.get(name)
            if isinstance(value, str) and value:
                setattr(self, name, value[:MAX_MODEL])
        if type(response.get("created_at")) is int:
            self.created = response["created_at"]

    def _end(self, response: Mapping[str, Any]) -> bool:
        status = response.get("status")
        self._status = status if isinstance(status, str) else "completed"
        if self._status == "failed" or (response.get("error") and not self.finished):
            self.failure = find_failure({"error": response.get("error") or {}}, is_error=True)
        details = response.get("incomplete_details")
        # output was generated up to the limit, even if it was not sent
        self.started |= isinstance(details, dict) and details.get("reason") == "max_output_tokens"
        usage = response.get("usage")
        parsed = read_usage(usage) if isinstance(usage, dict) and usage else None
        if isinstance(usage, dict):
            self.raw_usage = usage
        if parsed is not None:
            if self._searches and "web_searches" not in parsed.parts:
                parsed = replace(parsed, parts={**parsed.parts, "web_searches": len(self._searches)})
            self.reported = parsed
        self.billed = parsed is not None
        return self.billed

    def _add_item(self, index: Any, item: Mapping[str, Any]) -> None:
        """What an ended item holds beyond its deltas."""
        kind, id = item.get("type"), str(item.get("id"))
        streamed = id in self._streamed
        if kind == "web_search_call":
            self._searches.add(id)
        elif kind == "compaction":
            data = {"type": "reasoning.encrypted", "data": item.get("encrypted_content")}
            self.add({"reasoning_details": [data]})
        elif kind == "message" and not streamed and item.get("role") != "user":
            self.add({"content": item.get("content")})
        elif kind == "reasoning":
            if not streamed:
                self.add({"reasoning_content": [*(item.get("summary") or ()), *(item.get("content") or ())]})
            if item.get("encrypted_content"):
                data = {"type": "reasoning.encrypted", "data": item["encrypted_content"]}
                self.add({"reasoning_details": [data]})
        elif kind in _CALLS and not streamed:
            self.add_call(index, {"arguments": item.get("input") or item.get("arguments")})
