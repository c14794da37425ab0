"""The interface of a dialect: the format of one kind of client for requests, answers, streams and errors.

The relay and the stream handle calls, meters and bytes; formats are the dialect's. A dialect is stateless: one instance
serves all calls. Requests to providers, and how they report usage, belong to `models/gateway/providers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from models.accounts.key_format import PresentedKey, present
from models.accounts.scopes import CHAT
from models.core.db import now
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.bill import Bill
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.call_session import CallSession
from models.gateway.chat_format import (
    Call,
    UploadedFile,
    UsageMeter,
    request_definitions,
    request_parameters,
)
from models.gateway.dialects.error_shapes import RequestHeaders
from models.gateway.idempotency import EVENT_STREAM, IdempotencyKey
from models.gateway.providers.provider import Provider
from models.gateway.response_state.response_store import ResponseMemory
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import MAX_BODY
from models.ledger.holds import Admission
from models.ledger.payers import NO_HINT, PayerHint, payer_hint

if TYPE_CHECKING:
    from models.gateway.in_flight import InFlightCall

MAX_STORED_REQUEST = 256 << 10
"""Largest total of a request's messages that is stored with the call, in bytes."""

MAX_INVALID_BODY = 32 << 10
"""Largest request without messages that is stored, in bytes."""


class MissingApiKey(DomainError):
    """The request has no API key."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("No API key was given. Send 'Authorization: Bearer <key>'.")


class UnreadableBody(DomainError):
    """The request body cannot be read."""

    def __init__(self, message: str = "The request body cannot be read.") -> None:
        super().__init__(message)


@dataclass(slots=True)
class IncomingRequest:
    """A request as received. `body` is JSON, form fields, or the error of an invalid body; `raw` is its bytes, of a form what
    tells it from others. `memory`: where responses are kept."""

    request_id: str
    key: str = field(repr=False)
    headers: RequestHeaders = field(repr=False)
    body: Any = field(repr=False)
    raw: bytes = field(default=b"", repr=False)
    address: str | None = None
    memory: ResponseMemory | None = field(default=None, repr=False)
    files: tuple[UploadedFile, ...] = field(default=(), repr=False)
    is_form: bool = False
    acts_for: PresentedKey | None = field(default=None, repr=False)
    """The key of a call that the server makes on its own."""
    admitted: "Callable[[InFlightCall], None] | None" = field(default=None, repr=False)
    """Called with the call once it is admitted, before it is sent."""

    @property
    def presented(self) -> PresentedKey:
        """The public id of the key and its secret's hash. Raises MistypedKey."""
        return self.acts_for or present(self.key)


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A client's request for a call. `call` is the parsed call or its error, raised only after the ledger's checks. `byok`
    is the caller's own OpenRouter key, `size` the body's bytes, `payer` what the client says about who pays, `run_budget` the
    credits of the run's envelope as sent."""

    dialect: "Dialect"
    request_id: str
    key: str = field(repr=False)
    call: Call | DomainError
    run_id: str | None = None
    client_id: str | None = None
    byok: str | None = field(default=None, repr=False)
    size: int = 0
    payer: PayerHint = NO_HINT
    run_budget: str | None = None
    body: Any = field(default=None, repr=False)
    """The body of an invalid request, if it is JSON."""
    address: str | None = None
    """The caller's."""
    trace_parent: str | None = None
    """The client's `traceparent`, a W3C header."""
    free: bool = False
    """The client asks for the operator's free mode."""
    resolve: "Callable[[Admission], CallRequest] | None" = field(default=None, repr=False)
    """The request with what it refers to, of which the checked caller is the owner. Raises DomainError."""
    session: CallSession | None = None
    """What the client says about its session, if it names no run."""
    purpose: Mapping[str, str] = field(default_factory=dict)
    """What the client says that the call is for; stored with its parameters."""
    idempotency: IdempotencyKey | None = None
    headers: RequestHeaders | None = field(default=None, repr=False)
    """Of a call with an idempotency key or a session: the form of an error that is stored depends on them."""
    acts_for: PresentedKey | None = field(default=None, repr=False)
    """The key of a call that the server makes on its own, when it does not have the key itself."""
    admitted: "Callable[[InFlightCall], None] | None" = field(default=None, repr=False)
    """Called with the call once it is admitted, before it is sent."""
    _presented: PresentedKey | None = field(default=None, init=False, repr=False)

    @property
    def presented(self) -> PresentedKey:
        """The public id of the key and its secret's hash. Raises MistypedKey."""
        found = self._presented or self.acts_for
        if found is None:
            found = present(self.key)
            object.__setattr__(self, "_presented", found)
        return found

    @property
    def model(self) -> str:
        """The requested model; empty if unreadable."""
        name = self.call.model if isinstance(self.call, Call) else _get(self.body, "model")
        return name if isinstance(name, str) else ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The request's parameters, as stored with the call."""
        found = request_parameters(self.call.body if isinstance(self.call, Call) else self.body)
        return {**found, "client": {**self.purpose}} if self.purpose else found

    def refused_input(self) -> tuple[Any, dict[str, Any] | None]:
        """What is stored of the request if it is refused: its messages and definitions, or a whole body without messages."""
        if isinstance(self.call, Call):
            return self.dialect.stored_input(self.call, self.size)
        messages = _get(self.body, "messages")
        if isinstance(messages, list) and messages:
            return newest_messages(messages, self.size), request_definitions(self.body, self.size)
        return (self.body, None) if self.size <= MAX_INVALID_BODY else (None, None)


