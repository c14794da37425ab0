"""A streamed chat completion of the gateway as the server itself reads it: text as it arrives, and the whole message at its end."""

from collections.abc import Iterator
from typing import Any

import orjson

from models.gateway import sse
from models.gateway.stream import AnswerStream
from models.gateway.upstream import UpstreamError
from models.ledger.holds import Settled
from models.ledger.sanitizing import clean_json


class AnswerStopped(UpstreamError):
    """The user stopped the answer, or left the page."""

    kind = "client_stopped"
    status = 499


class StreamedAnswer:
    """Iterate for the events: `text` and `thinking` with a piece each, `("", "")` while nothing arrives. Then `message` is the answer
    as a message, `finish_reason` why it ended, and `error` with `code` what ended it early. `close` it when the client has left:
    the answer then ends, and what was written is charged."""

    def __init__(self, answer: AnswerStream) -> None:
        self.error = ""
        self.code = ""
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.usage: dict[str, Any] | None = None
        self._answer = answer
        self._parser = sse.SseParser("The gateway")
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for block in self._answer:
            events = self._parser.feed(block)
            found = [piece for event in events if event.data for piece in self._pieces(event.data)]
            yield from found or [("", "")]
        self._ended = True

    @property
    def settled(self) -> Settled | None:
        """What the answer cost; None if nothing was charged."""
        return self._answer.in_flight.settled

    def close(self) -> None:
        """End the answer, if it has not ended."""
        if not self._ended:
            self.stop(AnswerStopped("You stopped the answer."))
            self._answer.close()

    def stop(self, reason: UpstreamError) -> None:
        """End the answer early, from any thread: what was produced is charged, and the iteration goes on to its end."""
        self._answer.in_flight.stop(reason)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """The reasoning so far."""
        return "".join(self._thinking)

    @property
    def message(self) -> dict[str, Any]:
        """The answer so far."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return message

    def _pieces(self, data: bytes) -> Iterator[tuple[str, str]]:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if b"\\u0000" in data:
            chunk = clean_json(chunk)
        if isinstance(error := _get(chunk, "error"), dict):
            self.error = str(error.get("message") or "The answer ended early.")
            self.code = str(error.get("code") or error.get("type") or "upstream_error")
        if isinstance(usage := _get(chunk, "usage"), dict):
            self.usage = usage
        if isinstance(model := _get(chunk, "model"), str) and model:
            self.model = model
        for choice in _list(_get(chunk, "choices")):
            if isinstance(reason := _get(choice, "finish_reason"), str):
                self.finish_reason = reason
            delta = _get(choice, "delta")
            if isinstance(text := _get(delta, "content"), str) and text:
                self._text.append(text)
                yield "text", text
            thinking = _get(delta, "reasoning_content") or _get(delta, "reasoning")
            if isinstance(thinking, str) and thinking:
                self._thinking.append(thinking)
                yield "thinking", thinking
            for call in _list(_get(delta, "tool_calls")):
                self._add_call(call)

    def _add_call(self, delta: Any) -> None:
        index = _get(delta, "index")
        whole = self._calls.setdefault(
            index if isinstance(index, int) else len(self._calls),
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
        )
        function = _get(delta, "function")
        whole["id"] = whole["id"] or str(_get(delta, "id") or "")
        whole["function"]["name"] = whole["function"]["name"] or str(_get(function, "name") or "")
        whole["function"]["arguments"] += str(_get(function, "arguments") or "")


def _get(value: Any, key: str) -> Any:
    """Providers' chunks may have anything anywhere."""
    return value.get(key) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
