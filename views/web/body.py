"""Reads JSON request bodies, whatever the content type, and rejects what PostgreSQL cannot store.

`read` returns the body as a model of `models.core.strict_models` or raises `InvalidBody`. Invalid JSON raises `BadJson`, or
its subclass `UndecodableBody`. Each route chooses status and format of both.

Callers are authenticated before a large body is read: at most `ANONYMOUS_BYTES` of an unauthenticated one. Decompressed bytes
and the number of values are limited before parsing.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import flask
import orjson
from werkzeug import Request
from werkzeug.exceptions import RequestEntityTooLarge

from models.core.cooperative import TimeSlices, heavy
from models.core.decompression import CHUNK_BYTES, DecompressionError, decompress
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
    Objects,
    parse,
    parse_tagged,
)
from views.web import guards
from views.web.content_encoding import UnsupportedEncoding, parse_encodings
from views.web.fast_path import MAX_BODY_BYTES
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
    "Objects",
    "UndecodableBody",
    "allow_anonymous",
    "limit_anonymous_body",
    "parse",
    "parse_tagged",
    "read",
    "read_bytes",
    "read_json",
    "read_with_bytes",
]

V = TypeVar("V", bound=Callable[..., Any])

MAX_DEPTH = 200
MAX_VALUES = 500_000
"""Values per body. Each costs up to a microsecond per traversal."""
ANONYMOUS_BYTES = 64 << 10
"""Maximum bytes read before the caller is authenticated."""
MAX_FORM_BYTES = 2 << 20
"""Maximum bytes of one text in a form with files. A longer one is refused before it is read, so that the form cannot be shown
again; one that is too long for its field only is returned in the form."""


class BadJson(Exception):
    """The body is not valid, storable JSON: syntax, depth, infinite numbers, NUL characters."""


class UndecodableBody(BadJson):
    """The body is nested too deeply or does not match its `Content-Encoding`."""


class BodyTooLarge(RequestEntityTooLarge):
    """The body has too many bytes or values; the description names the limit."""

    @classmethod
    def than(cls, limit: int) -> "BodyTooLarge":
        """The error for a body of more than `limit` bytes."""
        if limit >= 1 << 20:
            return cls(f"The request body is larger than {limit >> 20} MB. Send a smaller body.")
        return cls(
            f"The request body is larger than {limit >> 10} KiB, the limit without a valid API key or sign-in."
        )


def limit_anonymous_body() -> None:
    """Set the body limit of the request: the route's, or `anonymous_bytes` for unauthenticated and banned callers, which are
    identified only if the body may exceed that. Raises UnsupportedEncoding."""
    request = flask.request
    operation = current_operation()
    if operation and operation.max_bytes:
        request.max_content_length = operation.max_bytes
    encoding = request.headers.get("Content-Encoding")
    chunked = "Transfer-Encoding" in request.headers
    if request.method in guards.SAFE or not (
        encoding or chunked or (request.content_length or 0) > ANONYMOUS_BYTES
    ):
        return
    if encoding and parse_encodings(encoding) and request.mimetype in FORMS:
        raise UnsupportedEncoding("Compressed forms are not supported.")
    user = guards.known_user()
    if user is None or user.banned:
        view = flask.current_app.view_functions.get(request.endpoint or "")
        limit = (operation and operation.anonymous_bytes) or getattr(view, "anonymous_bytes", None)
        request.max_content_length = limit or ANONYMOUS_BYTES


def discard_form() -> None:
    """Read the rest of a form that is refused for its size, up to the limit of all bodies: a browser that still sends would
    see a closed connection instead of the response. Does nothing for strangers."""
    request = flask.request
    if (request.content_length or 0) > MAX_BODY_BYTES or guards.known_user() is None:
        return
    discard()


def discard() -> None:
    """Read the body of the request, and forget it. Raises RequestEntityTooLarge."""
    while flask.request.stream.read(CHUNK_BYTES):
        pass


def allow_anonymous(max_bytes: int) -> Callable[[V], V]:
    """Decorate the view of a page whose form may have up to `max_bytes` from anybody."""

    def decorate(view: V) -> V:
        view.__dict__["anonymous_bytes"] = max_bytes
        return view

    return decorate


FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def read_json(request: Request | None = None, *, allow_nul: bool = False) -> Any:
    """The body of `request` (default: Flask's current one) as JSON, whatever its content type.

    Lone surrogates become U+FFFD. NUL characters, which PostgreSQL text cannot store, are rejected unless `allow_nul`.
    Raises BadJson, BodyTooLarge, UnsupportedEncoding.
    """
    return read_with_bytes(request or flask.request, allow_nul=allow_nul)[0]


def read_with_bytes(
    request: Request, *, allow_nul: bool = False, before_large: Callable[[], None] | None = None
) -> tuple[Any, bytes]:
    """Like `read_json`, with the decompressed bytes. `before_large` is called once before more than `ANONYMOUS_BYTES` are
    read or decompressed; it may raise to reject the request."""
    raw = _read_bytes(request, before_large)
    with heavy(len(raw)):
        return _parse_json(raw, allow_nul), raw


def parse_text(text: str) -> Any:
    """JSON in a field of a form, with the rules of `read_json`. Raises BadJson."""
    raw = text.encode(errors="replace")
    with heavy(len(raw)):
        return _parse_json(raw, False)


def parse_message(raw: bytes) -> Any:
    """JSON in a message, with the rules of `read_json`; NUL characters are allowed. Raises BadJson, BodyTooLarge."""
    with heavy(len(raw)):
        return _parse_json(raw, True)


def read_bytes() -> bytes:
    """The bytes of the body, decompressed. Raises UndecodableBody, BodyTooLarge, UnsupportedEncoding."""
    return _read_bytes(flask.request, None)


def read(model: type[M]) -> M:
    """The request body as `model`. Raises BadJson or InvalidBody."""
    return parse(model, read_json())


# -- bytes ---------------------------------------------------------------------------------------------------


def _read_bytes(request: Request, before_large: Callable[[], None] | None) -> bytes:
    limit = request.max_content_length or MAX_BODY_BYTES
    encodings = parse_encodings(request.environ.get("HTTP_CONTENT_ENCODING", ""))
    length = request.content_length
    if length is not None and length <= ANONYMOUS_BYTES and not encodings:
        return request.stream.read()
    if (length or 0) > ANONYMOUS_BYTES and before_large:
        before_large()
        before_large = None
    chunks: list[bytes] = []
    size, slices = 0, TimeSlices()
    try:
        for chunk in decompress(_chunks(request), encodings):
            size += len(chunk)
            if size > ANONYMOUS_BYTES and before_large:
                before_large()
                before_large = None
            if size > limit:
                raise BodyTooLarge.than(limit)
            slices.pause()
            chunks.append(chunk)
    except DecompressionError as error:
        raise UndecodableBody(str(error)) from None
    except BodyTooLarge:
        raise
    except RequestEntityTooLarge:
        raise BodyTooLarge.than(limit) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _chunks(request: Request) -> Iterator[bytes]:
    stream = request.stream
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


# -- JSON ----------------------------------------------------------------------------------------------------


def _parse_json(raw: bytes, allow_nul: bool) -> Any:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > MAX_VALUES:
        _check_values(raw)
    value = _load(raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if not allow_nul and b"\\u0000" in raw and any("\x00" in text for text in _texts(value)):
        raise BadJson("the body contains a NUL character")
    return value


def _check_values(raw: bytes) -> None:
    """Count separators and openers of values; if there are too many, count again outside of strings."""
    if _count_separators(raw) <= MAX_VALUES:
        return
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    # a key and its string value have four
    if bare.count(b'"') > 4 * MAX_VALUES or _count_separators(b"".join(bare.split(b'"')[::2])) > MAX_VALUES:
        raise BodyTooLarge(f"The request body has more than {MAX_VALUES:,} values. Send fewer.")


def _count_separators(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, b",[{"))


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"\\ud" not in raw and b"\\uD" not in raw:
            raise _json_error(error) from None
    try:
        return orjson.loads(_without_lone_surrogates(raw))
    except orjson.JSONDecodeError as error:
        raise _json_error(error) from None


def _json_error(error: orjson.JSONDecodeError) -> BadJson:
    return (UndecodableBody if "depth limit" in error.msg else BadJson)(str(error))


_BACKSLASH = b"\x01\x01"
"""Temporary placeholder of an escaped backslash; cannot occur in valid JSON."""
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
        end = _split_point(raw, start + CHUNK_BYTES)
        done.append(_LONE.sub(rb"\\ufffd", raw[start:end]))
        start = end
        slices.pause()
    return b"".join(done).replace(_BACKSLASH, b"\\\\")


def _split_point(raw: bytes, at: int) -> int:
    """The first offset from `at` that splits neither an escape nor a surrogate pair."""
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
    pending = [value]
    while pending:
        node = pending.pop()
        if type(node) is str:
            yield node
        elif type(node) is dict:
            pending.extend(node)
            pending.extend(node.values())
        elif type(node) is list:
            pending.extend(node)
