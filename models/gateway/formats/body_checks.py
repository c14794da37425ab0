"""Checks shared by the parsers of request bodies, and the size of a body without its media."""

from collections.abc import Mapping
from types import UnionType
from typing import Any

from models.gateway.chat_format import BadCall
from models.gateway.chat_format.chat_parsing import (
    BYTES_PER_TOKEN,
    MAX_MODEL,
    MEDIA_KEYS,
    TOKENS_PER_IMAGE,
    strings,
)

MAX_NESTING = 4
"""How deep content is nested in results of tools."""


def object_of(body: Any) -> dict[str, Any]:
    """The body, if it is an object. Raises BadCall."""
    if not isinstance(body, dict):
        raise BadCall("The request body must be a JSON object.")
    return body


def model_of(body: Mapping[str, Any]) -> str:
    """The name of the model. Raises BadCall."""
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadCall("'model' is missing: set it to the name of a model.", param="model")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise BadCall("'model' is not a valid model name.", param="model")
    return model.strip()


def check(body: Mapping[str, Any], key: str, kind: type | UnionType, expected: str) -> None:
    """Check the type of a key that may be missing or null. Raises BadCall."""
    value = body.get(key)
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise BadCall(f"'{key}' must be {expected}.", param=key)


def check_objects(body: Mapping[str, Any], key: str) -> None:
    """Check a list of objects that may be missing or null. Raises BadCall."""
    check(body, key, list, "a list of objects")
    if not all(isinstance(item, dict) for item in body.get(key) or ()):
        raise BadCall(f"'{key}' must be a list of objects.", param=key)


def check_content(content: Any, name: str, depth: int = 0) -> None:
    """Check the content of a message: a string, or a list of objects whose texts are strings. Raises BadCall."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadCall(f"'{name}' must be a string or a list of objects.", param=name)
    for part in content:
        if not isinstance(part.get("text") or "", str):
            raise BadCall(f"A 'text' in '{name}' must be a string.", param=name)
        if isinstance(part.get("content"), list) and depth < MAX_NESTING:
            check_content(part["content"], f"{name}.content", depth + 1)


def text_size(contents: list[Any], size: int) -> tuple[int, int]:
    """Of a body of `size` bytes: a conservative estimate of its input tokens, media by their own rate; and its bytes without media."""
    tokens, blobs = _media(contents, 0)
    text = max(size - blobs, 0)
    return tokens + text // BYTES_PER_TOKEN + 1, text


def _media(content: Any, depth: int) -> tuple[int, int]:
    tokens = size = 0
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            if key in ("content", "output") and depth < MAX_NESTING:
                inner_tokens, inner_size = _media(value, depth + 1)
                tokens, size = tokens + inner_tokens, size + inner_size
            elif key in MEDIA_KEYS and value is not None and part.get("type") != "text":
                blob = sum(map(len, strings(value)))
                size += blob
                tokens += max(TOKENS_PER_IMAGE, blob // 400)
    return tokens, size
