"""One version of an agent as its page shows it: what it is, its versions, and thirty days of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import ARRAY, Executable, Integer, bindparam, cast, func, select, text

from models.accounts import User
from models.db import Database
from models.errors import NotFound
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

DAYS = 30
SHOWN_VERSIONS = 6
PAGE_SIZE = 25

_NUMBERS = cast(func.string_to_array(AgentVersion.version, "."), ARRAY(Integer))
UNKNOWN = "There is no such agent here"

# Put together once: that takes as long as asking.
_AGENT = (
    select(Publisher, Agent)
    .join(Agent, Agent.publisher_id == Publisher.id)
    .where(Publisher.id == bindparam("publisher"), Agent.id == bindparam("agent"))
)
_VERSION = (AgentVersion.publisher_id == bindparam("publisher")) & (
    AgentVersion.agent_id == bindparam("agent")
)
_SHEET = (
    select(Publisher, Agent, AgentVersion, AgentConfig.data, User.name)
    .select_from(AgentVersion)
    .join(Agent, (Agent.publisher_id == AgentVersion.publisher_id) & (Agent.id == AgentVersion.agent_id))
    .join(Publisher, Publisher.id == AgentVersion.publisher_id)
    .join(
        AgentConfig,
        (AgentConfig.publisher_id == AgentVersion.publisher_id)
        & (AgentConfig.id == AgentVersion.agent_id)
        & (AgentConfig.version == AgentVersion.version),
    )
    .outerjoin(User, User.id == AgentVersion.published_by)
    .where(_VERSION, AgentVersion.version == bindparam("version"))
)
_YANKER = User.__table__.alias()
_VERSIONS = (
    select(AgentVersion, User.name, _YANKER.c.name)
    .outerjoin(User, User.id == AgentVersion.published_by)
    .outerjoin(_YANKER, _YANKER.c.id == AgentVersion.yanked_by)
    .where(_VERSION)
    .order_by(_NUMBERS.desc())
    .limit(bindparam("limit"))
)
_DAYS = text(
    """
    SELECT version, day, runs FROM agent_day
    WHERE publisher_id = :publisher AND agent_id = :agent AND day > :before AND day <= :today AND runs > 0
    """
)


@dataclass(frozen=True)
class Sheet:
    """A version of an agent with its agent and publisher. `data` is its definition, `by` the name of who published it."""

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
    """A version in a list, and the names of who published and who withdrew it."""

    version: AgentVersion
    by: str | None
    yanked_by: str | None = None


def find(database: Database, publisher_id: str, agent_id: str) -> tuple[Publisher, Agent]:
    """A publisher and its agent. One statement. Raises NotFound."""
    row = _one(database, _AGENT, {"publisher": publisher_id, "agent": agent_id})
    return row[0], row[1]


def sheet_of(database: Database, publisher_id: str, agent_id: str, version: str) -> Sheet:
    """One version, yanked or not. One statement. Raises NotFound."""
    return Sheet(*_one(database, _SHEET, {"publisher": publisher_id, "agent": agent_id, "version": version}))


def newest_version(database: Database, agent: Agent) -> str:
    """The version that the agent's own address shows: the latest, or the highest when all are yanked."""
    if agent.latest_version:
        return agent.latest_version
    query = select(AgentVersion.version).where(*_of(agent)).order_by(_NUMBERS.desc()).limit(1)
    version = database.scalar(query)
    if version is None:
        raise NotFound(UNKNOWN)
    return version


def versions_of(
    database: Database, agent: Agent, *, below: str | None = None, limit: int = SHOWN_VERSIONS
) -> list[VersionLine]:
    """The agent's versions, highest first, those below the version `below`. One statement."""
    words = {"publisher": agent.publisher_id, "agent": agent.id, "limit": limit}
    query = _VERSIONS
    if below is not None:
        query = query.where(cast(func.string_to_array(below, "."), ARRAY(Integer)) > _NUMBERS)
    return [VersionLine(*row) for row in database.execute(query, words)]


def is_published(database: Database, publisher_id: str, agent_id: str, version: str) -> bool:
    """Whether there is such a version, yanked or not."""
    key = (
        AgentVersion.publisher_id == publisher_id,
        AgentVersion.agent_id == agent_id,
        AgentVersion.version == version,
    )
    return database.scalar(select(AgentVersion.version).where(*key)) is not None


def days_of(database: Database, agent: Agent, today: date) -> dict[str, dict[date, int]]:
    """Completed runs by version and UTC day, for the thirty days that end with `today`. One statement."""
    words = {"publisher": agent.publisher_id, "agent": agent.id}
    span = {"before": today - timedelta(days=DAYS), "today": today}
    found: dict[str, dict[date, int]] = {}
    for version, day, runs in database.execute(_DAYS, words | span):
        found.setdefault(version, {})[day] = runs
    return found


def _of(agent: Agent) -> tuple[Any, ...]:
    return AgentVersion.publisher_id == agent.publisher_id, AgentVersion.agent_id == agent.id


def _one(database: Database, query: Executable, words: Mapping[str, str]) -> tuple[Any, ...]:
    row = None
    if not any("\x00" in word for word in words.values()):
        row = database.execute(query, words).first()
    if row is None:
        raise NotFound(UNKNOWN)
    return tuple(row)
