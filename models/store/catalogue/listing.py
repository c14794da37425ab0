"""The store listing: search, filters, sorting and keyset pagination."""

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
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
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
from models.store.statistics import agent_costs
from models.store.statistics.agent_costs import RunFigure
from models.store.tables import Agent, AgentDay, AgentVersion, Publisher

BATCH = 24
MAX_SHOWN = 240
DAYS = 30
MAX_WORDS = 10
MAX_WORD_LENGTH = 60
RANK_ALL = 1_500
"""Up to this many matches of a search, all are ranked by relevance."""

RANKED_SUBSET = 400
"""With more matches, only this many are ranked: the most used."""

SORTS: dict[str, tuple[ColumnElement[Any], bool]] = {
    "cost": (Agent.weekly_credits.expression, True),
    "usage": (Agent.runs.expression, True),
    "unique_users": (Agent.unique_users.expression, True),
    "stars": (Agent.stars.expression, True),
    "newest": (Agent.published_at.expression, True),
    "name": (func.lower(Agent.name), False),
}
"""Sort column and whether it is descending. Searches also have `relevance`."""


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """Search, filters and sort order. Values of one filter are alternatives; costs are names of
    `agent_costs.BANDS`."""

    search: str = ""
    tags: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    verified: bool = False
    deprecated: bool = False
    sort: str = "cost"

    @property
    def is_filtered(self) -> bool:
        """Whether it excludes agents that the default list shows."""
        chosen = self.tags, self.publishers, self.vendors, self.licenses, self.costs, self.verified
        return any(chosen) or bool(words_of(self.search))


