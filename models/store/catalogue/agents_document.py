"""The agents that `GET /api/agents` and its metrics tell, with their figures (contract 4, A.5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.store.catalogue.lookup import no_publisher
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

MOST_TEXT = 200_000
"""Bytes of names, descriptions and tags that the list has of one publisher."""
MOST_VERSIONS = 50
"""Versions of an agent that the list has the figures of, the most used ones."""
PAGE = 100
AT_ONCE = 200
"""Agents that are read in one go."""

Told = tuple[Row[Any], Sequence[Row[Any]]]
"""An agent and those of its versions that ran, by name."""

_FIGURES = ("runs", "weekly_runs", "credits", "weekly_credits", "unique_users", "last_used")
_COLUMNS = ("publisher_id", "id", "description", "tags", "latest_version", *_FIGURES)
_USED = tuple(getattr(AgentVersion, name) for name in _FIGURES)
_OF_VERSION = AgentVersion.publisher_id, AgentVersion.agent_id
_NEWEST = select(
    *(getattr(Agent, name) for name in _COLUMNS),
    func.coalesce(func.nullif(AgentConfig.data["name"].astext, ""), Agent.id).label("name"),
    AgentConfig.created_at.label("created_at"),
).join(
    AgentConfig,
    (AgentConfig.publisher_id == Agent.publisher_id)
    & (AgentConfig.id == Agent.id)
    & (AgentConfig.version == Agent.latest_version),
)


def agents(most: int) -> Iterator[Told]:
    """The agents that have a version to run, by what was spent on it in seven days. Of one publisher's agents of one name
    the newest, and no more than the `most` used ones, nor than 200 kB of words. One statement, and one for the versions of
    each five hundred."""
    newest = _NEWEST.subquery()
    of_name = newest.c.publisher_id, newest.c.name
    named = (
        select(newest)
        .ext(distinct_on(*of_name))
        .order_by(*of_name, newest.c.created_at.desc(), newest.c.id)
        .subquery()
    )
    # of a publisher's agents the most used, so that the list stays small whatever one publisher does
    order = (named.c.weekly_credits.desc(), named.c.runs.desc(), named.c.created_at.desc(), named.c.id)
    words = named.c.name + func.coalesce(named.c.description, "") + func.array_to_string(named.c.tags, "")
    of_publisher: dict[str, Any] = {
        "partition_by": named.c.publisher_id,
        "order_by": order,
        "rows": (None, 0),
    }
    placed = select(
        named,
        func.row_number().over(**of_publisher).label("place"),
        func.sum(func.octet_length(words)).over(**of_publisher).label("size"),
    ).subquery()
    shown = (
        _with_publisher(select(placed), placed.c.publisher_id)
        .where(placed.c.place <= most, placed.c.size <= MOST_TEXT)
        .order_by(
            placed.c.weekly_credits.desc(), placed.c.created_at.desc(), placed.c.publisher_id, placed.c.id
        )
    )
    rows = db.session.execute(shown.execution_options(yield_per=AT_ONCE))
    for part in rows.partitions():
        yield from _with_versions(part)


def agents_of(publisher_id: str, after: str = "") -> tuple[list[Told], str | None]:
    """A page of a publisher's agents by id, those after the id `after`, and the id to go on after, None where none follow.
    Raises NotFound."""
    if "\x00" in publisher_id + after or db.session.get(Publisher, publisher_id) is None:
        raise no_publisher(publisher_id)
    query = _with_publisher(_NEWEST, Agent.publisher_id)
    query = query.where(Agent.publisher_id == publisher_id, Agent.id > after).order_by(Agent.id)
    rows = db.session.execute(query.limit(PAGE + 1)).all()
    further = rows[PAGE - 1].id if len(rows) > PAGE else None
    return list(_with_versions(rows[:PAGE])), further


def used(most: int) -> Iterator[Row[Any]]:
    """The figures of the agents that ran, by what was spent on them in seven days; of one publisher no more than `most`."""
    order = Agent.weekly_credits.desc(), Agent.runs.desc(), Agent.published_at.desc(), Agent.id
    place = func.row_number().over(partition_by=Agent.publisher_id, order_by=order).label("place")
    ran = (
        select(Agent.publisher_id, Agent.id, *(getattr(Agent, name) for name in _FIGURES), place)
        .where(Agent.runs > 0, Agent.latest_version.is_not(None))
        .subquery()
    )
    query = select(ran).where(ran.c.place <= most)
    query = query.order_by(ran.c.weekly_credits.desc(), ran.c.publisher_id, ran.c.id)
    yield from db.session.execute(query.execution_options(yield_per=AT_ONCE))


def _with_publisher(query: Select[Any], publisher_id: Any) -> Select[Any]:
    return query.add_columns(
        Publisher.name.label("publisher_name"), Publisher.verified, Publisher.avatar_url
    ).join(Publisher, Publisher.id == publisher_id)


def _with_versions(rows: Sequence[Row[Any]]) -> Iterator[Told]:
    versions = _versions((row.publisher_id, row.id) for row in rows)
    for row in rows:
        yield row, versions.get((row.publisher_id, row.id), ())


def _versions(agents: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], list[Row[Any]]]:
    order = AgentVersion.weekly_runs.desc(), AgentVersion.runs.desc(), AgentVersion.published_at.desc()
    place = func.row_number().over(partition_by=_OF_VERSION, order_by=(*order, AgentVersion.version))
    ran = (
        select(*_OF_VERSION, AgentVersion.version, *_USED, place.label("place"))
        .where(tuple_(*_OF_VERSION).in_(list(agents)), AgentVersion.runs > 0)
        .subquery()
    )
    found: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in db.session.execute(select(ran).where(ran.c.place <= MOST_VERSIONS).order_by(ran.c.version)):
        found.setdefault((row.publisher_id, row.agent_id), []).append(row)
    return found
