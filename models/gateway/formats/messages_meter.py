"""Meters answers in the format of Anthropic's Messages API."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format import find_failure, read_usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.formats.format_meter import FormatMeter
from models.gateway.served_ways import served_ways


class MessagesMeter(FormatMeter):
    """See `UsageMeter`. Usage comes in two parts: the input with the start of the message, the output with its end."""

    def __init__(self) -> None:
        super().__init__()
        self.stop_reason: str | None = None

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        kind = event.get("type")
        if kind == "error" or is_error or event.get("error"):
            self.failure = find_failure(event, is_error=True)
            return False
        if kind == "message":
            self.body(event)
            return self.billed
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._read_head(event["message"])
            return self._add_usage(event["message"].get("usage"))
        if kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            self._add_block(event.get("index"), event["content_block"], whole=False)
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            self._add_delta(event.get("index"), event["delta"])
        elif kind == "message_delta":
            delta = event.get("delta")
            self._stop(delta.get("stop_reason") if isinstance(delta, dict) else None)
            reported = self._add_usage(event.get("usage"))
            self.billed = reported and self.finished
            return reported
        return False

    def body(self, body: Mapping[str, Any]) -> None:
        self.failure = find_failure(body) if body.get("type") == "error" or body.get("error") else None
        self._read_head(body)
        content = body.get("content")
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                self._add_block(index, block, whole=True)
        self._stop(body.get("stop_reason"))
        self.billed = self._add_usage(body.get("usage"))

    def _read_head(self, message: Mapping[str, Any]) -> None:
        for name in ("id", "model"):
            value = message.get(name)
            if isinstance(value, str) and value:
                setattr(self, name, value[:MAX_MODEL])

    def _stop(self, reason: Any) -> None:
        if isinstance(reason, str) and reason:
            self.stop_reason = reason
            # output was generated up to the limit, even if it was not sent
            self.started |= reason == "max_tokens"

    def _add_block(self, index: Any, block: Mapping[str, Any], *, whole: bool) -> None:
        match block.get("type"):
            case "text":
                self.add({"content": block.get("text")})
            case "thinking":
                self.add({"reasoning_content": block.get("thinking")})
            case "redacted_thinking":
                data = {"type": "reasoning.encrypted", "data": block.get("data")}
                self.add({"reasoning_details": [data]})
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                arguments = block.get("input") if whole else None
                self.add_call(index, {"name": block.get("name"), "arguments": arguments}, block.get("id"))

    def _add_delta(self, index: Any, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta":
                self.add({"content": delta.get("text")})
            case "thinking_delta":
                self.add({"reasoning_content": delta.get("thinking")})
            case "input_json_delta":
                self.add_call(index, {"arguments": delta.get("partial_json")})
            case "compaction_delta":
                self.add({"content": delta.get("content")})

    def _add_usage(self, usage: Any) -> bool:
        """Merge reported usage: what is not repeated keeps its number."""
        if not isinstance(usage, dict) or not usage:
            return False
        merged = {
            **(self.raw_usage or {}),
            **{key: value for key, value in usage.items() if value is not None},
        }
        self.served = served_ways(merged)
        parsed = read_usage(merged)
        self.raw_usage = merged
        if parsed is not None:
            self.reported = parsed
        return parsed is not None
