"""Meters answers in the format of Anthropic's Messages API."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from models.gateway.chat_format import ProviderFailure, Usage, find_failure, read_usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.chat_format.output import GeneratedOutput


class MessagesMeter:
    """See `UsageMeter`. Usage comes in two parts: the input with the start of the message, the output with its end."""

    provider: str | None = None
    created: int | None = None

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.failure: ProviderFailure | None = None
        self.output = GeneratedOutput()
        self.started = False
        self.billed = False
        self.amended = False
        self.raw_usage: Mapping[str, Any] | None = None
        self.reported: Usage | None = None
        self.stop_reason: str | None = None

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None

    @property
    def ended(self) -> bool:
        return self.finished

    @property
    def empty(self) -> bool:
        return not self.started and not (self.finished and self.reported is not None)

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

    def usage(self) -> Usage | None:
        return self.reported if self.billed else None

    @property
    def cost(self) -> Decimal | None:
        return None

    @property
    def answer(self) -> Any:
        text, calls = self.output.text.joined(), self.output.tool_calls()
        return {"role": "assistant", "content": text, "tool_calls": calls} if calls else text

    @property
    def reasoning(self) -> str:
        return self.output.reasoning.joined()

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
                self._add({"content": block.get("text")})
            case "thinking":
                self._add({"reasoning_content": block.get("thinking")})
            case "redacted_thinking":
                data = {"type": "reasoning.encrypted", "data": block.get("data")}
                self._add({"reasoning_details": [data]})
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                arguments = block.get("input") if whole else None
                self._add_call(index, {"name": block.get("name"), "arguments": arguments}, block.get("id"))

    def _add_delta(self, index: Any, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta":
                self._add({"content": delta.get("text")})
            case "thinking_delta":
                self._add({"reasoning_content": delta.get("thinking")})
            case "input_json_delta":
                self._add_call(index, {"arguments": delta.get("partial_json")})
            case "compaction_delta":
                self._add({"content": delta.get("content")})

    def _add_call(self, index: Any, function: dict[str, Any], id: Any = None) -> None:
        call = {"index": index if type(index) is int else 0, "type": "function", "function": function}
        self._add({"tool_calls": [call | ({"id": id} if id else {})]})

    def _add(self, delta: Mapping[str, Any]) -> None:
        if self.output.add(0, delta):
            self.started = True
            self.billed = False

    def _add_usage(self, usage: Any) -> bool:
        """Merge reported usage: what is not repeated keeps its number."""
        if not isinstance(usage, dict) or not usage:
            return False
        merged = {
            **(self.raw_usage or {}),
            **{key: value for key, value in usage.items() if value is not None},
        }
        parsed = read_usage(merged)
        self.raw_usage = merged
        if parsed is not None:
            self.reported = parsed
        return parsed is not None
