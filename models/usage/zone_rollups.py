"""Rollups of the days and weeks of time zones other than UTC, counted from the others for those who look at them.

A day of another zone is made of 24 hours, and a year of it of so many rollups that a page would take seconds. So a page notes the zone
that it was viewed in, and a job counts the account's past days and weeks there into rows of `usage_rollup` with a grain that names the
zone. Days that are not counted yet are read by hour.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, DateTime, ForeignKey, cast, delete, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db, midnight
from models.ledger.rollup import UsageRollup
from models.usage.period import Period, zone_grain
from models.usage.usage_rows import ROLLUP_KEYS, rollup_parameters, rollup_rows, total_columns

KEPT = timedelta(days=30)
"""How long the days of a zone are counted after it was last viewed."""
LAG = timedelta(hours=1)
"""How long after midnight a day is counted."""
AGAIN = timedelta(days=2)
"""Days that are counted again each day, in case a call was stored late."""
MOST_ZONES = 20
"""Zones of an account whose days are counted; those of further ones are read by hour."""
STEP = timedelta(days=31)
"""Days that one transaction counts."""


class UsageZone(Base):
    """A time zone in which the usage of an account is viewed. The days and weeks before the midnight `counted_until` are rollups."""

    __tablename__ = "usage_zone"

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    time_zone: Mapped[str] = mapped_column(primary_key=True)
    viewed_at: Mapped[datetime]
    counted_until: Mapped[datetime | None]


def counted_until(account_id: str, zone: tzinfo) -> datetime | None:
    """The midnight before which the days of the zone are rollups; None if none are."""
    if _is_utc(zone):
        return None
    found = db.session.get(UsageZone, (account_id, str(zone)))
    # the session refers weakly to its rows; a report needs this one twice
    db.session.info["usage_zone"] = found
    return found.counted_until if found else None


def note_view(account_id: str, zone: tzinfo, now: datetime) -> None:
    """Note that the usage of the account is viewed in this zone, so that its days are counted. Writes once a day; flushes."""
    if _is_utc(zone):
        return
    found = db.session.get(UsageZone, (account_id, str(zone)))
    if found is not None and found.viewed_at > now - timedelta(days=1):
        return
    if found is None and _viewed_zones(account_id) >= MOST_ZONES:
        return
    row = insert(UsageZone).values(account_id=account_id, time_zone=str(zone), viewed_at=now)
    key = [UsageZone.account_id, UsageZone.time_zone]
    db.session.execute(row.on_conflict_do_update(index_elements=key, set_={"viewed_at": now}))


def zones_to_count(now: datetime) -> Sequence[tuple[str, str]]:
    """The account and zone of each row with days to count, and of those that nobody views any more."""
    today = func.date_trunc("day", cast(now - LAG, DateTime(timezone=True)), UsageZone.time_zone)
    due = or_(
        UsageZone.counted_until.is_(None),
        UsageZone.counted_until < today,
        UsageZone.viewed_at < now - KEPT,
    )
    query = select(UsageZone.account_id, UsageZone.time_zone).where(due)
    rows = db.session.execute(query.order_by(UsageZone.account_id, UsageZone.time_zone))
    return [(row.account_id, row.time_zone) for row in rows]


def count_days(account_id: str, time_zone: str, now: datetime) -> bool:
    """Count up to 31 days of the account in the zone; whether there are more. Forgets a zone that nobody views. Commit after each call.
    Locks the zone's row; flushes. Idempotent."""
    state = db.session.get(UsageZone, (account_id, time_zone), with_for_update=True, populate_existing=True)
    if state is None:
        return False
    if state.viewed_at < now - KEPT:
        _forget(account_id, ZoneInfo(time_zone), datetime(2000, 1, 1, tzinfo=UTC))
        db.session.delete(state)
        db.session.flush()
        return False
    zone = ZoneInfo(time_zone)
    last = (now - LAG).astimezone(zone).date()
    first = _first_day(state, zone) or last
    until = min(first + STEP, last)
    if first < until:
        _count(account_id, zone, first, until)
    state.counted_until = midnight(until, zone)
    db.session.flush()
    return until < last


def _viewed_zones(account_id: str) -> int:
    query = select(func.count()).select_from(UsageZone).where(UsageZone.account_id == account_id)
    return db.session.scalar(query) or 0


def _first_day(state: UsageZone, zone: ZoneInfo) -> date | None:
    """The Monday of the first day to count: of the account's first usage, or of the days that are counted again."""
    if state.counted_until is None:
        own = UsageRollup.account_id == state.account_id, UsageRollup.grain == "hour"
        begins = db.session.scalar(select(func.min(UsageRollup.bucket)).where(*own))
    else:
        begins = state.counted_until - AGAIN
    day = begins.astimezone(zone).date() if begins else None
    return day - timedelta(days=day.weekday()) if day else None


def _count(account_id: str, zone: ZoneInfo, first: date, until: date) -> None:
    """Count the days from a Monday on, and from them the whole weeks."""
    start = midnight(first, zone)
    _forget(account_id, zone, start)
    parameters, splits = rollup_parameters(
        account_id, Period("zone", start, midnight(until, zone), "day", zone), {}
    )
    rows = rollup_rows((), splits).c
    _add(account_id, zone_grain("day", zone), rows, rows.start, (), parameters)
    monday = until - timedelta(days=until.weekday())
    days = (
        UsageRollup.account_id == account_id,
        UsageRollup.grain == zone_grain("day", zone),
        UsageRollup.bucket >= start,
        UsageRollup.bucket < midnight(monday, zone),
    )
    week = func.date_trunc("week", UsageRollup.bucket, str(zone))
    _add(account_id, zone_grain("week", zone), UsageRollup, week, days, {})


def _add(
    account_id: str,
    grain: str,
    rows: Any,
    start: Any,
    conditions: Sequence[ColumnElement[bool]],
    parameters: Mapping[str, Any],
) -> None:
    keys = {name: getattr(rows, name).label(name) for name in ROLLUP_KEYS}
    sums = {
        {"histogram": "latency_hist"}.get(each.name, each.name): each
        for each in total_columns(rows, rows.latency_hist)
    }
    own = literal(account_id).label("account_id"), literal(grain).label("grain"), start.label("first")
    cells = select(*own, *keys.values(), *sums.values()).where(*conditions).group_by("first", *keys)
    names = ("account_id", "grain", "bucket", *keys, *sums)
    # parameters beside an insert from a query would be taken for its values
    db.session.execute(insert(UsageRollup).from_select(names, cells.params(parameters)))


def _forget(account_id: str, zone: tzinfo, start: datetime) -> None:
    grains = [zone_grain("day", zone), zone_grain("week", zone)]
    own = UsageRollup.account_id == account_id, UsageRollup.grain.in_(grains), UsageRollup.bucket >= start
    db.session.execute(delete(UsageRollup).where(*own).execution_options(synchronize_session=False))


def _is_utc(zone: tzinfo) -> bool:
    return str(zone) == "UTC"
