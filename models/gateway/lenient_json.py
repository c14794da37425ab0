"""Lenient JSON: accepts what Python's `json` or JavaScript's `JSON.parse` accept from a provider, and a little more."""

import json
import math
import re
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from models.ledger.sanitizing import clean_json

MAX_DIGITS = 400
"""Digits of an integer. A longer one is Infinity in JavaScript, and null here."""

_EDGES = " \t\r\n\0\v\f\ufeff\u00a0\u2028\u2029"


class NotJson(ValueError):
    """Not JSON that any client can read."""


class ParsedJson(NamedTuple):
    """A value, and its JSON for the client: unchanged if every client can read it."""

    value: Any
    text: bytes


def read(raw: bytes) -> ParsedJson:
    """Parse JSON. Beyond the standard, accepts a byte order mark, NUL and white space around the value, invalid UTF-8,
    lone surrogates, control characters in strings, NaN and numbers of any size. Raises NotJson."""
    try:
        return ParsedJson(orjson.loads(raw), raw)
    except orjson.JSONDecodeError:
        return _read_leniently(raw)


def read_all(raw: bytes) -> list[ParsedJson]:
    """The JSON values of an event: one, or several that a provider wrote into the same event. What cannot be read is left out."""
    try:
        return [read(raw)]
    except NotJson:
        pass
    values: list[ParsedJson] = []
    for each in split(raw):
        with suppress(NotJson):
            values.append(read(each))
    return values


def split(raw: bytes) -> list[bytes]:
    """Split concatenated JSON objects, with or without `data:` between them. Trailing text is the last item. Empty when the
    text does not begin with an object."""
    text = raw.decode("utf-8", "replace")
    objects: list[bytes] = []
    position = 0
    while text.startswith("{", position):
        try:
            _, end = _STRICT.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        objects.append(text[position:end].encode("utf-8", "replace"))
        position = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    rest = text[position:].strip()
    if objects and rest:
        objects.append(rest.encode("utf-8", "replace"))
    return objects


_BETWEEN = re.compile(r"\s*(?:data:)?\s*")


def _read_leniently(raw: bytes) -> ParsedJson:
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    text = text.strip(_EDGES)
    try:
        value = _STRICT.decode(text)
        return ParsedJson(value, text.encode())
    except RecursionError as error:
        raise NotJson("It is nested too deeply.") from error
    except ValueError:
        pass
    try:
        value = _LOOSE.decode(text)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    return ParsedJson(value, write(value))


def write(value: Any) -> bytes:
    """Serialise a parsed value as JSON that every client can read. Never fails: leaves out what cannot be written."""
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        # escapes lone surrogates, so that a client can join a pair that the provider split
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(clean_json(value))


def whole_text(text: str) -> str:
    """The text with split surrogate pairs joined, and U+FFFD for lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("the number is too long")
    return int(digits)


def _parse_float(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_STRICT = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_reject)
_LOOSE = json.JSONDecoder(
    parse_int=lambda digits: None if len(digits) > MAX_DIGITS else int(digits),
    parse_float=_parse_float,
    parse_constant=lambda _: None,
    strict=False,
)
