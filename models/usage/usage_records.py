"""Usage rows of the API: one for each settled call, newest first, by keyset pages whose cost does not grow with the account.

A page reads one index of `gateway_call`, by the time and the first of key, member, model and provider that is asked for, and looks through
at most 5,000 of its calls for the other filters. If it stops there, it is short or empty and the next one continues after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, Row, Select, func, literal, literal_column, select, tuple_

from models.accounts import ApiKey, Session
from models.core.db import db
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.usage.usage_scope import UsageScope, may_read
from models.usage.usage_window import UsageWindow

SCAN = 5_000
"""Calls that one page looks through."""
FIRST_BATCH, BATCH = 250, SCAN - 1
"""Rows that an export reads at a time: at first few, so that it starts soon; then as many as one statement can find without a second one
that asks where it stopped."""

Cursor = tuple[datetime, str]
Execute = Callable[[Any], Any]


@dataclass(frozen=True)
class UsageRecord:
    """One settled call, whose id is its message's. `cost` and `margin` are dollars: what the provider charges, and what was charged
    more than that. `credits` is what the ledger debited and `exact_credits` the same with the fractions that it carries over; both and
    the margin are 0 for a call with the caller's own provider key."""

    row: Row[Any]

    @property
    def tokens_in(self) -> int:
        """All input tokens: uncached, cache writes and cache reads."""
        row = self.row
        return int(row.uncached_input_tokens + row.cache_write_tokens + row.cache_read_tokens)

    @property
    def credits(self) -> int:
        return 0 if self.row.byok else int(self.row.credits)

    @property
    def exact_credits(self) -> Decimal:
        return Decimal(0) if self.row.byok else Decimal(self.row.micro_credits) / 1_000_000

    @property
    def margin(self) -> Decimal:
        return Decimal(0) if self.row.byok else self.exact_credits / 100 - Decimal(self.row.cost)


@dataclass(frozen=True)
class RecordsPage:
    """A page of rows, and where the next one starts; None: there is none."""

    rows: list[UsageRecord]
    following: Cursor | None


def records_page(
    scope: UsageScope,
    window: UsageWindow,
    filters: Mapping[str, str],
    after: Cursor | None,
    limit: int,
    execute: Execute | None = None,
) -> RecordsPage:
    """Up to `limit` rows of the window after a position, newest first. Two statements at most."""
    narrowed = scope.narrowed(filters)
    if narrowed is None:
        return RecordsPage([], None)
    run = execute or db.session.execute
    scanned = _scanned(scope.account_id, window, narrowed, after)
    rows = run(_found(scanned, narrowed).limit(limit + 1)).all()
    if len(rows) > limit:
        rows = rows[:limit]
        return RecordsPage([UsageRecord(row) for row in rows], (rows[-1].finished_at, rows[-1].request_id))
    end = run(
        scanned.with_only_columns(GatewayCall.finished_at, GatewayCall.request_id).offset(SCAN - 1)
    ).first()
    return RecordsPage([UsageRecord(row) for row in rows], tuple(end) if end else None)


def exported_records(
    scope: UsageScope, window: UsageWindow, filters: Mapping[str, str]
) -> Iterator[UsageRecord]:
    """All rows of the window, newest first, read in batches, each on its own connection that is returned before the batch is yielded:
    memory stays constant, and a slow client holds no connection. Needs the application context only when called."""
    return _batches(db.engine, scope, window, dict(filters))


def _batches(
    engine: Engine, scope: UsageScope, window: UsageWindow, filters: Mapping[str, str]
) -> Iterator[UsageRecord]:
    after: Cursor | None = None
    limit = FIRST_BATCH
    while True:
        with engine.connect() as connection:
            page = records_page(scope, window, filters, after, limit, connection.execute)
        yield from page.rows
        if page.following is None:
            return
        after, limit = page.following, BATCH
        del page  # keeps only one batch in memory


