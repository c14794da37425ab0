"""The dialect of OpenAI's chat completions, with OpenRouter's extensions."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from types import UnionType
from typing import Any

from models.gateway.chat_format.call import BadCall, Call, ProviderFailure
from models.gateway.chat_format.failures import failure_of
from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.chat_format.token_usage import Usage, read_usage
from models.gateway.chat_format.vendor_usage import ELSEWHERE, figures, usage_in

MAX_CHOICES = 128
MAX_MODEL = 200
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
BYTES_PER_TOKEN = 3
"""Cautious for ordinary text: English prose and code have about four, Chinese five. Odd text has one."""

EDGE = 4096
"""Bytes at both ends of a body that show how it is written."""

TOKENS_PER_IMAGE = 1600

MEDIA_KEYS = frozenset(
    (
        *("image_url", "input_image", "image"),
        *("input_audio", "audio_url", "audio"),
        *("video_url", "input_video", "video"),
        *("file", "file_url", "file_data", "fileData", "input_file", "document"),
        *("source", "inline_data", "inlineData"),
    )
)
"""Where a content part has what is no text, in any vendor's spelling."""


def size_of(raw: bytes) -> int:
    """Bytes of a body as if no character of it were written as `\\uXXXX`, which takes six bytes for three at the most."""
    # who escapes does so everywhere; to count in every body would take longer than to read it
    if rb"\u" not in raw[:EDGE] and rb"\u" not in raw[-EDGE:]:
        return len(raw)
    escapes = raw.count(rb"\u") - raw.count(rb"\\")
    return len(raw) - 3 * max(escapes, 0)


