"""The tables of runs and steps, with the columns PostgreSQL derives from them (contract C.2, C.3)."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import ARRAY, Computed, Enum, ForeignKey, Index, Numeric, Text, func, text
from sqlalchemy.orm import Mapped, column_property, mapped_column

from models.core.db import ACCOUNT, NEW_ID, NOW, Base, BigInt

RUN_STATUSES = ("running", "completed", "failed", "cancelled")
STEP_STATUSES = ("running", "completed", "skipped")

_PUBLISHED = "(agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$'::text)"
# Clients may send any start time, so the difference is clamped to what an integer holds. LEAST and GREATEST pass
# over nulls, hence the CASE: a running run has no duration.
_DURATION = (
    "CASE WHEN (completed_at IS NOT NULL)"
    " THEN (GREATEST(LEAST((EXTRACT(epoch FROM (completed_at - created_at)) * (1000)::numeric),"
    " (2147483647)::numeric), ('-2147483648'::integer)::numeric))::integer ELSE NULL::integer END"
)
_COMPLETED = text("(status = 'completed'::agent_run_status)")
_UNSUCCESSFUL = text("(status = ANY (ARRAY['failed'::agent_run_status, 'cancelled'::agent_run_status]))")


class AgentRun(Base):
    """One execution of an agent. Credits are in credits; `ancestor_run_ids` runs from root to parent. `org_id`: the
    organisation whose key started it; null when it is the person's own."""

    __tablename__ = "agent_run"
    __table_args__ = (
        Index("idx_agent_run_user_id", "user_id", "created_at"),
        Index("idx_agent_run_account", text(ACCOUNT), "created_at"),
        Index("idx_agent_run_account_state", text(ACCOUNT), "status", "created_at"),
        Index("idx_agent_run_account_agent", text(ACCOUNT), "agent_id", "created_at"),
        Index("idx_agent_run_org", "org_id", postgresql_where=text("(org_id IS NOT NULL)")),
        Index("idx_agent_run_parent", "parent_run_id"),
        Index("idx_agent_run_root", "root_run_id"),
        Index("idx_agent_run_agent_id", "agent_id", "created_at"),
        Index("idx_agent_run_publisher", "publisher_id", "created_at"),
        Index(
            "idx_agent_run_status", "status", postgresql_where=text("(status = 'running'::agent_run_status)")
        ),
        Index("idx_agent_run_ancestors_gin", "ancestor_run_ids", postgresql_using="gin"),
        Index(
            "idx_agent_run_completed_publisher_agent",
            "publisher_id",
            "agent_name",
            postgresql_where=_COMPLETED,
        ),
        Index(
            "idx_agent_run_completed_recent",
            "created_at",
            "publisher_id",
            "agent_name",
            postgresql_where=_COMPLETED,
        ),
        Index(
            "idx_agent_run_completed_version",
            "publisher_id",
            "agent_name",
            "agent_version",
            "created_at",
            postgresql_where=_COMPLETED,
        ),
        Index("idx_agent_run_completed_user", "user_id", postgresql_where=_COMPLETED),
        Index("idx_agent_run_unsuccessful", "publisher_id", "agent_name", postgresql_where=_UNSUCCESSFUL),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    agent_id: Mapped[str]
    publisher_id: Mapped[str | None] = mapped_column(
        Computed(
            f"CASE WHEN {_PUBLISHED} THEN split_part(agent_id, '/'::text, 1) ELSE NULL::text END",
            persisted=True,
        )
    )
    agent_name: Mapped[str | None] = mapped_column(
        Computed(
            f"CASE WHEN {_PUBLISHED} THEN split_part(split_part(agent_id, '/'::text, 2), '@'::text, 1)"
            " ELSE agent_id END",
            persisted=True,
        )
    )
    agent_version: Mapped[str | None] = mapped_column(
        Computed(
            f"CASE WHEN {_PUBLISHED} THEN split_part(agent_id, '@'::text, 2) ELSE NULL::text END",
            persisted=True,
        )
    )
    ancestor_run_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    root_run_id: Mapped[str | None] = mapped_column(
        Computed("COALESCE(ancestor_run_ids[1], id)", persisted=True)
    )
    parent_run_id: Mapped[str | None] = mapped_column(
        Computed("ancestor_run_ids[array_length(ancestor_run_ids, 1)]", persisted=True)
    )
    depth: Mapped[int | None] = mapped_column(
        Computed("COALESCE(array_length(ancestor_run_ids, 1), 1)", persisted=True)
    )
    duration_ms: Mapped[int | None] = mapped_column(Computed(_DURATION, persisted=True))
    total_steps: Mapped[int | None] = mapped_column(server_default=text("0"))
    direct_credits: Mapped[Decimal | None] = mapped_column(Numeric, server_default=text("'0'::numeric"))
    total_credits: Mapped[Decimal | None] = mapped_column(Numeric, server_default=text("'0'::numeric"))
    status: Mapped[str] = mapped_column(
        Enum(*RUN_STATUSES, name="agent_run_status"), server_default=text("'running'::agent_run_status")
    )
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    completed_at: Mapped[datetime | None]
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    account_id: Mapped[str | None] = column_property(func.coalesce(org_id, user_id), deferred=True)
    """Whose run it is: the account that its calls are charged to."""


class AgentStep(Base):
    """One step of a run. `spawned_count` is null when the step spawned nothing."""

    __tablename__ = "agent_step"
    __table_args__ = (
        Index("unique_step_number_per_run", "agent_run_id", "step_number", unique=True),
        Index("idx_agent_step_run_id", "agent_run_id"),
        Index("idx_agent_step_children_gin", "child_run_ids", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    agent_run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"))
    step_number: Mapped[int]
    duration_ms: Mapped[int | None] = mapped_column(Computed(_DURATION, persisted=True))
    credits: Mapped[Decimal] = mapped_column(Numeric, server_default=text("'0'::numeric"))
    child_run_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    spawned_count: Mapped[int | None] = mapped_column(
        Computed("array_length(child_run_ids, 1)", persisted=True)
    )
    message_id: Mapped[str | None]
    status: Mapped[str] = mapped_column(
        Enum(*STEP_STATUSES, name="agent_step_status"),
        server_default=text("'completed'::agent_step_status"),
    )
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    completed_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AgentRunVolume(Base):
    """How many steps of a run were recorded and their bytes, so that a limit costs no look at the steps."""

    __tablename__ = "agent_run_volume"

    run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"), primary_key=True)
    steps: Mapped[int] = mapped_column(BigInt)
    bytes: Mapped[int] = mapped_column(BigInt)
