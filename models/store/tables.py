"""The tables of the store: publishers, agents, versions and their statistics.

`publisher` and `agent_config` belong to the compatible data model. `agent` has one row per agent, for lists and searches;
`agent_version` one per version, with its provenance. Statistics of both: `runs` are completed runs, `credits` what their calls
were billed, `weekly_*` the part created since `store_window.since`.
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
"""SQL for the avatar that pages show: the fetched copy of a remote picture, else `avatar_url`."""

ZERO = text("0")
BUCKETS = 16
"""Buckets of the histogram of durations (`statistics/durations.py`)."""
NO_DURATIONS = text("array_fill(0, ARRAY[16])")


class Publisher(Base):
    """A publisher of agents, owned by either a user or an organisation."""

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
    """The avatar that pages show: `avatar_url`, or its fetched copy."""


class AgentConfig(Base):
    """A published version with its definition. `major`, `minor` and `patch` are generated from `version` (contract C.1)."""

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
    """Statistics of an agent or a version, maintained by `migrations/functions/store`.

    A run counts if it has a settled call, its own or one of a descendant run. Only completed runs make `runs`, `credits`,
    `weekly_*`, `unique_users`, `durations` and `last_used`; credits of failed and cancelled runs are not counted. `own_runs`
    are the publisher's own runs in any status, counted nowhere else. Runs of unpublished versions count for the agent.
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
    """An agent for lists and searches: the metadata of its latest version, README and deprecation.

    `latest_version` is the highest that is neither yanked nor taken down, or null. `successor` is `publisher/agent`.
    """

    __tablename__ = "agent"
    __table_args__ = (
        Index("idx_agent_search", "search", postgresql_using="gin"),
        Index("idx_agent_tags", "tags", postgresql_using="gin"),
        Index("idx_agent_by_cost", text("weekly_credits DESC"), "publisher_id", "id"),
        Index("idx_agent_by_usage", text("runs DESC"), "publisher_id", "id"),
        Index("idx_agent_by_stars", text("stars DESC"), "publisher_id", "id"),
        Index("idx_agent_by_users", text("unique_users DESC"), "publisher_id", "id"),
        Index("idx_agent_by_age", text("published_at DESC"), "publisher_id", "id"),
        Index("idx_agent_by_name", text("lower(name)"), "publisher_id", "id"),
        Index("idx_agent_id", "id"),
        Index("idx_agent_vendor", text("split_part(model, '/'::text, 1)")),
        Index("idx_agent_license", "license", postgresql_where=text("(license IS NOT NULL)")),
    )

    publisher_id: Mapped[str] = mapped_column(
        ForeignKey("publisher.id", ondelete="NO ACTION"), primary_key=True
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    """`data.name`, `data.displayName` or the id: the first with a visible character."""
    description: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    model: Mapped[str]
    license: Mapped[str | None]
    """An SPDX expression, or other text."""
    latest_version: Mapped[str | None]
    versions: Mapped[int] = mapped_column(server_default=ZERO)
    readme: Mapped[str | None]
    readme_updated_at: Mapped[datetime | None]
    deprecated_at: Mapped[datetime | None]
    deprecated_reason: Mapped[str | None]
    successor: Mapped[str | None]
    bytes: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    """Total size of the definitions of all versions, in bytes."""
    stars: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    """Users who starred it, counted by a trigger of `agent_star`."""
    search: Mapped[str] = mapped_column(TSVECTOR, server_default=text("''::tsvector"), deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    published_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When its newest version was published."""


class AgentVersion(_StatisticsColumns, Base):
    """Provenance, yank and statistics of a version. `credential` is the type of session that published it, or `import`."""

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
    changelog: Mapped[str | None]
    """What its publisher wrote about what is new in it, in Markdown."""
    downloads: Mapped[int] = mapped_column(BigInt, server_default=ZERO)
    """Downloads of its definition, one per visitor and day."""


class Takedown(Base):
    """A takedown of a publisher, an agent (`agent_id`) or a version. `reason` is public, `actor` is not. The rows it covers are
    kept, with their statistics."""

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
    """The URL of an avatar on another server, and the path of its stored copy (null: none yet). Inserted at the first attempt;
    `problem` is the error of the last one."""

    __tablename__ = "remote_picture"

    address: Mapped[str] = mapped_column(primary_key=True)
    picture: Mapped[str | None]
    problem: Mapped[str | None]
    tries: Mapped[int] = mapped_column(server_default=text("1"))
    tried_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AgentRunBill(Base):
    """What a finished run is counted as. `credits` is the sum its calls were billed; the client's totals stay on `agent_run`.
    `own`: the publisher's own run. Written when the run is dequeued, so it can be some seconds behind the run."""

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
    """The queue of runs to count: finished, corrected, deleted, or with a settled call (without its agent). Triggers insert rows in
    the transaction of the cause, `counting.apply_queue` deletes them. A run can have several rows."""

    __tablename__ = "store_queue"

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    run_id: Mapped[str]
    publisher_id: Mapped[str | None]
    agent_id: Mapped[str | None]


class AgentDay(Base):
    """Runs of an agent by version and UTC day of creation. `credits` are of completed runs; `own_runs` are the publisher's own,
    in no other column."""

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
    """Completed runs of an agent by user and version; an empty `version` is the total."""

    __tablename__ = "agent_user"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(BigInt)


class StoreWindow(Base):
    """One row: the start of the 7-day window of `weekly_*`."""

    __tablename__ = "store_window"
    __table_args__ = (CheckConstraint("id", name="single"),)

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    since: Mapped[datetime]


class StoreStamp(Base):
    """One row: the version of the store. A trigger sets `stamp` to the id of the last transaction that changed the store, except
    for statistics."""

    __tablename__ = "store_stamp"
    __table_args__ = (CheckConstraint("id", name="single"),)

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    stamp: Mapped[int] = mapped_column(BigInt)


class StoreFacet(Base):
    """The number of agents per filter option: `total` (`agents`, `verified`, `deprecated`), and the eight most frequent values
    of `tag`, `publisher`, `vendor` and `license`. Deprecated agents count in `deprecated` only. Maintained by the trigger of
    `store_stamp`."""

    __tablename__ = "store_facet"

    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    agents: Mapped[int] = mapped_column(BigInt)
