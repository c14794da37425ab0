"""What Stripe says of one subscription and its invoices at a moment, and what credits an invoice stands for.

Nothing here reads or writes the database.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from typing import Any

from models.billing import payment_state, stripe_api
from models.billing.payment_state import DisputeState, PaymentMismatch
from models.billing.plans import Plan
from models.billing.stripe_api import StripeError, id_of, missing, plain

Period = tuple[datetime, datetime]

# statuses for which our compatible data model has no word
STATUSES = {"incomplete_expired": "canceled"}


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line for a price over a period; cents, negative for a credit."""

    price_id: str
    amount: int
    start: datetime
    end: datetime
    proration: bool


@dataclass(frozen=True, slots=True)
class InvoiceCharge:
    """What paid an invoice; cents that went back; all disputes of it."""

    intent_id: str
    charge_id: str | None
    refunded: int
    withdrawn: int
    disputes: tuple[DisputeState, ...] = ()


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """A finalized invoice; cents. `charge` is None if it was not asked for, or there is none."""

    id: str
    status: str
    number: str | None
    reason: str
    amount: int
    url: str | None
    attempted: bool
    created_at: datetime
    paid_at: datetime | None
    lines: tuple[InvoiceLine, ...]
    charge: InvoiceCharge | None


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A subscription with its invoices, oldest first."""

    id: str
    customer: str | None
    metadata: Mapping[str, str]
    price_id: str
    item_id: str
    status: str
    period: Period
    cancel_at_period_end: bool
    canceled_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
    trial: Period | None
    schedule_id: str | None
    scheduled_price_id: str | None
    pending_invoice_id: str | None
    """The invoice whose payment completes an upgrade."""
    invoices: tuple[InvoiceState, ...] = ()


@dataclass(frozen=True, slots=True)
class IncludedCredits:
    """The included credits that the payment of an invoice grants, by `operation_id`, until `expires_at`."""

    operation_id: str
    credits: int
    expires_at: datetime


def fetch_subscription(
    id: str, *, invoices: bool = True, charged: Collection[str] = (), reversals_of: Collection[str] = ()
) -> SubscriptionState | None:
    """The subscription with its finalized invoices; None if Stripe knows none. Raises StripeError, PaymentMismatch.

    `invoices=False` leaves them out. The charges of paid invoices are fetched but for those in `charged`, which are known, unless `reversals_of` names them.
    """
    try:
        with stripe_api.asking() as client:
            told = plain(client.v1.subscriptions.retrieve(id, {"expand": ["schedule"]}))
    except StripeError as error:
        if missing(error):
            return None
        raise
    wanted = set(reversals_of)
    found = [
        _invoice(each, with_charge=each["id"] in wanted or each["id"] not in charged)
        for each in (_listed({"subscription": id}) if invoices else ())
        if each["status"] != "draft"
    ]
    return subscription_state(told, tuple(reversed(found)))


def subscription_state(told: dict[str, Any], invoices: tuple[InvoiceState, ...] = ()) -> SubscriptionState:
    """A subscription as Stripe's API tells it. Raises PaymentMismatch unless it has one price."""
    items = told["items"]["data"]
    if len(items) != 1:
        raise PaymentMismatch(f"subscription {told['id']} has {len(items)} prices and not one")
    (item,) = items
    trial = (_at(told["trial_start"]), _at(told["trial_end"])) if told.get("trial_start") else None
    schedule = told.get("schedule")
    return SubscriptionState(
        id=told["id"],
        customer=id_of(told.get("customer")),
        metadata=told.get("metadata") or {},
        price_id=item["price"]["id"],
        item_id=item["id"],
        status=STATUSES.get(told["status"], told["status"]),
        period=(_at(item["current_period_start"]), _at(item["current_period_end"])),
        cancel_at_period_end=bool(told["cancel_at_period_end"]),
        canceled_at=_maybe(told.get("canceled_at")),
        ended_at=_maybe(told.get("ended_at")),
        created_at=_at(told["created"]),
        trial=trial,
        schedule_id=id_of(schedule),
        scheduled_price_id=_scheduled(schedule) if isinstance(schedule, dict) else None,
        pending_invoice_id=id_of(told.get("latest_invoice")) if told.get("pending_update") else None,
        invoices=invoices,
    )


