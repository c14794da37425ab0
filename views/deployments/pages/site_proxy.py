"""Requests to sites that are processes: passed into the sandbox, and the answer back as it comes.

Nothing of the console goes either way: none of its cookies, no header that only speaks of a connection, and cookies that a process sets stay with its
own host. WebSockets are not offered.
"""

import errno
import http.client
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from werkzeug import Response

from models.deployments.process_requests import ProcessConnection
from models.deployments.site_serving import ServedProcess
from views.web.fast_path import MAX_BODY_BYTES

log = logging.getLogger("stoa.sites")

WAIT_SECONDS = 60.0
"""Without a byte from the process."""
AT_ONCE = 32
"""Requests to one process at once, of each web worker."""
PIECE = 64 << 10
REFUSED = frozenset({"CONNECT", "TRACE"})
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade"}
)
OWN_TO_ADD = frozenset({"expect", "forwarded", "x-real-ip", "content-length", "host", "cookie"})
NOT_ANSWERED = frozenset({"date", "server", "alt-svc", "strict-transport-security", "set-cookie"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = re.compile(r"stoa-|(__Host-|__Secure-)?next-auth\.session-token")

_open: Counter[str] = Counter()


def answer_of(process: ServedProcess, environ: dict[str, Any]) -> Response:
    """What the process answers to a request, or why it does not."""
    method = environ["REQUEST_METHOD"]
    if process.failed:
        return _text(503, "This site does not run. Its owner finds the reason under Ship.\n")
    if process.socket is None:
        return _text(503, "This site is being started. Try again in a moment.\n", retry=2)
    if method in REFUSED:
        return _text(405, "This method is not offered here.\n")
    if "websocket" in environ.get("HTTP_UPGRADE", "").lower():
        return _text(501, "WebSockets are not offered here.\n")
    if _length(environ) > MAX_BODY_BYTES:
        return _text(413, f"A request may have {MAX_BODY_BYTES >> 20} MB.\n")
    if _open[process.deployment_id] >= AT_ONCE:
        return _text(503, "This site has too many requests at once. Try again in a moment.\n", retry=2)
    _open[process.deployment_id] += 1
    exchange = _Exchange(process, ProcessConnection(process.socket, timeout=WAIT_SECONDS))
    try:
        return exchange.respond(method, environ)
    except BaseException as error:
        exchange.close()
        if problem := _problem(error):
            return problem
        raise


class _Exchange:
    """One request and its answer."""

    def __init__(self, process: ServedProcess, connection: ProcessConnection) -> None:
        self._id, self._connection = process.deployment_id, connection
        self._answer: http.client.HTTPResponse | None = None
        self._closed = False

    def respond(self, method: str, environ: dict[str, Any]) -> Response:
        """Send the request; the answer, whose body is read while it is sent. Raises OSError, HTTPException."""
        self._send(method, environ)
        self._answer = answer = self._connection.getresponse()
        if answer.status < 200:
            raise http.client.BadStatusLine("an answer that is not the last")
        headers = list(answer_headers(answer.getheaders()))
        bodiless = method == "HEAD" or answer.status in (204, 304)
        body: Iterable[bytes] = () if bodiless else self._pieces(answer)
        response = Response(body, answer.status, headers=headers)
        response.direct_passthrough = True
        if bodiless:
            self.close()
        else:
            response.call_on_close(self.close)
        if "Content-Type" not in (name.title() for name, _ in headers):
            del response.headers["Content-Type"]
        return response

    def close(self) -> None:
        """End it. Idempotent."""
        if not self._closed:
            self._closed = True
            _open[self._id] -= 1
            if not _open[self._id]:
                del _open[self._id]
            if self._answer is not None:
                self._answer.close()
            self._connection.close()

    def _send(self, method: str, environ: dict[str, Any]) -> None:
        chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
        body = environ["wsgi.input"]
        data = _read(body, MAX_BODY_BYTES + 1) if chunked else b""
        if len(data) > MAX_BODY_BYTES:
            raise _TooLarge
        length = len(data) if chunked else _length(environ)
        self._connection.putrequest(method, _target(environ), skip_host=True, skip_accept_encoding=True)
        for name, value in request_headers(environ):
            self._connection.putheader(name, value.encode("latin-1"))
        if length or chunked or ("CONTENT_LENGTH" in environ and method not in ("GET", "HEAD")):
            self._connection.putheader("Content-Length", str(length))
        self._connection.endheaders()
        try:
            if chunked:
                self._connection.send(data)
            while not chunked and length > 0 and (piece := _read(body, min(PIECE, length))):
                length -= len(piece)
                self._connection.send(piece)
        except ConnectionError:
            pass  # it may have answered before it read all

    def _pieces(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while piece := answer.read1(PIECE):
                yield piece
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
        except (OSError, http.client.HTTPException) as error:
            # the client's connection is closed too, so that it does not take a part for the whole
            raise ConnectionResetError(errno.ECONNRESET, "a program ended its answer") from error
        finally:
            self.close()


class _TooLarge(Exception):
    pass


class _BrokenRequest(Exception):
    pass


def _read(body: Any, most: int) -> bytes:
    try:
        return bytes(body.read(most))
    except Exception as error:  # the server's own, for chunks that are none
        raise _BrokenRequest from error


def request_headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The headers of a request that a process gets."""
    named = {each.strip().lower() for each in environ.get("HTTP_CONNECTION", "").split(",")}
    for key, value in environ.items():
        if not key.startswith("HTTP_") and key != "CONTENT_TYPE":
            continue
        name = key.removeprefix("HTTP_").replace("_", "-").lower()
        if name in HOP_BY_HOP or name in OWN_TO_ADD or name in named or name.startswith("x-forwarded-"):
            continue
        if value and _fits(name, value):
            yield name.title(), value
    yield "Host", environ.get("HTTP_HOST", "")
    if cookies := _foreign_cookies(environ.get("HTTP_COOKIE", "")):
        yield "Cookie", cookies
    yield "X-Forwarded-For", environ.get("REMOTE_ADDR") or "127.0.0.1"
    yield "X-Forwarded-Proto", environ.get("wsgi.url_scheme", "http")
    yield "X-Forwarded-Host", environ.get("HTTP_HOST", "")
    yield "Connection", "close"


def answer_headers(headers: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The headers of an answer that a client gets."""
    named = {
        each.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for each in value.split(",")
    }
    for name, value in headers:
        lower = name.lower()
        if lower == "set-cookie" and (cookie := _own_cookie(value)) is not None:
            yield "Set-Cookie", cookie
        if lower in HOP_BY_HOP or lower in NOT_ANSWERED or lower in named or not _fits(name, value):
            continue
        yield name, value


def _foreign_cookies(text: str) -> str:
    pairs = [each.strip() for each in text.split(";")]
    return "; ".join(each for each in pairs if each and not _OURS.match(each) and _fits("cookie", each))


def _own_cookie(text: str) -> str | None:
    """A cookie that a process sets, for its own host only; None if it has a name of ours."""
    if _OURS.match(text.strip()) or not _fits("set-cookie", text):
        return None
    first, *attributes = text.split(";")
    kept = [each for each in attributes if each.partition("=")[0].strip().lower() != "domain"]
    return ";".join([first, *kept])


def _fits(name: str, value: str) -> bool:
    return _TOKEN.fullmatch(name) is not None and not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)


def _target(environ: dict[str, Any]) -> str:
    """Path and query as the client wrote them."""
    raw = environ.get("RAW_URI", "")
    if not raw.startswith("/"):
        query = environ.get("QUERY_STRING", "")
        raw = quote(environ.get("PATH_INFO", "") or "/") + (f"?{query}" if query else "")
    return quote(raw, safe="".join(map(chr, range(0x21, 0x7F))), encoding="latin-1", errors="replace")


def _length(environ: dict[str, Any]) -> int:
    text = environ.get("CONTENT_LENGTH") or "0"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _problem(error: BaseException) -> Response | None:
    """What the client is told of an error; None for one that is none of the process."""
    match error:
        case _TooLarge():
            return _text(413, f"A request may have {MAX_BODY_BYTES >> 20} MB.\n")
        case TimeoutError():
            return _text(504, "This site did not answer in time.\n")
        case FileNotFoundError() | ConnectionRefusedError():
            return _text(503, "This site is being started. Try again in a moment.\n", retry=2)
        case _BrokenRequest():
            return _text(400, "The body of this request cannot be read.\n")
        case http.client.InvalidURL() | UnicodeError():
            return _text(400, "This address has characters that no address may have.\n")
        case OSError() | http.client.HTTPException():
            return _text(502, "This site did not answer in HTTP, or ended the connection.\n")
    return None


def _text(status: int, text: str, *, retry: int = 0) -> Response:
    response = Response(text, status, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if retry:
        response.headers["Retry-After"] = str(retry)
    return response
