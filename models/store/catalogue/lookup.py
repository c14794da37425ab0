"""Finding what was published: one version of an agent by its name, or its latest."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Text, cast, select
from sqlalchemy.orm import aliased

from models.core.db import db
from models.core.errors import NotFound
from models.store.publishing import takedowns
from models.store.publishing.takedowns import covers
from models.store.tables import AgentConfig, AgentVersion, Publisher

LATEST = "latest"

_COLUMNS = (
    AgentConfig.id,
    AgentConfig.version,
    AgentConfig.publisher_id,
    cast(AgentConfig.data, Text).label("data"),
    AgentConfig.created_at,
    AgentConfig.updated_at,
)


@dataclass(frozen=True, slots=True)
class PublishedDefinition:
    """One version of an agent. `data` is its definition as JSON text, which need not be read to be passed on."""

    id: str
    version: str
    publisher_id: str
    data: str
    created_at: datetime
    updated_at: datetime


def version_of(publisher_id: str, agent_id: str, version: str) -> PublishedDefinition:
    """A published version; `latest` is the highest by number that is not yanked (contract 2.6). One statement.

    Yanked versions are found by their number, taken down ones not. Raises NotFound in the contract's words, "Publisher not
    found" or "Agent not found", and why if it was taken down.
    """
    if "\x00" in publisher_id:
        raise no_publisher(publisher_id)
    if "\x00" in agent_id + version:
        raise _no_agent(publisher_id, agent_id, version)
    key = AgentConfig.publisher_id, AgentConfig.id, AgentConfig.version
    query = select(*_COLUMNS).where(key[0] == publisher_id, key[1] == agent_id, ~covers(*key))
    if version == LATEST:
        row = aliased(AgentVersion)
        same = row.publisher_id == key[0], row.agent_id == key[1], row.version == key[2]
        yanked = select(row.version).where(*same, row.yanked_at.is_not(None)).exists()
        numbers = AgentConfig.major.desc(), AgentConfig.minor.desc(), AgentConfig.patch.desc()
        query = query.where(~yanked).order_by(*numbers).limit(1)
    else:
        query = query.where(key[2] == version)
    found = db.session.execute(query).one_or_none()
    if found is None:
        if db.session.get(Publisher, publisher_id) is None:
            raise no_publisher(publisher_id)
        down = takedowns.standing(publisher_id, agent_id, version)
        raise (
            NotFound(f"Agent not found. {down.message}")
            if down
            else _no_agent(publisher_id, agent_id, version)
        )
    return PublishedDefinition(**found._mapping)


def no_publisher(publisher_id: str) -> NotFound:
    """The error for a name that no publisher has."""
    return NotFound(
        "Publisher not found",
        details=f"There is no publisher {publisher_id[:100]!r}. GET /api/agents names those that have an agent to run.",
    )


def _no_agent(publisher_id: str, agent_id: str, version: str) -> NotFound:
    whose, agent, version = (name[:100] for name in (publisher_id, agent_id, version))
    lacks = "one with a version to run" if version == LATEST else f"one with a version {version!r}"
    return NotFound(
        "Agent not found",
        details=f"The publisher {whose!r} has no agent {agent!r}, or not {lacks}."
        f" GET /api/publishers/{whose}/agents lists its agents with their latest versions.",
    )
