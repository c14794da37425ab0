"""Fetches user-supplied URLs of pictures through the guard of `outgoing`: public internet addresses only.

Redirects are checked the same way. One deadline covers the whole fetch, including slow servers.
"""

import time
from urllib.parse import urljoin, urlsplit

from urllib3.exceptions import HTTPError

from models.core.outgoing import (
    MAX_URL_LENGTH,
    CheckedTlsConnection,
    FetchPolicy,
    OutgoingRefused,
    checked_addresses,
    host_and_port,
    is_public,
    resolve,
)

__all__ = ["MAX_URL_LENGTH", "FetchFailed", "FetchPolicy", "fetch", "is_public", "resolve"]

MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchFailed(Exception):
    """The fetch was refused or failed. The message is for operators."""


def fetch(address: str, *, max_bytes: int, seconds: float, policy: FetchPolicy | None = None) -> bytes:
    """GET an `https://` URL and return the body as received. Follows three redirects. Blocks; call it outside a transaction.

    Raises FetchFailed for a disallowed address, a body above `max_bytes`, more than `seconds` in total, and any status
    but 200.
    """
    policy = policy or FetchPolicy()
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        with _open(address, policy, deadline) as connection:
            found = connection.get(address, max_bytes)
        if isinstance(found, bytes):
            return found
        address = found
    raise FetchFailed(f"it redirects more than {MAX_REDIRECTS} times")


def _open(address: str, policy: FetchPolicy, deadline: float) -> "_Connection":
    try:
        addresses = checked_addresses(address, policy)
        return _Connection(*host_and_port(address), addresses, deadline, ssl_context=policy.context)
    except OutgoingRefused as refused:
        raise FetchFailed(str(refused)) from None


class _Connection(CheckedTlsConnection):
    """A connection that gets one picture."""

    def get(self, address: str, max_bytes: int) -> bytes | str:
        """The body (bytes), or the redirect target (str)."""
        parts = urlsplit(address)
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "Stoa"}
        try:
            self.request("GET", path, headers=headers, preload_content=False, decode_content=False)
            response = self.getresponse()
            if response.status in REDIRECTS and response.headers.get("Location"):
                return urljoin(address, response.headers["Location"])
            if response.status != 200:
                raise FetchFailed(f"it answers {response.status}")
            body = response.read(max_bytes + 1)
        except (HTTPError, OSError, ValueError) as error:
            why = (
                "it takes too long"
                if self.timed_out(error)
                else f"the connection failed ({type(error).__name__})"
            )
            raise FetchFailed(why) from None
        if self.timed_out():
            raise FetchFailed("it takes too long")
        if len(body) > max_bytes:
            raise FetchFailed(f"it is larger than {max_bytes:,} bytes")
        return body
