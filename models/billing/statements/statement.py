"""Account statements: every ledger entry with its cause and the balance after it, in filtered keyset pages and as CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, and_, case, cast, func, or_, select

from models.billing.payments.purchase import Purchase
from models.billing.statements.statement_filter import UNSPENT, StatementFilter
from models.core.db import BigInt, db
from models.gateway import GatewayCall
from models.ledger import CreditEntry, CreditHold, CreditLedger
from models.ledger.entry_positions import positions_before
from models.ledger.statement_check import cell
from models.usage.statement_export import csv_text

PAGE = 50
SCAN, SCAN_TEXT = 20_000, 2_000
"""Entries that a page scans for matches; fewer for a text filter, which needs joins."""
BATCH = 2_000

CSV_COLUMNS = (
    "id",
    "created_at",
    "movement",
    "kind",
    "amount",
    "balance_after",
    "cause",
    "model",
    "description",
    "operation_id",
    "message_id",
    "hash",
)


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A ledger entry with its cause. `amount` is signed credits, `balance_after` the account's balance after it.

    `request_id`, `run_id` and `model` belong to the call that it paid, `grant_type`, `description` and `expires_at` to
    its grant, `purchase_id` and `amount_cents` to the purchase of that grant. All may be None.
    """

    id: int
    created_at: datetime
    kind: str
    movement: str
    amount: int
    balance_after: int
    cause: str
    operation_id: str
    message_id: str | None
    hash: bytes
    grant_type: str | None
    description: str | None
    expires_at: datetime | None
    request_id: str | None
    run_id: str | None
    model: str | None
    purchase_id: str | None
    amount_cents: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Lines, newest first. `more` is the cursor of the next page, or None; `searched_to` is the time of the oldest
    scanned entry if the scan limit ended the page."""

    lines: Sequence[StatementLine]
    more: int | None
    searched_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class StatementTotals:
    """The sums of an account's entries by kind, in credits: bought, granted otherwise, charged for calls, charged
    otherwise, expired, and taken back less what was given back. Their sum is the settled balance."""

    bought: int
    granted: int
    calls: int
    charges: int
    expired: int
    taken_back: int

    @property
    def balance(self) -> int:
        return self.bought + self.granted - self.calls - self.charges - self.expired - self.taken_back


def statement_page(account_id: str, filter: StatementFilter, before: int | None) -> StatementPage:
    """The newest lines that match, before the entry `before`. A page scans at most 20,000 entries (2,000 with a
    text) and may be short or empty although `more` is set."""
    after, end = _range(account_id, filter)
    before = end if before is None else before if end is None else min(before, end)
    base = _within(account_id, filter, after, before)
    stop = None
    if not filter.whole:
        length = SCAN_TEXT if filter.text and filter.spends else SCAN
        row = db.session.execute(
            base.with_only_columns(CreditEntry.id, CreditEntry.created_at)
            .order_by(CreditEntry.id.desc())
            .offset(length - 1)
            .limit(1)
        ).one_or_none()
        stop = row and (row.id, row.created_at)
        if stop:
            base = base.where(CreditEntry.id >= stop[0])
    query = _lines(base, account_id).where(*_matches(filter)).order_by(CreditEntry.id.desc()).limit(PAGE + 1)
    lines = [StatementLine(**row) for row in db.session.execute(query).mappings()]
    if len(lines) > PAGE:
        return StatementPage(lines[:PAGE], lines[PAGE - 1].id)
    return StatementPage(lines, stop[0], stop[1]) if stop else StatementPage(lines, None)


def lines_between(account_id: str, after: int, last: int, *, limit: int) -> list[StatementLine]:
    """The entries with `after` < id <= `last`, without calls and charges, oldest first."""
    base = _within(account_id, StatementFilter(UNSPENT), after, last + 1)
    rows = db.session.execute(_lines(base, account_id).order_by(CreditEntry.id).limit(limit))
    return [StatementLine(**row) for row in rows.mappings()]


def movement_sums(account_id: str, after: int, last: int) -> list[tuple[str, int, int]]:
    """Each movement with the number and signed sum of its entries with `after` < id <= `last`, without calls and
    charges."""
    base = _within(account_id, StatementFilter(UNSPENT), after, last + 1)
    columns = (_MOVEMENT.label("movement"), func.count(), cast(func.sum(CreditEntry.amount), BigInt))
    query = _with_grants(base.with_only_columns(*columns).select_from(CreditEntry)).group_by("movement")
    return [(movement, count, amount) for movement, count, amount in db.session.execute(query)]


def statement_totals(account_id: str) -> StatementTotals:
    """The sums of the account's entries by kind.

    Everything but model calls is summed from ledger entries by kind (few rows, read by partial indexes). The total of
    model calls is the difference to the last entry's balance; it equals the sum of the rollups, which `flask billing
    prove` verifies, without reading them.
    """
    own = CreditEntry.account_id == account_id
    amount = func.sum(CreditEntry.amount)
    charges = select(amount).where(own, CreditEntry.kind == "debit", CreditEntry.message_id.is_(None))
    last = select(CreditEntry.balance_after).where(own).order_by(CreditEntry.id.desc()).limit(1)
    # one SQL statement reads one snapshot: a concurrent grant would otherwise look like lower usage
    sums = {
        "bought": amount.filter(_MOVEMENT == "purchases"),
        "granted": amount.filter(_MOVEMENT == "grants"),
        "expired": amount.filter(_MOVEMENT == "expiries"),
        "taken_back": amount.filter(_MOVEMENT == "refunds"),
        "others": amount,
        "charged": charges.scalar_subquery(),
        "balance": last.scalar_subquery(),
    }
    columns = (cast(func.coalesce(total, 0), BigInt).label(name) for name, total in sums.items())
    query = _with_grants(select(*columns).select_from(CreditEntry))
    query = query.where(own, CreditEntry.kind != "debit")
    row = db.session.execute(query).one()
    calls = row.others + row.charged - row.balance
    return StatementTotals(row.bought, row.granted, calls, -row.charged, -row.expired, -row.taken_back)


def upcoming_expiries(account_id: str, now: datetime, *, limit: int) -> Sequence[CreditLedger]:
    """The grants with credits left that expire next, soonest first."""
    query = select(CreditLedger).where(
        func.coalesce(CreditLedger.org_id, CreditLedger.user_id) == account_id,
        CreditLedger.balance > 0,
        CreditLedger.expires_at > now,
    )
    order = (CreditLedger.expires_at, CreditLedger.operation_id)
    return db.session.scalars(
        query.order_by(*order).limit(limit).execution_options(populate_existing=True)
    ).all()


def live_holds_of(account_id: str, now: datetime, *, limit: int) -> Sequence[CreditHold]:
    """The account's oldest holds of calls in progress, except those that a plan pays for."""
    query = select(CreditHold).where(
        CreditHold.account_id == account_id,
        CreditHold.state == "live",
        CreditHold.funding != "byok",
        CreditHold.expires_at > now,
        CreditHold.funding != "plan",
    )
    order = (CreditHold.created_at, CreditHold.request_id)
    return db.session.scalars(
        query.order_by(*order).limit(limit).execution_options(populate_existing=True)
    ).all()


def filtered_csv(account_id: str, filter: StatementFilter) -> Iterator[str]:
    """The matching lines as CSV text in chunks, oldest first, up to the account's last entry.

    Contains the hash of each entry, but cannot be verified on its own, because entries are left out. Reads in batches,
    each on its own connection that is returned before the batch is yielded. Needs the application context only when
    called.
    """
    after, end = _range(account_id, filter)
    newest = select(func.max(CreditEntry.id)).where(CreditEntry.account_id == account_id)
    last = db.session.scalar(newest) or 0
    return _csv_chunks(
        db.engine, account_id, filter, after or 0, last + 1 if end is None else min(end, last + 1)
    )


def _csv_chunks(
    engine: Engine, account_id: str, filter: StatementFilter, after: int, end: int
) -> Iterator[str]:
    yield csv_text([CSV_COLUMNS])
    while True:
        base = _within(account_id, filter, after, end)
        with engine.connect() as connection:
            window = base.with_only_columns(CreditEntry.id).order_by(CreditEntry.id).limit(BATCH).subquery()
            last = connection.execute(select(func.max(window.c.id))).scalar()
            if last is None:
                return
            query = _lines(base.where(CreditEntry.id <= last), account_id).where(*_matches(filter))
            rows = connection.execute(query.order_by(CreditEntry.id)).mappings().all()
        after = last
        yield csv_text(_csv_line(StatementLine(**row)) for row in rows)


def _csv_line(line: StatementLine) -> tuple[Any, ...]:
    return (
        line.id,
        line.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        line.movement,
        line.kind,
        line.amount,
        line.balance_after,
        cell(line.cause),
        cell(line.model),
        cell(line.description),
        cell(line.operation_id),
        cell(line.message_id),
        line.hash.hex(),
    )


def _range(account_id: str, filter: StatementFilter) -> tuple[int | None, int | None]:
    """The entry before the first one of the filter's days, and an id above the last one; None: no limit."""
    start, end = filter.days()
    found = iter(positions_before(account_id, [moment for moment in (start, end) if moment]))
    return next(found).id if start else None, next(found).id + 1 if end else None


def _within(
    account_id: str, filter: StatementFilter, after: int | None, before: int | None
) -> Select[*tuple[Any, ...]]:
    """Entries of the account with `after` < id < `before`, restricted to the filter's kinds where an index covers
    them."""
    query = select(CreditEntry).where(CreditEntry.account_id == account_id)
    if filter.movement == "charges":
        query = query.where(CreditEntry.kind == "debit", CreditEntry.message_id.is_(None))
    elif not filter.spends:
        query = query.where(CreditEntry.kind != "debit")
    if after:
        query = query.where(CreditEntry.id > after)
    if before is not None:
        query = query.where(CreditEntry.id < before)
    return query


def _matches(filter: StatementFilter) -> list[ColumnElement[bool]]:
    tests: list[ColumnElement[bool]] = []
    if filter.movement and filter.movement != UNSPENT:
        tests.append(_MOVEMENT.in_([filter.movement]))
    if filter.least:
        tests.append(func.abs(CreditEntry.amount) >= filter.least)
    if filter.text:
        causes = (CreditEntry.cause, CreditEntry.message_id, GatewayCall.model)
        named = [each.icontains(filter.text, autoescape=True) for each in causes]
        # the grant that paid a call is not its cause
        granted = CreditLedger.description.icontains(filter.text, autoescape=True)
        tests.append(or_(*named, and_(CreditEntry.kind != "debit", granted)))
    return tests


_MOVEMENT: ColumnElement[str] = case(
    (and_(CreditEntry.kind == "debit", CreditEntry.message_id.is_not(None)), "calls"),
    (CreditEntry.kind == "debit", "charges"),
    (
        and_(CreditEntry.kind == "grant", or_(CreditLedger.type == "purchase", Purchase.id.is_not(None))),
        "purchases",
    ),
    (CreditEntry.kind == "grant", "grants"),
    (CreditEntry.kind == "expiry", "expiries"),
    (CreditEntry.kind == "debt_cleared", "debt"),
    else_="refunds",
)


def _with_grants(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    of_purchase = and_(Purchase.id == CreditEntry.operation_id, CreditEntry.kind != "debit")
    query = query.outerjoin(CreditLedger, CreditLedger.operation_id == CreditEntry.operation_id)
    return query.outerjoin(Purchase, of_purchase)


def _lines(base: Select[*tuple[Any, ...]], account_id: str) -> Select[*tuple[Any, ...]]:
    call = and_(
        GatewayCall.request_id == CreditEntry.cause,
        GatewayCall.account_id == account_id,
        CreditEntry.kind == "debit",
    )
    return _with_grants(
        base.with_only_columns(
            CreditEntry.id,
            CreditEntry.created_at,
            CreditEntry.kind,
            _MOVEMENT.label("movement"),
            CreditEntry.amount,
            CreditEntry.balance_after,
            CreditEntry.cause,
            CreditEntry.operation_id,
            CreditEntry.message_id,
            CreditEntry.hash,
            CreditLedger.type.label("grant_type"),
            CreditLedger.description,
            CreditLedger.expires_at,
            GatewayCall.request_id,
            GatewayCall.run_id,
            GatewayCall.model,
            Purchase.id.label("purchase_id"),
            Purchase.amount_cents,
            Purchase.currency,
        ).select_from(CreditEntry)
    ).outerjoin(GatewayCall, call)
