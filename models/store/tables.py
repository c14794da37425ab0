"""The tables of the store: publishers, the versions they published, and what is kept beside them.

`publisher` and `agent_config` are the compatible data model's. Beside them stand one row per agent, which lists and
searches read, one per version with its provenance, and the figures of both: `runs` are completed runs, `credits` what
their calls were billed, `weekly_*` the part whose runs were created since `store_window.since`.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, column_property, mapped_column

from models.core.db import NOW, Base, BigInt

PICTURE = (
    "coalesce((SELECT remote.picture FROM remote_picture AS remote WHERE remote.address = publisher.avatar_url),"
    " publisher.avatar_url)"
)
"""SQL for what a page shows as a publisher's avatar, where it lies here."""

ZERO = text("0")
BUCKETS = 16
"""Buckets of a histogram of durations: those of `usage_rollup.latency_hist`, with other edges (`statistics.py`)."""
NO_DURATIONS = text("array_fill(0, ARRAY[16])")


class Publisher(Base):
    """Who publishes agents: a user or an organisation, exactly one of them."""

    __tablename__ = "publisher"
    __table_args__ = (
        CheckConstraint(
            "(((user_id IS NOT NULL) AND (org_id IS NULL)) OR ((user_id IS NULL) AND (org_id IS NOT NULL)))",
            name="single_owner",
        ),
        Index("idx_publisher_user", "user_id"),
        Index("idx_publisher_org", "org_id"),
        Index("idx_publisher_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]
    verified: Mapped[bool] = mapped_column(server_default=text("false"))
    bio: Mapped[str | None]
    avatar_url: Mapped[str | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="NO ACTION"))
    created_by: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())
    picture: Mapped[str | None] = column_property(literal_column(PICTURE, Text))
    """The avatar as pages show it: `avatar_url`, or what was fetched from there."""


class AgentConfig(Base):
    """One published version of an agent. `major`, `minor`, `patch` come from `version` (contract C.1)."""

    __tablename__ = "agent_config"
    __table_args__ = (Index("idx_agent_config_publisher", "publisher_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    publisher_id: Mapped[str] = mapped_column(
        ForeignKey("publisher.id", ondelete="NO ACTION"), primary_key=True
    )
    major: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 1))::integer", persisted=True)
    )
    minor: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 2))::integer", persisted=True)
    )
    patch: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 3))::integer", persisted=True)
    )
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


class _StatisticsColumns:
    """What is counted of an agent, and of each version of it (`migrations/functions/store` keeps it).

    A run counts when it has a settled call, its own or of a run below it. Completed runs alone make `runs`, `credits`,
    `weekly_*`, `unique_users`, `durations` and `last_used`; what failed and cancelled runs were billed counts in no
    figure. `own_runs` are those of the publisher's own people, however they ended; they count nowhere else. An agent's
    runs of versions that nobody published count for it.
    """

    runs: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    failed: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    cancelled: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    credits: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    weekly_runs: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    weekly_credits: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    unique_users: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    durations: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=NO_DURATIONS)
    last_used: Mapped[datetime | None]
    own_runs: Mapped[int] = mapped_column(BigInt, server_default=ZERO)


