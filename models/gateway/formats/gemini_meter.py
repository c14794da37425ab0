"""Meters answers in the format of Google's Gemini API."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from models.gateway.chat_format import ProviderFailure, Usage, find_failure, read_usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.chat_format.output import GeneratedOutput


class GeminiMeter:
    """See `UsageMeter`. Each chunk reports the usage so far; the one with the reason of the end is the last."""

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
        self._reason: str | None = None
        self._calls = 0

    @property
    def finished(self) -> bool:
        return self._reason is not None

    @property
    def ended(self) -> bool:
        return self.finished

    @property
    def empty(self) -> bool:
        return not self.started and not (self.finished and self.reported is not None)

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
        if self.output.add(0, delta):
            self.started = True

    def _add_usage(self, usage: Any) -> bool:
        if not isinstance(usage, dict) or not usage:
            return False
        parsed = read_usage(usage)
        self.raw_usage = usage
        if parsed is not None:
            self.reported = parsed
        return parsed is not None
