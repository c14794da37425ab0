"""The dialect of OpenAI's chat completions, with OpenRouter's extensions."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from types import UnionType
from typing import Any

from models.gateway.wire.call import BadCall, Call, Failure
from models.gateway.wire.usage import Usage, read_usage

MAX_CHOICES = 128
MAX_MODEL = 200
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
KEPT_TEXT = 1 << 20
"""Characters of an answer that are kept to be stored or counted."""

BYTES_PER_TOKEN = 3
"""Cautious: English prose and code have about four, Chinese three."""

TOKENS_PER_IMAGE = 1600


def parse(body: Any, size: int, *, truthy_stream: bool = False) -> Call:
    """`body` (JSON, `size` bytes long) as a Call. Raises BadCall.

    `truthy_stream`: any truthy `stream` asks for a stream, as the compatible contract has it (5.3).
    """
    if not isinstance(body, dict):
        raise BadCall("The request body must be a JSON object.")
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadCall("'model' is missing: name the model to call.", param="model")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise BadCall("'model' is not the name of a model.", param="model")
    stream = body.get("stream")
    if not truthy_stream and stream is not None and not isinstance(stream, bool):
        raise BadCall("'stream' must be true or false.", param="stream")
    _check_messages(body.get("messages"))
    for key in ("tools", "functions"):
        _check(body, key, list, "a list")
    for item in body.get("tools") or ():
        if not isinstance(item, dict):
            raise BadCall("'tools' must be a list of objects.", param="tools")
    _check(body, "stream_options", dict, "an object")
    for key in NUMBERS:
        if isinstance(body.get(key), bool):
            raise BadCall(f"'{key}' must be a number.", param=key)
        _check(body, key, int | float, "a number")
    _check(body, "stop", str | list, "a string or a list of strings")
    if not all(isinstance(item, str) for item in body.get("stop") or ()):
        raise BadCall("'stop' must be a string or a list of strings.", param="stop")
    options = body.get("stream_options") or {}
    return Call(
        dialect="chat",
        model=model.strip(),
        stream=bool(stream),
        n=_whole(body, "n", MAX_CHOICES) or 1,
        max_output=_largest(
            _whole(body, "max_completion_tokens", 1 << 31), _whole(body, "max_tokens", 1 << 31)
        ),
        input_tokens=_input_tokens(body, size),
        body=body,
        wants_usage=bool(options.get("include_usage")),
    )


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadCall("'messages' must be a list with at least one message.", param="messages")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadCall(f"'{name}' must be an object with a 'role'.", param=name)
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) for part in content):
                raise BadCall(f"'{name}.content' must be a string or a list of objects.", param=name)
            if not all(isinstance(part.get("text") or "", str) for part in content):
                raise BadCall(f"A 'text' in '{name}.content' must be a string.", param=name)
        elif content is not None and not isinstance(content, str):
            raise BadCall(f"'{name}.content' must be a string or a list of objects.", param=name)
        calls = message.get("tool_calls")
        if calls is not None and not (
            isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
        ):
            raise BadCall(f"'{name}.tool_calls' must be a list of objects.", param=name)


def _check(body: Mapping[str, Any], key: str, kind: type | UnionType, words: str) -> None:
    if body.get(key) is not None and not isinstance(body[key], kind):
        raise BadCall(f"'{key}' must be {words}.", param=key)


def _whole(body: Mapping[str, Any], key: str, most: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 1 <= value <= most:
        raise BadCall(f"'{key}' must be a whole number from 1 to {most}.", param=key)
    return value


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _input_tokens(body: Mapping[str, Any], size: int) -> int:
    """A cautious guess: bytes of text, with pictures and sound at their own rate and not by their base64."""
    tokens = 0
    for message in body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            blob = _blob(part)
            if blob is not None:
                size -= blob
                tokens += max(TOKENS_PER_IMAGE, blob // 400)
    return tokens + max(size, 0) // BYTES_PER_TOKEN + 1


def _blob(part: Mapping[str, Any]) -> int | None:
    """Characters of encoded media in a content part; None for text."""
    for key in ("image_url", "input_audio", "file"):
        media = part.get(key)
        if isinstance(media, str):
            return len(media)
        if isinstance(media, dict):
            return sum(len(value) for value in media.values() if isinstance(value, str))
    return None


def failure_of(body: Any) -> Failure | None:
    """The error a chunk or an answer carries instead of content, else None."""
    error = body.get("error") if isinstance(body, dict) else None
    if error is None or error is False or error == "":
        return None
    if not isinstance(error, dict):
        return Failure(str(error)[:2000])
    message = error.get("message")
    code = error.get("code")
    status = code if type(code) is int and 400 <= code <= 599 else None
    return Failure(
        message if isinstance(message, str) and message else "The provider reported an error.",
        status,
        code,
        error.get("type"),
        error.get("param"),
        error.get("metadata"),
    )


class ChatMeter:
    """Measures chat completions; see `Meter`."""

    def __init__(self, n: int = 1) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.provider: str | None = None
        self.created: int | None = None
        self.failure: Failure | None = None
        self.started = False
        self.billed = False
        self._n = n
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Mapping[str, Any] | None = None
        self._text = _Kept()
        self._reasoning = _Kept()
        self._calls = _Kept()
        self._tools: dict[tuple[int, int], dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        """Every choice has said why it ended."""
        return len(self._finished) >= self._n and self._finished >= self._seen

    def event(self, event: Mapping[str, Any]) -> None:
        self._head(event)
        if (failure := failure_of(event)) is not None:
            self.failure = failure
            return
        content = False
        for choice in _objects(event.get("choices")):
            content |= self._take(choice, choice.get("delta"))
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
            # some providers repeat a growing usage on every chunk: only the last one is the bill
            self.billed = not content or self.finished

    def body(self, body: Mapping[str, Any]) -> None:
        self._head(body)
        self.failure = failure_of(body)
        for choice in _objects(body.get("choices")):
            self._take(choice, choice.get("message"))
        usage = body.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
            self.billed = True

    def usage(self) -> Usage | None:
        return None if self._usage is None else self.read_usage(self._usage)

    @property
    def raw_usage(self) -> Mapping[str, Any] | None:
        return self._usage

    @property
    def cost(self) -> Decimal | None:
        return None

    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        """A `usage` object in this provider's sense."""
        return read_usage(usage)

    @property
    def text(self) -> str:
        return self._text.joined()

    @property
    def answer(self) -> Any:
        if not self._tools:
            return self.text
        calls = [
            {
                "id": slot.get("id"),
                "type": "function",
                "function": {key: "".join(slot.get(key, ())) for key in ("name", "arguments")},
            }
            for slot in self._tools.values()
        ]
        return {"role": "assistant", "content": self.text, "tool_calls": calls}

    @property
    def reasoning(self) -> str:
        return self._reasoning.joined()

    @property
    def size(self) -> int:
        return self._reasoning.bytes + self._text.bytes + self._calls.bytes

    @property
    def delivered(self) -> str:
        return self._reasoning.joined() + self._text.joined() + self._calls.joined()

    def _head(self, event: Mapping[str, Any]) -> None:
        for key in ("id", "model", "provider"):
            value = event.get(key)
            if isinstance(value, str) and value and getattr(self, key) is None:
                setattr(self, key, value[:MAX_MODEL])
        if self.created is None and type(event.get("created")) is int:
            self.created = event["created"]

    def _take(self, choice: Mapping[str, Any], piece: Any) -> bool:
        """Keep what a delta or a message holds; whether it held anything."""
        index = choice.get("index")
        index = index if type(index) is int else 0
        self._seen.add(index)
        if isinstance(choice.get("finish_reason"), str):
            self._finished.add(index)
        if not isinstance(piece, dict):
            return False
        content = False
        for kept, value in (
            (self._text, piece.get("content")),
            (self._text, piece.get("refusal")),
            (self._reasoning, piece.get("reasoning") or piece.get("reasoning_content")),
        ):
            if isinstance(value, str) and value:
                kept.add(value)
                content = True
        for position, call in enumerate(_objects(piece.get("tool_calls"))):
            content |= self._take_call(index, position, call)
        self.started |= content
        return content

    def _take_call(self, choice: int, position: int, call: Mapping[str, Any]) -> bool:
        function = call.get("function")
        if not isinstance(function, dict):
            return False
        named = call.get("index")
        slot = self._tools.setdefault((choice, named if type(named) is int else position), {})
        if isinstance(call.get("id"), str):
            slot.setdefault("id", call["id"])
        content = False
        for key in ("name", "arguments"):
            value = function.get(key)
            if isinstance(value, str) and value:
                content = True
                if self._calls.add(value):
                    slot.setdefault(key, []).append(value)
        return content


class _Kept:
    """Pieces of text, up to KEPT_TEXT characters."""

    __slots__ = ("bytes", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0
        self.bytes = 0

    def add(self, piece: str) -> bool:
        """Keep a piece, or what fits of it; whether anything did."""
        room = self.size < KEPT_TEXT
        if room:
            self.pieces.append(piece[: KEPT_TEXT - self.size])
            self.size += len(piece)
            self.bytes += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        return room

    def joined(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