class Agent(_StatisticsColumns, Base):
    """An agent as lists show it: what its latest version says of it, and what its publisher says beside.

    `latest_version` is the highest that is not yanked, null when all are. `successor` is `publisher/agent`.
    """

    __tablename__ = "agent"
    __table_args__ = (
        Index("idx_agent_search", "search", postgresql_using="gin"),
        Index("idx_agent_tags", "tags", postgresql_using="gin"),
        Index("idx_agent_by_cost", text("weekly_credits DESC"), "publisher_id", "id"),
        Index("idx_agent_by_usage", text("runs DESC"), "publisher_id", "id"),
        Index("idx_agent_by_users", text("unique_users DESC"), "publisher_id", "id"),
        Index("idx_agent_by_age", text("published_at DESC"), "publisher_id", "id"),
        Index("idx_agent_by_name", text("lower(name)"), "publisher_id", "id"),
        Index("idx_agent_id", "id"),
        Index("idx_agent_vendor", text("split_part(model, '/'::text, 1)")),
    )

    publisher_id: Mapped[str] = mapped_column(
        ForeignKey("publisher.id", ondelete="NO ACTION"), primary_key=True
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    """`data.name`, else `data.displayName`, else the id: the first in which something can be seen."""
    description: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    model: Mapped[str]
    latest_version: Mapped[str | None]
    versions: Mapped[int] = mapped_column(server_default=ZERO)
    readme: Mapped[str | None]
    readme_updated_at: Mapped[datetime | None]
    deprecated_at: Mapped[datetime | None]
    deprecated_reason: Mapped[str | None]
    successor: Mapped[str | None]
    bytes: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    """Of the definitions of all its versions."""
    search: Mapped[str] = mapped_column(TSVECTOR, server_default=text("''::tsvector"), deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    published_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When its newest version was published."""


class AgentVersion(_StatisticsColumns, Base):
    """Provenance, withdrawal and figures of one version. `credential` is the type of session it was published with,
    or `import`."""

    __tablename__ = "agent_version"
    __table_args__ = (
        ForeignKeyConstraint(
            ["agent_id", "version", "publisher_id"],
            ["agent_config.id", "agent_config.version", "agent_config.publisher_id"],
            ondelete="CASCADE",
            name="agent_version_config_fk",
        ),
        ForeignKeyConstraint(
            ["publisher_id", "agent_id"],
            ["agent.publisher_id", "agent.id"],
            ondelete="CASCADE",
            name="agent_version_agent_fk",
        ),
        CheckConstraint(
            "(credential = ANY (ARRAY['web'::text, 'cli'::text, 'pat'::text, 'import'::text]))",
            name="credential_known",
        ),
        CheckConstraint("((yanked_at IS NULL) = (yanked_reason IS NULL))", name="yank_has_reason"),
        Index("idx_agent_version_published", "published_at"),
    )

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    published_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    credential: Mapped[str]
    published_at: Mapped[datetime] = mapped_column(server_default=NOW)
    yanked_at: Mapped[datetime | None]
    yanked_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    yanked_reason: Mapped[str | None]


class Takedown(Base):
    """A publisher, one of its agents (`agent_id`), or one version of that, that operators took out of the store. The
    reason is public; `actor` is not. What it covers stays in its tables, its figures too."""

    __tablename__ = "takedown"
    __table_args__ = (
        CheckConstraint("((version = ''::text) OR (agent_id <> ''::text))", name="version_has_agent"),
    )

    publisher_id: Mapped[str] = mapped_column(
        ForeignKey("publisher.id", ondelete="CASCADE"), primary_key=True
    )
    agent_id: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    version: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    reason: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)


class RemotePicture(Base):
    """An avatar's address on another server, and the picture kept here that was drawn from it (null: none yet). A row
    is made when the first try begins; `problem` says how the last one failed."""

    __tablename__ = "remote_picture"

    address: Mapped[str] = mapped_column(primary_key=True)
    picture: Mapped[str | None]
    problem: Mapped[str | None]
    tries: Mapped[int] = mapped_column(server_default=text("1"))
    tried_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AgentRunBill(Base):
    """What a finished run of an agent of the store counts for, as its figures were last told. `credits` is the sum of
    what its calls were billed; the client's own totals stay on `agent_run`. `own`: of the publisher's own people. Written
    when the run is taken from `store_queue`, so it may be some seconds behind its run."""

    __tablename__ = "agent_run_bill"
    __table_args__ = (
        Index("idx_agent_run_bill_agent", "publisher_id", "agent_id", "created_at"),
        Index("idx_agent_run_bill_created", "created_at"),
    )

    run_id: Mapped[str] = mapped_column(primary_key=True)
    publisher_id: Mapped[str]
    agent_id: Mapped[str]
    version: Mapped[str]
    user_id: Mapped[str | None]
    status: Mapped[str]
    credits: Mapped[int] = mapped_column(BigInt)
    duration_ms: Mapped[int] = mapped_column(BigInt)
    created_at: Mapped[datetime]
    own: Mapped[bool] = mapped_column(server_default=text("false"))


class StoreQueue(Base):
    """A run to be counted: it ended, was corrected or deleted, or a call of it was settled, which alone does not say of
    which agent it is. Triggers add rows in the transaction of the cause, `counting.apply` takes them out; a run may wait in
    several."""

    __tablename__ = "store_queue"

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    run_id: Mapped[str]
    publisher_id: Mapped[str | None]
    agent_id: Mapped[str | None]


class AgentDay(Base):
    """The runs of an agent created on one UTC day, by version. `credits` are those of completed runs; `own_runs` are its
    publisher's, which are in no other column."""

    __tablename__ = "agent_day"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    failed: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    cancelled: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    credits: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    own_runs: Mapped[int] = mapped_column(BigInt, server_default=ZERO)


class AgentUser(Base):
    """How many completed runs of an agent somebody has, by version and (`version` empty) altogether."""

    __tablename__ = "agent_user"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(BigInt)


class StoreWindow(Base):
    """The one row that says since when runs count for the week; it moves on as the clock does."""

    __tablename__ = "store_window"
    __table_args__ = (CheckConstraint("id", name="single"),)

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    since: Mapped[datetime]


class StoreStamp(Base):
    """The one row that every transaction moves on that changes what the store shows, its figures aside: `stamp` is
    the number of the last one. A trigger keeps it."""

    __tablename__ = "store_stamp"
    __table_args__ = (CheckConstraint("id", name="single"),)

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    stamp: Mapped[int] = mapped_column(BigInt)


class StoreFacet(Base):
    """How many agents there are of one kind to choose from: `total` (`agents`, `verified`, `deprecated`), and the eight most
    frequent of each `tag`, `publisher` and `vendor`. Deprecated agents count in the total of that name alone. The
    trigger that keeps `store_stamp` keeps these, too."""

    __tablename__ = "store_facet"

    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    agents: Mapped[int] = mapped_column(BigInt)