@dataclass(frozen=True, slots=True)
class AgentCard:
    """An agent in the list. Credits are integers; `line` has the completed runs of each of the last 30 UTC days."""

    publisher_id: str
    id: str
    name: str
    description: str | None
    tags: Sequence[str]
    model: str
    license: str | None
    latest_version: str
    published_at: datetime
    runs: int
    weekly_runs: int
    credits: int
    weekly_credits: int
    unique_users: int
    stars: int
    last_used: datetime | None
    deprecated_at: datetime | None
    successor: str | None
    publisher_name: str
    verified: bool
    picture: str | None
    cost: RunFigure | None
    line: tuple[int, ...]

    @property
    def weekly_dollars(self) -> Decimal:
        """Spend in the last seven days, in dollars."""
        return Decimal(self.weekly_credits) / 100

    @property
    def full_id(self) -> str:
        """`publisher/agent@version` of the latest version."""
        return f"{self.publisher_id}/{self.id}@{self.latest_version}"


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One page of cards; `next` is the cursor of the next page, None on the last."""

    cards: Sequence[AgentCard]
    next: str | None


def words_of(search: str) -> list[str]:
    """The words of a search. Punctuation separates words, as in `agent.search`; a full stop does not."""
    marks = "\"'\\!&|<>()*:,;?/_-@#%$^~`+={}[]\x00"
    plain = search.translate(dict.fromkeys(map(ord, marks), " ")).split()
    return [word[:MAX_WORD_LENGTH] for word in plain if any(letter.isalnum() for letter in word)][:MAX_WORDS]


def batch(filters: ListingQuery, today: date, *, after: str | None = None, size: int = BATCH) -> ListingPage:
    """One page of agents with a version to run, after the cursor `after`. One statement, and one more for a search.

    Raises Invalid (400) for a malformed cursor.
    """
    words = words_of(filters.search)
    sort = filters.sort if words or filters.sort != "relevance" else "cost"
    columns: tuple[Any, Any]
    key: ColumnElement[Any]
    if sort == "relevance":
        found = _ranked(filters, words).subquery()
        columns, key, descending = (found.c.publisher_id, found.c.id), found.c.rank, True
        query = select(*columns, key.label("key"))
    else:
        columns, (key, descending) = (Agent.publisher_id, Agent.id), SORTS[sort]
        query = select(*columns, key.label("key")).where(*_conditions(filters, words))
    if after:
        value, publisher_id, agent_id = _decode_cursor(after, sort)
        beyond, up_to = (key < value, key <= value) if descending else (key > value, key >= value)
        query = query.where(up_to, beyond | (tuple_(*columns) > tuple_(publisher_id, agent_id)))
    query = query.order_by(key.desc() if descending else key, *columns).limit(size + 1)
    rows = _cards(query.subquery("page"), descending, today)
    shown = [_card(row) for row in rows[:size]]
    return ListingPage(shown, _encode_cursor(sort, rows[size - 1]) if len(rows) > size else None)


def editors_choice(names: Sequence[str], today: date) -> list[AgentCard]:
    """The agents named by the operator, in that order: `publisher/agent`, or an id alone, which matches verified publishers
    only, so that nobody gets listed by taking an id. One statement; none for an empty list."""
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


def has_publisher(user_id: str) -> bool:
    """Whether the user can manage a publisher: their own, or one of an organisation they own or administer."""
    own = (Publisher.user_id == user_id) | Publisher.org_id.in_(administered_org_ids(user_id))
    return db.session.scalar(select(Publisher.id).where(own).limit(1)) is not None


def newest_versions(publisher_id: str | None = None, limit: int = 50) -> Sequence[Any]:
    """The newest versions, of one publisher or all, without yanked and taken down ones. One statement."""
    key = AgentVersion.publisher_id, AgentVersion.agent_id, AgentVersion.version
    query = (
        select(
            *key,
            AgentVersion.published_at,
            AgentVersion.changelog,
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


def public_pages(first: int, size: int) -> Sequence[Any]:
    """`size` public pages for the sitemap, from offset `first`: agents with a version to run and their publishers, by name.
    `id` is null for a publisher. One statement."""
    agents = select(Agent.publisher_id, Agent.id, Agent.published_at).where(_LISTED)
    publishers = (
        select(Agent.publisher_id, null(), func.max(Agent.published_at))
        .where(_LISTED)
        .group_by(Agent.publisher_id)
    )
    pages = union_all(agents, publishers).subquery()
    ordered = select(pages).order_by(pages.c.publisher_id, pages.c.id.nulls_first())
    return db.session.execute(ordered.offset(first).limit(size)).all()


def count_public_pages() -> int:
    """The number of `public_pages`. One statement."""
    both = func.count() + func.count(Agent.publisher_id.distinct())
    return db.session.execute(select(both).select_from(Agent).where(_LISTED)).scalar_one()


# -- statements ----------------------------------------------------------------------------------------------

_LISTED = Agent.latest_version.is_not(None)
VENDOR = func.split_part(Agent.model, literal_column("'/'"), literal_column("1"))
"""Who makes the model of an agent: `anthropic` of `anthropic/claude-sonnet-4.5`."""


def _ranked(filters: ListingQuery, words: Sequence[str]) -> "Select[Any] | CompoundSelect[Any]":
    """The matches of a search with their relevance. With more than `RANK_ALL` matches, only the most used and exact names are
    ranked. An exact name ranks first."""
    phrase = filters.search.strip().lower()
    exact = (Agent.id == phrase) | (func.lower(Agent.name) == phrase)
    weights = literal([0.05, 0.2, 0.5, 1.0], ARRAY(REAL))
    rank = func.ts_rank(weights, Agent.search, _tsquery(words)) + case((exact, 10), else_=0)
    conditions = _conditions(filters, words)
    found = select(Agent.publisher_id, Agent.id, cast(rank, Double).label("rank")).where(*conditions)
    some = select(Agent.id).where(*conditions).limit(RANK_ALL + 1).subquery()
    if db.session.execute(select(func.count()).select_from(some)).scalar_one() <= RANK_ALL:
        return found
    used = found.order_by(Agent.weekly_credits.desc(), Agent.publisher_id, Agent.id).limit(RANKED_SUBSET)
    return union(used, found.where(exact).limit(RANKED_SUBSET))


def _tsquery(words: Sequence[str]) -> ColumnElement[Any]:
    # written into the statement: PostgreSQL parses a parameter of a prepared statement anew for every row
    text = bindparam(None, " & ".join(f"'{word}'" for word in words) + ":*", Text, literal_execute=True)
    return func.to_tsquery(literal_column("'simple'::regconfig"), text)


def _conditions(filters: ListingQuery, words: Sequence[str]) -> list[ColumnElement[bool]]:
    return [*unfiltered(words), *by_filter(filters).values()]


def unfiltered(words: Sequence[str]) -> list[ColumnElement[bool]]:
    """The conditions of a search without filters: agents with a version to run that match all words."""
    return [_LISTED, *([Agent.search.bool_op("@@")(_tsquery(words))] if words else ())]


def by_filter(filters: ListingQuery) -> dict[str, ColumnElement[bool]]:
    """The condition of each filter in use, by the name of its field. Deprecated agents are left out unless included."""
    conditions: dict[str, ColumnElement[bool]] = {}
    if not filters.deprecated:
        conditions["deprecated"] = Agent.deprecated_at.is_(None)
    if filters.tags:
        conditions["tags"] = Agent.tags.bool_op("&&")(literal(list(filters.tags), ARRAY(Text)))
    if filters.publishers:
        conditions["publishers"] = Agent.publisher_id.in_(filters.publishers)
    if filters.vendors:
        conditions["vendors"] = VENDOR.in_(filters.vendors)
    if filters.licenses:
        conditions["licenses"] = Agent.license.in_(filters.licenses)
    if filters.costs:
        conditions["costs"] = agent_costs.shown_band().in_(filters.costs)
    if filters.verified:
        verified = select(Publisher.id).where(Publisher.id == Agent.publisher_id, Publisher.verified)
        conditions["verified"] = verified.exists()
    return conditions


def _cards(page: Subquery, descending: bool, today: date) -> Sequence[Any]:
    """The cards of the agents in `page`, sorted by its key, with their daily runs (`days` ago and `counts`)."""
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
    cost = agent_costs.shown_cost().lateral()
    query = (
        select(*_CARD_COLUMNS, days.c.days, days.c.counts, *cost.c, page.c.key)
        .select_from(page)
        .join(Agent, (Agent.publisher_id == page.c.publisher_id) & (Agent.id == page.c.id))
        .join(Publisher, Publisher.id == Agent.publisher_id)
        .join(days, true())
        .outerjoin(cost, true())
        .order_by(page.c.key.desc() if descending else page.c.key, Agent.publisher_id, Agent.id)
    )
    return db.session.execute(query).all()


_CARD_COLUMNS = (
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
    values = {name: value for name, value in row._mapping.items() if name in AgentCard.__annotations__}
    cost = row.cost_runs and RunFigure(*(getattr(row, f"cost_{name}") for name in agent_costs.FIELDS))
    return AgentCard(**values, cost=cost, line=tuple(line))


# -- cursors -------------------------------------------------------------------------------------------------


def _encode_cursor(sort: str, row: Row[Any]) -> str:
    key, publisher_id, id = row.key, row.publisher_id, row.id
    if isinstance(key, datetime):
        key = key.isoformat()
    text = json.dumps([sort, key, publisher_id, id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(key: str, sort: str) -> tuple[Any, str, str]:
    try:
        parts = json.loads(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
        kind, value, publisher_id, agent_id = parts
        if sort == "newest":
            value = datetime.fromisoformat(value)
        cls = {"newest": datetime, "name": str, "relevance": float}.get(sort, int)
    except (ValueError, TypeError):
        raise _bad_cursor() from None
    valid = (
        kind == sort and type(value) is cls and isinstance(publisher_id, str) and isinstance(agent_id, str)
    )
    if not valid or "\x00" in f"{value}{publisher_id}{agent_id}" or (cls is int and abs(value) >= 2**63):
        raise _bad_cursor()
    if isinstance(value, datetime) and value.tzinfo is None:
        raise _bad_cursor()
    return value, publisher_id, agent_id


def _bad_cursor() -> Invalid:
    return Invalid("This link is invalid. Open the store again.", code="bad_key", status=400)