def record_by_id(key: Session, message_id: str) -> UsageRecord:
    """The row of a message that the key may read in any scope. Raises NotFound, also for those of others."""
    query = _rows(GatewayCall, GatewayCall).where(
        GatewayCall.message_id == message_id, GatewayCall.state == "settled"
    )
    row = None if "\0" in message_id else db.session.execute(query).first()
    if row is None or not may_read(key, row.account_id, row.user_id):
        raise NotFound("There is no such usage row. It does not exist, or it is not yours.")
    return UsageRecord(row)


def _scanned(
    account_id: str, window: UsageWindow, filters: Mapping[str, str], after: Cursor | None
) -> Select[*tuple[Any, ...]]:
    """The calls that a page looks through: in the order of one index. With all columns that a row shows, because finding each call again by
    its id reads a page of another index for each."""
    c = GatewayCall
    query: Select[*tuple[Any, ...]] = select(*(getattr(c, name) for name in _CALL_COLUMNS)).where(
        c.account_id == account_id, c.finished_at >= window.start, c.finished_at < window.end
    )
    if after is not None:
        position = tuple_(literal(after[0], c.finished_at.type), literal(after[1]))
        # the first condition alone bounds the index
        query = query.where(c.finished_at <= after[0], tuple_(c.finished_at, c.request_id) < position)
    for name, conditions in _indexed(account_id, filters).items():
        if name in filters:
            query = query.where(*conditions)
            break
    # not a parameter: without its value, the planner might prepare for all calls of the account
    most: Any = literal_column(str(SCAN))
    return query.order_by(c.finished_at.desc(), c.request_id.desc()).limit(most)


def _indexed(account_id: str, filters: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """The conditions of the filters that have an index, that with the fewest calls first."""
    c = GatewayCall
    found: dict[str, Sequence[Any]] = {"key": [c.key_id == filters.get("key")]}
    if filters.get("member") != account_id:
        found["member"] = [c.user_id == filters.get("member"), c.user_id != c.account_id]
    found["model"] = [func.coalesce(c.model, c.requested_model) == filters.get("model")]
    found["provider"] = [c.provider == filters.get("provider")]
    return found


def _found(scanned: Select[*tuple[Any, ...]], filters: Mapping[str, str]) -> Select[*tuple[Any, ...]]:
    calls = scanned.subquery("scanned")
    c = calls.c
    columns: dict[str, Any] = {
        "key": func.coalesce(c.key_id, ""),
        "member": c.user_id,
        "model": Message.model,
        "provider": func.coalesce(c.provider, ""),
        "type": func.usage_type(c.door),
        "agent": func.coalesce(Message.agent_id, ""),
    }
    return (
        _rows(calls, c)
        .where(c.state == "settled", *(columns[name] == value for name, value in filters.items()))
        .order_by(c.finished_at.desc(), c.request_id.desc())
    )


_SHOWN = (
    *("request_id", "finished_at", "account_id", "user_id", "run_id", "provider", "requested_model"),
    *("error", "usage_source", "stream", "latency_ms", "ttft_ms", "door"),
    *("uncached_input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens"),
    *("reasoning_tokens", "cost", "credits", "micro_credits"),
)
_CALL_COLUMNS = (*_SHOWN, "state", "message_id", "key_id")


def _rows(calls: Any, c: Any) -> Select[*tuple[Any, ...]]:
    """The rows of calls, which are the table or a subquery of it, with its columns `c`."""
    m = Message
    query: Select[*tuple[Any, ...]] = (
        select(
            *(m.id, m.model, m.agent_id, m.byok, m.client_id, m.repo_url, m.org_id),
            *(getattr(c, name) for name in _SHOWN),
            func.usage_type(c.door).label("type"),
            func.coalesce(ApiKey.id, c.key_id).label("api_key_id"),
        )
        .select_from(calls)
        .join(m, m.id == c.message_id)
        .outerjoin(ApiKey, ApiKey.key_id == c.key_id)
    )
    return query