def subscriptions_at_stripe() -> Iterator[dict[str, Any]]:
    """All subscriptions that have not ended, newest first. Raises StripeError."""
    with stripe_api.asking() as client:
        for each in client.v1.subscriptions.list({"limit": 100}).auto_paging_iter():
            yield plain(each)


def invoices_since(moment: datetime) -> Iterator[dict[str, Any]]:
    """All invoices made since a moment, newest first. Raises StripeError."""
    return _listed({"created": {"gte": int(moment.timestamp())}})


def subscription_of_invoice(invoice: dict[str, Any]) -> str | None:
    """The id of the subscription that an invoice is for."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription"))


def invoice_of_payment(intent_id: str) -> dict[str, Any] | None:
    """The invoice that a payment intent pays; None if it pays none. Raises StripeError."""
    query: Any = {"payment": {"type": "payment_intent", "payment_intent": intent_id}, "limit": 1}
    with stripe_api.asking() as client:
        for each in plain(client.v1.invoice_payments.list(query))["data"]:
            return plain(client.v1.invoices.retrieve(id_of(each["invoice"]) or ""))
    return None


def payment_of_invoice(invoice_id: str) -> dict[str, Any] | None:
    """The payment intent of an open invoice. Raises StripeError."""
    with stripe_api.asking() as client:
        for each in plain(client.v1.invoice_payments.list({"invoice": invoice_id, "limit": 1}))["data"]:
            intent = id_of(each["payment"].get("payment_intent"))
            return plain(client.v1.payment_intents.retrieve(intent)) if intent else None
    return None


# -- what an invoice stands for -------------------------------------------------------------------------------


def main_line(invoice: InvoiceState) -> InvoiceLine | None:
    """The line of the plan that the invoice is for: a whole period, or the rest of one after an upgrade. None if it only
    gives credit."""
    whole = [line for line in invoice.lines if not line.proration]
    if whole:
        return whole[-1]
    rest = [line for line in invoice.lines if line.amount >= 0]
    # the credit for a plan that is free is of zero cents too, and comes first
    if not rest or (len(invoice.lines) < 2 and rest[0].amount == 0):
        return None
    return max(reversed(rest), key=lambda line: line.amount)


def included_credits(
    state: SubscriptionState, invoice: InvoiceState, plans: Mapping[str, Plan]
) -> IncludedCredits | None:
    """What the payment of one of the subscription's invoices grants; None if nothing. `plans` are by the id of their price.

    A whole period grants the plan's included credits. After an upgrade the rest of the period grants its part of them, less
    the same part of the most that a plan of this period includes, rounded up: changing to and fro gains nothing.
    """
    line = main_line(invoice)
    plan = plans.get(line.price_id) if line else None
    if line is None or plan is None or _within(line.start, state.trial):
        return None
    start = line.start if not line.proration else _period_start(state, line)
    credits = plan.included_credits * _part(line.start, start, line.end)
    credits -= max(
        (_already(state, invoice, each, plans) for each in _unused(invoice, line)), default=Fraction(0)
    )
    operation = f"sub:{state.id}:{int(start.timestamp())}"
    if line.proration:
        operation += f":{plan.id}"
    return IncludedCredits(operation, ceil(credits), line.end) if credits > 0 else None


def _unused(invoice: InvoiceState, main: InvoiceLine) -> list[InvoiceLine]:
    """The credits for the rest of a period that the main line takes the place of."""
    return [
        line
        for line in invoice.lines
        if line.proration and line is not main and line.amount <= 0 and line.end > main.start
    ]


def _already(
    state: SubscriptionState, invoice: InvoiceState, unused: InvoiceLine, plans: Mapping[str, Plan]
) -> Fraction:
    """The part of the most included credits of the period that is for the time that the line gives credit for."""
    start = _period_start(state, unused)
    billed = _billed_before(state, invoice, start, unused.end)
    most = max((plans[price].included_credits for price in billed if price in plans), default=0)
    return most * _part(unused.start, start, unused.end)


def _period_start(state: SubscriptionState, line: InvoiceLine) -> datetime:
    """Where the billing period began of which the line covers the rest."""
    for invoice in reversed(state.invoices):
        for each in invoice.lines:
            if not each.proration and each.end == line.end and each.start <= line.start:
                return each.start
    return state.period[0] if state.period[1] == line.end else line.start


def _billed_before(
    state: SubscriptionState, invoice: InvoiceState, start: datetime, end: datetime
) -> Iterator[str]:
    """The prices that earlier invoices charged for the period or its rest."""
    for each in state.invoices:
        if each.id == invoice.id:
            return
        line = main_line(each)
        billed = each.status == "paid" or (each.status == "open" and each.reason != "subscription_update")
        if line is not None and billed and line.start >= start and line.end == end:
            yield line.price_id


def _part(moment: datetime, start: datetime, end: datetime) -> Fraction:
    """The part of a period that is left at a moment."""
    whole = int((end - start).total_seconds())
    return Fraction(int((end - moment).total_seconds()), whole) if whole > 0 else Fraction(0)


def _within(moment: datetime, period: Period | None) -> bool:
    return period is not None and period[0] <= moment < period[1]


# -- reading Stripe's objects ---------------------------------------------------------------------------------


def _listed(query: Any) -> Iterator[dict[str, Any]]:
    with stripe_api.asking() as client:
        params: Any = {**query, "limit": 100}
        for each in client.v1.invoices.list(params).auto_paging_iter():
            yield plain(each)


def _invoice(told: dict[str, Any], *, with_charge: bool) -> InvoiceState:
    paid = told["status"] == "paid"
    return InvoiceState(
        id=told["id"],
        status=told["status"],
        number=told.get("number"),
        reason=told.get("billing_reason") or "manual",
        amount=told["amount_paid"] if paid else told["amount_due"],
        url=told.get("hosted_invoice_url"),
        attempted=bool(told.get("attempted")),
        created_at=_at(told["created"]),
        paid_at=_maybe((told.get("status_transitions") or {}).get("paid_at")),
        lines=tuple(_lines(told)),
        charge=_charge(told["id"]) if paid and told["amount_paid"] and with_charge else None,
    )


def _lines(invoice: dict[str, Any]) -> Iterator[InvoiceLine]:
    lines = invoice["lines"]["data"]
    if invoice["lines"].get("has_more"):
        with stripe_api.asking() as client:
            listed = client.v1.invoices.line_items.list(invoice["id"], {"limit": 100})
            lines = [plain(each) for each in listed.auto_paging_iter()]
    for line in lines:
        price = ((line.get("pricing") or {}).get("price_details") or {}).get("price")
        of_item = (line.get("parent") or {}).get("subscription_item_details")
        if price is not None and of_item is not None:
            period = line["period"]
            yield InvoiceLine(
                str(id_of(price)),
                line["amount"],
                _at(period["start"]),
                _at(period["end"]),
                bool(of_item["proration"]),
            )


def _charge(invoice_id: str) -> InvoiceCharge | None:
    with stripe_api.asking() as client:
        listed = client.v1.invoice_payments.list({"invoice": invoice_id, "status": "paid", "limit": 10})
        intents = [id_of(each["payment"].get("payment_intent")) for each in plain(listed)["data"]]
    payments = [found for id in intents if id and (found := payment_state.of_intent(id))]
    if not payments:
        return None
    return InvoiceCharge(
        payments[0].intent_id or "",
        payments[0].charge_id,
        sum(each.refunded for each in payments),
        sum(each.withdrawn for each in payments),
        tuple(dispute for each in payments for dispute in each.disputes),
    )


def _scheduled(schedule: dict[str, Any]) -> str | None:
    """The price of the phase after the current one."""
    current = schedule.get("current_phase")
    if schedule["status"] != "active" or not current:
        return None
    for phase in schedule["phases"]:
        if phase["start_date"] >= current["end_date"]:
            return id_of(phase["items"][0]["price"])
    return None


def _at(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


def _maybe(epoch: int | None) -> datetime | None:
    return None if epoch is None else _at(epoch)
