"""Parses OpenAI chat completions, including OpenRouter's extensions."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from types import UnionType
from typing import Any

from models.gateway.chat_format.call import BadCall, Call, ProviderFailure
from models.gateway.chat_format.failures import find_failure
from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.chat_format.token_usage import Usage, read_usage
from models.gateway.chat_format.vendor_usage import VENDOR_USAGE_KEYS, find_usage, usage_numbers
from models.gateway.served_ways import served_ways

MAX_CHOICES = 128
MAX_MODEL = 200
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
BYTES_PER_TOKEN = 3
"""Conservative for ordinary text: English prose and code average about four, Chinese five. Unusual text has one."""

SAMPLE_BYTES = 4096
"""Bytes checked for `\\uXXXX` escapes at both ends of a body."""

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
"""Keys of a content part that hold media, in the spelling of any vendor."""


def size_of(raw: bytes) -> int:
    """Size of a body in bytes without `\\uXXXX` escapes, which take six bytes for at most three."""
    # clients that escape do so throughout; counting in every body would take longer than parsing it
    if rb"\u" not in raw[:SAMPLE_BYTES] and rb"\u" not in raw[-SAMPLE_BYTES:]:
        return len(raw)
    escapes = raw.count(rb"\u") - raw.count(rb"\\")
    return len(raw) - 3 * max(escapes, 0)


def parse(body: Any, size: int, *, truthy_stream: bool = False) -> Call:
    """Parse a JSON `body` of `size` bytes (see `size_of`). Raises BadCall.

    `truthy_stream`: any truthy `stream` requests a stream (contract 5.3).
    """
    if not isinstance(body, dict):
        raise BadCall("The request body must be a JSON object.")
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadCall("'model' is missing: set it to the name of a model.", param="model")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise BadCall("'model' is not a valid model name.", param="model")
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
    input_tokens, text_bytes = _estimate_size(body, size)
    return Call(
        model=model.strip(),
        stream=bool(stream),
        n=whole_number(body, "n", MAX_CHOICES) or 1,
        max_output=_largest(
            whole_number(body, "max_completion_tokens", 1 << 31), whole_number(body, "max_tokens", 1 << 31)
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


def _check(body: Mapping[str, Any], key: str, kind: type | UnionType, expected: str) -> None:
    if body.get(key) is not None and not isinstance(body[key], kind):
        raise BadCall(f"'{key}' must be {expected}.", param=key)


def whole_number(body: Mapping[str, Any], key: str, maximum: int) -> int | None:
    """A whole number from 1 to `maximum`, or None if it is missing. Raises BadCall."""
    value = body.get(key)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 1 <= value <= maximum:
        raise BadCall(f"'{key}' must be a whole number from 1 to {maximum}.", param=key)
    return value


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _estimate_size(body: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Conservative estimate of the input tokens, media by their own rate; and the size in bytes without media."""
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
    """All strings in a JSON value."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


class ChatMeter:
    """UsageMeter of chat completions."""

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
        self.served: tuple[str, ...] = ()
        self._n = n
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._has_metadata = False
        self._all_zero = True
        self._outdated = False
        self._last_usage: Usage | None = None
        self._highest_cost = Decimal(0)

    @property
    def finished(self) -> bool:
        return len(self._finished) >= self._n and self._finished >= self._seen

    @property
    def ended(self) -> bool:
        return bool(self._finished) and self._finished >= self._seen

    @property
    def empty(self) -> bool:
        # zero usage means nothing before a choice ends
        reported = self.raw_usage is not None and (not self._all_zero or self.finished)
        return not self.started and not reported

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        if not self._has_metadata:
            self._read_metadata(event)
        choices = event.get("choices")
        if is_error or not choices or event.get("error"):
            failure = find_failure(event, is_error=is_error)
            if failure is not None:
                self.failure = failure
                # an error alone is not billed; after output, its usage is a lower bound
                return self.started and self._add_usage(event, False)
        generated = False
        started = self.started
        has_usage = bool(event.get("usage")) or not VENDOR_USAGE_KEYS.isdisjoint(event)
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                if type(delta) is not dict:
                    delta = choice["delta"] = _delta_of(choice, started)
                    self.amended = True
                generated |= self._add_choice(choice, delta)
                has_usage |= "usage" in choice
        if has_usage and self._add_usage(event, generated):
            self.billed = self.finished or (self.started and not choices)
            return True
        if generated and self.raw_usage is not None:
            self._invalidate_usage()
        return False

    def body(self, body: Mapping[str, Any]) -> None:
        self._read_metadata(body)
        self.failure = find_failure(body)
        for choice in _objects(body.get("choices")):
            if not isinstance(choice.get("message"), dict) and not _MESSAGE_KEYS.isdisjoint(choice):
                choice["message"] = {"role": "assistant", **_message_of(choice)}
                self.amended = True
            self._add_choice(choice, choice.get("message"), whole=True)
        self.billed = self._add_usage(body, False)

    def usage(self) -> Usage | None:
        usage = None if self.raw_usage is None or self._outdated else self._last_usage
        if usage is not None and not usage.cost and self._highest_cost:
            # a cost was reported earlier, and is zero or missing in the last usage
            usage = replace(usage, least_cost=self._highest_cost)
        return usage

    @property
    def cost(self) -> Decimal | None:
        return None

    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        """Parse a `usage` object as this provider defines it."""
        return read_usage(usage)

    @property
    def text(self) -> str:
        """The stored part of the response text."""
        return self.output.text.joined()

    @property
    def answer(self) -> Any:
        calls = self.output.tool_calls()
        return {"role": "assistant", "content": self.text, "tool_calls": calls} if calls else self.text

    @property
    def reasoning(self) -> str:
        return self.output.reasoning.joined()

    def _read_metadata(self, event: Mapping[str, Any]) -> None:
        for key in ("id", "model", "provider"):
            if getattr(self, key) is None:
                value = event.get(key)
                if isinstance(value, str) and value:
                    setattr(self, key, value[:MAX_MODEL])
        if self.created is None and type(event.get("created")) is int:
            self.created = event["created"]
        self._has_metadata = None not in (self.id, self.model, self.created)

    def _add_choice(self, choice: Mapping[str, Any], message: Any, *, whole: bool = False) -> bool:
        """Store the content of a delta or message. True if it had any."""
        index = choice.get("index")
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            index = 0
        self._seen.add(index)
        generated = isinstance(message, dict) and self.output.add(index, message, whole=whole)
        if "text" in choice:
            generated |= self.output.add(index, {"text": choice["text"]})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason not in _NOT_FINISHED:
            self._finished.add(index)
            # output was generated up to the limit, even if it was not sent
            self.started |= reason == "length"
        if "error" in choice and isinstance(choice["error"], dict):
            self.failure = find_failure(choice)
        if generated:
            self.started = True
        return generated

    def _add_usage(self, event: Mapping[str, Any], generated: bool) -> bool:
        """Store the usage that an event reports; True if it does. The last usage wins. Placeholders are ignored: an
        empty object, and zeros before the end or after other numbers."""
        usage = find_usage(event)
        if usage is None:
            return False
        self.served = served_ways(event, usage) or self.served
        numbers = list(usage_numbers(usage))
        all_zero = not any(numbers)
        early = generated and not self.finished
        if not numbers or (all_zero and (early or (self.raw_usage is not None and not self._all_zero))):
            return False
        parsed = self.read_usage(usage)
        if parsed is None and self.raw_usage is not None:
            # split usage: the input in one chunk, the output in another
            merged = {**self.raw_usage, **{key: value for key, value in usage.items() if value is not None}}
            merged.pop("total_tokens", None)
            parsed = self.read_usage(merged)
            usage = usage if parsed is None else merged
        if parsed is not None and not all_zero:
            self.reported = parsed
            self._highest_cost = max(self._highest_cost, parsed.cost or self._highest_cost)
        self.raw_usage, self._last_usage, self._all_zero, self._outdated = usage, parsed, all_zero, False
        return True

    def _invalidate_usage(self) -> None:
        """More output was generated after the last usage."""
        self.billed = False
        if self._all_zero:
            self.raw_usage = None
        else:
            self._outdated = True


_NOT_FINISHED = ("", "error", "null")
"""Values that some providers send as `finish_reason` before the end."""

_MESSAGE_KEYS = frozenset({"message", "delta", "text"})


def _message_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The message of a choice that has it under another key or as a string. Removes those keys from the choice."""
    values = [choice.pop(key, None) for key in ("message", "delta", "text")]
    message = next((value for value in values if isinstance(value, dict) and value), None)
    text = next((value for value in values if isinstance(value, str) and value), None)
    return message or ({"content": text} if text else {})


def _delta_of(choice: dict[str, Any], started: bool) -> dict[str, Any]:
    """The delta of a choice without one: its text, or its message unless that repeats earlier deltas."""
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
