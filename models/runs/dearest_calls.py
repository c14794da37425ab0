"""Where a search for the dearest calls reads: all calls that a filter selects if these are few, else the months of the period,
merged by cost.

The index has the calls of each month by cost. Each month is read only as far as its calls are among the dearest, so that a page takes
as long in a year as in a week. Calls of a month outside of the period are passed over in the index.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text

from models.gateway import GatewayCall
from models.runs.call_order import DEAREST, Cursor, Execute, Query, follows
from models.runs.call_sources import CallFilter, CallSource, choices_of, count_of, in_period, most_scanned

# The expressions are those of the index idx_gateway_call_dearest. The limit keeps each month apart: without one they would be planned
# as a single scan of all and a sort. As text, because SQLAlchemy takes longer to build it than PostgreSQL to execute it.
_MONTH = """(
    SELECT * FROM gateway_call
    WHERE account_id = :account AND date_trunc('month', finished_at AT TIME ZONE 'UTC') = '{month}' AND cost > 0{more}
    ORDER BY cost DESC, finished_at DESC FETCH FIRST (:scan) ROWS WITH TIES
)"""
_COSTS = text("gateway_call.cost > 0")


def dearest_sources(
    account_id: str, filter: CallFilter, after: Cursor | None, execute: Execute, limit: int
) -> list[CallSource]:
    """The source of the calls that can match and cost something; none of failed calls, which cost nothing. Two queries."""
    if filter.state == "failed":
        return []
    most = most_scanned(filter)
    choices = choices_of(account_id, filter, None)
    counts = execute(select(*(count_of(choice, most) for choice in choices)))[0]
    count, place = min((count, place) for place, count in enumerate(counts))
    if count < most:
        few = choices[place].query.order_by(None).where(_COSTS)
        if after is not None:
            few = few.where(follows(GatewayCall, DEAREST, after))
        return [CallSource(choices[place].name, few, most, whole=True)]
    scan = most if filter.tests or filter.text else limit
    first, last = _ends(account_id, filter, execute)
    if first is None or last is None:  # what was counted are messages without calls
        return []
    months = _months(first, last)
    return [CallSource(DEAREST, _merged(account_id, months, filter, after, scan), scan, merged=True)]


def _ends(account_id: str, filter: CallFilter, execute: Execute) -> tuple[datetime | None, datetime | None]:
    """When the first and the last call of the period finished; None without calls."""
    c = GatewayCall
    ends = select(func.min(c.finished_at), func.max(c.finished_at)).where(
        c.account_id == account_id, *in_period(c.finished_at, filter)
    )
    ((first, last),) = execute(ends)
    return first, last


def _months(first: datetime, last: datetime) -> Iterator[date]:
    """The first days of the months in UTC from one time to another."""
    day, end = first.astimezone(UTC).date().replace(day=1), last.astimezone(UTC).date()
    while day <= end:
        yield day
        day = (day + timedelta(days=32)).replace(day=1)


def _merged(
    account_id: str, months: Iterable[date], filter: CallFilter, after: Cursor | None, scan: int
) -> Query:
    """The calls of these months, in order but for those with the same cost and time."""
    values: dict[str, Any] = {"account": account_id, "scan": scan}
    more = ""
    if filter.start is not None:
        more += " AND finished_at >= :start"
        values["start"] = filter.start
    if filter.end is not None:
        more += " AND finished_at < :end"
        values["end"] = filter.end
    if after is not None:
        more += " AND (cost, finished_at, request_id) < (:cost, :time, :id)"
        values |= zip(("cost", "time", "id"), after, strict=True)
    union = " UNION ALL ".join(_MONTH.format(month=month.isoformat(), more=more) for month in months)
    found = text(union).bindparams(**values).columns(*GatewayCall.__table__.columns).subquery("merged")
    return select(found).order_by(found.c.cost.desc(), found.c.finished_at.desc())
