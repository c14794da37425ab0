"""Tables of runners, of the work that they take, and of what is asked of them while they have it."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import TEXT, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base

CONNECTED_FOR = timedelta(seconds=60)
"""How long after its last request a runner counts as connected."""
HELD = ("leased", "running")
WORK_STATES = (
    "queued",  # waits for a runner
    "leased",  # a runner took it, and has not begun
    "running",
    "done",
    "failed",  # no runner took it, or the runner could not do it
    "lost",  # the runner is gone, with what it had done
)
ENDED_WORK = ("done", "failed", "lost")


def _among(column: str, words: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{word}'::text" for word in words)
    return f"({column} = ANY (ARRAY[{listed}]))"


class Runner(Base):
    """A program that takes work for the account. `key_id` is the public id of its key; without that key it is disconnected for good.
    `version`, `platform` and `isolation`, what commands are confined by there, are what it says of itself."""

    __tablename__ = "runner"
    __table_args__ = (
        UniqueConstraint("account_id", "name"),
        CheckConstraint("((name <> ''::text) AND (length(name) <= 60))", name="name_length"),
        CheckConstraint("(cardinality(labels) <= 20)", name="labels_few"),
        Index("idx_runner_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('runner_'::text || gen_random_uuid())")
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_key.key_id", ondelete="CASCADE"), unique=True)
    name: Mapped[str]
    labels: Mapped[list[str]] = mapped_column(ARRAY(TEXT), server_default=text("'{}'::text[]"))
    version: Mapped[str | None]
    platform: Mapped[str | None]
    isolation: Mapped[str | None]
    last_seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    def connected(self, moment: datetime) -> bool:
        """Whether it asked for work a moment ago."""
        return self.last_seen_at is not None and self.last_seen_at > moment - CONNECTED_FOR


class RunnerWork(Base):
    """Something that a runner with all of these labels does for the account. `kind` is what: `workplace`, the files of a tree at which verbs are
    performed one after the other (`RunnerAction`). `attempts` counts the runners that took it and is the number of the lease, which each request of
    the runner names and prolongs; `opener_until`, until when the server's process that wants it lives, if it is not prolonged. `stop_asked`:
    the runner is to end it; `stop_seq`: the newest action whose command is to end. `answered_seq` is the newest action that was answered.
    `calls_as`: in whose name its programs make model calls (`CallsAs`), if they may."""

    __tablename__ = "runner_work"
    __table_args__ = (
        CheckConstraint("(kind = ANY (ARRAY['workplace'::text]))", name="kind_known"),
        CheckConstraint(_among("state", WORK_STATES), name="state_known"),
        CheckConstraint(f"({_among('state', HELD)} = (lease_until IS NOT NULL))", name="leased"),
        CheckConstraint(f"({_among('state', ENDED_WORK)} = (ended_at IS NOT NULL))", name="ended"),
        Index("idx_runner_work_account", "account_id", "created_at", "id"),
        Index("idx_runner_work_runner", "runner_id"),
        Index("idx_runner_work_open", "opener_until", postgresql_where=text("(ended_at IS NULL)")),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('work_'::text || gen_random_uuid())")
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    kind: Mapped[str]
    labels: Mapped[list[str]] = mapped_column(ARRAY(TEXT), server_default=text("'{}'::text[]"))
    state: Mapped[str] = mapped_column(server_default=text("'queued'::text"))
    runner_id: Mapped[str | None] = mapped_column(ForeignKey("runner.id", ondelete="SET NULL"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    opener_until: Mapped[datetime]
    request: Mapped[dict[str, Any]] = mapped_column(JSONB)
    calls_as: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    stop_asked: Mapped[bool] = mapped_column(server_default=text("false"))
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    answered_seq: Mapped[int] = mapped_column(server_default=text("0"))
    stop_seq: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]


class RunnerAction(Base):
    """A verb that the runner is to perform at the files of its work, numbered from 1; gone when the work has ended. `sealed` are its arguments,
    which may hold values of environment variables; `output` is what its command wrote so far, in `output_parts` parts."""

    __tablename__ = "runner_action"

    work_id: Mapped[str] = mapped_column(ForeignKey("runner_work.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    verb: Mapped[str]
    sealed: Mapped[str]
    output: Mapped[str] = mapped_column(server_default=text("''::text"))
    output_parts: Mapped[int] = mapped_column(server_default=text("0"))
    reply: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
