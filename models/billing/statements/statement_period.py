"""Changes of a balance between two days: the explanation of a day, and monthly statements."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import Date, Select, and_, cast, func, select

from models.billing.payments.purchase import CURRENCY, Purchase, PurchaseDispute, PurchaseRefund
from models.billing.statements.statement import StatementLine, lines_between, movement_sums
from models.billing.subscription_plans.subscriptions import Subscription, SubscriptionInvoice
from models.core.db import BigInt, db, midnight
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.ledger import CreditEntry
from models.ledger.entry_positions import EntryPosition, positions_before

MAX_CHANGES = 300
"""Entries other than calls and charges that a period lists individually; further ones are summed."""
REFUSED = ("failed", "canceled")
"""Refund statuses without returned money."""


@dataclass(frozen=True, slots=True)
class CallSum:
    """The sum of a day's calls to a model, or of a day's other charges (`model` None). `amount` is credits, negative."""

    day: date
    calls: bool
    model: str | None
    count: int
    amount: int


@dataclass(frozen=True, slots=True)
class MovementSum:
    """All entries of one movement: their number and their signed sum in credits."""

    count: int
    amount: int


@dataclass(frozen=True, slots=True)
class LargeCall:
    """One of the most expensive calls. `amount` is credits, negative."""

    request_id: str
    run_id: str | None
    model: str | None
    at: datetime
    amount: int


@dataclass(frozen=True, slots=True)
class MoneyLine:
    """A payment, refund or dispute. `id` is the object's id, or the number of a plan's invoice; returned cents are
    negative."""

    at: datetime
    name: str
    id: str
    credits: int | None
    cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class StatementPeriod:
    """An account's ledger from `first` to `last` (UTC days): the positions before and after, and all changes in
    between. `opening` plus the sums of `debits` and `movements` is `closing`, exactly.

    `changes` are the first 300 entries other than calls and charges, oldest first. `movements` cover all of these
    entries.
    """

    first: date
    last: date
    opening: EntryPosition
    closing: EntryPosition
    debits: Sequence[CallSum]
    changes: Sequence[StatementLine]
    movements: dict[str, MovementSum]

    @property
    def change(self) -> int:
        """Closing minus opening balance."""
        return self.closing.balance - self.opening.balance

    @property
    def calls(self) -> MovementSum:
        """All calls."""
        return _sum([each for each in self.debits if each.calls])

    @property
    def charges(self) -> MovementSum:
        """All charges that are not calls."""
        return _sum([each for each in self.debits if not each.calls])

    @property
    def unlisted(self) -> MovementSum:
        """The entries that `changes` leaves out."""
        count = sum(each.count for each in self.movements.values()) - len(self.changes)
        amount = sum(each.amount for each in self.movements.values())
        return MovementSum(count, amount - sum(each.amount for each in self.changes))

    def by_model(self) -> list[CallSum]:
        """The calls of the whole period by model, most expensive first."""
        rows: dict[str | None, list[CallSum]] = defaultdict(list)
        for each in self.debits:
            if each.calls:
                rows[each.model].append(each)
        sums = ((model, _sum(parts)) for model, parts in rows.items())
        found = [CallSum(self.first, True, model, each.count, each.amount) for model, each in sums]
        return sorted(found, key=lambda each: (each.amount, each.model or ""))


def statement_period(account_id: str, first: date, last: date, zone: tzinfo = UTC) -> StatementPeriod:
    """The changes of the account's balance from `first` to `last`, inclusive, days of `zone`; the days of its sums are those of UTC.
    Reads the period's entries once."""
    ends = [midnight(first, zone), midnight(last + timedelta(days=1), zone)]
    opening, closing = positions_before(account_id, ends)
    own = (CreditEntry.account_id == account_id, CreditEntry.id > opening.id, CreditEntry.id <= closing.id)
    day = func.greatest(cast(func.timezone("UTC", CreditEntry.created_at), Date), first)
    is_call = CreditEntry.message_id.is_not(None)
    call = and_(GatewayCall.request_id == CreditEntry.cause, GatewayCall.account_id == account_id, is_call)
    query: Select[Any] = (
        select(
            day.label("day"),
            is_call.label("calls"),
            GatewayCall.model,
            func.count(CreditEntry.cause.distinct()).label("count"),
            cast(func.sum(CreditEntry.amount), BigInt).label("amount"),
        )
        .select_from(CreditEntry)
        .outerjoin(GatewayCall, call)
        .where(*own, CreditEntry.kind == "debit")
        .group_by("day", is_call, GatewayCall.model)
        .order_by("day", "amount", GatewayCall.model)
    )
    return StatementPeriod(
        first=first,
        last=last,
        opening=opening,
        closing=closing,
        debits=[CallSum(**row) for row in db.session.execute(query).mappings()],
        changes=lines_between(account_id, opening.id, closing.id, limit=MAX_CHANGES),
        movements={
            name: MovementSum(count, amount)
            for name, count, amount in movement_sums(account_id, opening.id, closing.id)
        },
    )


