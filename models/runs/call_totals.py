"""Totals of the calls that a search finds: exact from rollups for whole hours if these have its filters, else of a bounded number of calls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, literal, or_, select, true
from sqlalchemy.orm import aliased

from models.core.db import db
from models.ledger.message import Message
from models.ledger.rollup import UsageRecounting, UsageRollup
from models.orgs import Org
from models.runs.call_order import Query
from models.runs.call_search import CallPage, execute, with_conditions
from models.runs.call_sources import NONE, CallFilter, CallSource, sources_of
from models.usage.org_day_sums import counted_days, sum_days
from models.usage.org_usage import OrgUsage
from models.usage.period import PeriodPart, utc_parts

ROLLED = frozenset(("key", "model", "agent", "state", "code", "member", "owner"))
"""Filters that rollups have; `code` only of failed calls."""
EARLIEST, LATEST = datetime(2000, 1, 3, tzinfo=UTC), datetime(2999, 12, 30, tzinfo=UTC)
"""Mondays."""


@dataclass(frozen=True)
class CallTotals:
    """Sums of the calls that match; with `partly` only of the newest. `credits` are those that the ledger charged; `cost` is dollars at
    provider prices. Input tokens include cached ones."""

    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    credits: int = 0
    cost: Decimal = Decimal(0)
    partly: bool = False

    def __add__(self, other: "CallTotals") -> "CallTotals":
        return CallTotals(
            self.calls + other.calls,
            self.failed + other.failed,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.credits + other.credits,
            self.cost + other.cost,
            self.partly or other.partly,
        )


def call_totals(account_id: str, filter: CallFilter) -> CallTotals:
    """The totals of the calls that match. Exact by key, model, agent, member, state and time, and by code of failed calls: from
    rollups, of an organisation from its counted days, and from the calls of the hours that the period has in part. Else of the newest 10,000 calls of a source (1,000 if their
    messages are read). Up to six queries. Not for a filter by text: only what was searched can be added up (`totals_of`)."""
    if not _rolled(account_id, filter):
        return _counted(account_id, filter)
    filter = replace(filter, start=filter.start or EARLIEST, end=filter.end or LATEST)
    org = db.session.get(Org, account_id)
    days = None if org is None else _counted_days(org, filter)
    if org is None or days is None:
        return _from_rollups(account_id, filter)
    before, after = replace(filter, end=days[0]), replace(filter, start=days[1])
    counted = _totals(sum_days(org, days, *_dimension(filter), user_id=filter.owner or filter.member or ""))
    return counted + _from_rollups(account_id, before) + _from_rollups(account_id, after)


def _counted_days(org: Org, filter: CallFilter) -> tuple[datetime, datetime] | None:
    """The days of the period whose totals an organisation has by one dimension."""
    several = len(_cells(filter)) > 1 or (filter.owner and filter.member and filter.owner != filter.member)
    return None if several else counted_days(org, filter.start or EARLIEST, filter.end or LATEST)


def _dimension(filter: CallFilter) -> tuple[Any, ...]:
    """The dimension of an organisation's counted usage that has the filter, and its condition."""
    return next(iter(_cells(filter)), ("model",))


def _cells(filter: CallFilter) -> list[tuple[Any, ...]]:
    key, found = OrgUsage.key, list[tuple[Any, ...]]()
    if filter.agent is not None:
        found.append(("version", _is_agent(key, filter.agent)))
    if filter.code is not None or filter.state is not None:
        found.append(
            (
                "error",
                (key != "") == (filter.state == "failed") if filter.code is None else key == filter.code,
            )
        )
    for name, value in (("model", filter.model), ("key", filter.key)):
        if value is not None:
            found.append((name, key == ("" if value == NONE else value)))
    return found


def _is_agent(column: Any, agent: str) -> ColumnElement[bool]:
    name = column if agent == NONE or "@" in agent else func.split_part(column, "@", 1)
    matches: ColumnElement[bool] = name == ("" if agent == NONE else agent)
    return matches


