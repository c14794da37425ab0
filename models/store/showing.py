"""One version of an agent as its page shows it: what it is, its versions, thirty days of runs, and who spawns whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Executable, Integer, bindparam, cast, func, select, text

from models.asking import read
from models.db import Database
from models.errors import NotFound
from models.pool import Pool
from models.store import dependencies, freshness, takedowns
from models.store.dependencies import Dependents, Known
from models.store.freshness import Stamp
from models.store.tables import PICTURE, Agent, AgentVersion, Publisher
from models.store.takedowns import covers

DAYS = 30
SHOWN_VERSIONS = 6
SHOWN_DEPENDENTS = 8
PAGE_SIZE = 25

_NUMBERS = cast(func.string_to_array(AgentVersion.version, "."), ARRAY(Integer))
UNKNOWN = "There is no such agent here"

# Put together once: that takes as long as asking.
_AGENT = (
    select(Publisher, Agent)
    .join(Agent, Agent.publisher_id == Publisher.id)
    .where(Publisher.id == bindparam("publisher"), Agent.id == bindparam("agent"))
    .where(text(f"NOT {covers('agent.publisher_id', 'agent.id')}"))
)


class PublisherRow(NamedTuple):
    """What a page of an agent says of its publisher: attributes of `Publisher`."""

    id: str
    name: str
    verified: bool
    picture: str | None


class AgentRow(NamedTuple):
    """What it says of the agent: columns of `Agent`."""

    publisher_id: str
    id: str
    name: str
    description: str | None
    tags: Sequence[str]
    latest_version: str | None
    versions: int
    weekly_runs: int
    readme: str | None
    deprecated_at: datetime | None
    deprecated_reason: str | None
    successor: str | None


class VersionRow(NamedTuple):
    """What it says of a version: columns of `AgentVersion`."""

    publisher_id: str
    agent_id: str
    version: str
    credential: str
    published_at: datetime
    yanked_at: datetime | None
    yanked_reason: str | None
    runs: int
    failed: int
    credits: int
    weekly_runs: int
    unique_users: int
    durations: Sequence[int]
    last_used: datetime | None
    own_runs: int


def _columns(row: type[tuple[Any, ...]], table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in row._fields)  # type: ignore[attr-defined]


def _person(table: str) -> str:
    """How the store names somebody: by their name, else by what stands before the @ of their address and no more."""
    return f"coalesce(nullif(btrim({table}.name), ''), split_part({table}.email, '@', 1))"


_SHEET = f"""
    SELECT publisher.id, publisher.name, publisher.verified, {PICTURE} AS picture, {_columns(AgentRow, "agent")}, {_columns(VersionRow, "version")},
        config.data, {_person("author")}
"""
_OF_SHEET = """
    FROM agent_version AS version
    JOIN agent ON (agent.publisher_id, agent.id) = (version.publisher_id, version.agent_id)
    JOIN publisher ON publisher.id = version.publisher_id
    JOIN agent_config AS config ON (config.publisher_id, config.id, config.version)
        = (version.publisher_id, version.agent_id, version.version)
    LEFT JOIN "user" AS author ON author.id = version.published_by
