"""Reads what models answer about projects: lists of objects, whose texts are cut and whose words are checked (fastest contract 4.8)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from models.core.errors import DomainError

MAX_OBJECTS = 20
"""Objects of an answer that are read."""
MAX_STARTS = 20
"""Brackets at which an array is looked for."""
_JSON = json.JSONDecoder(strict=False)


class ModelFailed(DomainError):
    """The model gave no answer, or none in the format that it was asked for."""

    status = 500
    code = "model_failed"


def objects_of(answer: str) -> list[Mapping[str, Any]]:
    """The objects of the first JSON array of objects in an answer. Raises ModelFailed without one."""
    start = answer.find("[")
    for _ in range(MAX_STARTS):
        if start < 0:
            break
        try:
            value, _end = _JSON.raw_decode(answer, start)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and all(isinstance(each, dict) for each in value):
            return list(value[:MAX_OBJECTS])
        start = answer.find("[", start + 1)
    raise ModelFailed("The model did not answer in the format that it was asked for. Choose another one.")


def words(value: object, most: int) -> str:
    """A text of a model in one line, cut; nothing for another type."""
    return " ".join(value.replace("\0", " ").split())[:most] if isinstance(value, str) else ""


def word_of(value: object, known: tuple[str, ...]) -> str | None:
    """One of the known words, or None."""
    return value if isinstance(value, str) and value in known else None


def texts_of(content: Any) -> Iterator[str]:
    """The text parts of a message."""
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            yield part["text"]
