"""The calls of an organisation behind a figure: those of a member, key, team, model, agent or repository in a period."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, literal, or_, select, tuple_

from models.core.db import db
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.orgs import Org
from models.usage.org_usage import OrgUsage, counted_until

PAGE = 50
HOURS = 200
"""Hours with calls of a key that one page looks through."""

FILTERS = ("member", "team", "key", "model", "agent", "version", "repository", "run")


@dataclass(frozen=True)
class CallFilter:
    """Which calls: those that finished in `start <= t < end`, of `user_id` unless it is empty, and with these values by
    dimension; an empty value means calls without one."""

    start: datetime
    end: datetime
    values: dict[str, str]
    user_id: str = ""


@dataclass(frozen=True)
class OrgCallPage:
    """A page of calls, newest first; `next` is where the next page starts, or None."""

    calls: Sequence[Row[Any]]
    next: tuple[datetime, str] | None


def calls_page(org: Org, filter: CallFilter, after: tuple[datetime, str] | None = None) -> OrgCallPage:
    """A page of up to 50 calls. For a value that few calls have, looks only into the hours in which it has any, at most 200
    a page, so a page may have fewer calls although there is a next one."""
    low = _lowest(org, filter, after)
    query: Select[*tuple[Any, ...]] = (
        select(
            Message.id,
            Message.finished_at,
            Message.model,
            Message.agent_id,
            Message.client_request_id,
            Message.user_id,
            Message.repo_url,
            Message.key_id,
            Message.team_id,
            Message.input_tokens,
            Message.output_tokens,
            Message.latency_ms,
            Message.cost,
            charged().label("credits"),
            GatewayCall.request_id,
            GatewayCall.run_id,
        )
        .outerjoin(GatewayCall, GatewayCall.message_id == Message.id)
        .where(
            Message.org_id == org.id, *call_conditions(filter), Message.finished_at >= max(low, filter.start)
        )
        .order_by(Message.finished_at.desc(), Message.id.desc())
        .limit(PAGE + 1)
    )
    if after is not None:
        query = query.where(tuple_(Message.finished_at, Message.id) < _position(after))
    rows = db.session.execute(query).all()
    if len(rows) > PAGE:
        return OrgCallPage(rows[:PAGE], (rows[PAGE - 1].finished_at, rows[PAGE - 1].id))
    return OrgCallPage(rows, (low, "") if low > filter.start else None)


def _lowest(org: Org, filter: CallFilter, after: tuple[datetime, str] | None) -> datetime:
    """Where a page may stop looking: before it, the hours with calls of the key are for the next page."""
    named = [(name, value) for name, value in filter.values.items() if name != "run"]
    if filter.user_id:
        named.append(("member", filter.user_id))
    top = min(after[0], filter.end) if after else filter.end
    if not named or counted_until(org) <= filter.start:
        return filter.start
    name, value = named[0]
    query = (
        select(OrgUsage.bucket, OrgUsage.calls)
        .where(
            OrgUsage.org_id == org.id,
            OrgUsage.user_id == "",
            OrgUsage.dimension == name,
            OrgUsage.grain == "hour",
            OrgUsage.key == value,
            OrgUsage.bucket < top,
            OrgUsage.bucket >= filter.start,
        )
        .order_by(OrgUsage.bucket.desc())
        .limit(HOURS)
    )
    hours: list[tuple[datetime, int]] = [(row.bucket, row.calls) for row in db.session.execute(query)]
    calls = 0
    for number, (hour, in_hour) in enumerate(hours, 1):
        calls += in_hour
        if (len(named) == 1 and calls > PAGE) or number == HOURS:
            return hour
    return filter.start


def call_conditions(filter: CallFilter) -> list[ColumnElement[bool]]:
    """The conditions of a filter on `Message`."""
    conditions = [Message.finished_at >= filter.start, Message.finished_at < filter.end]
    if filter.user_id:
        conditions.append(Message.user_id == filter.user_id)
    conditions.extend(_is(name, value) for name, value in filter.values.items())
    return conditions


_COLUMNS: dict[str, Any] = {
    "member": Message.user_id,
    "team": Message.team_id,
    "key": Message.key_id,
    "model": Message.model,
    "version": Message.agent_id,
    "repository": Message.repo_url,
    "run": Message.client_request_id,
}


def _is(name: str, value: str) -> ColumnElement[bool]:
    column = _COLUMNS.get(name, Message.agent_id)
    if not value:
        return or_(column.is_(None), column == "")
    if name == "agent":
        return or_(
            column == value, and_(column.startswith(f"{value}@", autoescape=True), literal("/" in value))
        )
    return and_(column == value)


def charged() -> ColumnElement[int]:
    """The credits charged for a message: none if the caller's own provider key paid."""
    return case((Message.byok, 0), else_=Message.credits)


def _position(after: tuple[datetime, str]) -> Any:
    return tuple_(literal(after[0], Message.finished_at.type), literal(after[1]))
