"""Requests to the server: JSON and bytes, with a key, repeated if that is safe and may help."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from stoa import SERVED
from stoa.failures import Failure, Refused, Unreachable, misused

TIMEOUT = 60
"""Seconds without a byte."""
TRIES = 4
MOST_WAIT = 30
"""Seconds to wait before a request is repeated; a server that wants more is left alone."""
BUSY = 429
PASSING = frozenset({BUSY, 502, 503, 504})
"""Statuses that may pass."""


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: Any
    data: bytes


class Server:
    """One Stoa, with the key of a person. `sleep` and `send` are replaced in tests."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url, self.token = url, token
        self._opener: Any = None

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at this path."""
        return self.json("GET", path, query=query)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON that answers this body. Repeated only with `again=True`, for requests that do nothing twice."""
        return self.json("POST", path, body, **options)

    def json(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        again: bool = False,
    ) -> Any:
        """The JSON of an answer. Raises Refused, Unreachable."""
        reply = self.call(method, path, body, query=query, headers=headers, again=again)
        return self.read(reply)

    def read(self, reply: Reply) -> Any:
        """The JSON of this answer."""
        try:
            return json.loads(reply.data)
        except ValueError:
            raise Failure(
                f"{self.url} did not answer with JSON. Is this the address of a Stoa?", code="NOT_STOA"
            ) from None

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        again: bool = False,
    ) -> Reply:
        """Send JSON, or bytes as they are. GET, PUT and what may be sent `again` is repeated. Raises Refused, Unreachable."""
        from urllib.parse import urlencode

        sent = {"User-Agent": agent_string(), "Accept": "*/*", **(headers or {})}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        data = None
        if isinstance(body, (bytes, bytearray)):
            data = bytes(body)
            sent["Content-Type"] = "application/octet-stream"
        elif body is not None or method == "POST":
            data = json.dumps({} if body is None else body).encode()
            sent["Content-Type"] = "application/json"
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
        address = self.url + path + (f"?{urlencode(given, doseq=True)}" if given else "")
        tries = TRIES if again or method in ("GET", "PUT") else 1
        return self._tried(method, address, data, sent, tries)

    def _tried(
        self, method: str, address: str, data: bytes | None, headers: dict[str, str], tries: int
    ) -> Reply:
        for number in range(1, TRIES + 1):
            try:
                reply = self.send(method, address, data, headers)
            except OSError as error:
                if number >= tries:
                    reason = getattr(error, "reason", None) or error
                    raise Unreachable(f"{self.url} cannot be reached: {reason}") from None
                self.sleep(2 ** (number - 1))
                continue
            if reply.status < 300:
                return reply
            # 429 comes before anything is done, so that may be sent again whatever it is
            left = TRIES - number if reply.status == BUSY else tries - number
            if reply.status not in PASSING or left <= 0:
                raise refusal(reply)
            seconds = _wait(reply, number)
            if seconds > MOST_WAIT:
                raise Refused(
                    reply.status,
                    f"The server is busy. Try again in {seconds:.0f} seconds.",
                    "RATE_LIMITED",
                    {"retry_after": seconds},
                )
            self.sleep(seconds)
        raise AssertionError("a request is tried at least once")

    def send(self, method: str, address: str, data: bytes | None, headers: dict[str, str]) -> Reply:
        """Send one request. Raises OSError."""
        # costs a tenth of a second, which commands that need no server save
        import http.client
        import ssl
        import urllib.error
        import urllib.request

        if self._opener is None:
            self._opener = urllib.request.build_opener(no_redirects())
        request = urllib.request.Request(address, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                raise Unreachable(f"{self.url} cannot be trusted: {error.reason}") from None
            raise
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer breaks off ({error!r})") from None

    @contextmanager
    def opened(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float
    ) -> Iterator[Any]:
        """An answer that is read as it comes (`status`, `headers`, `read1`), also one that is an error. Sent once, without the key. Raises Unreachable."""
        import http.client
        import urllib.error
        import urllib.request

        opener = urllib.request.build_opener(no_redirects())
        sent = {"User-Agent": agent_string(), **headers}
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            answer: Any = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            answer = error.fp
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{self.url} cannot be reached: {getattr(error, 'reason', None) or error}"
            ) from None
        with answer:
            yield answer

    def sleep(self, seconds: float) -> None:
        """Wait before a request is repeated."""
        time.sleep(seconds)


def no_redirects() -> Any:
    """A handler that follows no redirect: the key is for this server only."""
    from urllib.request import HTTPRedirectHandler

    class StayHere(HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    return StayHere()


def refusal(reply: Reply) -> Failure:
    """The error of an answer, in the server's own words if it has any."""
    try:
        body = json.loads(reply.data)
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    error = body.get("error")
    nested = error if isinstance(error, dict) else {}
    message = nested.get("message") or body.get("error_description") or body.get("message")
    code = nested.get("code") or (error if isinstance(error, str) else None)
    if not message and reply.status in (502, 503, 504):
        return Unreachable(f"The server is not available now (status {reply.status}).")
    if not message and 300 <= reply.status < 400:
        message = f"The server sends you to {reply.headers.get('Location')}: use that address with --url."
    return Refused(
        reply.status,
        str(message or f"The server answered {reply.status}."),
        str(code or f"HTTP_{reply.status}"),
        nested.get("details"),
    )


def agent_string() -> str:
    """Who asks, as the page of devices shows it."""
    import platform

    return f"stoa.pyz/{SERVED['version'] or '0'} ({platform.system()} {platform.machine()}; python {platform.python_version()})"


def address_of(text: str) -> str:
    """The origin of a server's address. Raises Failure."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if valid and "@" not in parts.netloc and all(ord(each) > 32 for each in parts.netloc):
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        pass
    raise misused(f"'{text}' is not the address of a server, such as https://stoa.example.org.")


def quoted(text: str) -> str:
    """A text as one segment of a path."""
    from urllib.parse import quote

    return quote(text, safe="")


def _wait(reply: Reply, number: int) -> float:
    after = str(reply.headers.get("Retry-After") or "")
    return float(after) if after.isdigit() and after.isascii() else 2.0 ** (number - 1)
