"""Fetching what a stranger's address names, and never from this machine, its network or its cloud's own services.

A name is resolved once, every address it has is judged, and the connection goes to a judged one; so a name that means
something else a moment later gains nothing. Each redirect is judged in the same way. A fetch has one deadline for all of it,
which also ends a server that sends a byte now and then.
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

MOST_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST = 2_000
"""Characters of an address."""

_UNICAST_V6 = ipaddress.ip_network("2000::/3")
"""Everything else is this host, this network, or an IPv4 address in disguise (mapped, NAT64)."""

_NEVER = [
    ipaddress.ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure's own services answer there
        "192.0.0.0/24",  # cloud services answer there, too
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
    )
]


class FetchFailed(Exception):
    """It was refused, or did not come. The text says why, for operators."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's: not of this machine, a private network, or a special purpose."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if found.version == 6 and found not in _UNICAST_V6:
        return False
    special = found.is_multicast or found.is_reserved or found.is_unspecified
    return found.is_global and not special and not any(found in network for network in _NEVER)


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a name, or of whatever else the system takes for an address (`0x7f.1`, `2130706433`)."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True)
class FetchPolicy:
    """How names are resolved, which addresses may be connected to, and whose certificates are believed."""

    resolve: Callable[[str, int], Sequence[str]] = resolve
    allows: Callable[[str], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)


def fetch(address: str, *, most_bytes: int, seconds: float, guard: FetchPolicy | None = None) -> bytes:
    """What an `https://` address answers, as it comes. Follows three redirects. Blocks; call it outside a transaction.

    Raises FetchFailed for an address that may not be asked, more than `most_bytes`, more than `seconds` altogether, and
    whatever is no 200.
    """
    guard = guard or FetchPolicy()
    deadline = time.monotonic() + seconds
    for _ in range(MOST_REDIRECTS + 1):
        with _open(address, guard, deadline) as connection:
            found = connection.get(address, most_bytes)
        if isinstance(found, bytes):
            return found
        address = found
    raise FetchFailed(f"it redirects more than {MOST_REDIRECTS} times")


def _open(address: str, guard: FetchPolicy, deadline: float) -> "_Connection":
    if len(address) > LONGEST or not address.isascii() or not address.isprintable() or " " in address:
        raise FetchFailed("this is no address")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise FetchFailed("this is no address") from None
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise FetchFailed("only https:// addresses without a password are fetched")
    try:
        found = guard.resolve(host, port)
    except (OSError, UnicodeError):
        raise FetchFailed(f"{host} has no address") from None
    refused = [each for each in found if not guard.allows(each)]
    if refused or not found:
        raise FetchFailed(f"{host} is {', '.join(refused) or 'nowhere'}, which is not on the public internet")
    return _Connection(host, port, found, deadline, guard.context)


class _Connection(HTTPSConnection):
    """A connection to one of the judged addresses, in the name of the host, that is cut when the time is over."""

    def __init__(
        self, host: str, port: int, judged: Sequence[str], deadline: float, context: ssl.SSLContext
    ) -> None:
        left = max(0.1, deadline - time.monotonic())
        super().__init__(host, port, timeout=left, ssl_context=context)
        self._judged, self._deadline = judged, deadline
        self._late = threading.Event()
        self._timer = threading.Timer(left, self._cut)
        self._timer.daemon = True
        self._wire: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        failed: OSError = TimeoutError()
        for address in self._judged:
            left = self._deadline - time.monotonic()
            if left <= 0:
                break
            try:
                made = socket.create_connection((address, self.port), left)
            except OSError as error:
                failed = error
                continue
            self._wire = made.dup()  # TLS takes the socket over
            return made
        raise failed

    def _cut(self) -> None:
        self._late.set()
        if self._wire:
            with suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "_Connection":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.close()
        if self._wire:
            self._wire.close()

    def get(self, address: str, most_bytes: int) -> bytes | str:
        """The body, or the address that it redirects to."""
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
            body = response.read(most_bytes + 1)
        except (HTTPError, OSError, ValueError) as error:
            late = self._late.is_set() or isinstance(error, TimeoutError)
            why = "it takes too long" if late else f"the connection failed ({type(error).__name__})"
            raise FetchFailed(why) from None
        if self._late.is_set():
            raise FetchFailed("it takes too long")
        if len(body) > most_bytes:
            raise FetchFailed(f"it is larger than {most_bytes:,} bytes")
        return body
