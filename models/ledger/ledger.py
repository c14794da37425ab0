"""Tables of the credit ledger: grants, accounts, holds, append-only entries, and sync failures."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Enum, FetchedValue, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import ACCOUNT, NOW, Base, BigInt

GRANT_TYPES = (
    "free",
    "referral",
    "purchase",
    "admin",
    "organization",
    "subscription",
    "referral_legacy",
    "ad",
    "plan",
)


class CreditLedger(Base):
    """A grant of credits. `balance` is the remaining part of `principal`; negative means debt (contract 3.2).

    `operation_id` is the idempotency key. Only the ledger's SQL functions write to this table.
    """

    __tablename__ = "credit_ledger"
    __table_args__ = (
        Index(
            "idx_credit_ledger_active_balance",
            "user_id",
            "balance",
            "expires_at",
            "priority",
            "created_at",
            postgresql_where=text("((balance <> 0) AND (expires_at IS NULL))"),
        ),
        Index("idx_credit_ledger_org", "org_id"),
        Index("idx_credit_ledger_user", "user_id", "type", "created_at"),
        # the sweep finds expired grants with credits left across all accounts
        Index("idx_credit_ledger_expiring", "expires_at", postgresql_where=text("(balance > 0)")),
        # every admission and settlement reads the account's grants with a balance or debt
        Index("idx_credit_ledger_account", text(ACCOUNT), text("(balance <> 0)")),
    )

    operation_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    principal: Mapped[int] = mapped_column(BigInt)
    balance: Mapped[int] = mapped_column(BigInt)
    type: Mapped[str] = mapped_column(Enum(*GRANT_TYPES, name="grant_type"))
    description: Mapped[str | None]
    priority: Mapped[int]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    stripe_subscription_id: Mapped[str | None]


class CreditAccount(Base):
    """The credit account of a user or an organisation. Its row lock is the account's lock.

    `carry_micro` is the unbilled fraction of a credit, in micro-credits. `time_zone` is the IANA name of the clock of its
    budgets, `stop_id` the stop in force (`AccountStop`).
    """

    __tablename__ = "credit_account"
    __table_args__ = (
        CheckConstraint("((carry_micro >= 0) AND (carry_micro < 1000000))", name="carry_micro_fraction"),
        CheckConstraint("(num_nonnulls(user_id, org_id) = 1)", name="single_owner"),
        CheckConstraint("(id = COALESCE(user_id, org_id))", name="id_is_owner"),
        CheckConstraint(
            "(('2000-01-01 00:00:00+00'::timestamp with time zone AT TIME ZONE time_zone) IS NOT NULL)",
            name="time_zone_known",
        ),
        Index("idx_credit_account_stopped", "id", postgresql_where=text("(stop_id IS NOT NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), unique=True)
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), unique=True)
    carry_micro: Mapped[int] = mapped_column(server_default=text("0"))
    stop_id: Mapped[int | None] = mapped_column(BigInt)
    time_zone: Mapped[str] = mapped_column(server_default=text("'UTC'::text"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class CreditHold(Base):
    """Credits reserved for a call in flight. Becomes 'lost' if it expires before the call is settled.

    `funding` is what pays for the call: `plan` (blocks and included credits only), `credits` (all but blocks), `any`, or
    `byok`: nothing of the account, only budgets count it. `envelope_run_id` is the run whose envelope it is held from.
    """

    __tablename__ = "credit_hold"
    __table_args__ = (
        CheckConstraint("(amount >= 0)", name="amount_not_negative"),
        CheckConstraint("(state = ANY (ARRAY['live'::text, 'lost'::text]))", name="state_known"),
        CheckConstraint(
            "(funding = ANY (ARRAY['any'::text, 'plan'::text, 'credits'::text, 'byok'::text]))",
            name="funding_known",
        ),
        Index("idx_credit_hold_live_account", "account_id", postgresql_where=text("(state = 'live'::text)")),
        Index("idx_credit_hold_live_expiry", "expires_at", postgresql_where=text("(state = 'live'::text)")),
        Index("idx_credit_hold_state", "state", "lost_at"),
        Index(
            "idx_credit_hold_envelope",
            "envelope_run_id",
            postgresql_where=text("(envelope_run_id IS NOT NULL)"),
        ),
    )

    request_id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    run_id: Mapped[str | None]
    model: Mapped[str]
    door: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInt)
    worker: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'live'::text"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    lost_at: Mapped[datetime | None]
    funding: Mapped[str] = mapped_column(server_default=text("'any'::text"))
    key_id: Mapped[str | None]
    team_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    root_run_id: Mapped[str | None]
    envelope_run_id: Mapped[str | None]


class CreditEntry(Base):
    """One change to one grant's balance, in credits. Append-only: a trigger rejects UPDATE and DELETE.

    Exception: DELETE is allowed while the setting `stoa.erase_account` names the account.
    """

    __tablename__ = "credit_entry"
    __table_args__ = (
        CheckConstraint(
            "(kind = ANY (ARRAY['grant'::text, 'debit'::text, 'expiry'::text, 'revocation'::text,"
            " 'reinstatement'::text, 'debt_cleared'::text]))",
            name="kind_known",
        ),
        Index("idx_credit_entry_account", "account_id", "id"),
        Index("idx_credit_entry_operation", "operation_id"),
        Index("idx_credit_entry_message", "message_id", postgresql_where=text("(message_id IS NOT NULL)")),
        # what a plan's window lost unused
        Index("idx_credit_entry_expiry", "operation_id", postgresql_where=text("(kind = 'expiry'::text)")),
        # entries other than debits: few rows, which the statement sums and lists
        Index("idx_credit_entry_other", "account_id", "id", postgresql_where=text("(kind <> 'debit'::text)")),
        # charges that are not model calls, looked up by cause
        Index(
            "idx_credit_entry_charge",
            "account_id",
            "cause",
            postgresql_where=text("((kind = 'debit'::text) AND (message_id IS NULL))"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    account_id: Mapped[str]
    operation_id: Mapped[str]
    kind: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInt)
    grant_balance_after: Mapped[int] = mapped_column(BigInt)
    balance_after: Mapped[int] = mapped_column(BigInt)
    cause: Mapped[str]
    message_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    hash: Mapped[bytes] = mapped_column(server_default=FetchedValue())
    """Of the entry and the hash of the account's entry before it; a trigger sets it (`credit_entry_hash`)."""


class SyncFailure(Base):
    """A failed billing operation that waits for a retry. `id` is the operation's id."""

    __tablename__ = "sync_failure"
    __table_args__ = (
        Index(
            "idx_sync_failure_retry",
            "retry_count",
            "last_attempt_at",
            postgresql_where=text("(retry_count < 5)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    last_attempt_at: Mapped[datetime] = mapped_column(server_default=NOW)
    retry_count: Mapped[int] = mapped_column(server_default=text("1"))
    last_error: Mapped[str]
