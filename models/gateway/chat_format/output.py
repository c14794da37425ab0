"""What a model generated, in whatever form a provider sends it: kept to be stored, and measured to be billed when the
provider does not say what was used."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from models.gateway.lenient_json import whole_text, write

KEPT_TEXT = 1 << 20
"""Characters of an answer that are kept to be stored or counted."""

PICTURE_TOKENS = 6240
"""Of a picture, or another medium, for which no usage is reported: as many as OpenAI's largest and finest one has."""

AUDIO_TOKENS_PER_SECOND = 32
"""Of sound for which no usage is reported: Gemini's rate; OpenAI's is 20."""
_PCM_SECOND = 24_000 * 2 * 4 // 3
_PACKED_SECOND = 4_000 * 4 // 3
"""Characters of base64: of PCM, alone or in a WAV file, at 24 kHz and 16 bits; of packed sound at 32 kbit/s."""
_PACKED = ("T2dnUw", "ZkxhQ", "SUQz", "GkXf", "//u", "//s", "//N", "//I", "//E", "//k")
_MP4 = "Z0eX"
"""How Ogg, FLAC, MP3, WebM and AAC begin, in base64; and what stands near the beginning of MP4."""

MOST_CALLS = 1000
"""Tool calls of an answer that are told apart; the text of more is counted."""

_ARGUMENTS = ("arguments", "input", "parameters", "args")
FUNCTION_CALL = -1
"""The place of a `function_call` among tool calls."""

SEALED_CHARACTERS = 4
"""Of encrypted reasoning to a token."""

