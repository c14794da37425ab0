"""What a message holds: its parts, their limits, and the text of them that is searched and exported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from models.core.errors import Invalid

MAX_CONTENT_BYTES = 1 << 20
"""Bytes of a message's content and tool calls together, as JSON."""
MAX_TEXT = 900_000
"""Bytes, as JSON, of an answer's text that are kept."""
MAX_PARTS = 1_000
PART_TYPES = ("text", "image_url", "file", "reasoning")
MAX_METADATA_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


def content_parts(content: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message's content (`ThreadMessage.content`); text alone is one part, no text is none. Raises Invalid for a part
    of an unknown form and for NUL characters."""
    if isinstance(content, str):
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
    else:
        if len(content) > MAX_PARTS:
            raise _invalid(f"A message has at most {MAX_PARTS:,} parts.")
        parts = [_part(part) for part in content]
    check_storable(parts, "content")
    return parts


def text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text parts, one below the other."""
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def check_storable(value: Any, field: str) -> int:
    """The bytes of the value as JSON. Raises Invalid for more than a message may have, for NUL, and for what is no JSON."""
    try:
        raw = orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError):
        raise _invalid(
            f"The {field} must be JSON, with valid Unicode, and not nested too deeply.", field
        ) from None
    if len(raw) > MAX_CONTENT_BYTES:
        raise _invalid(
            f"The {field} has more than {MAX_CONTENT_BYTES >> 20} MB. Send less, or attach a file.", field
        )
    if b"\\u0000" in raw and any("\x00" in text for text in _texts(value)):
        raise _invalid(f"The {field} has a NUL character. Remove it.", field)
    return len(raw)


def fitting(text: str, room: int = MAX_TEXT) -> str:
    """What a model wrote, as a message can keep it: without NUL, and cut to so many bytes as JSON."""
    text = text.replace("\x00", "")
    while text and len(orjson.dumps(text)) > room:
        text = text[: len(text) * 9 // 10]
    return text


def answer_parts(thinking: str, text: str, room: int = MAX_TEXT) -> list[dict[str, Any]]:
    """The parts of an answer: its text, cut to what a message may have, and as much of the reasoning as there is room for."""
    text = fitting(text)
    thinking = fitting(thinking, room - len(orjson.dumps(text)))
    parts = [{"type": "reasoning", "text": thinking}] if thinking else []
    return [*parts, *([{"type": "text", "text": text}] if text else [])]


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a thread or message: at most 16 pairs of text. Raises Invalid."""
    if len(metadata) > MAX_METADATA_PAIRS:
        raise _invalid(f"Metadata has at most {MAX_METADATA_PAIRS} pairs.", "metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _invalid("The values of metadata are texts.", "metadata")
        if not 1 <= len(key) <= MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            problem = f"Keys of metadata have 1 to {MAX_METADATA_KEY} characters, values at most {MAX_METADATA_VALUE}."
            raise _invalid(problem, "metadata")
    check_storable(dict(metadata), "metadata")
    return dict(metadata)


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    match kind:
        case "text" | "reasoning":
            if isinstance(part.get("text"), str):
                return {"type": kind, "text": part["text"]}
        case "image_url":
            image = part.get("image_url")
            if isinstance(image, Mapping) and isinstance(image.get("url"), str):
                detail = {"detail": image["detail"]} if isinstance(image.get("detail"), str) else {}
                return {"type": kind, "image_url": {"url": image["url"], **detail}}
        case "file":
            name = part.get("name", "")
            if isinstance(part.get("document_id"), str) and isinstance(name, str):
                return {"type": kind, "document_id": part["document_id"], "name": name}
    raise _invalid(
        "A part of a message is {type: text, text}, {type: image_url, image_url: {url}}, {type: file, document_id, name} or"
        " {type: reasoning, text}."
    )


def _texts(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, Mapping):
            pending.extend(node)
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            pending.extend(node)


def _invalid(problem: str, field: str = "content") -> Invalid:
    return Invalid(problem, fields={field: problem})