"""
_UP = f"NOT {covers('version.publisher_id', 'version.agent_id', 'version.version')}"
_ONE = text(
    f"{_SHEET}{_OF_SHEET} WHERE (version.publisher_id, version.agent_id, version.version)"
    f" = (:publisher, :agent, :version) AND {_UP}"
)


def _versions(publisher: str, agent: str, limit: str, below: str = "true") -> str:
    return f"""
    SELECT {_person("author")} AS by, {_person("yanker")} AS yanked_by, down.reason AS down,
        {_columns(VersionRow, "version")}
    FROM agent_version AS version
    LEFT JOIN "user" AS author ON author.id = version.published_by
    LEFT JOIN "user" AS yanker ON yanker.id = version.yanked_by
    LEFT JOIN takedown AS down ON (down.publisher_id, down.agent_id, down.version)
        = (version.publisher_id, version.agent_id, version.version)
    WHERE version.publisher_id = {publisher} AND version.agent_id = {agent} AND {below}
    ORDER BY CAST(string_to_array(version.version, '.') AS int[]) DESC LIMIT {limit}
    """  # noqa: S608


_VERSIONS = text(_versions(":publisher", ":agent", ":limit"))
_BELOW = "CAST(string_to_array(:below, '.') AS int[]) > CAST(string_to_array(version.version, '.') AS int[])"
_OLDER = text(_versions(":publisher", ":agent", ":limit", _BELOW))

# Everything of a page at once: what was five statements cost a worker most of the page's time.
_PAGE = f"""{_SHEET},
    {freshness.STAMP},
    (SELECT json_agg(each) FROM ({_versions("$1", "$2", str(SHOWN_VERSIONS))}) AS each),
    (SELECT json_agg(json_build_array(version, day, runs)) FROM agent_day
        WHERE publisher_id = $1 AND agent_id = $2 AND day > $5::date - {DAYS} AND day <= $5::date AND runs > 0),
    (SELECT json_agg(json_build_array(publisher_id, id, latest_version, number))
        FROM ({dependencies.spawning("$4", "$1", "$2", str(SHOWN_DEPENDENTS))}) AS each),
    CASE WHEN config.data -> 'spawnableAgents' <> '[]' THEN (
        SELECT json_agg(json_build_array(full_id, id, name, prompt, spawnable, taken_down))
        FROM ({dependencies.reached("ARRAY[$1 || '/' || $2 || '@' || $3]", str(dependencies.DEEPEST))}) AS each
    ) END
{_OF_SHEET} WHERE (version.publisher_id, version.agent_id, version.version) = ($1, $2, $3) AND {_UP}
"""  # noqa: S608


@dataclass(frozen=True)
class Sheet:
    """A version of an agent with its agent and publisher. `data` is its definition, `by` the name of who published it; None when that was the operator, or somebody who left."""

    publisher: PublisherRow
    agent: AgentRow
    version: VersionRow
    data: Mapping[str, Any]
    by: str | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Sheet":
        """From a row of the columns above."""
        end_of_agent = len(PublisherRow._fields) + len(AgentRow._fields)
        return cls(
            PublisherRow(*row[: len(PublisherRow._fields)]),
            AgentRow(*row[len(PublisherRow._fields) : end_of_agent]),
            VersionRow(*row[end_of_agent:-2]),
            *row[-2:],
        )

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

    version: VersionRow
    by: str | None
    yanked_by: str | None = None
    down: str | None = None


@dataclass(frozen=True)
class Page:
    """A sheet with what its page says besides, and the state of the store that all of it shows: the highest versions, completed runs by version and UTC day, who may
    spawn the agent, and what is known of those it may spawn."""

    sheet: Sheet
    stamp: Stamp
    versions: Sequence[VersionLine]
    days: Mapping[str, Mapping[date, int]]
    dependents: Dependents
    known: Known


def find(database: Database, publisher_id: str, agent_id: str) -> tuple[Publisher, Agent]:
    """A publisher and its agent. One statement. Raises NotFound, or TakenDown."""
    row = _one(database, _AGENT, {"publisher": publisher_id, "agent": agent_id})
    return row[0], row[1]


def sheet_of(database: Database, publisher_id: str, agent_id: str, version: str) -> Sheet:
    """One version, yanked or not. One statement. Raises NotFound, or TakenDown."""
    return Sheet.of(_one(database, _ONE, {"publisher": publisher_id, "agent": agent_id, "version": version}))


def page_of(pool: Pool, publisher_id: str, agent_id: str, version: str, today: date) -> Page:
    """One version, yanked or not, with its six highest siblings and the thirty days that end with `today`. One statement
    that reads no runs. Raises NotFound, or TakenDown."""
    names = (publisher_id, agent_id, version)
    if any("\x00" in name for name in names):
        raise NotFound(UNKNOWN)
    rows = read(pool, _PAGE, (*names, dependencies.name_of(publisher_id, agent_id), today.isoformat()))
    if not rows:
        takedowns.refuse_at_once(pool, *names)
        raise NotFound(UNKNOWN)
    *sheet, published, figures, versions, counted, dependents, reached = rows[0]
    days: dict[str, dict[date, int]] = {}
    for number, day, runs in counted or ():
        days.setdefault(number, {})[date.fromisoformat(day)] = runs
    return Page(
        Sheet.of(sheet),
        freshness.seen(published, figures),
        [_line(each) for each in versions],
        days,
        Dependents.of(dependents or ()),
        dependencies.facts_of(reached or ()),
    )


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
    if below is None:
        rows = database.execute(_VERSIONS, words)
    else:
        rows = database.execute(_OLDER, words | {"below": below})
    return [VersionLine(VersionRow(*row[3:]), row.by, row.yanked_by, row.down) for row in rows]


def is_published(database: Database, publisher_id: str, agent_id: str, version: str) -> bool:
    """Whether there is such a version, yanked or not."""
    key = (
        AgentVersion.publisher_id == publisher_id,
        AgentVersion.agent_id == agent_id,
        AgentVersion.version == version,
    )
    return database.scalar(select(AgentVersion.version).where(*key)) is not None


def _of(agent: Agent) -> tuple[Any, ...]:
    return AgentVersion.publisher_id == agent.publisher_id, AgentVersion.agent_id == agent.id


def _one(database: Database, query: Executable, words: Mapping[str, str]) -> tuple[Any, ...]:
    row = None
    if not any("\x00" in word for word in words.values()):
        row = database.execute(query, words).first()
    if row is None:
        takedowns.refuse(database, words["publisher"], words["agent"], words.get("version", ""))
        raise NotFound(UNKNOWN)
    return tuple(row)


def _line(told: dict[str, Any]) -> VersionLine:
    by, yanked_by, down = told.pop("by"), told.pop("yanked_by"), told.pop("down")
    for name in ("published_at", "yanked_at", "last_used"):
        if told[name] is not None:
            told[name] = datetime.fromisoformat(told[name])
    return VersionLine(VersionRow(**told), by, yanked_by, down)
