"""Tables of turns and their events."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt

TURN_STATES = (
    "queued",  # waits until no other turn of its branch is active
    "running",  # leased to a worker
    "requires_action",  # the client owes the results of tool calls
    "paused",  # a budget is used up; raising it resumes the turn
    "completed",
    "failed",
    "cancelled",  # stopped by a person, or by a newer message
    "interrupted",  # the server ended during the answer; the text is kept
    "expired",  # the client's tool results did not come in time
)
ACTIVE = ("running", "requires_action", "paused")
"""States that occupy the branch."""
ENDED = ("completed", "failed", "cancelled", "interrupted", "expired")

_STATES = ", ".join(f"'{state}'::text" for state in TURN_STATES)
_ACTIVE = ", ".join(f"'{state}'::text" for state in ACTIVE)


class Turn(Base):
    """One turn of a conversation. Amounts are credits.

    `kind` names the code that runs it, `subject_id` is the conversation and `branch_id` the branch of it, of which one turn is active
    at a time. `account_id` pays for its model calls, which are made with the key `key_id` (and `key_secret`, the hash of its secret) of
    `user_id`, in the run `run_id`. `request` is what was asked for, `required_action` what the client owes until `expires_at`. `budget` is the most that
    it may spend, `reserved` what it takes from the budgets above it while it is active; `credits` is what it spent when it ended.
    `lease_owner` runs it until `lease_until`; `call_id` is its model call in flight. `stop` asks the owner to end it: `stop` or
    `interrupt`. `last_seq` is the number of its newest event.
    """

    __tablename__ = "turn"
    __table_args__ = (
        CheckConstraint(f"(state = ANY (ARRAY[{_STATES}]))", name="state_known"),
        CheckConstraint("((state = 'running'::text) = (lease_owner IS NOT NULL))", name="running_is_leased"),
        CheckConstraint("((budget IS NULL) OR (budget > 0))", name="budget_positive"),
        CheckConstraint("(reserved >= 0)", name="reserved_not_negative"),
        CheckConstraint(
            "((stop IS NULL) OR (stop = ANY (ARRAY['stop'::text, 'interrupt'::text])))", name="stop_known"
        ),
        Index(
            "idx_turn_one_active",
            "branch_id",
            unique=True,
            postgresql_where=text(f"(state = ANY (ARRAY[{_ACTIVE}]))"),
        ),
        Index(
            "idx_turn_queued", "branch_id", "created_at", postgresql_where=text("(state = 'queued'::text)")
        ),
        Index("idx_turn_lease", "lease_until", postgresql_where=text("(lease_until IS NOT NULL)")),
        Index("idx_turn_expires", "expires_at", postgresql_where=text("(expires_at IS NOT NULL)")),
        Index("idx_turn_subject", "subject_id", "created_at", "id"),
        Index("idx_turn_account", "account_id", "created_at"),
        Index("idx_turn_user", "user_id"),
        Index("idx_turn_run", "run_id"),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('turn_'::text || gen_random_uuid())")
    )
    kind: Mapped[str]
    subject_id: Mapped[str]
    branch_id: Mapped[str]
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    key_id: Mapped[str]
    key_secret: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=text("'queued'::text"))
    request: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    required_action: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    run_id: Mapped[str | None]
    rounds: Mapped[int] = mapped_column(server_default=text("0"))
    budget: Mapped[int | None] = mapped_column(BigInt)
    reserved: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    credits: Mapped[int | None] = mapped_column(BigInt)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    call_id: Mapped[str | None]
    stop: Mapped[str | None]
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class TurnEvent(Base):
    """An event of a turn, numbered from 1. The pieces of a message's text are deleted once the whole message is there."""

    __tablename__ = "turn_event"

    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
