"""A streamed answer of the gateway as events of the playground: text as it arrives, and the whole message at its end."""

from collections.abc import Iterator
from typing import Any

import orjson

from models.gateway import sse
from models.gateway.stream import AnswerStream
from models.gateway.upstream import UpstreamError


class TurnStopped(UpstreamError):
    """The user stopped the answer, or left the page."""

    kind = "client_stopped"
    status = 499


class StreamedAnswer:
    """Iterate for the events: `text` and `thinking` with a piece each. Then `message` is the answer as a message, `error` what ended it
    early. `close` it when the client has left: the answer then ends, and what was written is charged."""

    def __init__(self, answer: AnswerStream) -> None:
        self.error = ""
        self._answer = answer
        self._parser = sse.SseParser("The gateway")
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for block in self._answer:
            events = self._parser.feed(block)
            found = [piece for event in events if event.data for piece in self._pieces(event.data)]
            yield from found or [("", "")]
        self._ended = True

    def close(self) -> None:
        """End the answer, if it has not ended."""
        if not self._ended:
            self._answer.in_flight.stop(TurnStopped("You stopped the answer."))
            self._answer.close()

    @property
    def message(self) -> dict[str, Any]:
        """The answer so far."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return message

    def _pieces(self, data: bytes) -> Iterator[tuple[str, str]]:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if isinstance(error := _get(chunk, "error"), dict):
            self.error = str(error.get("message") or "The answer ended early.")
        for choice in _list(_get(chunk, "choices")):
            delta = _get(choice, "delta")
            if isinstance(text := _get(delta, "content"), str) and text:
                self._text.append(text)
                yield "text", text
            thinking = _get(delta, "reasoning_content") or _get(delta, "reasoning")
            if isinstance(thinking, str) and thinking:
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
