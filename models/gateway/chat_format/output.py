"""Parses generated output of any form: text to store, and token estimates to bill when a provider reports no usage."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from models.gateway.chat_format.delta_merging import joined, merge_delta
from models.gateway.lenient_json import whole_text, write

MAX_STORED_TEXT = 1 << 20
"""Limit of each stored text of a response, in characters."""

MEDIA_TOKENS = 6240
"""Tokens of an image or other media item without reported usage: OpenAI's largest size at the highest quality."""

AUDIO_TOKENS_PER_SECOND = 32
"""For audio without reported usage: Gemini's rate; OpenAI's is 20."""
_PCM_CHARACTERS_PER_SECOND = 24_000 * 2 * 4 // 3
_COMPRESSED_CHARACTERS_PER_SECOND = 4_000 * 4 // 3
"""Base64 characters per second: PCM (raw or WAV) at 24 kHz and 16 bits; compressed audio at 32 kbit/s."""
_COMPRESSED_PREFIXES = ("T2dnUw", "ZkxhQ", "SUQz", "GkXf", "//u", "//s", "//N", "//I", "//E", "//k")
_MP4_MARKER = "Z0eX"
"""Base64 prefixes of Ogg, FLAC, MP3, WebM and AAC; and a marker near the start of MP4."""

MAX_TOOL_CALLS = 1000
"""Limit of stored tool calls per response. Beyond it, text is only counted."""

_ARGUMENTS = ("arguments", "input", "parameters", "args")
_CALL_KEYS = frozenset({"index", "id", "type", "name", "function", "custom", *_ARGUMENTS})
FUNCTION_CALL = -1
"""Position of a legacy `function_call` among tool calls."""

ENCRYPTED_CHARACTERS_PER_TOKEN = 4
"""Of encrypted reasoning, in base64."""

_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thought", "thoughts")
_REASONING_PARTS = ("reasoning_details", "thinking_blocks")
_REASONING_KEYS = frozenset(_REASONING + _REASONING_PARTS)
_REASONING_PATTERN = re.compile(r"reason|think|thought(?!_sign)(?!Sign)")
_TEXT_PATTERN = re.compile(r"text|content|output|answer|call|code")
_METADATA_PATTERN = re.compile(
    r"filter|_id$|_type$|status|context|logprob|specific|annotation|citation|result|signature|extra"
)
"""Classify unknown keys as reasoning, text, or not generated output."""
_MEDIA_DELTA_KEYS = frozenset(
    {
        "images",
        "image",
        "videos",
        "video",
        "image_url",
        "image_urls",
        "video_url",
        "inline_data",
        "inlineData",
    }
    | {"image_results", "video_result", "files", "file", "media"}
)
_TEXT_KEYS = frozenset(
    {"text", "output_text", "content", "refusal", "transcript", "summary", "thinking", "reasoning", "parts"}
    | {"summary_text", "reasoning_content", "reasoning_text", "value"}
)
_AUDIO_KEYS = frozenset({"audio", "input_audio", "output_audio"})
_MEDIA_KEYS = frozenset(
    {"image", "images", "image_url", "inline_data", "inlineData", "b64_json", "image_base64"}
    | {"file", "file_data", "file_url", "video", "video_url"}
)
_TYPED_MEDIA_KEYS = frozenset({"data", "url", "source"})
"""Keys that hold media only if the type of the part is a media type."""
_ENCRYPTED_KEYS = frozenset({"data", "encrypted_content", "encrypted"})
_METADATA_KEYS = frozenset(
    {"type", "id", "index", "format", "signature", "annotations", "citations", "cache_control", "role"}
    | {"mime_type", "mimeType", "detail", "expires_at", "extra_content", "logprobs", "thought", "status"}
)
MAX_DEPTH = 12


