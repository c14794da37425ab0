"""The store's list: which agents, in which order, a batch at a time; and what there is to choose from.

Texts are put together from parts written here; what people enter is always a parameter.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Row, text

from models.asking import read
from models.db import Database
from models.errors import Invalid
from models.pool import Parameter, Pool
from models.store.tables import PICTURE
from models.store.takedowns import covers

BATCH = 24
MOST_SHOWN = 240
DAYS = 30
MOST_WORDS = 10
LONGEST_WORD = 60
CROWD = 1_500
"""Of so many matches of a search each is ranked by how well it fits."""

RANKED = 400
"""Of more, so many are ranked."""

OFFERED = 8
"""How many tags, publishers and vendors are offered to choose from, the most frequent ones."""

# A name that is what was searched for stands before all that only mentions it.
_RANK = """(ts_rank('{0.05, 0.2, 0.5, 1.0}', agent.search, query.words)
    + CASE WHEN agent.id = :phrase OR lower(agent.name) = :phrase THEN 10 ELSE 0 END)::float8"""


SORTS = {
    "cost": ("agent.weekly_credits", True),
    "usage": ("agent.runs", True),
    "unique_users": ("agent.unique_users", True),
    "newest": ("agent.published_at", True),
    "name": ("lower(agent.name)", False),
    "relevance": ("agent.rank", True),
}
"""What each order goes by, and whether the largest comes first."""


@dataclass(frozen=True, slots=True)
class Wanted:
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


class Card(NamedTuple):
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
class Batch:
    """Cards in their order; `next` is the key of those that follow, None where none do."""

    cards: Sequence[Card]
    next: str | None


@dataclass(frozen=True, slots=True)
class Offer:
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


def batch(pool: Pool, wanted: Wanted, today: date, *, after: str | None = None, size: int = BATCH) -> Batch:
    """Agents that have a version to run, in order, those after the key `after`. One statement, which has its size
    written out: PostgreSQL would plan it anew each time for a number that it does not know.

    Raises Invalid (400) for a key that this function did not make.
    """
    words = words_of(wanted.search)
    sort = wanted.sort if words or wanted.sort != "relevance" else "cost"
    column, falls = SORTS[sort]
    conditions, parameters = _conditions(wanted, words)
    joined = f"{_WORDS if words else ''} {_PUBLISHER if wanted.verified else ''}"
    source = f"agent {joined}"
    if sort == "relevance":
        matches = " AND ".join(conditions)
        # written so that no index finds it: the order comes from one
        each = matches.replace(_MATCHES, f"({_MATCHES}) IS TRUE")
        source = _CANDIDATES.format(joined=joined, matches=matches, each=each, rank=_RANK, words=_WORDS)
        conditions = ["true"]
    if after:
        sign = "<" if falls else ">"
        conditions.append(
            f"{column} {sign}= :value AND ({column} {sign} :value"
            " OR (agent.publisher_id, agent.id) > (:after_publisher, :after_id))"
        )
        value, publisher_id, agent_id = _opened(after, sort)
        if isinstance(value, float):
            value = repr(value)
        parameters |= {"value": value, "after_publisher": publisher_id, "after_id": agent_id}
    way = "DESC" if falls else "ASC"
    page = (
        f"SELECT agent.publisher_id, agent.id, {column} AS key FROM {source}"  # noqa: S608
        f" WHERE {' AND '.join(conditions)} ORDER BY {column} {way}, agent.publisher_id, agent.id LIMIT {size + 1:d}"
    )
    rows = _cards(pool, page, f"page.key {way}", today, parameters)
    shown = rows[:size]
    return Batch([_card(row) for row in shown], _sealed(sort, shown[-1]) if len(rows) > size else None)


def choice(pool: Pool, names: Sequence[str], today: date) -> list[Card]:
    """The agents of an editor's list, in its order: `publisher/agent`, or an id alone, which means that of a verified
    publisher, so that nobody puts themselves into the list by taking a name. One statement; none for an empty list."""
    if not names:
        return []
    page = (
        "SELECT agent.publisher_id, agent.id, least(array_position(CAST(:names AS text[]), agent.id),"  # noqa: S608
        " array_position(CAST(:names AS text[]), agent.publisher_id || '/' || agent.id)) AS key"
        f" FROM agent {_PUBLISHER} WHERE agent.id = ANY (CAST(:ids AS text[])) AND {_LISTED} AND agent.deprecated_at IS NULL"
        " AND (agent.publisher_id || '/' || agent.id = ANY (CAST(:names AS text[]))"
        " OR (agent.id = ANY (CAST(:names AS text[])) AND publisher.verified)) LIMIT :size"
    )
    ids = [name.rpartition("/")[2] for name in names]
    parameters: dict[str, Parameter] = {"names": list(names), "ids": ids, "size": BATCH}
    return [_card(row) for row in _cards(pool, page, "page.key", today, parameters)]


def offer(database: Database) -> Offer:
    """What the whole store has to choose from. One statement that reads every agent: keep what it says."""
    found = database.execute(_OFFER, {"most": OFFERED}).all()
    by: dict[str, list[tuple[str, int]]] = {}
    for kind, name, count in found:
        by.setdefault(kind, []).append((name, count))
    totals = dict(by.get("total", ()))
    return Offer(
        agents=totals.get("agents", 0),
        verified=totals.get("verified", 0),
        deprecated=totals.get("deprecated", 0),
        tags=by.get("tag", ()),
        publishers=by.get("publisher", ()),
        vendors=by.get("vendor", ()),
    )


def publishes(database: Database, user_id: str) -> bool:
    """Whether somebody has a publisher to manage: their own, or one of an organisation they own or administer."""
    return bool(database.execute(_PUBLISHES, {"user": user_id}).scalar_one())


def newest(database: Database, publisher_id: str | None = None, limit: int = 50) -> Sequence[Row[Any]]:
    """The newest versions that are neither yanked nor taken down, of one publisher or of all. One statement."""
    own = "AND version.publisher_id = :publisher" if publisher_id else ""
    statement = text(_NEWEST.format(own=own))
    return database.execute(statement, {"publisher": publisher_id, "limit": limit}).all()


def places(database: Database, first: int, size: int) -> Sequence[Row[Any]]:
    """Public pages of the store for crawlers, `size` from number `first` on (from 0): agents that can be run and the
    publishers that have one, by name; `id` is null for a publisher. One statement."""
    return database.execute(_PLACES, {"first": first, "size": size}).all()


def count_places(database: Database) -> int:
    """How many `places` there are. One statement."""
    return int(database.execute(_COUNT_PLACES).scalar_one())


# -- statements ----------------------------------------------------------------------------------------------

_LISTED = "agent.latest_version IS NOT NULL"
_MATCHES = "agent.search @@ query.words"
_WORDS = "CROSS JOIN to_tsquery('simple', :words) AS query (words)"
_PUBLISHER = "JOIN publisher ON publisher.id = agent.publisher_id"

# One plan for rare words and common ones alike, since a prepared statement has only one: the index of words brings a few,
# and where it had more, those that are used most are ranked, and whatever bears the very name.
_CANDIDATES = f"""(
    WITH matching AS MATERIALIZED (
        SELECT agent.publisher_id, agent.id, agent.name, agent.search FROM agent {{joined}}
        WHERE {{matches}} LIMIT {CROWD + 1}
    ), crowd AS MATERIALIZED (SELECT count(*) > {CROWD} AS large FROM matching)
    SELECT agent.publisher_id, agent.id, {{rank}} AS rank FROM matching AS agent {{words}}
    WHERE NOT (SELECT large FROM crowd)
    UNION (SELECT agent.publisher_id, agent.id, {{rank}} FROM agent {{joined}}
        WHERE (SELECT large FROM crowd) AND {{each}}
        ORDER BY agent.weekly_credits DESC, agent.publisher_id, agent.id LIMIT {RANKED})
    UNION (SELECT agent.publisher_id, agent.id, {{rank}} FROM agent {{joined}}
        WHERE (SELECT large FROM crowd) AND (agent.id = :phrase OR lower(agent.name) = :phrase) AND {{each}}
        LIMIT {RANKED})
) AS agent"""  # noqa: S608

_CARD = f"""
    SELECT agent.publisher_id, agent.id, agent.name, left(agent.description, 400) AS description, agent.tags,
        agent.model, agent.latest_version, agent.published_at, agent.runs, agent.weekly_runs, agent.credits,
        agent.weekly_credits, agent.unique_users, agent.last_used, agent.deprecated_at, agent.successor,
        publisher.name AS publisher_name, publisher.verified, {PICTURE} AS picture, days.days, days.counts, page.key
    FROM ({{page}}) AS page
    JOIN agent USING (publisher_id, id)
    JOIN publisher ON publisher.id = agent.publisher_id
    LEFT JOIN LATERAL (
        SELECT array_agg(CAST(:today AS date) - day.day) AS days, array_agg(day.runs) AS counts FROM agent_day AS day
        WHERE (day.publisher_id, day.agent_id) = (agent.publisher_id, agent.id)
            AND day.day > :before AND day.day <= :today
    ) AS days ON true
    ORDER BY {{order}}, agent.publisher_id, agent.id
