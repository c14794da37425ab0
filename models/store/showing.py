"""One version of an agent as its page shows it: what it is, its versions, thirty days of runs, and what it may spawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import ARRAY, Executable, Integer, Row, bindparam, cast, func, select, text

from models.accounts import User
from models.db import Database
from models.errors import NotFound
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

DAYS = 30
SHOWN_VERSIONS = 6
PAGE_SIZE = 25

MAX_DEPTH = 5
"""Levels of the dependency tree below its root (contract 2.6)."""

_NUMBERS = cast(func.string_to_array(AgentVersion.version, "."), ARRAY(Integer))
UNKNOWN = "There is no such agent here"

# Each agent that can be reached once for each level it is on; the first hundred of what an agent may spawn.
_REACHED = text(
    """
    WITH RECURSIVE reached (full_id, depth) AS (
        SELECT CAST(:root AS text), 0
        UNION
        SELECT child.ref, reached.depth + 1
        FROM reached
        JOIN agent_config c ON c.publisher_id = split_part(reached.full_id, '/', 1)
            AND c.id = split_part(split_part(reached.full_id, '/', 2), '@', 1)
            AND c.version = split_part(reached.full_id, '@', 2)
        CROSS JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(c.data -> 'spawnableAgents') WHEN 'array' THEN c.data -> 'spawnableAgents' ELSE '[]' END
        ) WITH ORDINALITY AS child (ref, number)
        WHERE reached.depth < :depth AND child.number <= 100
    ), found AS (SELECT DISTINCT full_id FROM (SELECT full_id FROM reached LIMIT :most) AS first)
    SELECT found.full_id,
        coalesce(c.data ->> 'displayName', c.data ->> 'name', c.id) AS name,
        CASE jsonb_typeof(c.data -> 'spawnableAgents') WHEN 'array' THEN c.data -> 'spawnableAgents' ELSE '[]' END AS refs
    FROM found
    LEFT JOIN agent_config c ON c.publisher_id = split_part(found.full_id, '/', 1)
        AND c.id = split_part(split_part(found.full_id, '/', 2), '@', 1)
        AND c.version = split_part(found.full_id, '@', 2)
    """
)
MAX_REACHED = 300

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


@dataclass(frozen=True)
class Node:
    """An agent in the dependency tree. `state`: `open` (its children follow), `missing` (not here), `cyclic` (it is on
    the path that leads to it) or `above` (its children stand where it came first)."""

    full_id: str
    name: str
    state: str
    children: "Sequence[Node]" = ()
    left_out: int = 0

    @property
    def publisher(self) -> str:
        return self.full_id.partition("/")[0]

    @property
    def agent(self) -> str:
        return self.full_id.partition("/")[2].partition("@")[0] or self.full_id

    @property
    def version(self) -> str:
        return self.full_id.rpartition("@")[2] if "@" in self.full_id else ""


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


def tree_of(database: Database, sheet: Sheet, most: int) -> Node:
    """What the version may spawn, and what that may, five levels deep (contract 2.6). One statement, or none.

    No more than `most` agents stand in the tree; each is opened once, where it comes first. `left_out` of a node counts
    the children that were not taken in.
    """
    if not sheet.data.get("spawnableAgents"):
        return Node(sheet.full_id, sheet.agent.name, "open")
    words = {"root": sheet.full_id, "depth": MAX_DEPTH, "most": MAX_REACHED}
    known = {row.full_id: row for row in database.execute(_REACHED, words)}
    return _Planting(known, most).node(sheet.full_id, ())


class _Planting:
    def __init__(self, known: Mapping[str, Row[Any]], most: int) -> None:
        self.known = known
        self.room = most
        self.opened: set[str] = set()

    def node(self, full_id: str, path: tuple[str, ...]) -> Node:
        row = self.known.get(full_id)
        if full_id in path:
            return Node(full_id, row.name if row else full_id, "cyclic")
        if row is None or row.name is None:
            return Node(full_id, full_id, "missing")
        if full_id in self.opened and row.refs:
            return Node(full_id, row.name, "above")
        self.opened.add(full_id)
        refs = row.refs if len(path) < MAX_DEPTH else []
        taken = [str(ref) for ref in refs[: max(0, self.room)]]
        self.room -= len(taken)
        children = [self.node(ref, (*path, full_id)) for ref in taken]
        return Node(full_id, row.name, "open", children, len(refs) - len(taken))


def _of(agent: Agent) -> tuple[Any, ...]:
    return AgentVersion.publisher_id == agent.publisher_id, AgentVersion.agent_id == agent.id


def _one(database: Database, query: Executable, words: Mapping[str, str]) -> tuple[Any, ...]:
    row = None
    if not any("\x00" in word for word in words.values()):
        row = database.execute(query, words).first()
    if row is None:
        raise NotFound(UNKNOWN)
    return tuple(row)
