"""Search over the calls of an account: pages, newest or dearest first. Every query reads a bounded number of rows.

A search reads the rows of one index in this order (`call_sources`, `dearest_calls`), and tests the other filters on at most `SCAN` of them. A page
that ends there says how far it searched, and the next page goes on from there. Text has no index, which would have to be written
while a call settles: it is looked for in at most `TEXT_BYTES` of the newest calls a page.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Engine,
    Row,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.orm import aliased

from models.accounts import ApiKey, Session, User
from models.core.db import db
from models.gateway import CallBody, GatewayCall
from models.ledger.message import Message
from models.orgs import OrgTeam
from models.runs.call_order import DEAREST, NEWEST, Cursor, Execute, Query, descending, position
from models.runs.call_sources import (
    NONE,
    SCAN,
    CallFilter,
    CallSource,
    agent_of,
    call_conditions,
    call_model,
    message_conditions,
    sources_of,
)
from models.runs.dearest_calls import dearest_sources
from models.runs.run import AgentRun

__all__ = [
    "NONE",
    "SCAN",
    "CallChoices",
    "CallFilter",
    "CallPage",
    "call_choices",
    "calls_page",
    "has_calls",
]

PAGE = 50
BATCH = 2_000
"""Calls that an export reads at a time."""
TEXT_ROWS, TEXT_BYTES = 500, 4 << 20
"""Calls, and bytes of their last messages and answers as stored, that one page searches for text."""
RECENT = 500
"""Calls whose providers are offered as a filter."""

_MICRO = Decimal(1_000_000)


@dataclass(frozen=True)
class CallPage:
    """A page of calls in the order of the filter. `next` is the cursor of the next page, None on the last. `searched_until`: the page
    has fewer calls than asked for, because so many were looked through: down to this time, or to this cost in dollars."""

    calls: Sequence[Row[Any]]
    next: Cursor | None
    searched_until: datetime | Decimal | None = None


@dataclass(frozen=True)
class CallChoices:
    """Values of filters in the account's newest calls: names, and keys as (id, name)."""

    models: Sequence[str] = ()
    providers: Sequence[str] = ()
    agents: Sequence[str] = ()
    keys: Sequence[tuple[str, str]] = ()


def calls_page(
    account_id: str, filter: CallFilter, after: Cursor | None = None, limit: int = PAGE
) -> CallPage:
    """The account's calls that match, after the cursor, failed and refused ones included if they are sorted by time. Up to four queries. Rows have the columns of
    `GatewayCall`, `model_name`, `agent_id`, `team_id`, `team_name`, `repo_url`, `byok`, `user_name`, `user_email`, `key_name`,
    `input_tokens` (cached ones included), `exact_credits` and `list_credits`, what a call would have cost that an own provider key
    paid."""
    return _page(execute, account_id, filter, after, limit)


def exported_calls(account_id: str, filter: CallFilter) -> Iterator[Row[Any]]:
    """All calls of `calls_page`, in batches, each on its own connection that is returned before the batch is yielded. Needs the
    application context only when called, so the response can be streamed after the request context has ended."""
    return _batches(db.engine, account_id, filter)


def _batches(engine: Engine, account_id: str, filter: CallFilter) -> Iterator[Row[Any]]:
    def execute(query: Query) -> Sequence[Row[Any]]:
        with engine.connect() as connection:
            return connection.execute(query).all()

    after: Cursor | None = None
    while True:
        page = _page(execute, account_id, filter, after, BATCH)
        yield from page.calls
        if page.next is None:
            return
        after = page.next


def execute(query: Query) -> Sequence[Row[Any]]:
    """The rows of a query in the session."""
    return db.session.execute(query).all()


def _page(
    execute: Execute, account_id: str, filter: CallFilter, after: Cursor | None, limit: int
) -> CallPage:
    found: list[Row[Any]] = []
    floors: list[Cursor] = []

    def place(row: Row[Any]) -> Any:
        return position(row, filter.sort)

    for source in _sources(account_id, filter, after, execute, limit + 1):
        rows, floor = (_text_rows if filter.text else _rows)(execute, source, filter, limit + 1)
        found += rows
        if floor is not None:
            floors.append(floor)
    found.sort(key=place, reverse=True)
    floor = max(floors, default=None)
    if floor is not None:
        found = [row for row in found if place(row) >= floor]
    if len(found) > limit:
        return CallPage(found[:limit], place(found[limit - 1]))
    return CallPage(found, floor, floor[0] if floor else None)


