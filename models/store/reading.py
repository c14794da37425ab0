"""Finding what was published: one version of an agent by its name, or its latest."""

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
    if "\x00" in publisher_id + agent_id + version:
        raise NotFound("Agent not found" if "\x00" not in publisher_id else "Publisher not found")
    names = {"publisher": publisher_id, "agent": agent_id, "version": version}
    row = database.execute(_VERSION, names).one_or_none()
    if row is None:
        raise NotFound("Publisher not found")
    if row.version is None:
        try:
            takedowns.refuse(database, publisher_id, agent_id, version)
        except TakenDown as down:
            raise NotFound(f"Agent not found. {down.message}") from None
        raise NotFound("Agent not found")
    return Version(row.id, row.version, row.publisher_id, row.data, row.created_at, row.updated_at)