"""  # noqa: S608

_OFFER = text(
    """
    WITH listed AS MATERIALIZED (
        SELECT agent.publisher_id, agent.tags, split_part(agent.model, '/', 1) AS vendor, publisher.verified,
            agent.deprecated_at IS NOT NULL AS deprecated
        FROM agent JOIN publisher ON publisher.id = agent.publisher_id
        WHERE agent.latest_version IS NOT NULL
    ), shown AS (SELECT * FROM listed WHERE NOT deprecated)
    SELECT 'total' AS kind, 'agents' AS name, count(*) AS number FROM shown
    UNION ALL SELECT 'total', 'verified', count(*) FROM shown WHERE verified
    UNION ALL SELECT 'total', 'deprecated', count(*) FROM listed WHERE deprecated
    UNION ALL (SELECT 'tag', tag, count(*) FROM shown, unnest(tags) AS tag WHERE tag <> ''
        GROUP BY tag ORDER BY 3 DESC, 2 LIMIT :most)
    UNION ALL (SELECT 'publisher', publisher_id, count(*) FROM shown GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT :most)
    UNION ALL (SELECT 'vendor', vendor, count(*) FROM shown WHERE vendor <> ''
        GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT :most)
    """
)

_PUBLISHES = text(
    """
    SELECT EXISTS (SELECT FROM publisher WHERE user_id = :user) OR EXISTS (
        SELECT FROM publisher JOIN org_member AS member ON member.org_id = publisher.org_id
        WHERE member.user_id = :user AND member.role IN ('owner', 'admin')
    )
    """
)

_NEWEST = f"""
    SELECT version.publisher_id, version.agent_id, version.version, version.published_at, agent.name,
        agent.description, publisher.name AS publisher_name
    FROM agent_version AS version
    JOIN agent ON (agent.publisher_id, agent.id) = (version.publisher_id, version.agent_id)
    JOIN publisher ON publisher.id = version.publisher_id
    WHERE version.yanked_at IS NULL AND NOT {covers("version.publisher_id", "version.agent_id", "version.version")}
        {{own}}
    ORDER BY version.published_at DESC, version.publisher_id, version.agent_id, version.version
    LIMIT :limit
