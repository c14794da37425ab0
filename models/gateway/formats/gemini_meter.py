"""Meters answers in the format of Google's Gemini API."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format import find_failure, read_usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.formats.format_meter import FormatMeter


class GeminiMeter(FormatMeter):
    """See `UsageMeter`. Each chunk reports the usage so far; the one with the reason of the end is the last."""

    def __init__(self) -> None:
        super().__init__()
        self._reason: str | None = None
        self._calls = 0

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        if is_error or event.get("error"):
            self.failure = find_failure(event, is_error=True)
            return False
        for name, key in (("id", "responseId"), ("model", "modelVersion")):
            value = event.get(key)
            if getattr(self, name) is None and isinstance(value, str) and value:
                setattr(self, name, value[:MAX_MODEL])
        candidates = event.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict):
                self._add_candidate(candidate)
        blocked = event.get("promptFeedback")
        if isinstance(blocked, dict) and blocked.get("blockReason"):
            # the prompt was refused, and there is no candidate
            self._reason = str(blocked["blockReason"])
        reported = self._add_usage(event.get("usageMetadata"))
        self.billed = reported and self.finished
        return reported

    def body(self, body: Mapping[str, Any]) -> None:
        self.event(body)

    def _add_candidate(self, candidate: Mapping[str, Any]) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                self._add_part(part)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            self._reason = reason
            # output was generated up to the limit, even if it was not sent
            self.started |= reason == "MAX_TOKENS"

    def _add_part(self, part: Mapping[str, Any]) -> None:
        call = part.get("functionCall")
        if isinstance(call, dict):
            function = {"name": call.get("name"), "arguments": call.get("args")}
            delta: dict[str, Any] = {
                "tool_calls": [{"index": self._calls, "id": call.get("id"), "function": function}]
            }
            self._calls += 1
        elif part.get("thought") is True:
            delta = {"reasoning_content": part.get("text")}
        else:
            delta = {"content": [{key: value for key, value in part.items() if key != "thoughtSignature"}]}
        self.add(delta)

    def _add_usage(self, usage: Any) -> bool:
        if not isinstance(usage, dict) or not usage:
            return False
        parsed = read_usage(usage)
        self.raw_usage = usage
        if parsed is not None:
            self.reported = parsed
        return parsed is not None
