"""JSON as clients read it: whatever Python's `json` or JavaScript's `JSON.parse` takes from a provider, and a little more."""

import json
import math
import re
from typing import Any, NamedTuple

import orjson

from models.ledger.sanitizing import clean_json

MOST_DIGITS = 400
"""Digits of a whole number; a longer one is infinite to JavaScript, and null here."""

_EDGES = " \t\r\n\0\v\f\ufeff\u00a0\u2028\u2029"


class NotJson(ValueError):
    """No client could read it."""


class ParsedJson(NamedTuple):
    """A value, and its JSON for the client: as it came, wherever every client can read that."""

    value: Any
    text: bytes


def read(raw: bytes) -> ParsedJson:
    """Read JSON. Beyond the standard it takes a byte order mark, NUL and white space around the value, bytes that are no
    UTF-8, lone surrogates, control characters in strings, NaN and numbers of any size. Raises NotJson."""
    try:
        return ParsedJson(orjson.loads(raw), raw)
    except orjson.JSONDecodeError:
        return _read_leniently(raw)


def split(raw: bytes) -> list[bytes]:
    """JSON objects that stand one after the other, some with `data:` between them, each by itself; what follows the last
    one is the last piece. Empty where the text does not begin with two of them, or one and something else."""
    text = raw.decode("utf-8", "replace")
    pieces: list[bytes] = []
    at = 0
    while text.startswith("{", at):
        try:
            _, end = _STRICT.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        pieces.append(text[at:end].encode("utf-8", "replace"))
        at = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    rest = text[at:].strip()
    if pieces and rest:
        pieces.append(rest.encode("utf-8", "replace"))
    return pieces


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
    """A value that was read, as JSON that every client can read. Never fails: what cannot be written is left out."""
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        # lone surrogates are escaped, so that a client may join what a provider tore apart
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(clean_json(value))


def whole_text(text: str) -> str:
    """The text with torn surrogate pairs joined, and U+FFFD for a half without its other one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _short(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("the number is too long")
    return int(digits)


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_STRICT = json.JSONDecoder(parse_int=_short, parse_float=_finite, parse_constant=_refuse)
_LOOSE = json.JSONDecoder(
    parse_int=lambda digits: None if len(digits) > MOST_DIGITS else int(digits),
    parse_float=_finite,
    parse_constant=lambda _: None,
    strict=False,
)
