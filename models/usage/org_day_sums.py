"""Sums of an organisation's counted days: few rows, where its rollups by member, key, agent and model are many."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import ColumnElement, Row, and_, func, or_, select

from models.core.db import db, midnight
from models.orgs import Org
from models.usage.org_figures import clock_of
from models.usage.org_usage import BEGINNING, OrgUsage, counted_until


def counted_days(org: Org, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
    """The longest part of a period that is made of whole days of the organisation's clock, all of whose calls are counted; None if
    there is none."""
    counted, clock = counted_until(org), clock_of(org)
    if counted == BEGINNING:
        return None
    day = start.astimezone(clock).date()
    first = midnight(day, clock)
    first = first if first == start else midnight(day + timedelta(days=1), clock)
    last = midnight(min(end, counted).astimezone(clock).date(), clock)
    return (first, last) if first < last else None


def sum_days(
    org: Org,
    days: tuple[datetime, datetime],
    dimension: str,
    *conditions: ColumnElement[bool],
    user_id: str = "",
) -> Row[int, int, int, int, int, Decimal]:
    """Calls with failed ones, failed calls, input and output tokens, credits and cost (None without calls) of these days, as of
    `counted_days`: of the cells of one dimension that match the conditions on `OrgUsage`, with `user_id` of this member's."""
    (start, end), u = days, OrgUsage
    zone = start.tzinfo or UTC
    monday = midnight(start.date() + timedelta(days=-start.weekday() % 7), zone)
    last_monday = midnight(end.date() - timedelta(days=end.weekday()), zone)
    buckets = and_(u.grain == "day", u.bucket >= start, u.bucket < end)
    if monday < last_monday:
        within = u.bucket >= monday, u.bucket < last_monday
        edges = or_(and_(u.bucket >= start, u.bucket < monday), and_(u.bucket >= last_monday, u.bucket < end))
        buckets = or_(and_(u.grain == "week", *within), and_(u.grain == "day", edges))
    query = select(
        func.sum(u.calls + u.failed),
        func.sum(u.failed),
        func.sum(u.input_tokens + u.cache_write_tokens + u.cache_read_tokens),
        func.sum(u.output_tokens),
        func.sum(u.credits),
        func.sum(u.cost),
    ).where(u.org_id == org.id, u.user_id == user_id, u.dimension == dimension, buckets, *conditions)
    return db.session.execute(query).one()
