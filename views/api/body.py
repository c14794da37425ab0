"""Reading JSON bodies at every door: whatever the content type, and nothing that could not be kept.

`read` answers the body as one of the shapes of `models.shapes`, or raises `BadBody`. Text that is not JSON raises
`BadJson`, or its child `TooDeep`. Each route chooses its own status and key for both.
"""

import re
from collections.abc import Iterator
from typing import Any

import flask
import orjson
from werkzeug import Request
from werkzeug.exceptions import RequestEntityTooLarge

from models.shapes import (
    Amount,
    BadBody,
    Body,
    Count,
    Instant,
    Int32,
    M,
    Missing,
    Number,
    parse,
    parse_tagged,
)

__all__ = [
    "Amount",
    "BadBody",
    "BadJson",
    "Body",
    "Count",
    "Instant",
    "Int32",
    "Missing",
    "Number",
    "TooDeep",
    "parse",
    "parse_tagged",
    "read",
    "read_json",
]

MAX_DEPTH = 200


class BadJson(Exception):
    """The body is not JSON that can be kept: syntax, depth, infinite numbers, NUL characters."""


class TooDeep(BadJson):
    """It is nested deeper than anything that is kept; beyond a thousand levels it is not looked at further."""


def read_json(request: Request | None = None, *, allow_nul: bool = False) -> Any:
    """The body of `request` (of Flask's, without one) as JSON, whatever its content type.

    Lone surrogates become U+FFFD, as any UTF-8 store would make them. NUL characters are refused unless
    `allow_nul`, since PostgreSQL's text cannot hold them. Raises BadJson.
    """
    request = request or flask.request
    raw = request.get_data(cache=True)
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(raw) >= limit:
        # a chunked body is cut off at the limit without a word
        raise RequestEntityTooLarge
    value = _load(raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if not allow_nul and b"\\u0000" in raw and any("\x00" in text for text in _texts(value)):
        raise BadJson("the body contains a NUL character")
    return value


def read(model: type[M]) -> M:
    """The request's body as `model`. Raises BadJson or BadBody."""
    return parse(model, read_json())


# -- JSON ----------------------------------------------------------------------------------------------------


def _load(raw: bytes) -> Any:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"\\ud" not in raw and b"\\uD" not in raw:
            raise _bad(error) from None
        try:
            value = orjson.loads(_ESCAPES.sub(_whole_surrogates, raw))
        except orjson.JSONDecodeError as second:
            raise _bad(second) from None
    return value


def _bad(error: orjson.JSONDecodeError) -> BadJson:
    return (TooDeep if "depth limit" in error.msg else BadJson)(str(error))


_ESCAPES = re.compile(
    rb"\\(?:u(d[89ab][0-9a-f]{2})(\\ud[c-f][0-9a-f]{2})?|u(d[c-f][0-9a-f]{2})|.)", re.IGNORECASE | re.DOTALL
)


def _whole_surrogates(match: re.Match[bytes]) -> bytes:
    lone = (match[1] and not match[2]) or match[3]
    return b"\\ufffd" if lone else match[0]


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node if type(node) is list else ())
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise TooDeep(f"the body is nested more than {MAX_DEPTH} deep")


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if type(node) is str:
            yield node
        elif type(node) is dict:
            waiting.extend(node)
            waiting.extend(node.values())
        elif type(node) is list:
            waiting.extend(node)
