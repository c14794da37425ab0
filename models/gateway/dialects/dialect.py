"""What a dialect is: how one kind of client writes its requests, and reads answers, streams and errors.

The relay and the stream know calls, meters and bytes; whatever has a format goes through here. A dialect keeps nothing of
a call: one instance serves all. What providers are sent and how they report usage is theirs (`models/gateway/providers`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from models.core.db import now
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.bill import Bill
from models.gateway.chat_format import Call, UsageMeter
from models.gateway.dialects.error_shapes import RequestHeaders
from models.gateway.providers.provider import Provider
from models.gateway.routing import Route, Router

KEPT_REQUEST = 256 << 10
"""Bytes of a request's messages that are stored with the call."""


class MissingApiKey(DomainError):
    """The request carries no API key."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("No API key was given. Send 'Authorization: Bearer <key>'.")


class UnreadableBody(DomainError):
    """The request's body cannot be read."""

    def __init__(self, message: str = "The request body cannot be read.") -> None:
        super().__init__(message)


@dataclass(slots=True)
class IncomingRequest:
    """What came to a door. `body` is JSON, a form's fields, or what is wrong with what was sent instead; `raw` are its
    bytes."""

    request_id: str
    key: str = field(repr=False)
    headers: RequestHeaders = field(repr=False)
    body: Any = field(repr=False)
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class CallRequest:
    """What a client wants. `call` is its request, or what is wrong with it: the ledger's checks come first. `byok` is the
    caller's own key at OpenRouter, `size` the bytes of the body."""

    dialect: "Dialect"
    request_id: str
    key: str = field(repr=False)
    call: Call | DomainError
    run_id: str | None = None
    client_id: str | None = None
    byok: str | None = field(default=None, repr=False)
    size: int = 0


@dataclass(slots=True)
class WholeAnswer:
    """An answer that is not streamed: its bytes as any client of the dialect reads them, their value, and its measures."""

    raw: bytes
    value: Any
    meter: UsageMeter


@dataclass(slots=True)
class Reply:
    """A whole answer for the client. `dropped` are the keys that the provider was not sent."""

    body: bytes
    content_type: str = "application/json"
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """What the words of an error may depend on, beside the error."""

    request_id: str
    headers: RequestHeaders
    settings: Settings


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error for the client: its status, its JSON, and headers that only this dialect has."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class StreamTranslator(Protocol):
    """Turns what the provider streams into what the client reads, and measures it. One per stream, used by one thread."""

    meter: UsageMeter
    done: bool
    """The provider has said that its answer is over. What it sends after that is not looked at."""

    def feed(self, piece: bytes) -> bytes:
        """Take what came; what of it the client is sent now. Raises UpstreamError."""

    def end(self, *, cut: bool = False) -> bytes:
        """The provider sends no more, because it ended or was `cut` off; what is left for the client."""

    def last_words(self, bill: Bill | None) -> bytes:
        """What waited for the bill, with the usage where the client wants to know it. None: nothing was charged."""

    def closing(self) -> bytes:
        """The event that ends a complete answer."""

    def error(self, message: str, code: str, kind: str) -> bytes:
        """The event that ends an answer that failed."""


class Dialect(ABC):
    """One kind of client. `door` names it in the records of calls.

    `body_first`: a body that cannot be read is refused before anything else is checked. `needs_run`: no call is made
    without a running run.
    """

    door = ""
    body_first = False
    needs_run = False

    # requests

    @abstractmethod
    def read(self, received: IncomingRequest) -> CallRequest:
        """What was received as a call: its model, size, bound of output, and whether it is streamed."""

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        """Where the call goes first. Raises NoRoute, NotChat or NoPrice."""
        return routes.find(call.model, byok=request.byok)

    def adapt(self, call: Call, provider: Provider) -> Call:
        """The call in the form that a provider can be asked in. The methods below are given this form."""
        return call

    @abstractmethod
    def stored_request(self, call: Call, size: int) -> Any:
        """What of a request of `size` bytes is stored with the call, as JSON."""

    @abstractmethod
    def count_text(self, call: Call) -> int:
        """Tokens of the request's text, counted."""

    @abstractmethod
    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        """Tokens of the whole request, and how many of them are sound and pictures, by bucket."""

    # answers

    @abstractmethod
    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """The answer that a provider's body, sent with these headers, is. Raises what the client is told instead: UpstreamRefused, UpstreamError."""

    @abstractmethod
    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        """What is stored of the answers to one call, as JSON."""

    @abstractmethod
    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        """The answers to one call as the client reads them, with the usage that was billed."""

    # streams

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        """The translator of one stream. A dialect whose calls are never streamed has none."""
        raise NotImplementedError(f"{self.door} does not stream")

    def greeting(self) -> bytes:
        """What a stream begins with, before its provider has said anything."""
        return b""

    def heartbeat(self) -> bytes:
        """What is sent while the provider is silent, so that no proxy takes the stream for dead."""
        return f": heartbeat {iso_now()}\n\n".encode()

    # errors

    @abstractmethod
    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """The answer when there is none: `error` is Refused, UpstreamRefused, UpstreamError, a DomainError (NoKey and
        Unreadable among them), or a bug."""


def newest(messages: list[Any], size: int) -> list[Any]:
    """The messages that are stored with a call: the newest that fit, with a note about what was left out."""
    if size and size <= KEPT_REQUEST:
        return messages
    kept: list[Any] = []
    room = KEPT_REQUEST
    for message in reversed(messages):
        room -= len(orjson.dumps(message))
        if room < 0:
            break
        kept.append(message)
    if len(kept) == len(messages):
        return messages
    left = len(messages) - len(kept)
    note = f"{left} earlier message{'s' if left > 1 else ''} not kept: a call keeps its newest {KEPT_REQUEST >> 10} KiB."
    return [{"role": "note", "content": note}, *reversed(kept)]


def iso_now() -> str:
    """The moment in UTC, with milliseconds, as JavaScript writes it."""
    return now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
