"""Records of a model call in the ledger: admission request and outcome, settlement, failure, lost hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from models.core.errors import DomainError
from models.ledger.idempotent_calls import StoredAnswer

Outcome = Literal[
    "admitted",  # the hold is taken: call the upstream, then settle or fail
    "checked",  # `hold` was None: every check passed, no hold was taken
    "unknown_key",  # no such key, or expired, or its owner left the organisation that pays: 401 (contract 5.2 row 3)
    "key_expired",  # the key is right, and has expired: 401
    "banned",  # 403 (row 4)
    "ip_not_allowed",  # the key may not be used from the caller's address: 403
    "insufficient_permissions",  # the key lacks the scope: 403
    "model_not_allowed",  # the key may not use the model: 403
    "agent_not_allowed",  # the key may be used in runs of certain agents only: 403
    "fields_dropped",  # the key is strict, and fields of the request would be dropped: 400
    "key_busy",  # the key has as many calls in flight as it may: 429
    "key_rate",  # the key made as many calls in the last minute as it may, or used as many tokens: 429
    "stopped",  # all calls of the account were stopped: 403
    "out_of_credits",  # nothing left, after the quota cycle: 402 (row 5)
    "no_run",  # `require_run` and no run id: 400 (row 6)
    "run_not_found",  # no such run of this user on this account: 400 (row 7)
    "run_not_running",  # 400 (row 8)
    "insufficient",  # the balance is below `minimum`, even without other calls in flight: 402
    "plan_limit",  # a window of the plan is used up, and the person does not continue with credits: 429
    "plan_rate",  # more calls in a minute than the plan allows: 429
    "model_not_in_plan",  # and the person does not continue with credits: 403
    "budget",  # a budget leaves less than `hold`, even without other calls in flight: 402
    "budget_held",  # a budget leaves less because calls in flight hold it: 429
    "org_not_found",  # the named organisation does not exist, or the caller is no member: 404
    "org_conflict",  # the key of an organisation names another one: 403
    "org_role",  # the caller's role in the organisation makes no calls: 403
    "org_sso",  # the organisation requires single sign-on, and the person's key is not authorised for it: 403
    "team_model",  # the caller's team in the organisation may not use the model: 403
    "team_repository",  # the caller's team may make calls from its repositories only: 403
    "held",  # the balance covers `minimum`, but calls in flight hold too much of it for this hold: 429
]


Funding = Literal[
    "any",  # all grants, blocks of a plan first
    "plan",  # blocks, then the credits that a plan includes
    "credits",  # all grants but blocks
    "byok",  # nothing of the account: the caller's own provider key pays
]
"""What pays for a call."""


class LedgerUnavailable(DomainError):
    """The ledger is unreachable, timed out or refused to write.

    `sqlstate` is PostgreSQL's error code, or None when it sent none.
    """

    status = 503
    code = "ledger_unavailable"
    retry_after = 5
    """Seconds, for `Retry-After`."""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    """A call's request for admission. `hold` is in credits; None checks without taking a hold."""

    token_hash: str
    """The public id of the key: its SHA-256 in hex, except for keys with an id of their own."""
    request_id: str
    hold: int | None
    minimum: int = 0
    """Credits that must be available even if no other call is in flight: the cost of the input and a short answer."""
    run_id: str | None = None
    require_run: bool = False
    door: str = "openai"
    model: str = ""
    """As requested."""
    route_model: str = ""
    """The name under which it is listed. A plan covers a model by either name."""
    byok: bool = False
    """The caller's own provider key pays. Then `hold`, of the list price, counts in budgets that count such calls."""
    run_budget: int | None = None
    """Credits of the run's envelope, if it has none yet."""
    org: str | None = None
    """The id or slug of the organisation that the caller wants to pay."""
    repo_url: str | None = None
    """The repository that the call is for, in normal form; empty if it was unreadable."""
    ip: str | None = None
    """The caller's address."""
    secret: str | None = None
    """SHA-256 hex of a key with an id of its own, which `token_hash` then is."""
    scope: str | None = None
    """What the call needs of such a key."""
    drops: Sequence[str] = ()
    """Fields of the request that would be dropped, which a strict key refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRefusal:
    """A budget that refused a call, or one in force for it. Amounts are credits; times are ISO 8601."""

    budget_id: str | None
    """None for the envelope of a run."""
    level: str
    subject: str
    period: str
    hard: bool
    credits: int
    """The limit, raises included."""
    raised: int
    spent: int
    held: int
    """By other calls in flight."""
    free: int
    resets_at: str | None
    needed: int
    chain: list[dict[str, Any]]
    """Every budget in force for the call, with the fields above; this one first."""
    name: str
    """Of the subject."""
    approvers: list[str]
    """Names of people who can raise it; empty for one's own account."""

    @property
    def resets(self) -> datetime | None:
        """When the window ends; None for a budget in total."""
        return None if self.resets_at is None else datetime.fromisoformat(self.resets_at)


