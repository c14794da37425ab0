"""The store's list: which agents, in which order, a batch at a time; and what there is to choose from."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    ColumnElement,
    CompoundSelect,
    Date,
    Double,
    Row,
    Select,
    Subquery,
    Text,
    case,
    cast,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
    union,
    union_all,
)

from models.core.db import db
from models.core.errors import Invalid
from models.orgs import administered_org_ids
from models.store.publishing.takedowns import covers
from models.store.tables import Agent, AgentDay, AgentVersion, Publisher, StoreFacet

BATCH = 24
MOST_SHOWN = 240
DAYS = 30
MOST_WORDS = 10
LONGEST_WORD = 60
CROWD = 1_500
"""Of so many matches of a search each is ranked by how well it fits."""

RANKED = 400
"""Of more, so many are ranked."""

SORTS: dict[str, tuple[ColumnElement[Any], bool]] = {
    "cost": (Agent.weekly_credits.expression, True),
    "usage": (Agent.runs.expression, True),
    "unique_users": (Agent.unique_users.expression, True),
    "newest": (Agent.published_at.expression, True),
    "name": (func.lower(Agent.name), False),
}
"""What each order goes by, and whether the largest comes first. Beside them is `relevance`, for searches."""


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """Which agents to list. Within `tags`, `publishers` and `vendors` one of them is enough."""

    search: str = ""
    tags: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    verified: bool = False
    deprecated: bool = False
    sort: str = "cost"

    @property
    def narrows(self) -> bool:
        """Whether it leaves anything out that the plain list shows."""
        return bool(words_of(self.search) or self.tags or self.publishers or self.vendors or self.verified)


@dataclass(frozen=True, slots=True)
class AgentCard:
    """An agent in the list. Credits are whole; `line` counts completed runs of each of the last 30 UTC days."""

    publisher_id: str
    id: str
    name: str
    description: str | None
    tags: Sequence[str]
    model: str
    latest_version: str
    published_at: datetime
    runs: int
    weekly_runs: int
    credits: int
    weekly_credits: int
    unique_users: int
    last_used: datetime | None
    deprecated_at: datetime | None
    successor: str | None
    publisher_name: str
    verified: bool
    picture: str | None
    line: tuple[int, ...]

    @property
    def weekly_dollars(self) -> Decimal:
        """What runs of seven days were billed, in dollars."""
        return Decimal(self.weekly_credits) / 100

    @property
    def dollars_a_run(self) -> Decimal | None:
        """What a completed run was billed on average, in dollars; None without one."""
        return Decimal(self.credits) / 100 / self.runs if self.runs else None

    @property
    def full_id(self) -> str:
        """`publisher/agent@version`, of the latest version."""
        return f"{self.publisher_id}/{self.id}@{self.latest_version}"


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Cards in their order; `next` is the key of those that follow, None where none do."""

    cards: Sequence[AgentCard]
    next: str | None


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """What can be chosen from, each with the number of agents that have it; deprecated agents are counted apart."""

    agents: int
    verified: int
    deprecated: int
    tags: Sequence[tuple[str, int]]
    publishers: Sequence[tuple[str, int]]
    vendors: Sequence[tuple[str, int]]


def words_of(search: str) -> list[str]:
    """The words of what somebody typed. Punctuation parts words, as it does in `agent.search`; a point does not."""
    marks = "\"'\\!&|<>()*:,;?/_-@#%$^~`+={}[]\x00"
    plain = search.translate(dict.fromkeys(map(ord, marks), " ")).split()
    return [word[:LONGEST_WORD] for word in plain if any(letter.isalnum() for letter in word)][:MOST_WORDS]


def batch(wanted: ListingQuery, today: date, *, after: str | None = None, size: int = BATCH) -> ListingPage:
    """Agents that have a version to run, in order, those after the key `after`. One statement, and for a search one more.

    Raises Invalid (400) for a key that this function did not make.
    """
    words = words_of(wanted.search)
    sort = wanted.sort if words or wanted.sort != "relevance" else "cost"
    place: tuple[Any, Any]
    key: ColumnElement[Any]
    if sort == "relevance":
        found = _ranked(wanted, words).subquery()
        place, key, falls = (found.c.publisher_id, found.c.id), found.c.rank, True
        query = select(*place, key.label("key"))
    else:
        place, (key, falls) = (Agent.publisher_id, Agent.id), SORTS[sort]
        query = select(*place, key.label("key")).where(*_conditions(wanted, words))
    if after:
        value, publisher_id, agent_id = _opened(after, sort)
        further, up_to = (key < value, key <= value) if falls else (key > value, key >= value)
        query = query.where(up_to, further | (tuple_(*place) > tuple_(publisher_id, agent_id)))
    query = query.order_by(key.desc() if falls else key, *place).limit(size + 1)
    rows = _cards(query.subquery("page"), falls, today)
    shown = [_card(row) for row in rows[:size]]
    return ListingPage(shown, _sealed(sort, rows[size - 1]) if len(rows) > size else None)


