"""Queries for calls: recent calls, a single call, and all calls of a period in batches for the export."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, and_, literal, select, tuple_

from models.core.db import db
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.ledger.message import Message

BATCH = 5000
FIRST_BATCH = 250
"""Small, so that the export starts quickly."""


def recent_calls(account_id: str, limit: int) -> Sequence[Row[Any]]:
    """The account's latest calls for a list, failed ones included, newest first. `input_tokens` includes cached
    tokens; `cost` is dollars."""
    read = GatewayCall.uncached_input_tokens + GatewayCall.cache_write_tokens + GatewayCall.cache_read_tokens
    query: Select[*tuple[Any, ...]] = (
        select(
            GatewayCall.request_id,
            GatewayCall.run_id,
            GatewayCall.state,
            GatewayCall.requested_model,
            GatewayCall.model,
            GatewayCall.started_at,
            read.label("input_tokens"),
            GatewayCall.output_tokens,
            GatewayCall.latency_ms,
            GatewayCall.cost,
            GatewayCall.credits,
        )
        .where(GatewayCall.account_id == account_id)
        .order_by(GatewayCall.started_at.desc(), GatewayCall.request_id.desc())
    )
    return db.session.execute(query.limit(limit)).all()


def call_with_id(account_id: str, request_id: str) -> GatewayCall:
    """A call of the account. Raises NotFound, also if it belongs to another account."""
    query = select(GatewayCall).where(
        GatewayCall.account_id == account_id, GatewayCall.request_id == request_id
    )
    call = None if "\x00" in request_id else db.session.scalar(query)
    if call is None:
        raise NotFound("There is no such call")
    return call


def exported_calls(account_id: str, start: datetime, end: datetime) -> Iterator[Row[Any]]:
    """All billed calls of the account that finished in `start <= t < end`, oldest first, without bodies.

    Reads batches of 5,000 by (finished_at, id), after a smaller first one, each on its own connection that is
    returned before the batch is yielded: memory stays constant, and a slow client holds no connection. Needs the
    application context only when called, so the response can be streamed after the request context has ended.
    """
    return _batches(db.engine, account_id, start, end)


def _batches(engine: Engine, account_id: str, start: datetime, end: datetime) -> Iterator[Row[Any]]:
    after: tuple[datetime, str] | None = None
    limit = FIRST_BATCH
    while True:
        with engine.connect() as connection:
            rows = connection.execute(_batch(account_id, start, end, after).limit(limit)).all()
        yield from rows
        if len(rows) < limit:
            return
        limit = BATCH
        after = (rows[-1].finished_at, rows[-1].id)
        del rows  # keeps only one batch in memory


def _batch(
    account_id: str, start: datetime, end: datetime, after: tuple[datetime, str] | None
) -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = (
        select(
            Message.id,
            Message.finished_at,
            Message.model,
            Message.agent_id,
            Message.client_id,
            Message.input_tokens,
            Message.cache_creation_input_tokens.label("cache_write_tokens"),
            Message.cache_read_input_tokens.label("cache_read_tokens"),
            Message.output_tokens,
            Message.reasoning_tokens,
            Message.cost,
            Message.credits,
            Message.byok,
            Message.latency_ms,
            Message.user_id,
            Message.repo_url,
            GatewayCall.request_id,
            GatewayCall.uncached_input_tokens,
            GatewayCall.run_id,
            GatewayCall.door,
            GatewayCall.provider,
            GatewayCall.usage_source,
            GatewayCall.stream,
            GatewayCall.client_gone,
            GatewayCall.ttft_ms,
        )
        .outerjoin(GatewayCall, GatewayCall.message_id == Message.id)
        .where(_own(account_id, start, end))
        .order_by(Message.finished_at, Message.id)
    )
    if after is not None:
        finished_at, message_id = after
        cursor = tuple_(literal(finished_at, Message.finished_at.type), literal(message_id))
        query = query.where(tuple_(Message.finished_at, Message.id) > cursor)
    return query


def _own(account_id: str, start: datetime, end: datetime) -> ColumnElement[bool]:
    return and_(
        Message.account_id == account_id,
        Message.finished_at >= start,
        Message.finished_at < end,
    )