def _get(body: Any, key: str) -> Any:
    return body.get(key) if isinstance(body, dict) else None


@dataclass(slots=True)
class WholeAnswer:
    """An answer that is not streamed: its bytes in the dialect's format, their parsed value, and its meter."""

    raw: bytes
    value: Any
    meter: UsageMeter


@dataclass(slots=True)
class Reply:
    """A whole answer for the client. `dropped` names request keys left out for the provider; `run_left` is what the envelope of
    the run leaves, in credits; `stored` is whether a retry with its idempotency key gets it, `served` the header `X-Stoa-Served`."""

    body: bytes
    content_type: str = "application/json"
    dropped: tuple[str, ...] = ()
    run_left: int | None = None
    balance: int | None = None
    """Credits of the account that paid; None if the call was not paid from them."""
    stored: bool = True
    limits: Mapping[str, str] = field(default_factory=dict)
    """Headers about the caller's limits and caps."""
    served: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """What an error's body depends on besides the error."""

    request_id: str
    headers: RequestHeaders
    settings: Settings


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error response: status, JSON body, and headers specific to this dialect."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class StreamTranslator(Protocol):
    """Translates a provider's stream into the client's format and meters it. One per stream; not thread-safe."""

    meter: UsageMeter
    done: bool
    """Whether the provider has ended its answer. Anything after that is ignored."""

    def feed(self, chunk: bytes) -> bytes:
        """Translate a chunk. Returns the bytes to send now. Raises UpstreamError."""

    def end(self, *, cut: bool = False) -> bytes:
        """End the response; `cut` when it broke off. Returns the remaining bytes to send."""

    def final_chunk(self, bill: Bill | None) -> bytes:
        """The chunk held back for the bill, with the billed usage if the client asked for it. None: nothing was charged."""

    def end_event(self) -> bytes:
        """The event that ends a complete answer."""

    def error(self, message: str, code: str, kind: str) -> bytes:
        """The event that reports an error and ends the answer."""


class AnswerCollector(Protocol):
    """Collects a whole answer from the body of a provider's stream. One per answer; not thread-safe."""

    meter: UsageMeter
    done: bool
    """Whether the provider has ended its answer. Anything after that is ignored."""

    def feed(self, chunk: bytes) -> None:
        """Add a chunk of the body. Raises UpstreamError."""

    def answer(self) -> WholeAnswer:
        """End the body: its answer. Raises ProviderError, UpstreamError."""

    def partial(self) -> WholeAnswer:
        """The answer as far as it was received."""