def choice(names: Sequence[str], today: date) -> list[AgentCard]:
    """The agents of an editor's list, in its order: `publisher/agent`, or an id alone, which means that of a verified
    publisher, so that nobody puts themselves into the list by taking a name. One statement; none for an empty list."""
    if not names:
        return []
    listed = literal(list(names), ARRAY(Text))
    full_id = Agent.publisher_id + "/" + Agent.id
    place = func.least(func.array_position(listed, Agent.id), func.array_position(listed, full_id))
    query = (
        select(Agent.publisher_id, Agent.id, place.label("key"))
        .join(Publisher, Publisher.id == Agent.publisher_id)
        .where(
            Agent.id.in_([name.rpartition("/")[2] for name in names]),
            *_conditions(ListingQuery(), ()),
            full_id.in_(names) | (Agent.id.in_(names) & Publisher.verified),
        )
        .limit(BATCH)
    )
    return [_card(row) for row in _cards(query.subquery("page"), False, today)]


def offer() -> FilterOptions:
    """What the whole store has to choose from. One statement; the database keeps the counts."""
    by: dict[str, list[tuple[str, int]]] = {}
    query = select(StoreFacet).order_by(StoreFacet.agents.desc(), StoreFacet.name)
    for row in db.session.scalars(query):
        by.setdefault(row.kind, []).append((row.name, row.agents))
    totals = dict(by.get("total", ()))
    return FilterOptions(
        agents=totals.get("agents", 0),
        verified=totals.get("verified", 0),
        deprecated=totals.get("deprecated", 0),
        tags=by.get("tag", ()),
        publishers=by.get("publisher", ()),
        vendors=by.get("vendor", ()),
    )


def publishes(user_id: str) -> bool:
    """Whether somebody has a publisher to manage: their own, or one of an organisation they own or administer."""
    own = (Publisher.user_id == user_id) | Publisher.org_id.in_(administered_org_ids(user_id))
    return db.session.scalar(select(Publisher.id).where(own).limit(1)) is not None


def newest(publisher_id: str | None = None, limit: int = 50) -> Sequence[Any]:
    """The newest versions that are neither yanked nor taken down, of one publisher or of all. One statement."""
    key = AgentVersion.publisher_id, AgentVersion.agent_id, AgentVersion.version
    query = (
        select(
            *key,
            AgentVersion.published_at,
            Agent.name,
            Agent.description,
            Publisher.name.label("publisher_name"),
        )
        .join(Agent, (Agent.publisher_id == key[0]) & (Agent.id == key[1]))
        .join(Publisher, Publisher.id == key[0])
        .where(AgentVersion.yanked_at.is_(None), ~covers(*key))
        .order_by(AgentVersion.published_at.desc(), *key)
        .limit(limit)
    )
    if publisher_id:
        query = query.where(key[0] == publisher_id)
    return db.session.execute(query).all()


def places(first: int, size: int) -> Sequence[Any]:
    """Public pages of the store for crawlers, `size` from number `first` on (from 0): agents that can be run and the
    publishers that have one, by name; `id` is null for a publisher. One statement."""
    agents = select(Agent.publisher_id, Agent.id, Agent.published_at).where(_LISTED)
    publishers = (
        select(Agent.publisher_id, null(), func.max(Agent.published_at))
        .where(_LISTED)
        .group_by(Agent.publisher_id)
    )
    place = union_all(agents, publishers).subquery()
    ordered = select(place).order_by(place.c.publisher_id, place.c.id.nulls_first())
    return db.session.execute(ordered.offset(first).limit(size)).all()


def count_places() -> int:
    """How many `places` there are. One statement."""
    both = func.count() + func.count(Agent.publisher_id.distinct())
    return db.session.execute(select(both).select_from(Agent).where(_LISTED)).scalar_one()


# -- statements ----------------------------------------------------------------------------------------------

_LISTED = Agent.latest_version.is_not(None)


