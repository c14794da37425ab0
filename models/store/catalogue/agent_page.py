"""Queries of the agent page: one version, the list of versions, thirty days of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Integer, cast, func, select
from sqlalchemy.orm import aliased

from models.accounts.users import User
from models.core.db import db
from models.core.errors import NotFound
from models.store.publishing import takedowns
from models.store.publishing.takedowns import covers
from models.store.statistics.agent_costs import AgentRunCost, RunFigure
from models.store.tables import Agent, AgentConfig, AgentDay, AgentVersion, Publisher, Takedown

DAYS = 30
SHOWN_VERSIONS = 6
PAGE_SIZE = 25

UNKNOWN = "There is no such agent here"


@dataclass(frozen=True)
class AgentPage:
    """A version with its agent, publisher and definition (`data`). `published_by` is a display name: None for the operator or
    a deleted user."""

    publisher: Publisher
    agent: Agent
    version: AgentVersion
    data: Mapping[str, Any]
    published_by: str | None

    @property
    def full_id(self) -> str:
        """`publisher/agent@version`."""
        return f"{self.publisher.id}/{self.agent.id}@{self.version.version}"

    @property
    def is_latest(self) -> bool:
        """Whether `latest` resolves to this version."""
        return self.version.version == self.agent.latest_version


@dataclass(frozen=True)
class VersionLine:
    """A version in a list, with the display names of who published and yanked it, the reason of its takedown, and what its runs
    cost."""

    version: AgentVersion
    published_by: str | None
    yanked_by: str | None = None
    takedown_reason: str | None = None
    cost: RunFigure | None = None


def find(publisher_id: str, agent_id: str) -> tuple[Publisher, Agent]:
    """A publisher and its agent. One statement. Raises NotFound and TakenDown."""
    query = (
        select(Publisher, Agent)
        .join(Agent, Agent.publisher_id == Publisher.id)
        .where(Publisher.id == publisher_id, Agent.id == agent_id, ~covers(Agent.publisher_id, Agent.id))
    )
    publisher, agent = _one_or_raise(query, publisher_id, agent_id)
    return publisher, agent


def load(publisher_id: str, agent_id: str, version: str) -> AgentPage:
    """Load one version, yanked or not. One statement. Raises NotFound and TakenDown."""
    author = aliased(User)
    key = AgentVersion.publisher_id, AgentVersion.agent_id, AgentVersion.version
    query = (
        select(Publisher, Agent, AgentVersion, AgentConfig.data, author.display_name)
        .select_from(AgentVersion)
        .join(Agent, (Agent.publisher_id == key[0]) & (Agent.id == key[1]))
        .join(Publisher, Publisher.id == key[0])
        .join(
            AgentConfig,
            (AgentConfig.publisher_id == key[0])
            & (AgentConfig.id == key[1])
            & (AgentConfig.version == key[2]),
        )
        .outerjoin(author, author.id == AgentVersion.published_by)
        .where(key[0] == publisher_id, key[1] == agent_id, key[2] == version, ~covers(*key))
    )
    return AgentPage(*_one_or_raise(query, publisher_id, agent_id, version))


def newest_version(agent: Agent) -> str:
    """The version that the agent's URL redirects to: the latest, or the highest if all are yanked."""
    if agent.latest_version:
        return agent.latest_version
    query = select(AgentVersion.version).where(*_of(agent)).order_by(_numeric(AgentVersion.version).desc())
    version = db.session.scalar(query.limit(1))
    if version is None:
        raise NotFound(UNKNOWN)
    return version


def versions_of(agent: Agent, *, below: str | None = None, limit: int = SHOWN_VERSIONS) -> list[VersionLine]:
    """The agent's versions, highest first, starting below the version `below`. One statement."""
    author, yanker = aliased(User), aliased(User)
    query = (
        select(AgentVersion, author.display_name, yanker.display_name, Takedown.reason, AgentRunCost)
        .outerjoin(author, author.id == AgentVersion.published_by)
        .outerjoin(yanker, yanker.id == AgentVersion.yanked_by)
        .outerjoin(
            Takedown,
            (Takedown.publisher_id == AgentVersion.publisher_id)
            & (Takedown.agent_id == AgentVersion.agent_id)
            & (Takedown.version == AgentVersion.version),
        )
        .outerjoin(
            AgentRunCost,
            (AgentRunCost.publisher_id == AgentVersion.publisher_id)
            & (AgentRunCost.agent_id == AgentVersion.agent_id)
            & (AgentRunCost.version == AgentVersion.version),
        )
        .where(*_of(agent))
        .order_by(_numeric(AgentVersion.version).desc())
        .limit(limit)
    )
    if below is not None:
        query = query.where(_numeric(AgentVersion.version) < _numeric(below))
    return [
        VersionLine(version, by, yanked_by, takedown, cost.figure if cost else None)
        for version, by, yanked_by, takedown, cost in db.session.execute(query)
    ]


def daily_runs(agent: Agent, today: date) -> dict[str, dict[date, int]]:
    """Completed runs by version and UTC day, for the thirty days up to `today`. One statement; reads `agent_day` only."""
    days: dict[str, dict[date, int]] = {}
    rows = db.session.execute(
        select(AgentDay.version, AgentDay.day, AgentDay.runs).where(
            AgentDay.publisher_id == agent.publisher_id,
            AgentDay.agent_id == agent.id,
            AgentDay.day.between(today - timedelta(days=DAYS - 1), today),
            AgentDay.runs > 0,
        )
    )
    for version, day, runs in rows:
        days.setdefault(version, {})[day] = runs
    return days


def is_published(publisher_id: str, agent_id: str, version: str) -> bool:
    """Whether the version exists, yanked or not."""
    key = (
        AgentVersion.publisher_id == publisher_id,
        AgentVersion.agent_id == agent_id,
        AgentVersion.version == version,
    )
    return db.session.scalar(select(AgentVersion.version).where(*key)) is not None


def _of(agent: Agent) -> tuple[ColumnElement[bool], ...]:
    return AgentVersion.publisher_id == agent.publisher_id, AgentVersion.agent_id == agent.id


def _numeric(version: Any) -> ColumnElement[Sequence[int]]:
    return cast(func.string_to_array(version, "."), ARRAY(Integer))


def _one_or_raise(query: Any, *names: str) -> Sequence[Any]:
    row = None
    if not any("\x00" in name for name in names):
        row = db.session.execute(query).first()
    if row is None:
        takedowns.refuse(*names)
        raise NotFound(UNKNOWN)
    return row