def parse(body: Any, size: int, *, truthy_stream: bool = False) -> Call:
    """`body` (JSON, `size_of` so many bytes) as a Call. Raises BadCall.

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
    input_tokens, text_bytes = _sizes(body, size)
    return Call(
        dialect="chat",
        model=model.strip(),
        stream=bool(stream),
        n=_whole(body, "n", MAX_CHOICES) or 1,
        max_output=_largest(
            _whole(body, "max_completion_tokens", 1 << 31), _whole(body, "max_tokens", 1 << 31)
        ),
        input_tokens=input_tokens,
        text_bytes=text_bytes,
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


def _sizes(body: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Tokens of input by a cautious guess, media at their own rate and not by their base64; and the bytes beside those."""
    tokens = 0
    for message in body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            for key in part:
                if key in MEDIA_KEYS and part[key] is not None:
                    blob = sum(map(len, strings(part[key])))
                    size -= blob
                    tokens += max(TOKENS_PER_IMAGE, blob // 400)
    size = max(size, 0)
    return tokens + size // BYTES_PER_TOKEN + 1, size


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


class ChatMeter:
    """Measures chat completions; see `UsageMeter`."""

    def __init__(self, n: int = 1) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.provider: str | None = None
        self.created: int | None = None
        self.failure: ProviderFailure | None = None
        self.started = False
        self.billed = False
        self.amended = False
        self.raw_usage: Mapping[str, Any] | None = None
        self.reported: Usage | None = None
        self.output = GeneratedOutput()
        self._n = n
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._headed = False
        self._blank = True
        self._stale = False
        self._read: Usage | None = None
        self._dearest = Decimal(0)

    @property
    def finished(self) -> bool:
        """Every choice has said why it ended."""
        return len(self._finished) >= self._n and self._finished >= self._seen

    @property
    def ended(self) -> bool:
        """Every choice that began has said why it ended: fewer, it may be, than were asked for."""
        return bool(self._finished) and self._finished >= self._seen

    @property
    def empty(self) -> bool:
        """Nothing was generated, and no use reported: a zero says nothing where no choice ended."""
        reported = self.raw_usage is not None and (not self._blank or self.finished)
        return not self.started and not reported

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        if not self._headed:
            self._head(event)
        choices = event.get("choices")
        if is_error or not choices or event.get("error"):
            failure = failure_of(event, refused=is_error)
            if failure is not None:
                self.failure = failure
                # an error alone is not billed; after something else, what it reports is a lower bound
                return self.started and self._report(event, False)
        generated = False
        started = self.started
        reports = bool(event.get("usage")) or not ELSEWHERE.isdisjoint(event)
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                piece = choice.get("delta")
                if type(piece) is not dict:
                    piece = choice["delta"] = _delta_of(choice, started)
                    self.amended = True
                generated |= self._take(choice, piece)
                reports |= "usage" in choice
        if reports and self._report(event, generated):
            self.billed = self.finished or (self.started and not choices)
            return True
        if generated and self.raw_usage is not None:
            self._outdate()
        return False

    def body(self, body: Mapping[str, Any]) -> None:
        self._head(body)
        self.failure = failure_of(body)
        for choice in _objects(body.get("choices")):
            if not isinstance(choice.get("message"), dict) and not _WHOLE.isdisjoint(choice):
                choice["message"] = {"role": "assistant", **_message_of(choice)}
                self.amended = True
            self._take(choice, choice.get("message"), whole=True)
        self.billed = self._report(body, False)

    def usage(self) -> Usage | None:
        usage = None if self.raw_usage is None or self._stale else self._read
        if usage is not None and not usage.cost and self._dearest:
            # a cost told before, and none or nothing in the last word
            usage = replace(usage, least_cost=self._dearest)
        return usage

    @property
    def cost(self) -> Decimal | None:
        return None

    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        """A `usage` object in this provider's sense."""
        return read_usage(usage)

    @property
    def text(self) -> str:
        """The answer's text as far as it is kept."""
        return self.output.text.joined()

    @property
    def answer(self) -> Any:
        calls = self.output.tool_calls()
        return {"role": "assistant", "content": self.text, "tool_calls": calls} if calls else self.text

    @property
    def reasoning(self) -> str:
        return self.output.reasoning.joined()

    def _head(self, event: Mapping[str, Any]) -> None:
        for key in ("id", "model", "provider"):
            if getattr(self, key) is None:
                value = event.get(key)
                if isinstance(value, str) and value:
                    setattr(self, key, value[:MAX_MODEL])
        if self.created is None and type(event.get("created")) is int:
            self.created = event["created"]
        self._headed = None not in (self.id, self.model, self.created)

    def _take(self, choice: Mapping[str, Any], piece: Any, *, whole: bool = False) -> bool:
        """Keep what a delta or a message holds; whether it held anything."""
        index = choice.get("index")
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            index = 0
        self._seen.add(index)
        generated = isinstance(piece, dict) and self.output.take(index, piece, whole=whole)
        if "text" in choice:
            generated |= self.output.take(index, {"text": choice["text"]})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason not in _NO_END:
            self._finished.add(index)
            # as much as was allowed was generated, though none of it may be shown
            self.started |= reason == "length"
        if "error" in choice and isinstance(choice["error"], dict):
            self.failure = failure_of(choice)
        if generated:
            self.started = True
        return generated

    def _report(self, event: Mapping[str, Any], generated: bool) -> bool:
        """Take the usage that an event reports; whether it does. The last one counts, except that a placeholder is
        none: an empty object, and zeros before the end or after other figures."""
        usage = usage_in(event)
        if usage is None:
            return False
        told = list(figures(usage))
        blank = not any(told)
        early = generated and not self.finished
        if not told or (blank and (early or (self.raw_usage is not None and not self._blank))):
            return False
        read = self.read_usage(usage)
        if read is None and self.raw_usage is not None:
            # in parts: the input in one chunk, the output in another
            both = {**self.raw_usage, **{key: value for key, value in usage.items() if value is not None}}
            both.pop("total_tokens", None)
            read = self.read_usage(both)
            usage = usage if read is None else both
        if read is not None and not blank:
            self.reported = read
            self._dearest = max(self._dearest, read.cost or self._dearest)
        self.raw_usage, self._read, self._blank, self._stale = usage, read, blank, False
        return True

    def _outdate(self) -> None:
        """More was generated than the last usage knows of."""
        self.billed = False
        if self._blank:
            self.raw_usage = None
        else:
            self._stale = True


_NO_END = ("", "error", "null")
"""What some providers write as `finish_reason` before there is one."""


_WHOLE = frozenset({"message", "delta", "text"})


def _message_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The message of a choice that says it elsewhere, or as a mere text. What it said is taken out of the choice."""
    said = [choice.pop(key, None) for key in ("message", "delta", "text")]
    message = next((each for each in said if isinstance(each, dict) and each), None)
    text = next((each for each in said if isinstance(each, str) and each), None)
    return message or ({"content": text} if text else {})


def _delta_of(choice: dict[str, Any], started: bool) -> dict[str, Any]:
    """The delta of a choice that has none: its message, unless that repeats what came in pieces, or its text."""
    if started:
        choice.pop("message", None)
    message = _message_of(choice)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        found = [call for call in calls if isinstance(call, dict)]
        message = {**message, "tool_calls": [{**call, "index": at} for at, call in enumerate(found)]}
    return message


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