@dataclass(frozen=True, slots=True)
class Admission:
    """The outcome of `admit` and what it looked up. Amounts are credits; unknown fields are None."""

    outcome: Outcome
    request_id: str
    key_id: str
    """The public id of the key used (`session.sessionToken`)."""
    user_id: str | None = None
    org_id: str | None = None
    """The organisation whose account pays; None for a personal account."""
    run_id: str | None = None
    """The requested run. Verified to exist and belong to the caller only if the outcome is admitted or checked."""
    agent_id: str | None = None
    """The run's agent, for `message.agent_id`."""
    balance: int = 0
    """What the call's funding had before this call: active grants minus debt."""
    held: int = 0
    """What other calls hold of it."""
    hold: int = 0
    """The requested hold; taken if admitted."""
    minimum: int = 0
    """The requested minimum of available credits."""
    next_quota_reset: datetime | None = None
    hold_expires_at: datetime | None = None
    door: str = ""
    model: str = ""
    """As requested."""
    funding: Funding = "any"
    limit_label: str = ""
    """The window of the plan that is used up, such as `weekly`, or for `plan_rate` the requests per minute."""
    limit_resets_at: datetime | None = None
    team_id: str | None = None
    """The team of the organisation that pays."""
    paid_by: str | None = None
    """Why that account pays: as `message.paid_by`."""
    repo_url: str | None = None
    """The repository of the call, or of its run."""
    refusal: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the message of a refusal: `org`, `role`, `team`, `scope`, `fields` and others."""
    budget: BudgetRefusal | None = None
    """The budget that refused the call; only if the outcome is `budget` or `budget_held`."""
    run_left: int | None = None
    """What the run's envelope leaves without this call's hold; None without an envelope."""
    rules: Mapping[str, Any] | None = None
    """Of a key with an id of its own: `rpm` and `tpm`, its limits a minute or None, and `strict`."""
    claimed: bool = False
    """Whether the call has an idempotency key."""

    @property
    def account_id(self) -> str | None:
        """The account that pays."""
        return self.org_id or self.user_id

    @property
    def available(self) -> int:
        """Balance minus the holds of other calls; may be negative."""
        return self.balance - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A finished call as the relay reports it. Values are untrusted: `settle` sanitizes text and clamps numbers.
    Token counts are disjoint (uncached input + cache write + cache read = prompt); output includes reasoning."""

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
    """The upstream's completion id; if None or empty, the request id is used."""
    price: dict[str, Any] | None = None
    """The prices used, dollars per million tokens as strings."""
    parts: dict[str, int] = field(default_factory=dict)
    """Separately priced tokens within the totals, and units priced per item, by bucket."""
    raw_usage: Any = None
    """The provider's own usage object."""
    flags: Sequence[str] = ()
    """Billing anomalies for operators to review."""
    byok: bool = False
    """Paid with the caller's own provider key: credits are computed but not charged (contract 3.15)."""
    request: Any = None
    reasoning_text: str = ""
    client_id: str | None = None
    client_request_id: str | None = None
    """Defaults to the run id, else the request id (contract 5.5)."""
    stream: bool = False
    client_gone: bool = False
    ttft_ms: int | None = None
    http_status: int | None = 200
    error: str | None = None
    """An error in a call that is still billed, such as a stream cut off by the upstream."""
    error_message: str | None = None
    """The error in full."""
    parameters: Mapping[str, Any] | None = None
    """The request's parameters (`request_parameters`)."""
    definitions: Mapping[str, Any] | None = None
    """The request's tools and formats (`request_definitions`)."""
    routing: Mapping[str, Any] | None = None
    """How the call came to its provider (`RouteTrail.record`)."""
    answer: StoredAnswer | None = None
    """The answer for retries, if the call has an idempotency key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailure:
    """A call that ended without cost: refused, upstream unreachable, or an error before any usage."""

    requested_model: str
    started_at: datetime
    latency_ms: int
    error: str
    provider: str | None = None
    model: str | None = None
    http_status: int | None = None
    """The status that the client got."""
    stream: bool = False
    client_gone: bool = False
    ttft_ms: int | None = None
    error_message: str | None = None
    """Why it failed, in full."""
    request: Any = None
    """As `Settlement.request`."""
    response: Any = None
    """What had arrived of the answer."""
    parameters: Mapping[str, Any] | None = None
    """As `Settlement.parameters`."""
    definitions: Mapping[str, Any] | None = None
    """As `Settlement.definitions`."""
    routing: Mapping[str, Any] | None = None
    """As `Settlement.routing`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefusal:
    """A call that was refused before it was admitted. `org_id` is the organisation that was to pay, if admission found one;
    else the account is that of the key."""

    request_id: str
    key_id: str
    """The public id of the key."""
    door: str
    requested_model: str
    error: str
    http_status: int
    """The status that the client got."""
    error_message: str
    started_at: datetime
    latency_ms: int
    org_id: str | None = None
    run_id: str | None = None
    stream: bool = False
    request: bytes | None = None
    """JSON that jsonb accepts; None if it is not kept."""
    parameters: Mapping[str, Any] | None = None
    definitions: bytes | None = None
    """As `request`."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of `settle`."""

    request_id: str
    message_id: str | None
    """None if no row was written: the reserved test user, or a user deleted in the meantime."""
    credits: int
    """Credits charged, including a completed carry credit; for BYOK computed but not charged."""
    carry_credits: int
    """The part of `credits` that comes from earlier calls that rounded to zero: 0 or 1."""
    micro_credits: int
    balance: int
    """The account's net balance afterwards."""
    from_purchased: int
    """Credits taken from purchase grants (contract 3.4)."""
    debt: int
    """The part of this charge that no grant covered."""
    duplicate: bool
    """This request was already settled; nothing changed, and the other fields repeat the first settlement."""
    run_left: int | None = None
    """What the run's envelope leaves; None without an envelope."""


@dataclass(frozen=True, slots=True)
class LiveHold:
    """The hold of a call in flight."""

    request_id: str
    model: str
    """As requested."""
    credits: int
    since: datetime


@dataclass(frozen=True, slots=True)
class LostHold:
    """A hold whose call neither settled nor failed: the upstream may have served and charged it."""

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