"""  # noqa: S608

_PLACES = text(
    """
    SELECT publisher_id, id, published_at FROM (
        SELECT publisher_id, id, published_at FROM agent WHERE latest_version IS NOT NULL
        UNION ALL
        SELECT publisher_id, NULL, max(published_at) FROM agent WHERE latest_version IS NOT NULL GROUP BY publisher_id
    ) AS place
    ORDER BY publisher_id, id NULLS FIRST OFFSET :first LIMIT :size
    """
)

_COUNT_PLACES = text(
    "SELECT count(*) + count(DISTINCT publisher_id) FROM agent WHERE latest_version IS NOT NULL"
)


def _cards(
    pool: Pool, page: str, order: str, today: date, parameters: Mapping[str, Parameter]
) -> list[tuple[Any, ...]]:
    query, names = _numbered(page, order)
    before = today - timedelta(days=DAYS)
    given = {**parameters, "today": today.isoformat(), "before": before.isoformat()}
    return read(pool, query, [given[name] for name in names])


@lru_cache(maxsize=256)
def _numbered(page: str, order: str) -> tuple[str, Sequence[str]]:
    """The statement with `$1` for its first parameter, and the names of all in this order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return re.sub(r"(?<!:):([a-z_]+)", number, _CARD.format(page=page, order=order)), names


def _conditions(wanted: Wanted, words: Sequence[str]) -> tuple[list[str], dict[str, Parameter]]:
    conditions, parameters = [_LISTED], dict[str, Parameter]()
    if not wanted.deprecated:
        conditions.append("agent.deprecated_at IS NULL")
    if words:
        conditions.append(_MATCHES)
        parameters["words"] = " & ".join(f"'{word}'" for word in words) + ":*"
        parameters["phrase"] = wanted.search.strip().lower()
    if wanted.tags:
        conditions.append("agent.tags && CAST(:tags AS text[])")
        parameters["tags"] = list(wanted.tags)
    if wanted.publishers:
        conditions.append("agent.publisher_id = ANY (CAST(:publishers AS text[]))")
        parameters["publishers"] = list(wanted.publishers)
    if wanted.vendors:
        conditions.append("split_part(agent.model, '/', 1) = ANY (CAST(:vendors AS text[]))")
        parameters["vendors"] = list(wanted.vendors)
    if wanted.verified:
        conditions.append("publisher.verified")
    return conditions, parameters


def _card(row: tuple[Any, ...]) -> Card:
    days, counts, _ = row[-3:]
    line = [0] * DAYS
    for ago, count in zip(days or (), counts or (), strict=True):
        line[DAYS - 1 - ago] += count
    values: list[Any] = [*row[:-3], tuple(line)]
    return Card(*values)


# -- keys ----------------------------------------------------------------------------------------------------


def _sealed(sort: str, row: tuple[Any, ...]) -> str:
    publisher_id, id, *_, key = row
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
