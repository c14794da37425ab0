"""What the relay knows about a request and its response, in any dialect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from models.core.errors import DomainError
from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.chat_format.token_usage import Usage


class BadCall(DomainError):
    """The body is JSON but not a valid request. `param` names the invalid key."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(slots=True)
class KeptAnswer:
    """An answer that is kept under an id of ours. `facts`: what it says about that, by key. `write` keeps an answer and its JSON, and
    never raises."""

    id: str
    facts: Mapping[str, Any]
    write: Callable[[Mapping[str, Any], bytes], None] = field(repr=False)
    ended: tuple[Mapping[str, Any], bytes] | None = field(default=None, repr=False)
    """The answer that the client gets, once it is written."""

    def keep(self) -> None:
        """Keep the answer. Called once it is settled."""
        if self.ended is not None:
            self.write(*self.ended)


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file in a form. `key` is its name in the form; `seconds` how long it is, of audio, if known."""

    key: str
    name: str
    content_type: str
    data: bytes = field(repr=False)
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed and validated request.

    `max_output` is the client's limit per choice, in tokens (None: the model's own limit; 0: no output).
    `input_tokens` is a conservative estimate from the size of the text; `text_bytes` is the size without media, an
    upper bound of the text's tokens. `body` is the JSON object as sent. `wants_usage`: the
    client asked for the usage chunk of a stream. `answers`: how many answers are merged into one, normally 1.
    """

    model: str
    stream: bool
    n: int
    max_output: int | None
    input_tokens: int
    text_bytes: int
    body: dict[str, Any] = field(repr=False)
    wants_usage: bool = False
    answers: int = 1
    format: str = "chat"
    """The format of `body` (`models/gateway/formats`)."""
    original: Mapping[str, Any] | None = field(default=None, repr=False)
    """The client's body, if `body` is a translation of it."""
    left_out: tuple[str, ...] = ()
    """What a translation into that format could not express."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The client's headers that a provider of the same format gets."""
    answer: KeptAnswer | None = None
    """Where the answer is kept; None: nowhere."""

    caller: str = ""
    """Whose earlier answers are remembered for it: the SHA-256 of the key."""
    inputs: int = 1
    """How many inputs the text is divided into, each up to the model's context window."""
    files: tuple[UploadedFile, ...] = field(default=(), repr=False)
    """The files of a form, which is sent on as one."""

    @property
    def client_body(self) -> Mapping[str, Any]:
        """The body as the client sent it."""
        return self.body if self.original is None else self.original

    def with_body(self, **changes: Any) -> "Call":
        """A copy of the call with these keys of its body set."""
        return replace(self, body={**self.body, **changes})

    def streamed(self) -> "Call":
        """The call as it is sent to a provider that streams the answer for a client that wants it whole."""
        body = {key: value for key, value in self.body.items() if key != "stream_options"}
        return replace(self, stream=True, body=body)


@dataclass(frozen=True, slots=True)
class ProviderFailure:
    """An error reported by the provider. `plain`: it was not a standard error object. `details`: the rest of it, as
    JSON."""

    message: str
    status: int | None = None
    code: Any = None
    type: Any = None
    param: Any = None
    metadata: Any = None
    plain: bool = False
    details: Any = None


class UsageMeter(Protocol):
    """Extracts usage, output and errors from a provider's events. One per call; not thread-safe."""

    id: str | None
    model: str | None
    provider: str | None
    failure: ProviderFailure | None
    created: int | None
    output: GeneratedOutput
    """Everything generated: stored, and counted when the provider reports no usage."""
    started: bool
    """Output was generated."""
    billed: bool
    """The final usage was reported: nothing was generated after it."""
    amended: bool
    """The last event or body had a form that clients do not parse, and was rewritten in place."""
    raw_usage: Mapping[str, Any] | None
    """The last usage object that the provider reported, unchanged. Placeholders are ignored."""
    reported: Usage | None
    """The last valid reported usage: a lower bound until the response ends."""
    served: tuple[str, ...]
    """How the call was served, as far as that has a price of its own (`served_ways.py`)."""

    @property
    def finished(self) -> bool:
        """Every requested choice has a finish reason."""

    @property
    def ended(self) -> bool:
        """Every started choice has a finish reason; there may be fewer than requested."""

    @property
    def empty(self) -> bool:
        """Nothing was generated and no usage reported."""

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        """Process one stream event. `is_error`: its event name marks it as an error. True if it reported usage."""

    def body(self, body: Mapping[str, Any]) -> None:
        """Process a complete response body."""

    def usage(self) -> Usage | None:
        """The usage that the provider last reported for the whole response. None if there is none, it is invalid, or
        more output followed."""

    @property
    def cost(self) -> Decimal | None:
        """Cost of the whole call in dollars, if the provider reported it."""

    @property
    def answer(self) -> Any:
        """The response to store: the text, or the assistant message if it has tool calls."""

    @property
    def reasoning(self) -> str:
        """The stored part of the reasoning text (bounded)."""
