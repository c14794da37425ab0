"""Publishing versions, all of a request or none (contract 2.6, 3.11)."""

import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import array, insert

from models.accounts import write_limits
from models.accounts.users import User
from models.accounts.write_limits import DAY, WriteLimit, WriteLimitExceeded
from models.core.db import db, now
from models.core.errors import Forbidden, Invalid, NotFound
from models.core.settings import Settings
from models.store import publishers
from models.store.catalogue import catalogue
from models.store.publishing import spawning, takedowns, versions
from models.store.publishing.definition import Definition
from models.store.publishing.spawning import FullReference, UnknownAgent
from models.store.publishing.takedowns import TakenDown
from models.store.publishing.versions import NONE, BadVersion, VersionNumber
from models.store.statistics import counting
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

BATCH = 50
"""Definitions inserted per statement."""
HINT = (
    "To fix this, also publish the referenced agent (include it in the same request's data array, or publish it first"
    " for the same publisher)."
)


class PublishRefused(Invalid):
    """Publishing is rejected: `message` is the contract's `error`, `details` the cause, `hint` the fix."""

    status = 400
    code = "refused"

    def __init__(
        self,
        error: str,
        details: str,
        *,
        hint: str | None = None,
        status: int = 400,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(error, status=status)
        self.details = details
        self.hint = hint
        self.retry_after = retry_after


def publish(
    definitions: Sequence[Definition],
    *,
    by: User | None,
    credential: str,
    arrived: datetime,
    published_at: datetime | None = None,
    limits: Settings | None = None,
) -> list[FullReference]:
    """Publish validated definitions of one publisher as new versions, returned in the same order. Flushes.

    `by` is checked for access and recorded as the author; None is the operator, without access checks. `credential` is the
    type of session, or `import`. `arrived` is the time of the request: a version published since then is a conflict, an older
    one is not greater than the latest. `published_at` defaults to now. `limits` apply to `by`; None means no limits.

    Locks the publisher's row, which serialises its publications. Raises PublishRefused with the statuses and messages of
    contract 2.6, rows 4 to 9, with 403 for a takedown, and with 429, 409 or 413 for a limit; the caller must then roll back.
    """
    if not definitions:
        return []
    publisher_id = _one_publisher(definitions)
    requested = [FullReference(publisher_id, each.id, each.version) for each in definitions if each.version]
    existing = spawning.published(requested)  # before waiting for the publisher's lock
    _require_access(by, publisher_id)
    _require_not_taken_down(publisher_id, [each.id for each in definitions])
    data = [_stored(each) for each in definitions]
    sizes = {each.id: _size(each, stored) for each, stored in zip(definitions, data, strict=True)}
    if by and limits:
        _check_limits(by, publisher_id, sizes, limits)
    counting.lock_agents(publisher_id, [each.id for each in definitions])
    published_at = published_at or now()
    new_versions = _next_versions(publisher_id, definitions, existing, arrived)
    try:
        spawnable = spawning.resolve_all(
            publisher_id, new_versions, [each.spawnableAgents for each in definitions]
        )
    except UnknownAgent as error:
        raise PublishRefused("Invalid spawnable agent", str(error), hint=HINT) from None
    rows = [
        {
            "id": each.id,
            "version": new_versions[each.id],
            "publisher_id": publisher_id,
            "data": stored | {"version": new_versions[each.id], "spawnableAgents": names},
            "created_at": published_at,
            "updated_at": published_at,
        }
        for each, stored, names in zip(definitions, data, spawnable, strict=True)
    ]
    written: set[str] = set()
    statement = insert(AgentConfig).on_conflict_do_nothing().returning(AgentConfig.id)
    for first in range(0, len(rows), BATCH):
        written |= set(db.session.scalars(statement, rows[first : first + BATCH]))
    for each in definitions:
        if each.id not in written:
            raise _version_exists(publisher_id, each.id, new_versions[each.id])
    _upsert_agents(publisher_id, definitions, sizes, published_at)
    db.session.execute(
        insert(AgentVersion),
        [
            {
                "publisher_id": publisher_id,
                "agent_id": each.id,
                "version": new_versions[each.id],
                "published_by": by.id if by else None,
                "credential": credential,
                "published_at": published_at,
                "changelog": (each.changelog or "").strip() or None,
            }
            for each in definitions
        ],
    )
    catalogue.refresh(publisher_id, [each.id for each in definitions])
    counting.count_earlier_runs(publisher_id, new_versions)
    return [FullReference(publisher_id, each.id, new_versions[each.id]) for each in definitions]


def _stored(definition: Definition) -> dict[str, Any]:
    time.sleep(0)  # yield to the worker's other requests
    return definition.stored()


def _size(definition: Definition, stored: dict[str, Any]) -> int:
    return len(orjson.dumps(stored)) + len((definition.changelog or "").encode())


def _check_limits(by: User, publisher_id: str, sizes: dict[str, int], limits: Settings) -> None:
    """Check the limits. Call under the lock of the publisher's row, before the locks of statistics."""
    versions = WriteLimit(
        "versions a day", "versions", limits.stoa_versions_per_day, DAY, "STOA_VERSIONS_PER_DAY"
    )
    size = WriteLimit(
        "published bytes a day",
        "bytes of definitions",
        limits.stoa_publish_bytes_per_day,
        DAY,
        "STOA_PUBLISH_BYTES_PER_DAY",
    )
    try:
        write_limits.consume(by.id, (versions, len(sizes)), (size, sum(sizes.values())))
        agents, stored_bytes, known = db.session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(Agent.bytes), 0),
                func.count().filter(Agent.id.in_(list(sizes))),
            ).where(Agent.publisher_id == publisher_id)
        ).one()
        max_agents = limits.stoa_agents_per_publisher
        if agents + len(sizes) - known > max(max_agents, agents):
            remedy = f"{len(sizes) - known:,} more exceed it. Publish new versions of existing agents"
            raise write_limits.limit_reached(
                agents, f"Agents of @{publisher_id}", max_agents, remedy, "STOA_AGENTS_PER_PUBLISHER"
            )
        max_bytes = limits.stoa_publisher_bytes
        if stored_bytes + sum(sizes.values()) > max_bytes:
            remedy = f"{sum(sizes.values()):,} more exceed it. Shorten the definitions"
            what = f"Bytes of all definitions of @{publisher_id}"
            raise write_limits.limit_reached(
                int(stored_bytes), what, max_bytes, remedy, "STOA_PUBLISHER_BYTES", 413
            )
    except WriteLimitExceeded as error:
        raise PublishRefused(
            "Publishing limit reached", error.message, status=error.status, retry_after=error.retry_after
        ) from None


