"""Lookup of published definitions: an exact version, or the latest."""

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
    select(AgentVersion.changelog)
    .where(
        AgentVersion.publisher_id == AgentConfig.publisher_id,
        AgentVersion.agent_id == AgentConfig.id,
        AgentVersion.version == AgentConfig.version,
    )
    .scalar_subquery()
    .label("changelog"),
)


@dataclass(frozen=True, slots=True)
class PublishedDefinition:
    """A published version. `data` is its definition as JSON text, passed on without parsing."""

    id: str
    version: str
    publisher_id: str
    data: str
    created_at: datetime
    updated_at: datetime
    changelog: str | None


def version_of(publisher_id: str, agent_id: str, version: str) -> PublishedDefinition:
    """Look up a published version; `latest` is the highest that is not yanked (contract 2.6). One statement.

    Yanked versions are found by their exact number. Raises NotFound ("Publisher not found" or "Agent not found", as in the
    contract), for a version that was taken down with its reason.
    """
    if "\x00" in publisher_id:
        raise publisher_not_found(publisher_id)
    if "\x00" in agent_id + version:
        raise _agent_not_found(publisher_id, agent_id, version)
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
            raise publisher_not_found(publisher_id)
        down = takedowns.find(publisher_id, agent_id, version)
        raise (
            NotFound(f"Agent not found. {down.message}")
            if down
            else _agent_not_found(publisher_id, agent_id, version)
        )
    return PublishedDefinition(**found._mapping)


def publisher_not_found(publisher_id: str) -> NotFound:
    """The error for an unknown publisher id."""
    return NotFound(
        "Publisher not found",
        details=f"There is no publisher {publisher_id[:100]!r}. GET /api/agents lists publishers with an agent to run.",
    )


def _agent_not_found(publisher_id: str, agent_id: str, version: str) -> NotFound:
    publisher, agent, version = (name[:100] for name in (publisher_id, agent_id, version))
    missing = "version to run" if version == LATEST else f"version {version!r}"
    return NotFound(
        "Agent not found",
        details=f"The publisher {publisher!r} has no agent {agent!r}, or the agent has no {missing}."
        f" GET /api/publishers/{publisher}/agents lists its agents with their latest versions.",
    )