def parts_of(value: Any, kind: str = "text", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The parts of a `content` of any form, as (kind, data): `text` and `reasoning` with their text, `audio` and
    `encrypted` (reasoning) with their base64, `media` with an empty string."""
    if isinstance(value, str):
        if value:
            yield kind, value
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for item in value:
            yield from parts_of(item, kind, depth + 1)
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        yield from _part(value, kind, depth)
    elif value is not None and not isinstance(value, bool):
        yield kind, write(value).decode()


def _part(part: Mapping[str, Any], kind: str, depth: int) -> Iterator[tuple[str, str]]:
    part_type = part["type"].lower() if isinstance(part.get("type"), str) else ""
    if any(word in part_type for word in ("reason", "think", "thought")) or part.get("thought") is True:
        kind = "reasoning"
    is_audio = "audio" in part_type or _is_audio(part)
    is_media = any(word in part_type for word in ("image", "picture", "video", "file", "media", "document"))
    counted = False
    for key, value in part.items():
        if not value or key in _METADATA_KEYS:
            continue
        if (
            key in _AUDIO_KEYS
            or (key == "data" and is_audio)
            or (key in _MEDIA_KEYS and isinstance(value, dict) and _is_audio(value))
        ):
            yield from _audio(value)
        elif key in _MEDIA_KEYS or (key in _TYPED_MEDIA_KEYS and is_media):
            if not counted:
                yield "media", ""
            counted = True
        elif key in _TEXT_KEYS:
            yield from parts_of(value, kind, depth + 1)
        elif key in _ENCRYPTED_KEYS and isinstance(value, str):
            yield "encrypted", value
        else:
            # unknown kind: counted as text
            yield kind, value if isinstance(value, str) else write(value).decode()


def _is_audio(part: Mapping[str, Any]) -> bool:
    kind = part.get("mime_type") or part.get("mimeType")
    return isinstance(kind, str) and "audio" in kind


def _audio(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield "audio", value
    elif isinstance(value, list):
        for item in value:
            yield from _audio(item)
    elif isinstance(value, dict):
        if isinstance(value.get("data"), str) and value["data"]:
            yield "audio", value["data"]
        elif value.get("url"):
            yield "media", ""
        if isinstance(value.get("transcript"), str) and value["transcript"]:
            yield "text", value["transcript"]


class BoundedText:
    """Text chunks, up to MAX_STORED_TEXT characters. `bytes` is the UTF-8 size of everything added, `dropped` the
    number of characters beyond the limit."""

    __slots__ = ("_chunks", "_free", "bytes", "dropped")

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._free = MAX_STORED_TEXT
        self.dropped = 0
        self.bytes = 0

    def add(self, chunk: str) -> bool:
        """Store a chunk, truncated to the limit. True if anything was stored."""
        size = len(chunk)
        self.bytes += size if chunk.isascii() else len(chunk.encode("utf-8", "surrogatepass"))
        free = self._free - size
        if free >= 0:
            self._free = free
            self._chunks.append(chunk)
            return True
        self.dropped -= free
        chunk, self._free = chunk[: self._free], 0
        if chunk:
            self._chunks.append(chunk)
        return bool(chunk)

    def joined(self) -> str:
        """The stored text, with surrogate pairs that were split across chunks joined."""
        if len(self._chunks) > 1:
            self._chunks = ["".join(self._chunks)]
        return whole_text(self._chunks[0]) if self._chunks else ""


class GeneratedOutput:
    """Collects generated output from deltas or whole messages."""

    def __init__(self) -> None:
        self.text = BoundedText()
        self.reasoning = BoundedText()
        self.calls = BoundedText()
        self.media_count = 0
        self._encrypted = 0
        self._audio = 0
        self._audio_rate = 0
        self._calls: list[dict[str, Any]] = []
        self._open: dict[tuple[Any, ...], dict[str, Any]] = {}

    @property
    def size(self) -> int:
        """Generated bytes. Audio, media and encrypted reasoning count as six bytes per token."""
        size = self.text.bytes + self.reasoning.bytes + self.calls.bytes
        if self._audio or self.media_count or self._encrypted:
            size += 6 * (self.audio_tokens + self.media_tokens + self.encrypted_tokens)
        return size

    @property
    def audio_tokens(self) -> int:
        """Conservative estimate of the audio tokens."""
        if not self._audio:
            return 0
        return 1 + self._audio * AUDIO_TOKENS_PER_SECOND // self._audio_rate

    @property
    def media_tokens(self) -> int:
        """Conservative estimate of the tokens of images and other media."""
        return self.media_count * MEDIA_TOKENS

    @property
    def encrypted_tokens(self) -> int:
        """Conservative estimate of the encrypted reasoning tokens."""
        return -(-self._encrypted // ENCRYPTED_CHARACTERS_PER_TOKEN)

    def add(self, choice: int, message: Mapping[str, Any], *, whole: bool = False) -> bool:
        """Add a delta, or a `whole` message. True if it had content."""
        found = False
        has_reasoning = False
        for key, value in message.items():
            if not value or key == "role":
                continue
            if key == "content":
                if type(value) is str:
                    self.text.add(value)
                    found = True
                else:
                    found |= self._add_parts(parts_of(value))
            elif key == "tool_calls":
                calls = value if isinstance(value, list) else [value]
                for position, delta in enumerate(calls):
                    if isinstance(delta, dict):
                        found |= self._add_call(choice, position, delta, whole)
            elif key in _REASONING_KEYS:
                has_reasoning = True
            elif key == "function_call":
                delta = {"arguments": value} if isinstance(value, str) else value
                if isinstance(delta, dict):
                    found |= self._add_call(choice, FUNCTION_CALL, {"function": delta}, whole)
            elif key in ("refusal", "text"):
                found |= self._add_parts(parts_of(value))
            elif key == "audio":
                found |= self._add_parts(_audio(value))
            elif _REASONING_PATTERN.search(key):
                has_reasoning = True
            elif key in _MEDIA_DELTA_KEYS:
                items = value if isinstance(value, list) else [value]
                self.media_count += len(items)
                found = True
            elif type(value) in (str, list, dict) and not _METADATA_PATTERN.search(key):
                if "audio" in key:
                    found |= self._add_parts(_audio(value))
                elif _TEXT_PATTERN.search(key):
                    found |= self._add_parts(parts_of(value))
        if has_reasoning:
            found |= self._add_reasoning(message)
        return found

    def _add_reasoning(self, message: Mapping[str, Any]) -> bool:
        """Add reasoning. It is often repeated under several keys: count it once."""
        found = False
        others = (key for key in message if key not in _REASONING_KEYS and _REASONING_PATTERN.search(key))
        for key in (*_REASONING, *others):
            if message.get(key) and self._add_parts(parts_of(message[key], "reasoning")):
                found = True
                break
        for key in _REASONING_PARTS:
            parts = parts_of(message.get(key), "reasoning")
            if self._add_parts((kind, data) for kind, data in parts if not found or kind == "encrypted"):
                return True
        return found

    def _add_parts(self, parts: Iterator[tuple[str, str]]) -> bool:
        found = False
        for kind, data in parts:
            found = True
            if kind == "text":
                self.text.add(data)
            elif kind == "reasoning":
                self.reasoning.add(data)
            elif kind == "encrypted":
                self._encrypted += len(data)
            elif kind == "audio":
                self._audio_rate = self._audio_rate or _base64_characters_per_second(data)
                self._audio += len(data)
            else:
                self.media_count += 1
        return found

    # -- tool calls ------------------------------------------------------------------------------------------

    def _add_call(self, choice: int, position: int, delta: Mapping[str, Any], whole: bool) -> bool:
        kind = _text(delta.get("type"))
        candidates = (delta.get("function"), delta.get("custom"), delta.get(kind), delta)
        detail = next((item for item in candidates if isinstance(item, dict)), delta)
        name = _text(detail.get("name"))
        value = next((detail[key] for key in _ARGUMENTS if detail.get(key) is not None), None)
        arguments = value if isinstance(value, str) else write(value).decode() if value else ""
        call = self._find_call(choice, position, delta, name, whole)
        if isinstance(delta.get("custom"), dict):
            call["custom"] = True
        if not whole and not delta.keys() <= _CALL_KEYS:
            extra = {key: value for key, value in delta.items() if key not in _CALL_KEYS}
            merge_delta(call.setdefault("extra", {}), extra)
        for key, value in (("name", name), ("arguments", arguments)):
            if value and self.calls.add(value):
                call[key].append(value)
        return bool(name or arguments)

    def _find_call(
        self, choice: int, position: int, delta: Mapping[str, Any], name: str, whole: bool
    ) -> dict[str, Any]:
        """The tool call that a delta belongs to: the one with its index. Without an index, a new id or name starts a
        call, and any other delta continues the last one."""
        id = _text(delta.get("id"))
        index = delta.get("index") if type(delta.get("index")) is int else None
        call: dict[str, Any] | None = None
        if not whole:
            if index is not None:
                call = self._open.get((choice, "index", index))
            elif id and ((choice, "id", id) in self._open or name):
                call = self._open.get((choice, "id", id))
            else:
                call = self._open.get((choice, "at", position))
            if call is not None and name and _is_another(call, id, name, index):
                call = None
        if call is None:
            call = {"id": id or None, "name": [], "arguments": [], "position": (choice, position)}
            if len(self._calls) >= MAX_TOOL_CALLS:
                return call
            self._calls.append(call)
        if id:
            call["id"] = call["id"] or id
            if len(self._open) < 4 * MAX_TOOL_CALLS:
                self._open[choice, "id", id] = call
        if index is not None:
            self._open[choice, "index", index] = call
        self._open[choice, "at", position] = call
        return call

    def tool_calls(self, choice: int | None = None) -> list[dict[str, Any]]:
        """Complete tool calls in the format of an assistant message: those of one choice, with all their other fields
        (thought signatures), or of all choices including legacy function calls."""
        calls = []
        for call in self._calls:
            if choice is not None and (call["position"][0] != choice or call["position"][1] == FUNCTION_CALL):
                continue
            name, arguments = (whole_text("".join(call[key])) for key in ("name", "arguments"))
            if call.get("custom"):
                detail = {"type": "custom", "custom": {"name": name, "input": arguments}}
            else:
                detail = {"type": "function", "function": {"name": name, "arguments": arguments}}
            extra = {} if choice is None else joined(call.get("extra", {}))
            calls.append({"id": call["id"], **detail, **extra})
        return calls

    @property
    def all_text(self) -> str:
        """All stored text: reasoning, content, tool calls."""
        return self.reasoning.joined() + self.text.joined() + self.calls.joined()

    def tokens(self, count: Callable[[str], int]) -> tuple[int, int]:
        """All generated tokens, and how many of them are reasoning. `count` counts the tokens of a text."""
        reasoning = _scaled(count, self.reasoning.joined(), self.reasoning.dropped) + self.encrypted_tokens
        dropped = self.reasoning.dropped + self.text.dropped + self.calls.dropped
        text_tokens = _scaled(count, self.all_text, dropped)
        other = self.audio_tokens + self.media_tokens + self.encrypted_tokens
        return max(text_tokens + other, reasoning), reasoning


def _scaled(count: Callable[[str], int], text: str, dropped: int) -> int:
    tokens = count(text)
    return tokens + -(-tokens * dropped // len(text)) if dropped and text else tokens


def _is_another(call: Mapping[str, Any], id: str, name: str, index: int | None) -> bool:
    if not call["name"]:
        return False
    if id and call["id"]:
        return bool(id != call["id"])
    if index is not None:
        return False
    return "".join(call["name"]) != name or _is_json("".join(call["arguments"]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_json(text: str) -> bool:
    if not text.endswith("}"):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _base64_characters_per_second(audio: str) -> int:
    compressed = audio.startswith(_COMPRESSED_PREFIXES) or _MP4_MARKER in audio[:16]
    return _COMPRESSED_CHARACTERS_PER_SECOND if compressed else _PCM_CHARACTERS_PER_SECOND