def largest_calls(account_id: str, period: StatementPeriod, *, limit: int) -> list[LargeCall]:
    """The most expensive calls of the period, most expensive first."""
    cost = cast(func.sum(CreditEntry.amount), BigInt)
    top = (
        select(CreditEntry.cause, cost.label("amount"), func.max(CreditEntry.created_at).label("at"))
        .where(
            CreditEntry.account_id == account_id,
            CreditEntry.id > period.opening.id,
            CreditEntry.id <= period.closing.id,
            CreditEntry.kind == "debit",
            CreditEntry.message_id.is_not(None),
        )
        .group_by(CreditEntry.cause)
        .order_by(cost, CreditEntry.cause)
        .limit(limit)
        .subquery()
    )
    query = (
        select(GatewayCall.request_id, GatewayCall.run_id, GatewayCall.model, top.c.at, top.c.amount)
        .join(top, top.c.cause == GatewayCall.request_id)
        .where(GatewayCall.account_id == account_id)
        .order_by(top.c.amount, top.c.cause)
    )
    return [LargeCall(**row) for row in db.session.execute(query).mappings()]


def money_of(account_id: str, period: StatementPeriod) -> list[MoneyLine]:
    """Payments and returned money, oldest first: purchases whose credits were granted in the period, refunds created in
    it that did not fail, disputes created in it that withdrew money, and the plan's invoices paid in it with everything
    returned of them since."""
    paid = (
        select(Purchase, CreditEntry.created_at)
        .join(CreditEntry, CreditEntry.operation_id == Purchase.id)
        .where(
            CreditEntry.account_id == account_id,
            CreditEntry.id > period.opening.id,
            CreditEntry.id <= period.closing.id,
            CreditEntry.kind == "grant",
        )
        .order_by(CreditEntry.id)
        .execution_options(populate_existing=True)
    )
    refunded = (
        select(PurchaseRefund, Purchase.currency)
        .join(Purchase, Purchase.id == PurchaseRefund.purchase_id)
        .where(
            func.coalesce(Purchase.org_id, Purchase.user_id) == account_id,
            PurchaseRefund.created_at >= midnight(period.first),
            PurchaseRefund.created_at < midnight(period.last) + timedelta(days=1),
            PurchaseRefund.status.not_in(REFUSED),
        )
        .order_by(PurchaseRefund.created_at, PurchaseRefund.id)
        .execution_options(populate_existing=True)
    )
    of_days = (midnight(period.first), midnight(period.last) + timedelta(days=1))
    disputed = (
        select(PurchaseDispute, Purchase.currency)
        .join(Purchase, Purchase.id == PurchaseDispute.purchase_id)
        .where(
            func.coalesce(Purchase.org_id, Purchase.user_id) == account_id,
            PurchaseDispute.created_at >= of_days[0],
            PurchaseDispute.created_at < of_days[1],
            PurchaseDispute.withdrawn_cents > 0,
        )
        .order_by(PurchaseDispute.created_at, PurchaseDispute.id)
        .execution_options(populate_existing=True)
    )
    invoices = (
        select(SubscriptionInvoice)
        .join(Subscription, Subscription.stripe_subscription_id == SubscriptionInvoice.stripe_subscription_id)
        .where(
            Subscription.user_id == account_id,
            SubscriptionInvoice.paid_at >= of_days[0],
            SubscriptionInvoice.paid_at < of_days[1],
        )
        .order_by(SubscriptionInvoice.paid_at, SubscriptionInvoice.id)
        .execution_options(populate_existing=True)
    )
    lines = [
        MoneyLine(at, "Payment", each.id, each.credits, each.amount_cents, each.currency)
        for each, at in db.session.execute(paid)
    ]
    lines += [
        MoneyLine(each.created_at, "Refund", each.id, None, -each.amount_cents, currency)
        for each, currency in db.session.execute(refunded)
    ]
    lines += [
        MoneyLine(each.created_at, "Dispute", each.id, None, -each.withdrawn_cents, currency)
        for each, currency in db.session.execute(disputed)
    ]
    for each in db.session.scalars(invoices):
        at, name = each.paid_at or each.created_at, each.number or each.id
        lines.append(MoneyLine(at, "Plan", name, each.credits or None, each.amount_cents, CURRENCY))
        if returned := each.refunded_cents + each.disputed_cents:
            lines.append(MoneyLine(at, "Returned of plan", name, None, -returned, CURRENCY))
    # Stripe's times are whole seconds: a payment comes before its refund
    return sorted(lines, key=lambda line: line.at.replace(microsecond=0))


def statement_months(account_id: str, now: datetime) -> list[date]:
    """The first day of each month since the account's first entry, newest first."""
    first = select(CreditEntry.created_at).where(CreditEntry.account_id == account_id)
    began = db.session.scalar(first.order_by(CreditEntry.id).limit(1))
    if began is None:
        return []
    month, months = now.astimezone(UTC).date().replace(day=1), []
    while month >= began.astimezone(UTC).date().replace(day=1):
        months.append(month)
        month = (month - timedelta(days=1)).replace(day=1)
    return months


def statement_month(account_id: str, text: str, now: datetime) -> StatementPeriod:
    """The statement of a month such as `2026-11`; for the current month up to now. Raises NotFound for a month before the
    account's first entry, a future month and invalid text."""
    month = next((each for each in statement_months(account_id, now) if f"{each:%Y-%m}" == text), None)
    if month is None:
        raise NotFound("There is no statement for this month.")
    following = (month + timedelta(days=32)).replace(day=1)
    return statement_period(account_id, month, following - timedelta(days=1))


def daily_balances(account_id: str, days: Sequence[date], zone: tzinfo = UTC) -> list[int]:
    """The account's balance at the end of each day of `zone`, in credits."""
    ends = [midnight(day + timedelta(days=1), zone) for day in days]
    return [position.balance for position in positions_before(account_id, ends)]


def _sum(parts: Sequence[CallSum]) -> MovementSum:
    return MovementSum(sum(each.count for each in parts), sum(each.amount for each in parts))
