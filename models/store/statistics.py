"""What the figures of an agent say: its days, its success rate, its median duration, which versions are used."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from sqlalchemy import func, select

from models.db import BigInt, db
from models.store.tables import AgentDay, AgentVersion

EDGES_MS = (
    250,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    40_000,
    60_000,
    120_000,
    300_000,
    600_000,
    1_200_000,
    3_600_000,
    7_200_000,
)
"""Lower edges of the buckets 1 to 15 of `durations`; bucket 0 starts at nil and the last has no upper edge.

`store_bucket` in the database counts by the same; what was counted would lie if they changed.
"""

_BOUNDS = list(pairwise((0, *EDGES_MS)))


@dataclass(frozen=True, slots=True)
class Day:
    """One UTC day of an agent. `credits` are what its completed runs were billed."""

    day: date
    runs: int = 0
    failed: int = 0
    cancelled: int = 0
    credits: int = 0


@dataclass(frozen=True, slots=True)
class Adoption:
    """How much a version is used: completed runs ever and this week, and its share (0 to 1) of the agent's week, or
    of all its runs in a week without any. Runs of versions that nobody published have no line."""

    version: str
    runs: int
    weekly_runs: int
    unique_users: int
    share: float


def days_of(
    publisher_id: str,
    agent_id: str,
    version: str | None = None,
    *,
    now: datetime,
    days: int = 30,
) -> list[Day]:
    """The last `days` UTC days of an agent, or of one version, oldest first and the running one last; days without a
    run are there with zeros. Days count by the start of a run."""
    last = now.astimezone(UTC).date()
    first = last - timedelta(days=days - 1)
    figures = (AgentDay.runs, AgentDay.failed, AgentDay.cancelled, AgentDay.credits)
    query = (
        select(AgentDay.day, *(func.sum(figure).cast(BigInt) for figure in figures))
        .where(
            AgentDay.publisher_id == publisher_id,
            AgentDay.agent_id == agent_id,
            AgentDay.day.between(first, last),
        )
        .group_by(AgentDay.day)
    )
    if version is not None:
        query = query.where(AgentDay.version == version)
    found = {day: Day(day, *counted) for day, *counted in db.session.execute(query)}
    return [found.get(day) or Day(day) for day in (first + timedelta(days=n) for n in range(days))]


def success_rate(runs: int, failed: int) -> float | None:
    """The share (0 to 1) of completed runs among those that completed or failed; None when none did.

    A cancelled run says nothing of the agent.
    """
    return runs / (runs + failed) if runs + failed else None


def median_duration_ms(durations: Sequence[int]) -> float | None:
    """How long half of the completed runs took at most, in ms, interpolated inside its bucket; None without a run.

    In the open last bucket its lower edge, two hours: what is known, and no more.
    """
    half = sum(durations) / 2
    if not half:
        return None
    before = 0
    for (low, high), count in zip(_BOUNDS, durations, strict=False):
        if count and before + count >= half:
            return low + (high - low) * (half - before) / count
        before += count
    return float(EDGES_MS[-1])


def adoption_of(publisher_id: str, agent_id: str) -> list[Adoption]:
    """How much each published version is used, the most used first, then the newest."""
    rows = db.session.execute(
        select(AgentVersion.version, AgentVersion.runs, AgentVersion.weekly_runs, AgentVersion.unique_users)
        .where(AgentVersion.publisher_id == publisher_id, AgentVersion.agent_id == agent_id)
        .order_by(AgentVersion.weekly_runs.desc(), AgentVersion.runs.desc(), AgentVersion.published_at.desc())
    ).all()
    week, ever = sum(row.weekly_runs for row in rows), sum(row.runs for row in rows)
    return [
        Adoption(
            row.version,
            row.runs,
            row.weekly_runs,
            row.unique_users,
            row.weekly_runs / week if week else row.runs / ever if ever else 0.0,
        )
        for row in rows
    ]
