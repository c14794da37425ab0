"""The state of a subscription and its invoices at Stripe, and the included credits that an invoice grants.

This module does not access the database.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from typing import Any

from models.billing import stripe_api
from models.billing.payments import payment_state
from models.billing.payments.payment_state import DisputeState, PaymentMismatch
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.billing.subscription_plans.plans import Plan

Period = tuple[datetime, datetime]

# statuses that the compatible data model does not have
STATUSES = {"incomplete_expired": "canceled"}


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """An invoice line: a price for a period. `amount` is cents, negative for a credit."""

    price_id: str
    amount: int
    start: datetime
    end: datetime
    proration: bool


@dataclass(frozen=True, slots=True)
class InvoiceCharge:
    """The payment of an invoice, the cents that refunds and disputes returned, and all its disputes."""

    intent_id: str
    charge_id: str | None
    refunded: int
    withdrawn: int
    disputes: tuple[DisputeState, ...] = ()


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """A finalized invoice; amounts in cents. `charge` is None if it was not fetched or does not exist."""

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
    """Fetch a subscription with its finalized invoices; None if it does not exist. Raises StripeError, PaymentMismatch.

    `invoices=False` leaves the invoices out. The charges of paid invoices are fetched, except for the invoice ids in
    `charged`, whose charges are stored, unless `reversals_of` contains them too.
    """
    try:
        with stripe_api.api_client() as client:
            fetched = plain(client.v1.subscriptions.retrieve(id, {"expand": ["schedule"]}))
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
    return subscription_state(fetched, tuple(reversed(found)))


def subscription_state(
    subscription: dict[str, Any], invoices: tuple[InvoiceState, ...] = ()
) -> SubscriptionState:
    """Convert Stripe's subscription object. Raises PaymentMismatch unless it has exactly one price."""
    items = subscription["items"]["data"]
    if len(items) != 1:
        raise PaymentMismatch(f"subscription {subscription['id']} has {len(items)} prices instead of one")
    (item,) = items
    trial = (
        (_at(subscription["trial_start"]), _at(subscription["trial_end"]))
        if subscription.get("trial_start")
        else None
    )
    schedule = subscription.get("schedule")
    return SubscriptionState(
        id=subscription["id"],
        customer=id_of(subscription.get("customer")),
        metadata=subscription.get("metadata") or {},
        price_id=item["price"]["id"],
        item_id=item["id"],
        status=STATUSES.get(subscription["status"], subscription["status"]),
        period=(_at(item["current_period_start"]), _at(item["current_period_end"])),
        cancel_at_period_end=bool(subscription["cancel_at_period_end"]),
        canceled_at=_maybe(subscription.get("canceled_at")),
        ended_at=_maybe(subscription.get("ended_at")),
        created_at=_at(subscription["created"]),
        trial=trial,
        schedule_id=id_of(schedule),
        scheduled_price_id=_scheduled(schedule) if isinstance(schedule, dict) else None,
        pending_invoice_id=id_of(subscription.get("latest_invoice"))
        if subscription.get("pending_update")
        else None,
        invoices=invoices,
    )


def subscriptions_at_stripe() -> Iterator[dict[str, Any]]:
    """Fetch all subscriptions that have not ended, newest first. Raises StripeError."""
    with stripe_api.api_client() as client:
        for each in client.v1.subscriptions.list({"limit": 100}).auto_paging_iter():
            yield plain(each)


def invoices_since(moment: datetime) -> Iterator[dict[str, Any]]:
    """Fetch all invoices created since `moment`, newest first. Raises StripeError."""
    return _listed({"created": {"gte": int(moment.timestamp())}})


