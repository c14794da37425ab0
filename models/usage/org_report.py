"""Usage reports of an organisation, by anything that it counts.

The series are the keys with the highest use; the rest is the difference to the totals, which come from the dimension with the
fewest rows. So the many rows of many members are only ranked, and not added up.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Select, Text, any_, bindparam, cast, func, select

from models.core.db import BigInt, db
from models.orgs import Org
from models.usage.org_usage import BEGINNING, counted_until
from models.usage.org_usage_rows import org_usage_ranges, org_usage_rows
from models.usage.period import Period, Step
from models.usage.usage_facts import before_from_calls, report_from_calls
from models.usage.usage_report import (
    ROLLED,
    By,
    UsageBefore,
    UsageReport,
    UsageTotals,
    before_of,
    column_index,
    column_parts,
    column_start,
    period_times,
    report_of,
    rolled_name,
    slots_of,
    spending,
    spending_before,
    sum_totals,
    totals_from,
)
from models.usage.usage_rows import total_columns

MAX_SERIES = 25
"""Keys with a series of their own; seven of them have colours."""
SUMMED = "model"
"""Every call has a model, and an organisation uses few."""


def org_spending(
    org: Org,
    period: Period,
    by: By,
    now: datetime,
    *,
    user_id: str = "",
    filters: Mapping[str, str] | None = None,
    limit: int = MAX_SERIES,
) -> UsageReport:
    """The organisation's usage in `period`, or that of its member `user_id`: the top `limit` by credits, and the rest as Other.

    On the clock of its time zone it reads its cells and the calls that are not counted yet: for a member by hour, all calls of
    the organisation in the period. On another clock, and with `filters` (dimension or "state" to value), it reads the rollups of the
    account if they have them (`ROLLED`); else, and by run, all calls of the period.
    """
    parameters = _parameters(org, period, by, now, user_id)
    if by == "run":
        return report_from_calls(
            org.id, period, by, now, filters=_filters(user_id, filters), limit=limit, ranks=None
        )
    # by rank in the last 30 days, so that a series keeps its colour when the period or a filter changes
    month = db.session.scalars(_ranked_by_month(), parameters | {"user": ""}).all()
    places = {key: place for place, key in enumerate(month, 1)}
    if _rolled(org, period, by, filters):
        rolled = _rolled_filters(user_id, filters)
        name: Any = rolled_name(by)
        report = spending(org.id, period, name, now, filters=rolled, limit=limit, ranks=places)
        return replace(report, by=by)
    if filters or _other_clock(org, period):
        return report_from_calls(
            org.id, period, by, now, filters=_filters(user_id, filters), limit=limit, ranks=places
        )
    keys = list(db.session.scalars(_ranked(period.step, limit), parameters))
    cells = db.session.execute(_cells(period.step), parameters | {"keys": keys}).all()
    found: dict[str, list[tuple[datetime, UsageTotals]]] = defaultdict(list)
    for cell in cells:
        found[cell.key].append((cell.start, totals_from(cell)))
    shown: list[tuple[str | None, datetime, UsageTotals]] = [
        (key, start, totals) for key in keys for start, totals in found[key]
    ]
    sums = db.session.execute(_sums(period.step), parameters | {"dimension": SUMMED}).all()
    stamps = [start.timestamp() for start in period.columns()]
    rest = _rest(stamps, [(row.start, totals_from(row)) for row in sums], shown)
    return report_of(period, by, [*shown, *rest], slots_of({key: places.get(key) for key in keys}))


def org_spending_before(
    org: Org,
    report: UsageReport,
    now: datetime,
    *,
    user_id: str = "",
    filters: Mapping[str, str] | None = None,
) -> UsageBefore:
    """The organisation's usage in the period before that of `report`, with the same filters."""
    if _rolled(org, report.period, report.by, filters):
        name: Any = rolled_name(report.by)
        rolled = _rolled_filters(user_id, filters)
        return spending_before(org.id, replace(report, by=name), filters=rolled)
    if filters or report.by == "run" or _other_clock(org, report.period):
        return before_from_calls(org.id, report, now, filters=_filters(user_id, filters))
    period = report.period.before()
    parameters = _parameters(org, period, report.by, now, user_id)
    keys = [each.key for each in report.series if each.key is not None]
    by_key = db.session.execute(_keys(period.step), parameters | {"keys": keys}).all()
    sums = db.session.execute(_sums(period.step), parameters | {"dimension": SUMMED}).all()
    return before_of(period, [(row.start, totals_from(row)) for row in sums], by_key)


