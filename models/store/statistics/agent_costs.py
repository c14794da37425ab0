"""What a run of an agent costs and how long it takes: median and p95 of completed runs of the last 30 days, by version."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Text, and_, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db
from models.store.tables import Agent

DAYS = 30
BANDS = ("1", "10", "100", "more")
"""Ranges of the median cost of a run, named by their largest value in credits, as `store_cost_band` does."""

FIELDS = ("version", "runs", "median", "p95", "median_ms", "p95_ms")
"""The columns of `RunFigure`."""

_RECOUNT = text("SELECT store_count_facets() FROM (SELECT FROM store_stamp FOR UPDATE) AS locked")
_REFRESH = text(
    """
    WITH figures AS MATERIALIZED (
        SELECT publisher_id, agent_id, coalesce(version, '') AS version, count(*) AS runs,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY credits) AS median,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY credits) AS p95,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms) AS median_ms,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
        FROM agent_run_bill
        WHERE created_at > :since AND status = 'completed' AND NOT own
        GROUP BY GROUPING SETS ((publisher_id, agent_id, version), (publisher_id, agent_id))
    ), gone AS (
        DELETE FROM agent_run_cost AS old WHERE NOT EXISTS (
            SELECT FROM figures AS f
            WHERE f.publisher_id = old.publisher_id AND f.agent_id = old.agent_id AND f.version = old.version
        )
    )
    INSERT INTO agent_run_cost AS old (publisher_id, agent_id, version, runs, median, p95, median_ms, p95_ms)
    SELECT * FROM figures
    ON CONFLICT (publisher_id, agent_id, version) DO UPDATE
        SET runs = excluded.runs, median = excluded.median, p95 = excluded.p95, median_ms = excluded.median_ms,
            p95_ms = excluded.p95_ms
        WHERE (old.*) IS DISTINCT FROM (excluded.*)
    """
)


@dataclass(frozen=True, slots=True)
class RunFigure:
    """Median and p95 of the credits and milliseconds of `runs` completed runs in 30 days; an empty `version` means all versions.

    Each is the figure of one of these runs (`percentile_disc`), so none is below the smallest or above the largest.
    """

    version: str
    runs: int
    median: int
    p95: int
    median_ms: int | None
    p95_ms: int | None

    @property
    def median_dollars(self) -> Decimal:
        """The median in dollars."""
        return Decimal(self.median) / 100

    @property
    def p95_dollars(self) -> Decimal:
        """The 95th percentile in dollars."""
        return Decimal(self.p95) / 100


class AgentRunCost(Base):
    """Median and p95 of the credits and milliseconds of `runs` completed runs of a version in 30 days; an empty `version` is
    the agent. Milliseconds are null until the first refresh after their migration.

    The publisher's own runs are left out. Without runs in 30 days there is no row.
    """

    __tablename__ = "agent_run_cost"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(BigInteger)
    median: Mapped[int] = mapped_column(BigInteger)
    p95: Mapped[int] = mapped_column(BigInteger)
    median_ms: Mapped[int | None] = mapped_column(BigInteger)
    p95_ms: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def figure(self) -> RunFigure:
        """The row as a value."""
        return RunFigure(self.version, self.runs, self.median, self.p95, self.median_ms, self.p95_ms)


def refresh(now: datetime) -> None:
    """Recompute the cost of every agent from the bills of the 30 days up to `now`, and the filter options that count them.

    Idempotent; reads those bills once. Locks the store's stamp, as commits of publishers do. The job runs one at a time.
    """
    db.session.execute(_REFRESH, {"since": now - timedelta(days=DAYS)})
    db.session.execute(_RECOUNT)


def of_version(publisher_id: str, agent_id: str, version: str) -> RunFigure | None:
    """The cost and duration of a run of this version, None without runs in 30 days. One statement."""
    row = db.session.get(AgentRunCost, (publisher_id, agent_id, version))
    return row.figure if row else None


def of_agents(publisher_id: str, agents: Sequence[Agent]) -> dict[str, RunFigure]:
    """What lists show of these agents of a publisher, by id: the figure of the latest version, else of all. One statement."""
    latest = {agent.id: agent.latest_version for agent in agents}
    rows = db.session.scalars(
        select(AgentRunCost).where(
            AgentRunCost.publisher_id == publisher_id,
            AgentRunCost.agent_id.in_(latest),
            AgentRunCost.version.in_({"", *latest.values()}),
        )
    ).all()
    shown = sorted(
        (row for row in rows if row.version in ("", latest[row.agent_id])), key=lambda row: row.version
    )
    return {row.agent_id: row.figure for row in shown}


def shown_band() -> ColumnElement[str]:
    """SQL for the range of the cost that lists show of an `agent`: of its latest version, else of all versions, else null."""
    median = shown_cost().with_only_columns(AgentRunCost.median).correlate(Agent)
    return band_of(median.scalar_subquery())


def shown_cost() -> Select[Any]:
    """The cost that lists show of an `agent` of the query around: of its latest version, else of all versions, else no row.
    Columns `cost_version`, `cost_runs` and so on, as `RunFigure`."""
    cost = AgentRunCost
    columns = [getattr(cost, name).label(f"cost_{name}") for name in FIELDS]
    agent = (cost.publisher_id == Agent.publisher_id, cost.agent_id == Agent.id)
    shown = cost.version.in_((Agent.latest_version, ""))
    return select(*columns).where(*agent, shown).order_by(cost.version.desc()).limit(1)


def of_agent(cost: Any, version: Any) -> ColumnElement[bool]:
    """SQL condition that joins `cost`, an alias of the table, to a version of `agent`; empty for all versions."""
    return and_(cost.publisher_id == Agent.publisher_id, cost.agent_id == Agent.id, cost.version == version)


def band_of(median: ColumnElement[int]) -> ColumnElement[str]:
    """SQL for the range of a median in credits; null for null."""
    return func.store_cost_band(median, type_=Text)
