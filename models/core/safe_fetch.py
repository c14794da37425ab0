"""Fetches user-supplied URLs with protection against SSRF: public internet addresses only.

A host name is resolved once, every address is checked, and the connection uses a checked address, which defeats DNS
rebinding. Redirects are checked the same way. One deadline covers the whole fetch, including slow servers.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError

MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_URL_LENGTH = 2_000

_UNICAST_V6 = ipaddress.ip_network("2000::/3")
"""All other ranges are local or embed an IPv4 address (mapped, NAT64)."""

_BLOCKED = [
    ipaddress.ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure platform services
        "192.0.0.0/24",  # IETF protocol assignments, used by cloud services
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: embeds an IPv4 address
        "3fff::/20",
    )
]


class FetchFailed(Exception):
    """The fetch was refused or failed. The message is for operators."""


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet: not local, private or special-purpose."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if found.version == 6 and found not in _UNICAST_V6:
        return False
    special = found.is_multicast or found.is_reserved or found.is_unspecified
    return found.is_global and not special and not any(found in network for network in _BLOCKED)


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host name or of any notation that the system accepts (`0x7f.1`, `2130706433`)."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True)
class FetchPolicy:
    """Name resolution, allowed IP addresses and trusted certificates."""

    resolve: Callable[[str, int], Sequence[str]] = resolve
    allows: Callable[[str], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)


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
    if len(address) > MAX_URL_LENGTH or not address.isascii() or not address.isprintable() or " " in address:
        raise FetchFailed("this is not a URL")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise FetchFailed("this is not a URL") from None
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise FetchFailed("only https:// URLs without credentials are fetched")
    try:
        found = policy.resolve(host, port)
    except (OSError, UnicodeError):
        raise FetchFailed(f"{host} has no address") from None
    refused = [each for each in found if not policy.allows(each)]
    if refused or not found:
        raise FetchFailed(f"{host} is {', '.join(refused) or 'nowhere'}, which is not on the public internet")
    return _Connection(host, port, found, deadline, policy.context)


class _Connection(HTTPSConnection):
    """A connection to one of the checked addresses, with the TLS name of the host, closed at the deadline."""

    def __init__(
        self, host: str, port: int, addresses: Sequence[str], deadline: float, context: ssl.SSLContext
    ) -> None:
        remaining = max(0.1, deadline - time.monotonic())
        super().__init__(host, port, timeout=remaining, ssl_context=context)
        self._addresses, self._deadline = addresses, deadline
        self._timed_out = threading.Event()
        self._timer = threading.Timer(remaining, self._abort)
        self._timer.daemon = True
        self._socket: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        failed: OSError = TimeoutError()
        for address in self._addresses:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                made = socket.create_connection((address, self.port), remaining)
            except OSError as error:
                failed = error
                continue
            self._socket = made.dup()  # TLS takes the socket over
            return made
        raise failed

    def _abort(self) -> None:
        self._timed_out.set()
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "_Connection":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.close()
        if self._socket:
            self._socket.close()

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
            timed_out = self._timed_out.is_set() or isinstance(error, TimeoutError)
            why = "it takes too long" if timed_out else f"the connection failed ({type(error).__name__})"
            raise FetchFailed(why) from None
        if self._timed_out.is_set():
            raise FetchFailed("it takes too long")
        if len(body) > max_bytes:
            raise FetchFailed(f"it is larger than {max_bytes:,} bytes")
        return body