_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thought", "thoughts")
_REASONING_PARTS = ("reasoning_details", "thinking_blocks")
_ANY_REASONING = frozenset(_REASONING + _REASONING_PARTS)
_LIKE_REASONING = re.compile(r"reason|think|thought(?!_sign)(?!Sign)")
_LIKE_TEXT = re.compile(r"text|content|output|answer|call|code")
_BESIDE = re.compile(
    r"filter|_id$|_type$|status|context|logprob|specific|annotation|citation|result|signature|extra"
)
"""How names that nobody knows yet tell what they are of, and that they are of nothing that was generated."""
_PICTURES = frozenset(
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
_TEXT = frozenset(
    {"text", "output_text", "content", "refusal", "transcript", "summary", "thinking", "reasoning", "parts"}
    | {"summary_text", "reasoning_content", "reasoning_text", "value"}
)
_AUDIO = frozenset({"audio", "input_audio", "output_audio"})
_MEDIA = frozenset(
    {"image", "images", "image_url", "inline_data", "inlineData", "b64_json", "image_base64"}
    | {"file", "file_data", "file_url", "video", "video_url"}
)
_MEDIA_OF_MEDIA = frozenset({"data", "url", "source"})
"""Media only where the part's type names one."""
_SEALED = frozenset({"data", "encrypted_content", "encrypted"})
_LABELS = frozenset(
    {"type", "id", "index", "format", "signature", "annotations", "citations", "cache_control", "role"}
    | {"mime_type", "mimeType", "detail", "expires_at", "extra_content", "logprobs", "thought", "status"}
)
MOST_LEVELS = 12


def parts_of(value: Any, kind: str = "text", level: int = 0) -> Iterator[tuple[str, str]]:
    """What a `content` of any form holds, as (kind, what): `text` and `reasoning` with their text, `audio` and `sealed`
    (encrypted reasoning) with their base64, `picture` with nothing."""
    if isinstance(value, str):
        if value:
            yield kind, value
    elif isinstance(value, list) and level < MOST_LEVELS:
        for item in value:
            yield from parts_of(item, kind, level + 1)
    elif isinstance(value, dict) and level < MOST_LEVELS:
        yield from _part(value, kind, level)
    elif value is not None and not isinstance(value, bool):
        yield kind, write(value).decode()


def _part(part: Mapping[str, Any], kind: str, level: int) -> Iterator[tuple[str, str]]:
    named = part["type"].lower() if isinstance(part.get("type"), str) else ""
    if any(word in named for word in ("reason", "think", "thought")) or part.get("thought") is True:
        kind = "reasoning"
    heard = "audio" in named or _is_audio(part)
    seen = any(word in named for word in ("image", "picture", "video", "file", "media", "document"))
    medium = False
    for key, value in part.items():
        if not value or key in _LABELS:
            continue
        if (
            key in _AUDIO
            or (key == "data" and heard)
            or (key in _MEDIA and isinstance(value, dict) and _is_audio(value))
        ):
            yield from _audio(value)
        elif key in _MEDIA or (key in _MEDIA_OF_MEDIA and seen):
            if not medium:
                yield "picture", ""
            medium = True
        elif key in _TEXT:
            yield from parts_of(value, kind, level + 1)
        elif key in _SEALED and isinstance(value, str):
            yield "sealed", value
        else:
            # of a kind nobody knows yet: it counts as the text it is written in
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
            yield "picture", ""
        if isinstance(value.get("transcript"), str) and value["transcript"]:
            yield "text", value["transcript"]


class BoundedText:
    """Pieces of text, up to KEPT_TEXT characters. `bytes` are those of all that came, `lost` the characters that did
    not fit."""

    __slots__ = ("_pieces", "_room", "bytes", "lost")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._room = KEPT_TEXT
        self.lost = 0
        self.bytes = 0

    def add(self, piece: str) -> bool:
        """Keep a piece, or what fits of it; whether anything did."""
        size = len(piece)
        self.bytes += size if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        room = self._room - size
        if room >= 0:
            self._room = room
            self._pieces.append(piece)
            return True
        self.lost -= room
        piece, self._room = piece[: self._room], 0
        if piece:
            self._pieces.append(piece)
        return bool(piece)

    def joined(self) -> str:
        """What is kept, with halves of characters that came apart joined."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return whole_text(self._pieces[0]) if self._pieces else ""


class GeneratedOutput:
    """Everything that was generated, in deltas or in whole messages."""

    def __init__(self) -> None:
        self.text = BoundedText()
        self.reasoning = BoundedText()
        self.calls = BoundedText()
        self.pictures = 0
        self._sealed = 0
        self._audio = 0
        self._audio_second = 0
        self._slots: list[dict[str, Any]] = []
        self._open: dict[tuple[Any, ...], dict[str, Any]] = {}

    @property
    def size(self) -> int:
        """Bytes of what was generated; what is no text counts as long text of as many tokens."""
        size = self.text.bytes + self.reasoning.bytes + self.calls.bytes
        if self._audio or self.pictures or self._sealed:
            size += 6 * (self.audio_tokens + self.picture_tokens + self.sealed_tokens)
        return size

    @property
    def audio_tokens(self) -> int:
        """Tokens of sound, by a cautious rate."""
        if not self._audio:
            return 0
        return 1 + self._audio * AUDIO_TOKENS_PER_SECOND // self._audio_second

    @property
    def picture_tokens(self) -> int:
        """Tokens of pictures and other media, by a cautious rate."""
        return self.pictures * PICTURE_TOKENS

    @property
    def sealed_tokens(self) -> int:
        """Tokens of encrypted reasoning, by a cautious rate."""
        return -(-self._sealed // SEALED_CHARACTERS)

    def take(self, choice: int, piece: Mapping[str, Any], *, whole: bool = False) -> bool:
        """Take a delta, or a whole message; whether it held anything."""
        found = False
        reasons = False
        for key, value in piece.items():
            if not value or key == "role":
                continue
            if key == "content":
                if type(value) is str:
                    self.text.add(value)
                    found = True
                else:
                    found |= self._add(parts_of(value))
            elif key == "tool_calls":
                calls = value if isinstance(value, list) else [value]
                for position, call in enumerate(calls):
                    if isinstance(call, dict):
                        found |= self._call(choice, position, call, whole)
            elif key in _ANY_REASONING:
                reasons = True
            elif key == "function_call":
                call = {"arguments": value} if isinstance(value, str) else value
                if isinstance(call, dict):
                    found |= self._call(choice, FUNCTION_CALL, {"function": call}, whole)
            elif key in ("refusal", "text"):
                found |= self._add(parts_of(value))
            elif key == "audio":
                found |= self._add(_audio(value))
            elif _LIKE_REASONING.search(key):
                reasons = True
            elif key in _PICTURES:
                items = value if isinstance(value, list) else [value]
                self.pictures += len(items)
                found = True
            elif type(value) in (str, list, dict) and not _BESIDE.search(key):
                if "audio" in key:
                    found |= self._add(_audio(value))
                elif _LIKE_TEXT.search(key):
                    found |= self._add(parts_of(value))
        if reasons:
            found |= self._reason(piece)
        return found

    def _reason(self, piece: Mapping[str, Any]) -> bool:
        """The same reasoning often stands under several names: it counts once."""
        found = False
        others = (key for key in piece if key not in _ANY_REASONING and _LIKE_REASONING.search(key))
        for key in (*_REASONING, *others):
            if piece.get(key) and self._add(parts_of(piece[key], "reasoning")):
                found = True
                break
        for key in _REASONING_PARTS:
            parts = parts_of(piece.get(key), "reasoning")
            if self._add((kind, what) for kind, what in parts if not found or kind == "sealed"):
                return True
        return found

    def _add(self, parts: Iterator[tuple[str, str]]) -> bool:
        found = False
        for kind, what in parts:
            found = True
            if kind == "text":
                self.text.add(what)
            elif kind == "reasoning":
                self.reasoning.add(what)
            elif kind == "sealed":
                self._sealed += len(what)
            elif kind == "audio":
                self._audio_second = self._audio_second or _characters_a_second(what)
                self._audio += len(what)
            else:
                self.pictures += 1
        return found

    # -- tool calls ------------------------------------------------------------------------------------------

    def _call(self, choice: int, position: int, call: Mapping[str, Any], whole: bool) -> bool:
        kind = _text(call.get("type"))
        places = (call.get("function"), call.get("custom"), call.get(kind), call)
        detail = next((place for place in places if isinstance(place, dict)), call)
        name = _text(detail.get("name"))
        wanted = next((detail[key] for key in _ARGUMENTS if detail.get(key) is not None), None)
        arguments = wanted if isinstance(wanted, str) else write(wanted).decode() if wanted else ""
        slot = self._slot(choice, position, call, name, whole)
        if isinstance(call.get("custom"), dict):
            slot["custom"] = True
        for key, value in (("name", name), ("arguments", arguments)):
            if value and self.calls.add(value):
                slot[key].append(value)
        return bool(name or arguments)

    def _slot(
        self, choice: int, position: int, call: Mapping[str, Any], name: str, whole: bool
    ) -> dict[str, Any]:
        """The call that a piece belongs to. With an index that says it; without one, a new id or a new name begins a
        call, and anything else goes on with the last one."""
        id = _text(call.get("id"))
        index = call.get("index") if type(call.get("index")) is int else None
        slot: dict[str, Any] | None = None
        if not whole:
            if index is not None:
                slot = self._open.get((choice, "index", index))
            elif id and ((choice, "id", id) in self._open or name):
                slot = self._open.get((choice, "id", id))
            else:
                slot = self._open.get((choice, "at", position))
            if slot is not None and name and _is_another(slot, id, name, index):
                slot = None
        if slot is None:
            slot = {"id": id or None, "name": [], "arguments": [], "place": (choice, position)}
            if len(self._slots) >= MOST_CALLS:
                return slot
            self._slots.append(slot)
        if id:
            slot["id"] = slot["id"] or id
            if len(self._open) < 4 * MOST_CALLS:
                self._open[choice, "id", id] = slot
        if index is not None:
            self._open[choice, "index", index] = slot
        self._open[choice, "at", position] = slot
        return slot

    def tool_calls(self, choice: int | None = None) -> list[dict[str, Any]]:
        """The tool calls, whole, as an assistant's message has them: those of one choice, or of all and the function
        calls of old."""
        calls = []
        for slot in self._slots:
            if choice is not None and (slot["place"][0] != choice or slot["place"][1] == FUNCTION_CALL):
                continue
            name, arguments = (whole_text("".join(slot[key])) for key in ("name", "arguments"))
            if slot.get("custom"):
                detail = {"type": "custom", "custom": {"name": name, "input": arguments}}
            else:
                detail = {"type": "function", "function": {"name": name, "arguments": arguments}}
            calls.append({"id": slot["id"], **detail})
        return calls

    @property
    def delivered(self) -> str:
        """All text that is kept: reasoning, answer, tool calls."""
        return self.reasoning.joined() + self.text.joined() + self.calls.joined()

    def tokens(self, count: Callable[[str], int]) -> tuple[int, int]:
        """Tokens of all that was generated, and how many of them were reasoning; `count` counts those of a text."""
        reasoning = _scaled(count, self.reasoning.joined(), self.reasoning.lost) + self.sealed_tokens
        lost = self.reasoning.lost + self.text.lost + self.calls.lost
        written = _scaled(count, self.delivered, lost)
        beside = self.audio_tokens + self.picture_tokens + self.sealed_tokens
        return max(written + beside, reasoning), reasoning


def _scaled(count: Callable[[str], int], text: str, lost: int) -> int:
    tokens = count(text)
    return tokens + -(-tokens * lost // len(text)) if lost and text else tokens


def _is_another(slot: Mapping[str, Any], id: str, name: str, index: int | None) -> bool:
    if not slot["name"]:
        return False
    if id and slot["id"]:
        return bool(id != slot["id"])
    if index is not None:
        return False
    return "".join(slot["name"]) != name or _is_json("".join(slot["arguments"]))


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


def _characters_a_second(audio: str) -> int:
    packed = audio.startswith(_PACKED) or _MP4 in audio[:16]
    return _PACKED_SECOND if packed else _PCM_SECOND
