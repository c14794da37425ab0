"""One version of an agent as its page shows it: what it is, its versions, thirty days of runs."""

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
from models.store.tables import Agent, AgentConfig, AgentDay, AgentVersion, Publisher, Takedown

DAYS = 30
SHOWN_VERSIONS = 6
PAGE_SIZE = 25

UNKNOWN = "There is no such agent here"


@dataclass(frozen=True)
class AgentPage:
    """A version of an agent with its agent and publisher. `data` is its definition, `by` the name of who published it; None when that was the operator, or somebody who left."""

    publisher: Publisher
    agent: Agent
    version: AgentVersion
    data: Mapping[str, Any]
    by: str | None

    @property
    def full_id(self) -> str:
        """`publisher/agent@version`."""
        return f"{self.publisher.id}/{self.agent.id}@{self.version.version}"

    @property
    def is_latest(self) -> bool:
        """Whether `latest` means this version."""
        return self.version.version == self.agent.latest_version


@dataclass(frozen=True)
class VersionLine:
    """A version in a list, the names of who published and who withdrew it, and why it was taken down."""

    version: AgentVersion
    by: str | None
    yanked_by: str | None = None
    down: str | None = None


def find(publisher_id: str, agent_id: str) -> tuple[Publisher, Agent]:
    """A publisher and its agent. One statement. Raises NotFound, or TakenDown."""
    query = (
        select(Publisher, Agent)
        .join(Agent, Agent.publisher_id == Publisher.id)
        .where(Publisher.id == publisher_id, Agent.id == agent_id, ~covers(Agent.publisher_id, Agent.id))
    )
    publisher, agent = _one(query, publisher_id, agent_id)
    return publisher, agent


def sheet_of(publisher_id: str, agent_id: str, version: str) -> AgentPage:
    """One version, yanked or not. One statement. Raises NotFound, or TakenDown."""
    author = aliased(User)
    key = AgentVersion.publisher_id, AgentVersion.agent_id, AgentVersion.version
    query = (
        select(Publisher, Agent, AgentVersion, AgentConfig.data, _person(author))
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
    return AgentPage(*_one(query, publisher_id, agent_id, version))


def newest_version(agent: Agent) -> str:
    """The version that the agent's own address shows: the latest, or the highest when all are yanked."""
    if agent.latest_version:
        return agent.latest_version
    query = select(AgentVersion.version).where(*_of(agent)).order_by(_numbers(AgentVersion.version).desc())
    version = db.session.scalar(query.limit(1))
    if version is None:
        raise NotFound(UNKNOWN)
    return version


def versions_of(agent: Agent, *, below: str | None = None, limit: int = SHOWN_VERSIONS) -> list[VersionLine]:
    """The agent's versions, highest first, those below the version `below`. One statement."""
    author, yanker = aliased(User), aliased(User)
    query = (
        select(AgentVersion, _person(author), _person(yanker), Takedown.reason)
        .outerjoin(author, author.id == AgentVersion.published_by)
        .outerjoin(yanker, yanker.id == AgentVersion.yanked_by)
        .outerjoin(
            Takedown,
            (Takedown.publisher_id == AgentVersion.publisher_id)
            & (Takedown.agent_id == AgentVersion.agent_id)
            & (Takedown.version == AgentVersion.version),
        )
        .where(*_of(agent))
        .order_by(_numbers(AgentVersion.version).desc())
        .limit(limit)
    )
    if below is not None:
        query = query.where(_numbers(AgentVersion.version) < _numbers(below))
    return [VersionLine(*row) for row in db.session.execute(query)]


def days_of(agent: Agent, today: date) -> dict[str, dict[date, int]]:
    """Completed runs by version and UTC day, of the thirty days that end with `today`. One statement that reads no runs."""
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
    """Whether there is such a version, yanked or not."""
    key = (
        AgentVersion.publisher_id == publisher_id,
        AgentVersion.agent_id == agent_id,
        AgentVersion.version == version,
    )
    return db.session.scalar(select(AgentVersion.version).where(*key)) is not None


def _of(agent: Agent) -> tuple[ColumnElement[bool], ...]:
    return AgentVersion.publisher_id == agent.publisher_id, AgentVersion.agent_id == agent.id


def _numbers(version: Any) -> ColumnElement[Sequence[int]]:
    return cast(func.string_to_array(version, "."), ARRAY(Integer))


def _person(user: Any) -> ColumnElement[str | None]:
    """How the store names somebody: by their name, else by what stands before the @ of their address and no more."""
    return func.coalesce(func.nullif(func.btrim(user.name), ""), func.split_part(user.email, "@", 1))


def _one(query: Any, *names: str) -> Sequence[Any]:
    row = None
    if not any("\x00" in name for name in names):
        row = db.session.execute(query).first()
    if row is None:
        takedowns.refuse(*names)
        raise NotFound(UNKNOWN)
    return row