def _ranked(wanted: ListingQuery, words: Sequence[str]) -> "Select[Any] | CompoundSelect[Any]":
    """The agents that a search finds, each with how well it fits; of a crowd those that are used most, and whatever bears
    the very name. A name that is what was searched for stands before all that only mentions it."""
    phrase = wanted.search.strip().lower()
    named = (Agent.id == phrase) | (func.lower(Agent.name) == phrase)
    weights = literal([0.05, 0.2, 0.5, 1.0], ARRAY(REAL))
    rank = func.ts_rank(weights, Agent.search, _words(words)) + case((named, 10), else_=0)
    conditions = _conditions(wanted, words)
    found = select(Agent.publisher_id, Agent.id, cast(rank, Double).label("rank")).where(*conditions)
    some = select(Agent.id).where(*conditions).limit(CROWD + 1).subquery()
    if db.session.execute(select(func.count()).select_from(some)).scalar_one() <= CROWD:
        return found
    used = found.order_by(Agent.weekly_credits.desc(), Agent.publisher_id, Agent.id).limit(RANKED)
    return union(used, found.where(named).limit(RANKED))


def _words(words: Sequence[str]) -> ColumnElement[Any]:
    return func.to_tsquery("simple", " & ".join(f"'{word}'" for word in words) + ":*")


def _conditions(wanted: ListingQuery, words: Sequence[str]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [_LISTED]
    if not wanted.deprecated:
        conditions.append(Agent.deprecated_at.is_(None))
    if words:
        conditions.append(Agent.search.bool_op("@@")(_words(words)))
    if wanted.tags:
        conditions.append(Agent.tags.bool_op("&&")(literal(list(wanted.tags), ARRAY(Text))))
    if wanted.publishers:
        conditions.append(Agent.publisher_id.in_(wanted.publishers))
    if wanted.vendors:
        conditions.append(func.split_part(Agent.model, "/", 1).in_(wanted.vendors))
    if wanted.verified:
        verified = select(Publisher.id).where(Publisher.id == Agent.publisher_id, Publisher.verified)
        conditions.append(verified.exists())
    return conditions


def _cards(page: Subquery, falls: bool, today: date) -> Sequence[Any]:
    """The cards of the agents that `page` names, by its key, each with its runs by how many days ago they were."""
    days = (
        select(
            func.array_agg(literal(today, Date) - AgentDay.day).label("days"),
            func.array_agg(AgentDay.runs).label("counts"),
        )
        .where(
            AgentDay.publisher_id == Agent.publisher_id,
            AgentDay.agent_id == Agent.id,
            AgentDay.day > today - timedelta(days=DAYS),
            AgentDay.day <= today,
        )
        .lateral()
    )
    query = (
        select(*_SHOWN, days.c.days, days.c.counts, page.c.key)
        .select_from(page)
        .join(Agent, (Agent.publisher_id == page.c.publisher_id) & (Agent.id == page.c.id))
        .join(Publisher, Publisher.id == Agent.publisher_id)
        .join(days, true())
        .order_by(page.c.key.desc() if falls else page.c.key, Agent.publisher_id, Agent.id)
    )
    return db.session.execute(query).all()


_SHOWN = (
    *(
        column
        for column in Agent.__table__.columns
        if column.name in AgentCard.__annotations__ and column.name != "description"
    ),
    func.left(Agent.description, 400).label("description"),
    Publisher.name.label("publisher_name"),
    Publisher.verified,
    Publisher.picture.label("picture"),
)


def _card(row: Row[Any]) -> AgentCard:
    line = [0] * DAYS
    for ago, count in zip(row.days or (), row.counts or (), strict=True):
        line[DAYS - 1 - ago] += count
    values = {name: value for name, value in row._mapping.items() if name not in ("days", "counts", "key")}
    return AgentCard(**values, line=tuple(line))


# -- keys ----------------------------------------------------------------------------------------------------


def _sealed(sort: str, row: Row[Any]) -> str:
    key, publisher_id, id = row.key, row.publisher_id, row.id
    if isinstance(key, datetime):
        key = key.isoformat()
    words = json.dumps([sort, key, publisher_id, id], separators=(",", ":"))
    return base64.urlsafe_b64encode(words.encode()).decode().rstrip("=")


def _opened(key: str, sort: str) -> tuple[Any, str, str]:
    try:
        words = json.loads(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
        kind, value, publisher_id, agent_id = words
        if sort == "newest":
            value = datetime.fromisoformat(value)
        wanted = {"newest": datetime, "name": str, "relevance": float}.get(sort, int)
    except (ValueError, TypeError):
        raise _broken() from None
    whole = (
        kind == sort and type(value) is wanted and isinstance(publisher_id, str) and isinstance(agent_id, str)
    )
    if not whole or "\x00" in f"{value}{publisher_id}{agent_id}" or (wanted is int and abs(value) >= 2**63):
        raise _broken()
    if isinstance(value, datetime) and value.tzinfo is None:
        raise _broken()
    return value, publisher_id, agent_id


def _broken() -> Invalid:
    return Invalid("This link into the list is broken. Open the store again.", code="bad_key", status=400)