def _upsert_agents(
    publisher_id: str,
    definitions: Sequence[Definition],
    sizes: dict[str, int],
    published_at: datetime,
) -> None:
    """Insert the rows of new agents, and add the size of the new definitions to all."""
    rows = [
        {
            "publisher_id": publisher_id,
            "id": each.id,
            "name": each.id,
            "model": each.model,
            "bytes": sizes[each.id],
            "created_at": published_at,
        }
        for each in definitions
    ]
    row = insert(Agent)
    db.session.execute(
        row.on_conflict_do_update(
            index_elements=[Agent.publisher_id, Agent.id], set_={"bytes": Agent.bytes + row.excluded.bytes}
        ),
        rows,
    )


def _one_publisher(definitions: Sequence[Definition]) -> str:
    missing = [each.id for each in definitions if not each.publisher]
    if missing:
        raise PublishRefused(
            "Publisher field required",
            f'All agents must have the "publisher" field set. Missing for agents: {", ".join(missing)}',
        )
    named = list(dict.fromkeys(each.publisher for each in definitions if each.publisher))
    if len(named) > 1:
        raise PublishRefused(
            "Multiple publishers not allowed",
            f"All agents in a single request must use the same publisher. Found: {', '.join(named)}",
        )
    return named[0]


def _require_access(by: User | None, publisher_id: str) -> None:
    try:
        lock_publisher(by, publisher_id)
    except (NotFound, Forbidden):
        raise PublishRefused(
            "Publisher not found or not accessible",
            f"Publisher '{publisher_id}' not found or you don't have permission to publish to it",
            status=403,
        ) from None


def _require_not_taken_down(publisher_id: str, agent_ids: Collection[str]) -> None:
    try:
        takedowns.refuse_any(publisher_id, agent_ids)
    except TakenDown as down:
        raise PublishRefused(
            f"{down.name} is taken down",
            f"{down.message} Nothing can be published under it until it is restored.",
            status=403,
        ) from None


def count_change(by: User, limits: Settings) -> None:
    """Count a change other than publishing. Call before taking locks. Raises WriteLimitExceeded (429)."""
    changes = WriteLimit(
        "store changes a day",
        "changes of agents and publishers",
        limits.stoa_store_changes_per_day,
        DAY,
        "STOA_STORE_CHANGES_PER_DAY",
    )
    write_limits.consume(by.id, (changes, 1))


def lock_publisher(by: User | None, publisher_id: str) -> Publisher:
    """The publisher with its row locked, for users who can manage it; any publisher for the operator (`by` None).

    Raises as `publishers.accessible` does.
    """
    if by is not None:
        return publishers.accessible(by, publisher_id, lock=True)
    found = db.session.get(Publisher, publisher_id, with_for_update=True)
    if found is None:
        raise NotFound("Publisher not found")
    return found


def _next_versions(
    publisher_id: str,
    definitions: Sequence[Definition],
    existing: Collection[FullReference],
    arrived: datetime,
) -> dict[str, str]:
    """The version of each definition, by id."""
    numbers = func.max(array([AgentConfig.major, AgentConfig.minor, AgentConfig.patch]))
    highest = db.session.execute(
        select(AgentConfig.id, numbers)
        .where(
            AgentConfig.publisher_id == publisher_id, AgentConfig.id.in_([each.id for each in definitions])
        )
        .group_by(AgentConfig.id)
    )
    latest = {row[0]: VersionNumber(*row[1]) for row in highest}
    found = {}
    for each in definitions:
        try:
            found[each.id] = versions.next_version(latest.get(each.id, NONE), each.version)
        except BadVersion as error:
            reference = FullReference(publisher_id, each.id, each.version or "")
            row = db.session.get(AgentVersion, reference)
            if row and (reference not in existing or row.published_at >= arrived):
                raise _version_exists(*reference) from None
            raise PublishRefused(
                "Version determination failed", f"Failed for agent '{each.id}': {error}"
            ) from None
    return found


def _version_exists(publisher_id: str, agent_id: str, version: str) -> PublishRefused:
    return PublishRefused(
        "Version already exists",
        f"Agent '{agent_id}' version '{version}' already exists for publisher '{publisher_id}'",
        hint="Versions are immutable. Publish a greater version, or omit version to use the next one.",
        status=409,
    )
