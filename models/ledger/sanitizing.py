"""Sanitizes untrusted values for PostgreSQL: text without NUL and lone surrogates, JSON within limits."""

import hashlib
import math
from typing import Any

import orjson

INT_MAX = 2_147_483_647
MAX_ID = 200
MAX_DEPTH = 100


def clean_text(text: str) -> str:
    """The text without NUL; lone surrogates become U+FFFD."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clipped_id(text: str) -> str:
    """The name, at most MAX_ID characters so that it fits an index. A longer one is cut and gets a digest of the full
    name, so that long names stay distinct."""
    text = clean_text(text)
    if len(text) <= MAX_ID:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"{text[: MAX_ID - 33]}~{digest}"


def clamped_int(number: Any) -> int:
    """The number clamped to 0..2,147,483,647 for an integer column; anything that is not a number becomes zero."""
    try:
        return min(max(int(number), 0), INT_MAX)
    except (TypeError, ValueError, OverflowError):
        return INT_MAX if number == math.inf else 0


def json_text(value: Any) -> bytes:
    """The value as JSON that a jsonb column accepts."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        return orjson.dumps(clean_json(value))
    return orjson.dumps(clean_json(value)) if b"\\u0000" in text else text


def clean_json(value: Any, depth: int = 0) -> Any:
    """The value with clean text and keys, integers over 64 bits as text, no NaN, and nesting cut at 100 levels."""
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value) if abs(value) < 10**4000 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item, depth + 1) for item in value]
    return clean_text(str(value))
