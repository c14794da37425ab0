"""The events of a turn as an answer of chat completions: chunks, or one whole completion."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.turns.event_log import LoggedEvent

_STATUS = {"cancelled": 409, "interrupted": 503, "expired": 409, "paused": 402, "failed": 502}
_SUMMED = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True)
class TurnFailure:
    """Why a turn has no answer, in the words of the model call's error."""

    status: int
    code: str
    message: str


@dataclass
class TurnAsChat:
    """Reads events until `over`. `extra` is about the turn, and is sent in the key `stoa` with what it cost."""

    id: str
    model: str
    extra: Mapping[str, Any]
    over: bool = False
    failure: TurnFailure | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _calls: list[dict[str, Any]] = field(default_factory=list)
    _last: Mapping[str, Any] = field(default_factory=dict)
    _usage: dict[str, Any] = field(default_factory=dict)
    _credits: int = 0
    _begun: bool = False

    def chunks(self, event: LoggedEvent) -> Iterator[dict[str, Any]]:
        """The chunks that an event becomes."""
        match event.type:
            case "message.started":
                self.model = event.data["model"]
            case "text.delta":
                yield self._delta({"content": event.data["text"]})
            case "thinking.delta":
                yield self._delta({"reasoning_content": event.data["text"]})
            case "message.completed" if event.data["message"]["role"] == "assistant":
                self._add(event.data["message"])
            case "turn.requires_action":
                self._calls = list(event.data["tool_calls"])
                calls = [{"index": index, **call} for index, call in enumerate(self._calls)]
                yield self._delta({"tool_calls": calls})
                yield from self._finish(event)
            case "turn.completed" if not self.over:
                yield from self._finish(event)
            case type if type.startswith("turn.") and type != "turn.started" and not self.over:
                self._fail(event)

    def completion(self) -> dict[str, Any]:
        """The whole answer, once it is `over` without a failure."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._thinking:
            message["reasoning_content"] = "".join(self._thinking)
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "finish_reason": self._reason}
        return {**self._head("chat.completion"), "choices": [choice], **self._costs()}

    def _add(self, message: Mapping[str, Any]) -> None:
        self._last = message
        for part in message["content"]:
            (self._thinking if part["type"] == "reasoning" else self._text).append(part["text"])
        for key in _SUMMED:
            value = (message["usage"] or {}).get(key)
            self._usage[key] = self._usage.get(key, 0) + (value if type(value) is int else 0)

    def _finish(self, event: LoggedEvent) -> Iterator[dict[str, Any]]:
        self.over, self._credits = True, event.data["credits"] or 0
        yield self._chunk([{"index": 0, "delta": {}, "finish_reason": self._reason}])
        yield {**self._chunk([]), **self._costs()}

    def _fail(self, event: LoggedEvent) -> None:
        self.over = True
        state = event.type.removeprefix("turn.")
        words = event.data.get("message") or f"The turn was {state} before it had an answer."
        status = event.data.get("status") or _STATUS.get(state, 502)
        self.failure = TurnFailure(status, event.data.get("code") or f"turn_{state}", words)

    @property
    def _reason(self) -> str:
        return "tool_calls" if self._calls else self._last.get("finish_reason") or "stop"

    def _costs(self) -> dict[str, Any]:
        found = {
            **self.extra,
            "message_id": self._last.get("message_id"),
            "credits": self._credits,
            "citations": self._last.get("citations"),
        }
        if "thread_id" in self.extra:
            found["thread_message_id"] = self._last.get("id")
        return {"usage": dict(self._usage), "stoa": found}

    def _head(self, object: str) -> dict[str, Any]:
        return {"id": self.id, "object": object, "created": self.created, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": choices}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        if not self._begun:
            self._begun, delta = True, {"role": "assistant", **delta}
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])
