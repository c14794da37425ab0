"""Reading JSON bodies at every door: whatever the content type, and nothing that could not be kept.

`read` answers the body as one of the shapes of `models.core.strict_models`, or raises `InvalidBody`. Text that is not JSON raises
`BadJson`, or its child `UndecodableBody`. Each route chooses its own status and key for both.

Who somebody is comes before what they sent: of a stranger no more than `SMALL` is read. What a body may cost is bounded
before it is parsed, by its bytes once they are unpacked and by the values in it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import flask
import orjson
from werkzeug import Request
from werkzeug.exceptions import RequestEntityTooLarge

from models.core.cooperative import TimeSlices, heavy
from models.core.decompression import PIECE, DecompressionError, unpacked
from models.core.strict_models import (
    Amount,
    Body,
    Count,
    Instant,
    Int32,
    InvalidBody,
    M,
    Missing,
    Number,
    parse,
    parse_tagged,
)
from views.web import guards
from views.web.content_encoding import UnsupportedEncoding, codings
from views.web.fast_path import MOST_BYTES
from views.web.operation import current_operation

__all__ = [
    "Amount",
    "BadJson",
    "Body",
    "BodyTooLarge",
    "Count",
    "Instant",
    "Int32",
    "InvalidBody",
    "Missing",
    "Number",
    "UndecodableBody",
    "keep_strangers_small",
    "parse",
    "parse_tagged",
    "read",
    "read_json",
    "read_with_bytes",
    "takes_of_strangers",
]

V = TypeVar("V", bound=Callable[..., Any])

MAX_DEPTH = 200
MOST_VALUES = 500_000
"""Of one body. Each costs up to a microsecond wherever all are looked at."""
SMALL = 64 << 10
"""Bytes that are read of somebody who is not known yet."""


class BadJson(Exception):
    """The body is not JSON that can be kept: syntax, depth, infinite numbers, NUL characters."""


class UndecodableBody(BadJson):
    """It may be JSON, and is nested deeper than anything that is kept, or not packed as its `Content-Encoding` says."""


class BodyTooLarge(RequestEntityTooLarge):
    """More bytes or values than are taken of this caller; the description says how many."""

    @classmethod
    def than(cls, limit: int) -> "BodyTooLarge":
        """For a body of more than `limit` bytes."""
        if limit >= 1 << 20:
            return cls(f"The request body is larger than {limit >> 20} MB. Send less at once.")
        return cls(
            f"The request body is larger than the {limit >> 10} KiB that are taken without a valid API key or sign-in."
        )


def keep_strangers_small() -> None:
    """At every route: let no more be read of a body than the route takes; of a large one no more than `SMALL` or what
    the route takes of strangers, unless somebody is known and not banned. Raises UnknownCoding."""
    request = flask.request
    route = current_operation()
    if route and route.most_bytes:
        request.max_content_length = route.most_bytes
    packed = request.headers.get("Content-Encoding")
    chunked = "Transfer-Encoding" in request.headers
    if request.method in guards.SAFE or not (packed or chunked or (request.content_length or 0) > SMALL):
        return
    if packed and codings(packed) and request.mimetype in _FORMS:
        raise UnsupportedEncoding("Forms are not unpacked.")
    user = guards.cookie_or_key_user()
    if user is None or user.banned:
        view = flask.current_app.view_functions.get(request.endpoint or "")
        limit = (route and route.stranger_bytes) or getattr(view, "stranger_bytes", None)
        request.max_content_length = limit or SMALL


def takes_of_strangers(limit: int) -> Callable[[V], V]:
    """Decorate the view of a page whose form may have up to `limit` bytes, whoever sends it."""

    def decorate(view: V) -> V:
        view.__dict__["stranger_bytes"] = limit
        return view

    return decorate


_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def read_json(request: Request | None = None, *, allow_nul: bool = False) -> Any:
    """The body of `request` (of Flask's, without one) as JSON, whatever its content type.

    Lone surrogates become U+FFFD, as any UTF-8 store would make them. NUL characters are refused unless
    `allow_nul`, since PostgreSQL's text cannot hold them. Raises BadJson, TooLarge, UnknownCoding.
    """
    return read_with_bytes(request or flask.request, allow_nul=allow_nul)[0]


def read_with_bytes(
    request: Request, *, allow_nul: bool = False, knock: Callable[[], None] | None = None
) -> tuple[Any, bytes]:
    """As `read_json`, with the JSON's own bytes. `knock` is called once before more than `SMALL` is read or
    unpacked; what it raises ends the reading."""
    raw = _received(request, knock)
    with heavy(len(raw)):
        return _parsed(raw, allow_nul), raw


def read(model: type[M]) -> M:
    """The request's body as `model`. Raises BadJson or BadBody."""
    return parse(model, read_json())


# -- bytes ---------------------------------------------------------------------------------------------------


def _received(request: Request, knock: Callable[[], None] | None) -> bytes:
    limit = request.max_content_length or MOST_BYTES
    named = codings(request.environ.get("HTTP_CONTENT_ENCODING", ""))
    length = request.content_length
    if length is not None and length <= SMALL and not named:
        return request.stream.read()
    if (length or 0) > SMALL and knock:
        knock()
        knock = None
    whole: list[bytes] = []
    size, slices = 0, TimeSlices()
    try:
        for piece in unpacked(_pieces(request), named):
            size += len(piece)
            if size > SMALL and knock:
                knock()
                knock = None
            if size > limit:
                raise BodyTooLarge.than(limit)
            slices.pause()
            whole.append(piece)
    except DecompressionError as error:
        raise UndecodableBody(str(error)) from None
    except BodyTooLarge:
        raise
    except RequestEntityTooLarge:
        raise BodyTooLarge.than(limit) from None
    return whole[0] if len(whole) == 1 else b"".join(whole)


def _pieces(request: Request) -> Iterator[bytes]:
    stream = request.stream
    while piece := stream.read(PIECE):
        yield piece


# -- JSON ----------------------------------------------------------------------------------------------------


def _parsed(raw: bytes, allow_nul: bool) -> Any:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > MOST_VALUES:
        _check_values(raw)
    value = _load(raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if not allow_nul and b"\\u0000" in raw and any("\x00" in text for text in _texts(value)):
        raise BadJson("the body contains a NUL character")
    return value


def _check_values(raw: bytes) -> None:
    """Count what separates and opens values; only of a body with more of that, without what stands in texts."""
    if _marks(raw) <= MOST_VALUES:
        return
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    # a key and a text have four
    if bare.count(b'"') > 4 * MOST_VALUES or _marks(b"".join(bare.split(b'"')[::2])) > MOST_VALUES:
        raise BodyTooLarge(f"The request body has more than {MOST_VALUES:,} values. Send fewer of them.")


def _marks(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, b",[{"))


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"\\ud" not in raw and b"\\uD" not in raw:
            raise _bad(error) from None
    try:
        return orjson.loads(_without_lone_surrogates(raw))
    except orjson.JSONDecodeError as error:
        raise _bad(error) from None


def _bad(error: orjson.JSONDecodeError) -> BadJson:
    return (UndecodableBody if "depth limit" in error.msg else BadJson)(str(error))


_BACKSLASH = b"\x01\x01"
"""Stands for an escaped backslash meanwhile. In JSON there is no such character."""
_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]")


def _without_lone_surrogates(raw: bytes) -> bytes:
    if b"\x01" in raw:
        return raw
    raw = raw.replace(b"\\\\", _BACKSLASH)
    done: list[bytes] = []
    start, slices = 0, TimeSlices()
    while start < len(raw):
        end = _cut(raw, start + PIECE)
        done.append(_LONE.sub(rb"\\ufffd", raw[start:end]))
        start = end
        slices.pause()
    return b"".join(done).replace(_BACKSLASH, b"\\\\")


def _cut(raw: bytes, at: int) -> int:
    """`at`, or a little further on, where neither an escape nor a pair of surrogates is cut in two."""
    escape = raw.rfind(b"\\u", max(at - 5, 0), at + 1)
    if escape >= 0:
        at = max(at, escape + 6)
    return at + 6 if _PAIR.match(raw, max(at - 6, 0)) else at


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
    raise UndecodableBody(f"the body is nested more than {MAX_DEPTH} deep")


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
