"""Queries for calls: a single call, and all calls of a period in batches for the export."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, and_, func, literal, or_, select, tuple_

from models.accounts import ApiKey, Session, User
from models.core.db import db
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.orgs import OrgTeam

BATCH = 5000
FIRST_BATCH = 250
"""Small, so that the export starts quickly."""


def call_with_id(account_id: str, request_id: str) -> GatewayCall:
    """A call of the account. Raises NotFound, also if it belongs to another account."""
    query = select(GatewayCall).where(
        GatewayCall.account_id == account_id, GatewayCall.request_id == request_id
    )
    call = None if "\x00" in request_id else db.session.scalar(query)
    if call is None:
        raise NotFound("There is no such call")
    return call


def exported_calls(
    account_id: str,
    start: datetime,
    end: datetime,
    *,
    user_id: str = "",
    filters: Mapping[str, str] | None = None,
    newest_first: bool = False,
) -> Iterator[Row[Any]]:
    """All billed calls of the account that finished in `start <= t < end`, oldest first, without bodies; with `user_id` only that
    member's, with `filters` only those with these values by dimension (an empty value: calls without one). Each names its member,
    key, team and repository.

    Reads batches of 5,000 by (finished_at, id), after a smaller first one, each on its own connection that is
    returned before the batch is yielded: memory stays constant, and a slow client holds no connection. Needs the
    application context only when called, so the response can be streamed after the request context has ended.
    """
    own = [Message.account_id == account_id, Message.finished_at >= start, Message.finished_at < end]
    if user_id:
        own.append(Message.user_id == user_id)
    own += [_is(name, value) for name, value in (filters or {}).items()]
    return _batches(db.engine, _calls(own, newest_first), newest_first)


_COLUMNS: dict[str, Any] = {
    "member": Message.user_id,
    "team": Message.team_id,
    "key": Message.key_id,
    "model": Message.model,
    "agent": Message.agent_id,
    "version": Message.agent_id,
    "repository": Message.repo_url,
}


def _is(name: str, value: str) -> ColumnElement[bool]:
    if name == "state":
        return literal(value != "failed")
    if name == "error":
        return literal(not value)
    column = _COLUMNS[name]
    if name == "agent" and "/" in value:
        return or_(column == value, column.startswith(f"{value}@", autoescape=True))
    return and_(func.coalesce(column, "") == value)


def _batches(engine: Engine, query: Select[*tuple[Any, ...]], newest_first: bool) -> Iterator[Row[Any]]:
    position = tuple_(Message.finished_at, Message.id)
    batch, limit = query, FIRST_BATCH
    while True:
        with engine.connect() as connection:
            rows = connection.execute(batch.limit(limit)).all()
        yield from rows
        if len(rows) < limit:
            return
        limit = BATCH
        last = tuple_(literal(rows[-1].finished_at, Message.finished_at.type), literal(rows[-1].id))
        batch = query.where(position < last if newest_first else position > last)
        del rows  # keeps only one batch in memory


def _calls(own: Sequence[ColumnElement[bool]], newest_first: bool) -> Select[*tuple[Any, ...]]:
    order = [Message.finished_at, Message.id]
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
            GatewayCall.micro_credits,
            GatewayCall.run_id,
            GatewayCall.door,
            GatewayCall.provider,
            GatewayCall.usage_source,
            GatewayCall.stream,
            GatewayCall.client_gone,
            GatewayCall.ttft_ms,
            Message.repo_url,
            User.display_name.label("user_name"),
            User.email.label("user_email"),
            func.coalesce(Session.name, Session.token_hint, ApiKey.name, ApiKey.key_id).label("key_name"),
            OrgTeam.name.label("team_name"),
        )
        .outerjoin(GatewayCall, GatewayCall.message_id == Message.id)
        .outerjoin(User, User.id == Message.user_id)
        .outerjoin(Session, Session.session_token == Message.key_id)
        .outerjoin(ApiKey, ApiKey.key_id == Message.key_id)
        .outerjoin(OrgTeam, OrgTeam.id == Message.team_id)
        .where(*own)
        .order_by(*(each.desc() if newest_first else each for each in order))
    )
    return query
