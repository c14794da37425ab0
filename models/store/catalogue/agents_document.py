"""Queries of `GET /api/agents` and its metrics (contract 4, A.5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.store.catalogue.lookup import publisher_not_found
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

MAX_TEXT_BYTES = 200_000
"""Bytes of names, descriptions and tags listed per publisher."""
MAX_VERSIONS = 50
"""Versions listed with statistics per agent, the most used ones."""
PAGE_SIZE = 100
BATCH_SIZE = 200
"""Agents fetched per batch."""

AgentWithVersions = tuple[Row[Any], Sequence[Row[Any]]]
"""An agent and its versions that ran, sorted by version."""

_STATISTICS = ("runs", "weekly_runs", "credits", "weekly_credits", "unique_users", "last_used")
_COLUMNS = ("publisher_id", "id", "description", "tags", "latest_version", *_STATISTICS)
_VERSION_STATISTICS = tuple(getattr(AgentVersion, name) for name in _STATISTICS)
_AGENT_KEY = AgentVersion.publisher_id, AgentVersion.agent_id
_LATEST = select(
    *(getattr(Agent, name) for name in _COLUMNS),
    func.coalesce(func.nullif(AgentConfig.data["name"].astext, ""), Agent.id).label("name"),
    AgentConfig.created_at.label("created_at"),
).join(
    AgentConfig,
    (AgentConfig.publisher_id == Agent.publisher_id)
    & (AgentConfig.id == Agent.id)
    & (AgentConfig.version == Agent.latest_version),
)


def agents(limit: int) -> Iterator[AgentWithVersions]:
    """Agents with a version to run, by spend in the last seven days. Per publisher: one agent per name (the newest), at most
    `limit` agents (the most used) and `MAX_TEXT_BYTES`. One statement, and one per batch for the versions."""
    latest = _LATEST.subquery()
    name_key = latest.c.publisher_id, latest.c.name
    named = (
        select(latest)
        .ext(distinct_on(*name_key))
        .order_by(*name_key, latest.c.created_at.desc(), latest.c.id)
        .subquery()
    )
    # limited per publisher, so that no publisher can bloat the list
    order = (named.c.weekly_credits.desc(), named.c.runs.desc(), named.c.created_at.desc(), named.c.id)
    texts = named.c.name + func.coalesce(named.c.description, "") + func.array_to_string(named.c.tags, "")
    per_publisher: dict[str, Any] = {
        "partition_by": named.c.publisher_id,
        "order_by": order,
        "rows": (None, 0),
    }
    ranked = select(
        named,
        func.row_number().over(**per_publisher).label("rank"),
        func.sum(func.octet_length(texts)).over(**per_publisher).label("bytes"),
    ).subquery()
    shown = (
        _with_publisher(select(ranked), ranked.c.publisher_id)
        .where(ranked.c.rank <= limit, ranked.c.bytes <= MAX_TEXT_BYTES)
        .order_by(
            ranked.c.weekly_credits.desc(), ranked.c.created_at.desc(), ranked.c.publisher_id, ranked.c.id
        )
    )
    rows = db.session.execute(shown.execution_options(yield_per=BATCH_SIZE))
    for batch in rows.partitions():
        yield from _with_versions(batch)


def agents_of(publisher_id: str, after: str = "") -> tuple[list[AgentWithVersions], str | None]:
    """One page of a publisher's agents by id, after the id `after`, and the `after` of the next page (None on the last).
    Raises NotFound."""
    if "\x00" in publisher_id + after or db.session.get(Publisher, publisher_id) is None:
        raise publisher_not_found(publisher_id)
    query = _with_publisher(_LATEST, Agent.publisher_id)
    query = query.where(Agent.publisher_id == publisher_id, Agent.id > after).order_by(Agent.id)
    rows = db.session.execute(query.limit(PAGE_SIZE + 1)).all()
    next_after = rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None
    return list(_with_versions(rows[:PAGE_SIZE])), next_after


def used(limit: int) -> Iterator[Row[Any]]:
    """Statistics of the agents that ran, by spend in the last seven days; at most `limit` per publisher."""
    order = Agent.weekly_credits.desc(), Agent.runs.desc(), Agent.published_at.desc(), Agent.id
    rank = func.row_number().over(partition_by=Agent.publisher_id, order_by=order).label("rank")
    ran = (
        select(Agent.publisher_id, Agent.id, *(getattr(Agent, name) for name in _STATISTICS), rank)
        .where(Agent.runs > 0, Agent.latest_version.is_not(None))
        .subquery()
    )
    query = select(ran).where(ran.c.rank <= limit)
    query = query.order_by(ran.c.weekly_credits.desc(), ran.c.publisher_id, ran.c.id)
    yield from db.session.execute(query.execution_options(yield_per=BATCH_SIZE))


def _with_publisher(query: Select[Any], publisher_id: Any) -> Select[Any]:
    return query.add_columns(
        Publisher.name.label("publisher_name"), Publisher.verified, Publisher.avatar_url
    ).join(Publisher, Publisher.id == publisher_id)


def _with_versions(rows: Sequence[Row[Any]]) -> Iterator[AgentWithVersions]:
    versions = _versions((row.publisher_id, row.id) for row in rows)
    for row in rows:
        yield row, versions.get((row.publisher_id, row.id), ())


def _versions(agents: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], list[Row[Any]]]:
    order = AgentVersion.weekly_runs.desc(), AgentVersion.runs.desc(), AgentVersion.published_at.desc()
    rank = func.row_number().over(partition_by=_AGENT_KEY, order_by=(*order, AgentVersion.version))
    ran = (
        select(*_AGENT_KEY, AgentVersion.version, *_VERSION_STATISTICS, rank.label("rank"))
        .where(tuple_(*_AGENT_KEY).in_(list(agents)), AgentVersion.runs > 0)
        .subquery()
    )
    found: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in db.session.execute(select(ran).where(ran.c.rank <= MAX_VERSIONS).order_by(ran.c.version)):
        found.setdefault((row.publisher_id, row.agent_id), []).append(row)
    return found
