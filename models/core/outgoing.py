"""The guard of requests to addresses that users chose (identity providers, webhooks, pictures): no private networks.

A host name is resolved once, every address is checked, and the connection uses a checked address, which defeats DNS
rebinding. Redirects pass the same guard. One deadline covers a whole request, including slow servers. Proxies of the
environment are not used: behind one the address could not be checked.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from models.core.settings import Settings

MAX_URL_LENGTH = 2_000
MAX_BYTES = 1_000_000
SECONDS = 10.0

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

AnySession = TypeVar("AnySession", bound=requests.Session)


class OutgoingRefused(requests.RequestException):
    """The request was not sent: its URL or address is not allowed. The message is for the user who chose it."""


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
    """Name resolution, allowed IP addresses and trusted certificates.

    `allows_plain` are the addresses that may be reached without TLS; none by default.
    """

    resolve: Callable[[str, int], Sequence[str]] = resolve
    allows: Callable[[str], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    allows_plain: Callable[[str], bool] = lambda _address: False


def policy_of(settings: Settings) -> FetchPolicy:
    """Public addresses by TLS, and the networks of STOA_OUTGOING_NETWORKS also without."""
    return _policy(settings.stoa_outgoing_networks, settings.stoa_ca_bundle)


@lru_cache(maxsize=4)
def _policy(listed_networks: tuple[str, ...], ca_bundle: Path | None) -> FetchPolicy:
    # cached: reading the system's certificates takes longer than most requests
    networks = [ipaddress.ip_network(each) for each in listed_networks]

    def listed(address: str) -> bool:
        found = ipaddress.ip_address(address.partition("%")[0])
        return any(found in network for network in networks)

    context = ssl.create_default_context()
    if ca_bundle is not None:
        context.load_verify_locations(ca_bundle)
    return FetchPolicy(
        allows=lambda each: is_public(each) or listed(each), context=context, allows_plain=listed
    )


def check(url: str, settings: Settings) -> None:
    """Check a URL before it is stored. Resolves its host, so call it outside a transaction. Raises OutgoingRefused."""
    checked_addresses(url, policy_of(settings))


def guarded(
    session: AnySession, settings: Settings, *, seconds: float = SECONDS, max_bytes: int = MAX_BYTES
) -> AnySession:
    """Let a session of `requests` reach allowed addresses only. Call it outside a transaction; blocks.

    Each request, with each of its redirects, takes at most `seconds` and reads at most `max_bytes` of its answer. Raises
    OutgoingRefused for an address that is not allowed, and `requests.ConnectionError` or `requests.Timeout`.
    """
    adapter = _GuardedAdapter(policy_of(settings), seconds, max_bytes)
    session.trust_env = False
    for scheme in list(session.adapters):
        session.mount(scheme, adapter)
    return session


def checked_addresses(url: str, policy: FetchPolicy) -> list[str]:
    """Resolve the host of a URL and return its addresses. Raises OutgoingRefused unless all of them are allowed."""
    host, port = host_and_port(url)
    try:
        found = list(policy.resolve(host, port))
    except (OSError, UnicodeError):
        raise OutgoingRefused(f"{host} has no address") from None
    refused = [each for each in found if not policy.allows(each)]
    if refused or not found:
        raise OutgoingRefused(
            f"{host} is {', '.join(refused) or 'nowhere'}, which is not on the public internet"
        )
    if urlsplit(url).scheme != "https" and not all(policy.allows_plain(each) for each in found):
        raise OutgoingRefused("only https:// URLs without credentials are fetched")
    return found


def host_and_port(url: str) -> tuple[str, int]:
    """The host and port of an absolute HTTP URL. Raises OutgoingRefused for anything else."""
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
        raise OutgoingRefused("this is not a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        raise OutgoingRefused("this is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise OutgoingRefused("only https:// URLs without credentials are fetched")
    return host, port


class CheckedConnection(HTTPConnection):
    """A connection to one of the checked addresses, closed at the deadline."""

    def __init__(
        self, host: str, port: int, addresses: Sequence[str], deadline: float, **options: Any
    ) -> None:
        remaining = max(0.1, deadline - time.monotonic())
        super().__init__(host, port, timeout=remaining, **options)
        self._addresses, self._deadline = addresses, deadline
        self._cut = threading.Event()
        self._timer = threading.Timer(remaining, self._abort)
        self._timer.daemon = True
        self._socket: socket.socket | None = None

    def timed_out(self, error: BaseException | None = None) -> bool:
        """Whether the deadline has passed, or this error says so."""
        return self._cut.is_set() or isinstance(error, TimeoutError)

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
        self._cut.set()
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.close()
        if self._socket:
            self._socket.close()


class CheckedTlsConnection(CheckedConnection, HTTPSConnection):
    """The same with TLS, for the name of the host."""


class _GuardedAdapter(HTTPAdapter):
    """Sends each request of a session on a connection of its own, to a checked address."""

    def __init__(self, policy: FetchPolicy, seconds: float, max_bytes: int) -> None:
        super().__init__()
        self._policy, self._seconds, self._max_bytes = policy, seconds, max_bytes

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Send and read the whole answer. The options of the session (proxies, certificates, streaming) do not apply."""
        url = request.url or ""
        addresses = checked_addresses(url, self._policy)
        with self._connection(url, addresses) as connection:
            try:
                return self._exchange(connection, request)
            except (HTTPError, OSError, ValueError) as error:
                if isinstance(error, requests.RequestException):
                    raise
                if connection.timed_out(error):
                    raise requests.Timeout("it takes too long", request=request) from None
                reason = f"the connection failed ({type(error).__name__})"
                raise requests.ConnectionError(reason, request=request) from None

    def _connection(self, url: str, addresses: Sequence[str]) -> CheckedConnection:
        host, port = host_and_port(url)
        deadline = time.monotonic() + self._seconds
        if url.startswith("https:"):
            return CheckedTlsConnection(host, port, addresses, deadline, ssl_context=self._policy.context)
        return CheckedConnection(host, port, addresses, deadline)

    def _exchange(
        self, connection: CheckedConnection, request: requests.PreparedRequest
    ) -> requests.Response:
        connection.request(
            request.method or "GET",
            request.path_url,
            body=request.body,
            headers=dict(request.headers),
            preload_content=False,
        )
        raw = connection.getresponse()
        response = self.build_response(request, raw)
        body = raw.read(self._max_bytes + 1, decode_content=True)
        if connection.timed_out():
            raise TimeoutError
        if len(body) > self._max_bytes:
            raise requests.ConnectionError(f"it answers more than {self._max_bytes:,} bytes", request=request)
        response._content = body
        return response
