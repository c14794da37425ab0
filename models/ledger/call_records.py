"""A model call as the ledger sees it: what was admitted, what it came to, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from models.core.errors import DomainError

Outcome = Literal[
    "admitted",  # the hold is taken: call the upstream, then settle or fail
    "checked",  # `hold` was None: every check passed, nothing was taken
    "unknown_key",  # no such key, or expired, or its owner left the organisation that pays: 401 (contract 5.2 row 3)
    "banned",  # 403 (row 4)
    "out_of_credits",  # nothing left, after the quota cycle: 402 (row 5)
    "no_run",  # `require_run` and no run id: 400 (row 6)
    "run_not_found",  # no such run of this user on this account: 400 (row 7)
    "run_not_running",  # 400 (row 8)
    "insufficient",  # something is left, but not enough for the input, or for this hold beside the calls in flight: 402
]


class LedgerUnavailable(DomainError):
    """The ledger could not be reached, did not get its turn within the time given, or refused to write.

    `sqlstate` is what PostgreSQL said; None when it said nothing.
    """

    status = 503
    code = "ledger_unavailable"
    retry_after = 5
    """Seconds after which asking again may help, for `Retry-After`."""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    """What a call asks of the ledger before it may go on. `hold` is credits; None checks without taking anything."""

    token_hash: str
    """SHA-256 hex of the key."""
    request_id: str
    hold: int | None
    minimum: int = 0
    """Credits that must be free even for a call that is alone: what its input costs."""
    run_id: str | None = None
    require_run: bool = False
    door: str = "openai"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """What `admit` decided and found out. Amounts are credits. Fields after `outcome` are None where unknown."""

    outcome: Outcome
    request_id: str
    key_id: str
    """SHA-256 of the key used (`session.sessionToken`)."""
    user_id: str | None = None
    org_id: str | None = None
    """The organisation whose account pays; None: the person's own."""
    run_id: str | None = None
    """The run that was asked for; it exists and is the caller's only if the outcome says admitted or checked."""
    agent_id: str | None = None
    """The run's agent, for `message.agent_id`."""
    balance: int = 0
    """Active net balance before this call: grants less debt."""
    held: int = 0
    """Live holds of the account's other calls."""
    hold: int = 0
    """What was asked to be held, and is when admitted."""
    minimum: int = 0
    """What was asked to be free at least."""
    next_quota_reset: datetime | None = None
    hold_expires_at: datetime | None = None
    door: str = ""

    @property
    def account_id(self) -> str | None:
        """The account that pays."""
        return self.org_id or self.user_id

    @property
    def available(self) -> int:
        """Credits no other call has a claim on; may be negative."""
        return self.balance - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A finished call as the relay knows it. Text may contain anything, numbers may be absurd: `settle` cleans
    and clamps. Tokens are disjoint (uncached input + cache write + cache read = prompt), reasoning is within
    output."""

    provider: str
    requested_model: str
    model: str
    """As the upstream reported it."""
    usage_source: Literal["provider", "counted", "estimated"]
    uncached_input_tokens: int
    output_tokens: int
    cost: Decimal
    """Provider dollars, before margin."""
    margin: Decimal
    latency_ms: int
    started_at: datetime
    response: Any
    """`message.response`: any JSON value; the contract's is the assistant's text as a string."""
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0
    message_id: str | None = None
    """The upstream's completion id; None or empty: the request id is taken."""
    price: dict[str, Any] | None = None
    """The prices used, dollars per million tokens as strings."""
    parts: dict[str, int] = field(default_factory=dict)
    """Tokens within the totals that have a price of their own, and units charged by the piece, by bucket."""
    raw_usage: Any = None
    """The provider's own usage object."""
    flags: Sequence[str] = ()
    """What an operator should see of the bill."""
    byok: bool = False
    """The caller's own provider key paid: credits are computed and nothing is charged (contract 3.15)."""
    request: Any = None
    reasoning_text: str = ""
    client_id: str | None = None
    client_request_id: str | None = None
    """None: the run id, else the request id (contract 5.5)."""
    repo_url: str | None = None
    stream: bool = False
    client_gone: bool = False
    ttft_ms: int | None = None
    http_status: int | None = 200
    error: str | None = None
    """What went wrong although the call is billed, such as a stream cut by the upstream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailure:
    """A call that is over and costs nothing: refused, unreachable, or an error before any use."""

    requested_model: str
    started_at: datetime
    latency_ms: int
    error: str
    provider: str | None = None
    model: str | None = None
    http_status: int | None = None
    """The upstream's status, None when there was no answer."""
    stream: bool = False
    client_gone: bool = False
    ttft_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of `settle`."""

    request_id: str
    message_id: str | None
    """None for the reserved test user and for a user deleted meanwhile: no row was written."""
    credits: int
    """Charged, the carried credit included; for BYOK the computed credits, which are not charged."""
    carry_credits: int
    """How much of `credits` completes a credit out of earlier calls that rounded to zero: 0 or 1."""
    micro_credits: int
    balance: int
    """The account's net balance afterwards."""
    from_purchased: int
    """Credits taken from purchase grants (contract 3.4)."""
    debt: int
    """Credits of this charge that no grant covered."""
    duplicate: bool
    """This request had been settled before; nothing was done and the figures are those of the first time."""


@dataclass(frozen=True, slots=True)
class LostHold:
    """A hold whose call never settled nor failed: its upstream may have been reached and paid."""

    request_id: str
    account_id: str
    user_id: str
    email: str
    run_id: str | None
    model: str
    door: str
    amount: int
    worker: str
    created_at: datetime
    lost_at: datetime