def _rolled(org: Org, period: Period, by: By, filters: Mapping[str, str] | None) -> bool:
    return {by, *(filters or {})} <= ROLLED and (bool(filters) or _other_clock(org, period))


def _other_clock(org: Org, period: Period) -> bool:
    return str(period.zone) != org.time_zone


def _rolled_filters(user_id: str, filters: Mapping[str, str] | None) -> dict[str, str]:
    return {rolled_name(name): value for name, value in _filters(user_id, filters).items()}


def _parameters(org: Org, period: Period, by: By, now: datetime, user_id: str) -> dict[str, Any]:
    since = counted_until(org)
    return {
        "org": org.id,
        "counted_org": org.id if since > BEGINNING else "",
        "user": user_id,
        "dimension": by,
        "zone": org.time_zone,
        "since": min(since, period.start) if user_id and period.step == "hour" else since,
        "until": now + timedelta(days=1),
        **period_times(period, now),
    }


def _filters(user_id: str, filters: Mapping[str, str] | None) -> dict[str, str]:
    return {**(filters or {}), **({"member": user_id} if user_id else {})}


def _rest(
    stamps: Sequence[float],
    sums: Sequence[tuple[datetime, UsageTotals]],
    shown: Sequence[tuple[str | None, datetime, UsageTotals]],
) -> list[tuple[None, datetime, UsageTotals]]:
    """What the totals of each column have more than the series that are shown."""
    stacks: dict[int, list[UsageTotals]] = defaultdict(list)
    for _, start, totals in shown:
        stacks[column_index(stamps, start)].append(totals)
    rest: list[tuple[None, datetime, UsageTotals]] = []
    for start, whole in sums:
        *all_of, largest, histogram = whole
        *parts, _, part_of = sum_totals(stacks[column_index(stamps, start)])
        pairs: Any = zip(all_of, parts, strict=True)
        buckets = [total - part for total, part in zip(histogram, part_of, strict=True)]
        left = UsageTotals._make((*(total - part for total, part in pairs), largest, buckets))
        if left.calls or left.failed:
            rest.append((None, start, left))
    return rest


@cache
def _ranked(step: Step, limit: int) -> Select[str]:
    """Keys by credits in the period."""
    return _by_credits(_rows(step)).limit(limit)


@cache
def _ranked_by_month() -> Select[str]:
    """Keys by credits in the last 30 days."""
    rows = org_usage_rows().c
    days = rows.grain == "day", rows.bucket >= bindparam("month_ago"), rows.bucket < bindparam("now")
    return _by_credits(rows, *days).limit(MAX_SERIES)


@cache
def _rows(step: Step) -> Any:
    """The columns of the rows that make up the columns of a chart."""
    return org_usage_ranges(lambda rows: column_parts(rows, step)).c


def _by_credits(rows: Any, *conditions: Any) -> Select[str]:
    order = (
        func.sum(rows.credits).desc(),
        func.sum(rows.calls).desc(),
        func.sum(rows.failed).desc(),
        rows.key,
    )
    return select(rows.key).where(*conditions).group_by(rows.key).order_by(*order)


@cache
def _cells(step: Step) -> Select[*tuple[Any, ...]]:
    """`UsageTotals` by key and start of the column, of the parameter `keys`."""
    rows = _rows(step)
    keys = cast(bindparam("keys", type_=ARRAY(Text)), ARRAY(Text))
    return _totals(step, rows.key).where(rows.key == any_(keys)).group_by(rows.key)


@cache
def _keys(step: Step) -> Select[*tuple[Any, ...]]:
    """Credits by key, of the parameter `keys`."""
    rows = _rows(step)
    keys = cast(bindparam("keys", type_=ARRAY(Text)), ARRAY(Text))
    query: Select[*tuple[Any, ...]] = select(rows.key, cast(func.sum(rows.credits), BigInt).label("credits"))
    return query.where(rows.key == any_(keys)).group_by(rows.key)


@cache
def _sums(step: Step) -> Select[*tuple[Any, ...]]:
    """`UsageTotals` by start of the column."""
    return _totals(step)


def _totals(step: Step, *more: Any) -> Select[*tuple[Any, ...]]:
    rows = _rows(step)
    start = column_start(rows.bucket, step, bindparam("zone", type_=Text)).label("start")
    query: Select[*tuple[Any, ...]] = select(*more, start, *total_columns(rows, rows.histogram))
    return query.group_by("start").order_by("start")
