"""Finding what was published: one version of an agent by its name, or its latest."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from models.db import Database
from models.errors import NotFound
from models.store import takedowns
from models.store.takedowns import TakenDown, covers

LATEST = "latest"

_VERSION = text(
    f"""
    SELECT publisher.id AS publisher_id, found.*
    FROM publisher LEFT JOIN LATERAL (
        SELECT config.id, config.version, config.data::text AS data, config.created_at, config.updated_at
        FROM agent_config AS config
        WHERE config.id = :agent AND config.publisher_id = publisher.id
            AND CASE WHEN :version <> 'latest' THEN config.version = :version
                ELSE NOT EXISTS (
                    SELECT FROM agent_version AS version
                    WHERE (version.publisher_id, version.agent_id, version.version)
                        = (config.publisher_id, config.id, config.version)
                        AND version.yanked_at IS NOT NULL
                ) END
            AND NOT {covers("config.publisher_id", "config.id", "config.version")}
        ORDER BY config.major DESC, config.minor DESC, config.patch DESC
        LIMIT 1
    ) AS found ON true
    WHERE publisher.id = :publisher
    """  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an agent. `data` is its definition as JSON text, which need not be read to be passed on."""

    id: str
    version: str
    publisher_id: str
    data: str
    created_at: datetime
    updated_at: datetime


def version_of(database: Database, publisher_id: str, agent_id: str, version: str) -> Version:
    """A published version; `latest` is the highest by number that is not yanked (contract 2.6). One statement.

    Yanked versions are found by their number, taken down ones not. Raises NotFound in the contract's words, "Publisher not
    found" or "Agent not found", and why if it was taken down.
    """
    names = {"publisher": publisher_id, "agent": agent_id, "version": version}
    if "\x00" in publisher_id + agent_id + version:
        raise _missing(names, publisher="\x00" not in publisher_id)
    row = database.execute(_VERSION, names).one_or_none()
    if row is None:
        raise _missing(names, publisher=False)
    if row.version is None:
        try:
            takedowns.refuse(database, publisher_id, agent_id, version)
        except TakenDown as down:
            raise NotFound(f"Agent not found. {down.message}") from None
        raise _missing(names, publisher=True)
    return Version(row.id, row.version, row.publisher_id, row.data, row.created_at, row.updated_at)


def no_publisher(publisher_id: str) -> NotFound:
    """The error for a name that no publisher has."""
    return NotFound(
        "Publisher not found",
        details=f"There is no publisher {publisher_id[:100]!r}. GET /api/agents names those that have an agent to run.",
    )


def _missing(names: Mapping[str, str], *, publisher: bool) -> NotFound:
    if not publisher:
        return no_publisher(names["publisher"])
    whose, agent, version = (name[:100] for name in names.values())
    lacks = "one with a version to run" if version == LATEST else f"one with a version {version!r}"
    return NotFound(
        "Agent not found",
        details=f"The publisher {whose!r} has no agent {agent!r}, or not {lacks}."
        f" GET /api/publishers/{whose}/agents lists its agents with their latest versions.",
    )
