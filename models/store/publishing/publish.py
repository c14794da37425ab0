"""Publishing versions of agents, all of a request or none (contract 2.6, 3.11). Withdrawing them: `withdrawing.py`."""

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

AT_ONCE = 50
"""How many definitions are written in one statement."""
HINT = (
    "To fix this, also publish the referenced agent (include it in the same request's data array, or publish it first"
    " for the same publisher)."
)


class PublishRefused(Invalid):
    """A publication that cannot be: `message` is the contract's `error`, `details` says what exactly."""

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
    moment: datetime | None = None,
    limits: Settings | None = None,
) -> list[FullReference]:
    """Publish checked definitions of one publisher as new versions; answers them in their order. Flushes.

    `by` is whose right is checked and who is noted; None is the operator, who may publish for anybody. `credential` is
    the type of session it was done with, or `import`. `arrived` is when the request came: a version that somebody
    else published since then is a conflict, one from before is not greater than the latest. `moment` is when the
    versions are said to be published; now without. `limits` say how much `by` may publish; without, as the operator,
    there are none.

    Holds the publisher's row, so that publications of one publisher follow one another. Raises Refused with the
    statuses and words of contract 2.6, rows 4 to 9, with 403 for what is taken down, and with 429, 409 or 413 for a limit;
    then nothing may be committed.
    """
    if not definitions:
        return []
    publisher_id = _one_publisher(definitions)
    asked = [FullReference(publisher_id, each.id, each.version) for each in definitions if each.version]
    there = spawning.published(asked)  # before waiting for whoever publishes now
    _open(by, publisher_id)
    _refuse_taken_down(publisher_id, [each.id for each in definitions])
    data = [_stored(each) for each in definitions]
    sizes = {each.id: len(orjson.dumps(kept)) for each, kept in zip(definitions, data, strict=True)}
    if by and limits:
        _refuse_too_much(by, publisher_id, sizes, limits)
    counting.enter(publisher_id, [each.id for each in definitions])
    moment = moment or now()
    publishing = _next_versions(publisher_id, definitions, there, arrived)
    try:
        called = spawning.resolve_all(
            publisher_id, publishing, [each.spawnableAgents for each in definitions]
        )
    except UnknownAgent as error:
        raise PublishRefused("Invalid spawnable agent", str(error), hint=HINT) from None
    rows = [
        {
            "id": each.id,
            "version": publishing[each.id],
            "publisher_id": publisher_id,
            "data": kept | {"version": publishing[each.id], "spawnableAgents": names},
            "created_at": moment,
            "updated_at": moment,
        }
        for each, kept, names in zip(definitions, data, called, strict=True)
    ]
    written: set[str] = set()
    added = insert(AgentConfig).on_conflict_do_nothing().returning(AgentConfig.id)
    for first in range(0, len(rows), AT_ONCE):
        written |= set(db.session.scalars(added, rows[first : first + AT_ONCE]))
    for each in definitions:
        if each.id not in written:
            raise _exists(publisher_id, each.id, publishing[each.id])
    _enter(publisher_id, definitions, sizes, moment)
    db.session.execute(
        insert(AgentVersion),
        [
            {
                "publisher_id": publisher_id,
                "agent_id": each.id,
                "version": publishing[each.id],
                "published_by": by.id if by else None,
                "credential": credential,
                "published_at": moment,
            }
            for each in definitions
        ],
    )
    catalogue.refresh(publisher_id, [each.id for each in definitions])
    counting.entered(publisher_id, publishing)
    return [FullReference(publisher_id, each.id, publishing[each.id]) for each in definitions]


def _stored(definition: Definition) -> dict[str, Any]:
    time.sleep(0)  # the worker's other requests have their turn
    return definition.stored()