def _sources(
    account_id: str, filter: CallFilter, after: Cursor | None, execute: Execute, limit: int
) -> list[CallSource]:
    if filter.sort == DEAREST:
        return dearest_sources(account_id, filter, after, execute, limit)
    return sources_of(account_id, filter, after, execute)


def _rows(
    execute: Execute, source: CallSource, filter: CallFilter, limit: int
) -> tuple[Sequence[Row[Any]], Cursor | None]:
    """Up to `limit` rows of a source that match; and the last call that was looked at, if there may be older ones."""
    scan = source.scan if source.whole or filter.tests_beyond(source.name) else limit
    rows = execute(_full_rows(_matching(source, filter, scan).limit(limit), filter))
    if len(rows) == limit or scan == limit:
        return rows, None
    return rows, _scan_end(execute, source, scan)


def _scan_end(execute: Execute, source: CallSource, scan: int) -> Cursor | None:
    """The last of the calls of a source that were looked through; None if that were all."""
    if source.whole:
        return None
    if source.merged:
        last = source.query.offset(scan - 1).limit(1).subquery().c
        end = execute(select(last.cost, last.finished_at))
        return (end[0].cost, end[0].finished_at, "") if end else None  # all that equal it were looked through
    calls = source.query.with_only_columns(*position(GatewayCall, NEWEST))
    end = execute(calls.offset(scan - 1).limit(1))
    return (end[0].finished_at, end[0].request_id) if end else None


def _text_rows(
    execute: Execute, source: CallSource, filter: CallFilter, limit: int
) -> tuple[Sequence[Row[Any]], Cursor | None]:
    """As `_rows`, of the first calls whose texts together have the size that is searched."""
    looked = execute(_full_rows(_matching(source, filter, source.scan).limit(TEXT_ROWS), filter, filter.text))
    rows = [row for row in looked if row.has_text][:limit]
    searched = [row for row in looked if row.has_text is not None]
    if len(rows) == limit:
        return rows, None
    if len(searched) < len(looked) or len(looked) == TEXT_ROWS:
        return rows, position(searched[-1], filter.sort)
    return rows, _scan_end(execute, source, source.scan)


def _matching(source: CallSource, filter: CallFilter, scan: int) -> Query:
    """The calls of a source that match among the first `scan`; nothing but their own columns."""
    c = source.first(scan).subquery("c").c
    query, conditions = with_conditions(select(*c), c, source.narrowed(filter))
    return query.where(*conditions).order_by(*descending(c, filter.sort))


def with_conditions(query: Query, c: Any, filter: CallFilter) -> tuple[Query, list[Any]]:
    """The query with what its conditions read, and these."""
    if not filter.reads_messages:
        return query, call_conditions(c, filter)
    m, r, b = aliased(Message), aliased(AgentRun), aliased(CallBody)
    query = query.outerjoin(m, m.id == c.message_id)
    if filter.agent is not None:
        query = query.outerjoin(r, r.id == c.run_id)
    if filter.error is not None:
        query = query.outerjoin(b, b.request_id == c.request_id)
    return query, call_conditions(c, filter) + message_conditions(c, m, r, b, filter)