def _from_rollups(account_id: str, filter: CallFilter) -> CallTotals:
    start, end = ((filter.start or EARLIEST).astimezone(UTC), (filter.end or LATEST).astimezone(UTC))
    parts = utc_parts(start, end, start)
    rolled = [part for part in parts if part.grain != "call"]
    total = _summed(account_id, filter, rolled) if rolled else CallTotals()
    rest = (replace(filter, start=part.start, end=part.end) for part in parts if part.grain == "call")
    return sum((_counted(account_id, each) for each in rest), total)


def totals_of(page: CallPage) -> CallTotals:
    """The totals of the calls of a page."""
    calls = page.calls
    return CallTotals(
        calls=len(calls),
        failed=sum(call.state == "failed" for call in calls),
        input_tokens=sum(call.input_tokens for call in calls),
        output_tokens=sum(call.output_tokens for call in calls),
        credits=sum(0 if call.byok else call.credits for call in calls),
        cost=sum((call.cost for call in calls), Decimal(0)),
        partly=page.next is not None,
    )


def _rolled(account_id: str, filter: CallFilter) -> bool:
    if filter.text or not ROLLED.issuperset(filter.tests) or (filter.code and filter.state != "failed"):
        return False
    # rollups of before they had keys and errors
    return db.session.get(UsageRecounting, account_id) is None


def _summed(account_id: str, filter: CallFilter, parts: Sequence[PeriodPart]) -> CallTotals:
    r = UsageRollup
    buckets = (and_(r.grain == part.grain, r.bucket >= part.start, r.bucket < part.end) for part in parts)
    query = select(
        func.sum(r.calls + r.failed),
        func.sum(r.failed),
        func.sum(r.input_tokens + r.cache_write_tokens + r.cache_read_tokens),
        func.sum(r.output_tokens),
        func.sum(r.credits),
        func.sum(r.cost),
    ).where(r.account_id == account_id, or_(*buckets), *_conditions(filter))
    return _totals(db.session.execute(query).one())


def _totals(row: Row[int, int, int, int, int, Decimal]) -> CallTotals:
    counts: list[Any]
    *counts, cost = row
    calls, failed, read, written, credits = (int(each or 0) for each in counts)
    return CallTotals(calls, failed, read, written, credits, cost or Decimal(0))


def _conditions(filter: CallFilter) -> list[ColumnElement[bool]]:
    r = UsageRollup
    values = {r.key_id: filter.key, r.model: filter.model, r.error: filter.code}
    found = [
        column == ("" if value == NONE else value) for column, value in values.items() if value is not None
    ]
    found += [r.user_id == each for each in (filter.owner, filter.member) if each]
    if filter.state is not None:
        found.append((r.error != "") == (filter.state == "failed"))
    if filter.agent is not None:
        found.append(_is_agent(r.agent_id, filter.agent))
    return found


def _counted(account_id: str, filter: CallFilter) -> CallTotals:
    """The totals of the calls themselves, of the newest of each source."""
    total = CallTotals()
    for source in sources_of(account_id, filter, None, execute):
        part = db.session.execute(_sums(source, filter)).one()
        counts = (part.input_tokens, part.output_tokens, part.credits)
        read, written, credits = (int(each or 0) for each in counts)
        total += CallTotals(
            part.calls, part.failed, read, written, credits, part.cost or Decimal(0), part.partly
        )
    return total


def _sums(source: CallSource, filter: CallFilter) -> Query:
    c = source.query.limit(source.scan).subquery("c").c
    own_key = aliased(Message)  # by an index of the few calls that another key paid
    joined, conditions = with_conditions(
        select(*c, own_key.byok).outerjoin(own_key, and_(own_key.id == c.message_id, own_key.byok)),
        c,
        source.narrowed(filter),
    )
    rows = joined.add_columns(and_(true(), *conditions).label("matches")).subquery("rows").c
    read = rows.uncached_input_tokens + rows.cache_write_tokens + rows.cache_read_tokens

    def total(value: Any) -> Any:
        return func.sum(value).filter(rows.matches)

    return select(
        (func.count() == literal(source.scan)).label("partly"),
        func.count().filter(rows.matches).label("calls"),
        func.count().filter(and_(rows.matches, rows.state == "failed")).label("failed"),
        total(read).label("input_tokens"),
        total(rows.output_tokens).label("output_tokens"),
        total(case((rows.byok.is_(True), 0), else_=rows.credits)).label("credits"),
        total(rows.cost).label("cost"),
    )