def subscription_of_invoice(invoice: dict[str, Any]) -> str | None:
    """The subscription id of an invoice; None if it is not for a subscription."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription"))


def invoice_of_payment(intent_id: str) -> dict[str, Any] | None:
    """Fetch the invoice that a payment intent pays; None if it pays none. Raises StripeError."""
    query: Any = {"payment": {"type": "payment_intent", "payment_intent": intent_id}, "limit": 1}
    with stripe_api.api_client() as client:
        for each in plain(client.v1.invoice_payments.list(query))["data"]:
            return plain(client.v1.invoices.retrieve(id_of(each["invoice"]) or ""))
    return None


def payment_of_invoice(invoice_id: str) -> dict[str, Any] | None:
    """Fetch the payment intent of an open invoice. Raises StripeError."""
    with stripe_api.api_client() as client:
        for each in plain(client.v1.invoice_payments.list({"invoice": invoice_id, "limit": 1}))["data"]:
            intent = id_of(each["payment"].get("payment_intent"))
            return plain(client.v1.payment_intents.retrieve(intent)) if intent else None
    return None


# -- included credits -----------------------------------------------------------------------------------------


def main_line(invoice: InvoiceState) -> InvoiceLine | None:
    """The invoice line of the billed plan: a whole period, or the rest of one after an upgrade. None if the invoice only
    gives credit."""
    whole = [line for line in invoice.lines if not line.proration]
    if whole:
        return whole[-1]
    rest = [line for line in invoice.lines if line.amount >= 0]
    # the credit for a free plan is zero cents too, and comes first
    if not rest or (len(invoice.lines) < 2 and rest[0].amount == 0):
        return None
    return max(reversed(rest), key=lambda line: line.amount)


def included_credits(
    state: SubscriptionState, invoice: InvoiceState, plans: Mapping[str, Plan]
) -> IncludedCredits | None:
    """The credits that the payment of an invoice grants; None if it grants none. `plans` maps Stripe price ids to
    plans.

    A whole period grants the plan's included credits. After an upgrade the rest of the period grants its part of them,
    less the same part of the largest amount that a plan of this period includes, rounded up: switching back and forth
    gains nothing.
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
    """The credit lines for unused time that the main line replaces."""
    return [
        line
        for line in invoice.lines
        if line.proration and line is not main and line.amount <= 0 and line.end > main.start
    ]


def _already(
    state: SubscriptionState, invoice: InvoiceState, unused: InvoiceLine, plans: Mapping[str, Plan]
) -> Fraction:
    """The share, for the time that a credit line covers, of the largest included credits billed in its period."""
    start = _period_start(state, unused)
    billed = _billed_before(state, invoice, start, unused.end)
    most = max((plans[price].included_credits for price in billed if price in plans), default=0)
    return most * _part(unused.start, start, unused.end)


def _period_start(state: SubscriptionState, line: InvoiceLine) -> datetime:
    """The start of the billing period whose rest the line covers."""
    for invoice in reversed(state.invoices):
        for each in invoice.lines:
            if not each.proration and each.end == line.end and each.start <= line.start:
                return each.start
    return state.period[0] if state.period[1] == line.end else line.start


def _billed_before(
    state: SubscriptionState, invoice: InvoiceState, start: datetime, end: datetime
) -> Iterator[str]:
    """The prices that earlier invoices billed for the period or its rest."""
    for each in state.invoices:
        if each.id == invoice.id:
            return
        line = main_line(each)
        billed = each.status == "paid" or (each.status == "open" and each.reason != "subscription_update")
        if line is not None and billed and line.start >= start and line.end == end:
            yield line.price_id


def _part(moment: datetime, start: datetime, end: datetime) -> Fraction:
    """The fraction of a period that is left at a moment."""
    whole = int((end - start).total_seconds())
    return Fraction(int((end - moment).total_seconds()), whole) if whole > 0 else Fraction(0)


def _within(moment: datetime, period: Period | None) -> bool:
    return period is not None and period[0] <= moment < period[1]


# -- conversion of Stripe's objects ---------------------------------------------------------------------------


def _listed(query: Any) -> Iterator[dict[str, Any]]:
    with stripe_api.api_client() as client:
        params: Any = {**query, "limit": 100}
        for each in client.v1.invoices.list(params).auto_paging_iter():
            yield plain(each)


def _invoice(fetched: dict[str, Any], *, with_charge: bool) -> InvoiceState:
    paid = fetched["status"] == "paid"
    return InvoiceState(
        id=fetched["id"],
        status=fetched["status"],
        number=fetched.get("number"),
        reason=fetched.get("billing_reason") or "manual",
        amount=fetched["amount_paid"] if paid else fetched["amount_due"],
        url=fetched.get("hosted_invoice_url"),
        attempted=bool(fetched.get("attempted")),
        created_at=_at(fetched["created"]),
        paid_at=_maybe((fetched.get("status_transitions") or {}).get("paid_at")),
        lines=tuple(_lines(fetched)),
        charge=_charge(fetched["id"]) if paid and fetched["amount_paid"] and with_charge else None,
    )


def _lines(invoice: dict[str, Any]) -> Iterator[InvoiceLine]:
    lines = invoice["lines"]["data"]
    if invoice["lines"].get("has_more"):
        with stripe_api.api_client() as client:
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
    with stripe_api.api_client() as client:
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