def _full_rows(matching: Query, filter: CallFilter, sought: str | None = None) -> Query:
    """The rows of a list, with names; with `sought` whether a row has this text, None if it was not searched."""
    c = matching.subquery("found").c
    m, r, b = aliased(Message), aliased(AgentRun), aliased(CallBody)
    columns: list[Any] = [
        *c,
        call_model(c).label("model_name"),
        agent_of(m, r).label("agent_id"),
        m.team_id,
        m.repo_url,
        func.coalesce(m.byok, false()).label("byok"),
        User.display_name.label("user_name"),
        User.email.label("user_email"),
        func.coalesce(Session.name, Session.token_hint, ApiKey.name, ApiKey.key_id).label("key_name"),
        OrgTeam.name.label("team_name"),
        (c.uncached_input_tokens + c.cache_write_tokens + c.cache_read_tokens).label("input_tokens"),
        (case((m.byok.is_(True), 0), else_=c.micro_credits) / literal(_MICRO)).label("exact_credits"),
        (c.micro_credits / literal(_MICRO)).label("list_credits"),
    ]
    if sought is not None:
        columns.append(_has_text(c, m, b, sought, filter.sort).label("has_text"))
    query = (
        select(*columns)
        .outerjoin(m, m.id == c.message_id)
        .outerjoin(r, r.id == c.run_id)
        .outerjoin(User, User.id == c.user_id)
        .outerjoin(Session, Session.session_token == c.key_id)
        .outerjoin(ApiKey, ApiKey.key_id == c.key_id)
        .outerjoin(OrgTeam, OrgTeam.id == m.team_id)
        .order_by(*descending(c, filter.sort))
    )
    return query if sought is None else query.outerjoin(b, b.request_id == c.request_id)


def _has_text(c: Any, m: Any, b: Any, sought: str, sort: str) -> Any:
    """Whether the last message or the answer of a call has the text, ignoring case; None beyond the size that is searched. JSON is
    compared as it is stored, so that the text is escaped like it."""
    kept = case((func.jsonb_typeof(b.request) == "array", b.request[-1]), else_=b.request)
    parts = (m.last_message, m.response, kept, b.response)
    size = sum(
        (func.coalesce(func.pg_column_size(part), 0) for part in (*parts[:2], b.request, b.response)),
        literal(0),
    )
    before = func.sum(size).over(order_by=descending(c, sort)) - size
    escaped = json.dumps(sought, ensure_ascii=False)[1:-1].lower()
    stored = func.concat_ws(" ", *(cast(part, Text) for part in parts))
    return case((before < TEXT_BYTES, func.strpos(func.lower(stored), escaped) > 0))


def has_calls(account_id: str, user_id: str = "") -> bool:
    """Whether the account has any call, with `user_id` of this member."""
    filter = CallFilter(user_id=user_id)
    return bool(calls_page(account_id, filter, limit=1).calls)


def call_choices(account_id: str, user_id: str = "") -> CallChoices:
    """Values of the account's calls, up to 50 of each, and the providers of the newest; with `user_id` only the keys of this member."""
    c, m = GatewayCall, Message
    used = _distinct(c.key_id, c.account_id == account_id)
    keys: Query = select(Session.session_token, func.coalesce(Session.name, Session.token_hint)).where(
        Session.session_token.in_(used)
    )
    if user_id:
        return CallChoices(keys=_pairs(keys.where(Session.user_id == user_id)))
    name = func.split_part(m.agent_id, literal_column("'@'"), literal_column("1"))
    newest = select(c.provider).where(c.account_id == account_id).order_by(c.finished_at.desc())
    latest = newest.limit(RECENT).subquery()
    models, providers, agents = db.session.execute(
        select(
            func.array(_distinct(call_model(c), c.account_id == account_id).scalar_subquery()),
            func.array(
                select(latest.c.provider)
                .where(latest.c.provider.is_not(None))
                .distinct()
                .order_by(latest.c.provider)
                .scalar_subquery()
            ),
            func.array(
                _distinct(name, and_(m.account_id == account_id, m.agent_id.is_not(None))).scalar_subquery()
            ),
        )
    ).one()
    return CallChoices(models, providers, agents, _pairs(keys))


def _pairs(query: Query) -> Sequence[tuple[str, str]]:
    return [(id, name) for id, name in db.session.execute(query.order_by(text("2")).limit(50))]


def _distinct(value: Any, condition: Any) -> Query:
    """The values that an index has, by a loose scan from each to the next."""
    first = select(func.min(value).label("value")).where(condition)
    values = first.cte(recursive=True)
    following = first.where(value > values.c.value).correlate(values).scalar_subquery()
    values = values.union_all(select(following).where(values.c.value.is_not(None)))
    return select(values.c.value).where(values.c.value.is_not(None)).limit(50)
