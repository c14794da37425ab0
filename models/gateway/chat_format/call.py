"""What the relay knows of a request and of its answer, whatever dialect they are written in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from models.core.errors import DomainError
from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.chat_format.token_usage import Usage


class BadCall(DomainError):
    """The body is JSON, yet no call can be made of it. `param` names the key that is wrong."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read and checked.

    `max_output` is the client's bound per choice (None: the model's own; 0: there is no output), `input_tokens` a cautious guess from
    the size of the text, `text_bytes` what is no medium, and so the most tokens that the text can have. `body` is the
    JSON object as it was sent, `wants_usage` whether a stream's client asked for the usage chunk. `dialect` names the
    format of `body`; `answers` is how many answers the client wants merged into one, 1 for the ordinary case.
    """

    dialect: str
    model: str
    stream: bool
    n: int
    max_output: int | None
    input_tokens: int
    text_bytes: int
    body: dict[str, Any] = field(repr=False)
    wants_usage: bool = False
    answers: int = 1

    def with_body(self, **changes: Any) -> "Call":
        """The same call with some keys of its body set."""
        return replace(self, body={**self.body, **changes})


@dataclass(frozen=True, slots=True)
class ProviderFailure:
    """An error in the provider's words. `plain`: it was no error object of the usual form. `details` is what else the
    provider said, as JSON."""

    message: str
    status: int | None = None
    code: Any = None
    type: Any = None
    param: Any = None
    metadata: Any = None
    plain: bool = False
    details: Any = None


class UsageMeter(Protocol):
    """Eats the provider's events and knows what was used. One per call, not shared between threads."""

    id: str | None
    model: str | None
    provider: str | None
    failure: ProviderFailure | None
    created: int | None
    output: GeneratedOutput
    """All that was generated and seen, to be stored, and counted when the provider is silent."""
    started: bool
    """Something was generated."""
    billed: bool
    """A usage has been seen that ends the answer: nothing was generated after it."""
    amended: bool
    """The event or answer that was taken last had a form that clients do not read, and was given theirs."""
    raw_usage: Mapping[str, Any] | None
    """The last usage that the provider reported, as it came; what is only a placeholder does not count."""
    reported: Usage | None
    """The last reported usage that can be believed: a lower bound, while more may come."""

    @property
    def finished(self) -> bool:
        """Every choice said why it ended."""

    @property
    def ended(self) -> bool:
        """Every choice that began said why it ended: fewer, it may be, than were asked for."""

    @property
    def empty(self) -> bool:
        """Nothing was generated, and no use reported."""

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        """Take one event of a stream, which its name may call an error; whether it reported usage."""

    def body(self, body: Mapping[str, Any]) -> None:
        """Take a whole answer."""

    def usage(self) -> Usage | None:
        """The provider's own figures for the whole answer: its last ones. None when it gave none, none that can be
        believed, or more was generated after them."""

    @property
    def cost(self) -> Decimal | None:
        """Dollars that the provider says the whole call cost, whatever its tokens look like."""

    @property
    def answer(self) -> Any:
        """What is stored as the call's response: the text; with tool calls, the assistant's message."""

    @property
    def reasoning(self) -> str:
        """The reasoning's text as far as it is kept (bounded)."""
