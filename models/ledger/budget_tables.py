"""Tables of budgets: limits, what was spent of them, raises and requests for more; and envelopes of runs."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, BigInt

LEVELS = ("account", "team", "member", "key", "agent", "run")
PERIODS = ("hour", "day", "week", "month", "total")
PERIOD_NAMES = {"hour": "an hour", "day": "a day", "week": "a week", "month": "a month", "total": "in total"}
"""Each period as it follows an amount."""


def _one_of(column: str, values: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{value}'::text" for value in values)
    return f"({column} = ANY (ARRAY[{listed}]))"


class Budget(Base):
    """A limit in credits on the calls of an account, in each window of a period on the clock of the account's time zone.

    `subject` is the id of a team, user, key, agent (without its version) or root run; without one each of that level has
    the limit separately. A `hard` budget refuses calls, others only warn. `count_byok`: calls paid with the caller's own
    provider key count with their list price. Windows since `counted_since` are compared with the messages by the proof.
    """

    __tablename__ = "budget"
    __table_args__ = (
        CheckConstraint(_one_of("level", LEVELS), name="level_known"),
        CheckConstraint(_one_of("period", PERIODS), name="period_known"),
        CheckConstraint("((level <> 'account'::text) OR (subject IS NULL))", name="account_has_no_subject"),
        CheckConstraint("(limit_credits >= 0)", name="limit_credits_not_negative"),
        CheckConstraint("((warn_percent >= 1) AND (warn_percent <= 100))", name="warn_percent_known"),
        Index("idx_budget_account", "account_id", postgresql_where=text("(ended_at IS NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    level: Mapped[str]
    subject: Mapped[str | None]
    period: Mapped[str]
    limit_credits: Mapped[int] = mapped_column(BigInt)
    warn_percent: Mapped[int] = mapped_column(server_default=text("80"))
    hard: Mapped[bool] = mapped_column(server_default=text("true"))
    count_byok: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    counted_since: Mapped[datetime] = mapped_column(server_default=NOW)
    raised_until: Mapped[datetime | None]
    """When its last raise ends."""
    ended_at: Mapped[datetime | None]


class BudgetSpend(Base):
    """What was spent of a budget in one window, which is named by its start; `subject` is empty for the account.

    `warned_at` is when `warn_percent` was reached, `stopped_at` when the first call was refused.
    """

    __tablename__ = "budget_spend"
    __table_args__ = (
        Index("idx_budget_spend_warned", "warned_at", postgresql_where=text("(warned_at IS NOT NULL)")),
        Index("idx_budget_spend_stopped", "stopped_at", postgresql_where=text("(stopped_at IS NOT NULL)")),
    )

    budget_id: Mapped[str] = mapped_column(ForeignKey("budget.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    spent: Mapped[int] = mapped_column(BigInt)
    warned_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]


class BudgetRequest(Base):
    """A request for more of a budget. `evidence` is what was known when it was made: the forecast, and what used it."""

    __tablename__ = "budget_request"
    __table_args__ = (
        CheckConstraint("(amount > 0)", name="amount_positive"),
        CheckConstraint(_one_of("state", ("open", "approved", "declined", "withdrawn")), name="state_known"),
        Index(
            "idx_budget_request_open",
            "budget_id",
            "subject",
            "user_id",
            unique=True,
            postgresql_where=text("(state = 'open'::text)"),
        ),
        Index("idx_budget_request_budget", "budget_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    budget_id: Mapped[str] = mapped_column(ForeignKey("budget.id", ondelete="CASCADE"))
    subject: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    amount: Mapped[int] = mapped_column(BigInt)
    reason: Mapped[str] = mapped_column(server_default=text("''"))
    run_id: Mapped[str | None]
    evidence: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    state: Mapped[str] = mapped_column(server_default=text("'open'::text"))
    decided_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    decided_at: Mapped[datetime | None]
    answer: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class BudgetRaise(Base):
    """Credits added to a budget's limit for a time, for all subjects (empty) or one, and if `run_id` for that run only."""

    __tablename__ = "budget_raise"
    __table_args__ = (
        CheckConstraint("(amount > 0)", name="amount_positive"),
        Index("idx_budget_raise_budget", "budget_id", "ends_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    budget_id: Mapped[str] = mapped_column(ForeignKey("budget.id", ondelete="CASCADE"))
    subject: Mapped[str] = mapped_column(server_default=text("''"))
    amount: Mapped[int] = mapped_column(BigInt)
    run_id: Mapped[str | None]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    request_id: Mapped[str | None] = mapped_column(ForeignKey("budget_request.id", ondelete="SET NULL"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RunBudget(Base):
    """The envelope of a run: the most that it and its sub-runs may spend. `reserved` is what open envelopes of sub-runs were
    given; when one closes, what it spent moves to the envelope it came from (`parent_run_id`)."""

    __tablename__ = "run_budget"
    __table_args__ = (
        CheckConstraint("(limit_credits >= 0)", name="limit_credits_not_negative"),
        CheckConstraint("(reserved >= 0)", name="reserved_not_negative"),
        CheckConstraint(_one_of("source", ("start", "call", "agent")), name="source_known"),
        Index("idx_run_budget_parent", "parent_run_id"),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"), primary_key=True)
    parent_run_id: Mapped[str | None] = mapped_column(ForeignKey("run_budget.run_id", ondelete="SET NULL"))
    limit_credits: Mapped[int] = mapped_column(BigInt)
    spent: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    reserved: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    source: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    closed_at: Mapped[datetime | None]