def _refuse_too_much(by: User, publisher_id: str, sizes: dict[str, int], limits: Settings) -> None:
    """Under the lock of the publisher's row, and before any lock of figures."""
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
        agents, kept, known = db.session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(Agent.bytes), 0),
                func.count().filter(Agent.id.in_(list(sizes))),
            ).where(Agent.publisher_id == publisher_id)
        ).one()
        most = limits.stoa_agents_per_publisher
        if agents + len(sizes) - known > max(most, agents):
            mend = f"{len(sizes) - known:,} more are too many. Publish new versions of those that are there"
            raise write_limits.limit_reached(
                agents, f"Agents of @{publisher_id}", most, mend, "STOA_AGENTS_PER_PUBLISHER"
            )
        most = limits.stoa_publisher_bytes
        if kept + sum(sizes.values()) > most:
            mend = f"{sum(sizes.values()):,} more are too many. Shorten the definitions"
            things = f"Bytes of all definitions of @{publisher_id}"
            raise write_limits.limit_reached(int(kept), things, most, mend, "STOA_PUBLISHER_BYTES", 413)
    except WriteLimitExceeded as error:
        raise PublishRefused(
            "Publishing limit reached", error.message, status=error.status, retry_after=error.retry_after
        ) from None


def _enter(
    publisher_id: str,
    definitions: Sequence[Definition],
    sizes: dict[str, int],
    moment: datetime,
) -> None:
    """Make the rows of agents that are new to the store, and add the size of what is published to all."""
    rows = [
        {
            "publisher_id": publisher_id,
            "id": each.id,
            "name": each.id,
            "model": each.model,
            "bytes": sizes[each.id],
            "created_at": moment,
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
    lacking = [each.id for each in definitions if not each.publisher]
    if lacking:
        raise PublishRefused(
            "Publisher field required",
            f'All agents must have the "publisher" field set. Missing for agents: {", ".join(lacking)}',
        )
    named = list(dict.fromkeys(each.publisher for each in definitions if each.publisher))
    if len(named) > 1:
        raise PublishRefused(
            "Multiple publishers not allowed",
            f"All agents in a single request must use the same publisher. Found: {', '.join(named)}",
        )
    return named[0]


def _open(by: User | None, publisher_id: str) -> None:
    try:
        manage(by, publisher_id)
    except (NotFound, Forbidden):
        raise PublishRefused(
            "Publisher not found or not accessible",
            f"Publisher '{publisher_id}' not found or you don't have permission to publish to it",
            status=403,
        ) from None


def _refuse_taken_down(publisher_id: str, agent_ids: Collection[str]) -> None:
    try:
        takedowns.refuse_any(publisher_id, agent_ids)
    except TakenDown as down:
        raise PublishRefused(
            f"{down.name} is taken down",
            f"{down.message} Nothing can be published there until it is restored.",
            status=403,
        ) from None


def count_change(by: User, limits: Settings) -> None:
    """Count a change of the store that is no publication, or raise QuotaExceeded (429). Before anything is locked."""
    changes = WriteLimit(
        "store changes a day",
        "changes of agents and publishers",
        limits.stoa_store_changes_per_day,
        DAY,
        "STOA_STORE_CHANGES_PER_DAY",
    )
    write_limits.consume(by.id, (changes, 1))


def manage(by: User | None, publisher_id: str) -> Publisher:
    """The publisher with its row held, for those who may change it; for the operator (`by` None) any.

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
    there: Collection[FullReference],
    arrived: datetime,
) -> dict[str, str]:
    """The version each definition becomes, by its id."""
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
            found[each.id] = versions.following(latest.get(each.id, NONE), each.version)
        except BadVersion as error:
            place = FullReference(publisher_id, each.id, each.version or "")
            row = db.session.get(AgentVersion, place)
            if row and (place not in there or row.published_at >= arrived):
                raise _exists(*place) from None
            raise PublishRefused(
                "Version determination failed", f"Failed for agent '{each.id}': {error}"
            ) from None
    return found


def _exists(publisher_id: str, agent_id: str, version: str) -> PublishRefused:
    return PublishRefused(
        "Version already exists",
        f"Agent '{agent_id}' version '{version}' already exists for publisher '{publisher_id}'",
        hint="A version never changes. Publish a greater one, or leave version out to take the next.",
        status=409,
    )