class Dialect(ABC):
    """One client format. `door` names it in the records of calls, `scope` what a key needs for it.

    `body_first`: an unreadable body is refused before any other check. `needs_run`: every call must name a running run.
    `collects`: whole answers can be collected from a stream. `max_answer`: the largest whole answer, in bytes. `form_limit`: how
    many files a form may have; 0: requests are JSON. `shows_caps`: Claude Code shows its user the caps that headers describe
    (`spend_caps.py`).
    """

    door = ""
    scope = CHAT
    body_first = False
    needs_run = False
    collects = False
    max_answer = MAX_BODY
    form_limit = 0
    shows_caps = False

    # requests

    def check_body(self, body: Any) -> None:  # noqa: B027 - most dialects have nothing to check
        """Check a body before the caller is known, if `body_first`. Raises DomainError."""

    @abstractmethod
    def read(self, received: IncomingRequest) -> CallRequest:
        """Parse a request into a call: model, size, output limit, whether it is streamed."""

    def request(
        self,
        received: IncomingRequest,
        call: Call | DomainError,
        *,
        run_id: str | None = None,
        client_id: str | None = None,
        payer: PayerHint | None = None,
    ) -> CallRequest:
        """The call with what the headers say: the run, who pays, and the caller's own key, unless the body said so."""
        headers = received.headers
        invalid = isinstance(call, DomainError) and not isinstance(received.body, DomainError)
        return CallRequest(
            self,
            received.request_id,
            received.key,
            call,
            run_id=run_id or (None if self.needs_run else headers.get("x-stoa-run-id") or None),
            client_id=client_id,
            byok=headers.get("x-openrouter-api-key") or None,
            run_budget=headers.get(RUN_BUDGET) or None,
            size=len(received.raw),
            body=received.body if invalid else None,
            address=received.address,
            trace_parent=headers.get("traceparent"),
            payer=payer or payer_hint(headers.get("x-stoa-org"), headers.get("x-stoa-repo")),
            acts_for=received.acts_for,
            admitted=received.admitted,
        )

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        """The call's first route. Raises NoRoute, OtherModelKind or NoPrice."""
        return routes.find(call.model, byok=request.byok)

    def adapt(self, call: Call, provider: Provider) -> Call:
        """Adapt the call to a provider. The methods below receive the adapted call."""
        return call

    @abstractmethod
    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        """What is stored with the call of a request of `size` bytes, in the format of chat completions: its messages, and its tools and
        formats."""

    @abstractmethod
    def count_text(self, call: Call) -> int:
        """Count the tokens of the request's text."""

    @abstractmethod
    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        """Count the tokens of the whole request. Returns the total, and those of audio and images by bucket."""

    # answers

    @abstractmethod
    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """Parse a provider's response body. Raises ProviderError, UpstreamError."""

    def collector(self, call: Call, route: Route, headers: Mapping[str, str]) -> AnswerCollector:
        """Create the collector of one answer. Dialects that do not collect leave this out."""
        raise NotImplementedError(f"{self.door} does not collect streams")

    @abstractmethod
    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        """The part of a call's answers that is stored, as JSON."""

    @abstractmethod
    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        """Format a call's answers for the client, with the billed usage."""

    # streams

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        """Create the translator of one stream. Dialects that do not stream leave this out."""
        raise NotImplementedError(f"{self.door} does not stream")

    def balance_headers(self, balance: int) -> Mapping[str, str]:
        """Headers of an answer that show the account's credits in the client."""
        return {}

    def stream_type(self, call: Call) -> str:
        """The `Content-Type` of the stream. One that is not of events breaks off on an error."""
        return EVENT_STREAM

    def greeting(self) -> bytes:
        """The first bytes of a stream, sent before the provider responds."""
        return b""

    def heartbeat(self) -> bytes:
        """The bytes sent while the provider is silent, so that proxies keep the connection open."""
        return f": heartbeat {iso_now()}\n\n".encode()

    # errors

    @abstractmethod
    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """Format an error: CallRefused, ProviderError, UpstreamError, a DomainError (also MissingApiKey and
        UnreadableBody), or a bug."""


def newest_messages(messages: list[Any], size: int) -> list[Any]:
    """The newest messages that fit into MAX_STORED_REQUEST, after a note about those left out."""
    if size and size <= MAX_STORED_REQUEST:
        return messages
    stored: list[Any] = []
    remaining = MAX_STORED_REQUEST
    for message in reversed(messages):
        remaining -= len(orjson.dumps(message))
        if remaining < 0:
            break
        stored.append(message)
    if len(stored) == len(messages):
        return messages
    omitted = len(messages) - len(stored)
    note = f"{omitted} earlier message{'s' if omitted > 1 else ''} not stored: a call stores its newest {MAX_STORED_REQUEST >> 10} KiB."
    return [{"role": "note", "content": note}, *reversed(stored)]


def iso_now() -> str:
    """The current time in UTC with milliseconds, in JavaScript's format."""
    return now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
