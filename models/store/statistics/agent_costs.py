"""What a run of an agent costs: median and p95 of the credits billed for completed runs of the last 30 days, by version."""

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

_RECOUNT = text("SELECT store_count_facets() FROM (SELECT FROM store_stamp FOR UPDATE) AS locked")
_REFRESH = text(
    """
    WITH figures AS MATERIALIZED (
        SELECT publisher_id, agent_id, coalesce(version, '') AS version, count(*) AS runs,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY credits) AS median,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY credits) AS p95
        FROM agent_run_bill
        WHERE created_at > :since AND status = 'completed' AND NOT own
        GROUP BY GROUPING SETS ((publisher_id, agent_id, version), (publisher_id, agent_id))
    ), gone AS (
        DELETE FROM agent_run_cost AS old WHERE NOT EXISTS (
            SELECT FROM figures AS f
            WHERE f.publisher_id = old.publisher_id AND f.agent_id = old.agent_id AND f.version = old.version
        )
    )
    INSERT INTO agent_run_cost AS old (publisher_id, agent_id, version, runs, median, p95) SELECT * FROM figures
    ON CONFLICT (publisher_id, agent_id, version) DO UPDATE
        SET runs = excluded.runs, median = excluded.median, p95 = excluded.p95
        WHERE (old.runs, old.median, old.p95) <> (excluded.runs, excluded.median, excluded.p95)
    """
)


@dataclass(frozen=True, slots=True)
class CostFigure:
    """Median and p95 of the credits of `runs` completed runs in 30 days; an empty `version` means all versions."""

    version: str
    runs: int
    median: int
    p95: int

    @property
    def median_dollars(self) -> Decimal:
        """The median in dollars."""
        return Decimal(self.median) / 100

    @property
    def p95_dollars(self) -> Decimal:
        """The 95th percentile in dollars."""
        return Decimal(self.p95) / 100


class AgentRunCost(Base):
    """Median and p95 of the credits of `runs` completed runs of a version in 30 days; an empty `version` is the agent.

    The publisher's own runs are left out. Without runs in 30 days there is no row.
    """

    __tablename__ = "agent_run_cost"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(BigInteger)
    median: Mapped[int] = mapped_column(BigInteger)
    p95: Mapped[int] = mapped_column(BigInteger)


def refresh(now: datetime) -> None:
    """Recompute the cost of every agent from the bills of the 30 days up to `now`, and the filter options that count them.

    Idempotent; reads those bills once. Locks the store's stamp, as commits of publishers do. The job runs one at a time.
    """
    db.session.execute(_REFRESH, {"since": now - timedelta(days=DAYS)})
    db.session.execute(_RECOUNT)


def of_version(publisher_id: str, agent_id: str, version: str) -> CostFigure | None:
    """The cost of a run of this version, None without runs in 30 days. One statement."""
    row = db.session.get(AgentRunCost, (publisher_id, agent_id, version))
    return CostFigure(row.version, row.runs, row.median, row.p95) if row else None


def shown_band() -> ColumnElement[str]:
    """SQL for the range of the cost that lists show of an `agent`: of its latest version, else of all versions, else null."""
    median = shown_cost().with_only_columns(AgentRunCost.median).correlate(Agent)
    return band_of(median.scalar_subquery())


def shown_cost() -> Select[Any]:
    """The cost that lists show of an `agent` of the query around: of its latest version, else of all versions, else no row.
    Columns `cost_version`, `cost_runs`, `cost_median`, `cost_p95`."""
    cost = AgentRunCost
    columns = [getattr(cost, name).label(f"cost_{name}") for name in ("version", "runs", "median", "p95")]
    agent = (cost.publisher_id == Agent.publisher_id, cost.agent_id == Agent.id)
    shown = cost.version.in_((Agent.latest_version, ""))
    return select(*columns).where(*agent, shown).order_by(cost.version.desc()).limit(1)


def of_agent(cost: Any, version: Any) -> ColumnElement[bool]:
    """SQL condition that joins `cost`, an alias of the table, to a version of `agent`; empty for all versions."""
    return and_(cost.publisher_id == Agent.publisher_id, cost.agent_id == Agent.id, cost.version == version)


def band_of(median: ColumnElement[int]) -> ColumnElement[str]:
    """SQL for the range of a median in credits; null for null."""
    return func.store_cost_band(median, type_=Text)
