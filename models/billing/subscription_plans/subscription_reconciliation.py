"""Reconciliation of subscriptions and their invoices with Stripe; differences are repaired."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from models.billing.payments.customers import account_of_customer
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import CLOSED_WELL
from models.billing.stripe_api import StripeError, id_of
from models.billing.subscription_plans.seats import sync_org_subscription, sync_seats
from models.billing.subscription_plans.subscription_events import sync_reversal
from models.billing.subscription_plans.subscription_state import (
    invoices_since,
    subscription_of_invoice,
    subscription_state,
    subscriptions_at_stripe,
)
from models.billing.subscription_plans.subscription_sync import foreign, sync_subscription
from models.billing.subscription_plans.subscriptions import (
    LIVE_STATUSES,
    Subscription,
    SubscriptionDispute,
    SubscriptionInvoice,
    invoice_paid_by,
)
from models.core.db import db
from models.core.errors import DomainError
from models.core.jobs import transaction
from models.orgs import Org


@dataclass(frozen=True, slots=True)
class SubscriptionDifference:
    """A difference between Stripe and the database, and whether it was repaired."""

    subscription_id: str
    what: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class Reversed:
    """What went back of an invoice's payment. Cents, and credits taken back; the statuses of its disputes by id."""

    subscription_id: str
    taken_back: int
    refunded_cents: int
    disputed_cents: int
    disputes: dict[str, str]


def subscription_differences(since: datetime, checked: set[str]) -> Iterator[SubscriptionDifference]:
    """Compare all subscriptions that are live here or at Stripe, and all invoices created since `since`, and repair
    differences. Adds the compared ids to `checked`. Uses its own transactions; idempotent. Raises StripeError."""
    synced: set[str] = set()

    def repair(id: str) -> Iterator[SubscriptionDifference]:
        if id not in synced:
            synced.add(id)
            yield from _repaired(id)

    for subscription in subscriptions_at_stripe():
        if org_id := (subscription.get("metadata") or {}).get("organization_id"):
            yield from _org_difference(subscription["id"], org_id)
            continue
        checked.add(subscription["id"])
        with transaction():
            agrees = _agrees(subscription)
        if not agrees:
            yield from repair(subscription["id"])
    with transaction():
        live = _live()
    for id in live:
        if id not in checked:  # ended or deleted at Stripe
            checked.add(id)
            yield from repair(id)
    for invoice in invoices_since(since):
        subscription_id = subscription_of_invoice(invoice)
        if subscription_id is None or invoice["status"] == "draft":
            continue
        with transaction():
            known = db.session.get(SubscriptionInvoice, invoice["id"], populate_existing=True)
            owned = known is not None or account_of_customer(id_of(invoice.get("customer")) or "") is not None
        if not owned:
            continue
        checked.add(invoice["id"])
        if known is None or known.status != invoice["status"]:
            yield from repair(subscription_id)
    with transaction():
        undecided = _undecided()
    for charge in undecided:
        yield from reversal_difference({"charge": charge})


def _org_difference(id: str, org_id: str) -> Iterator[SubscriptionDifference]:
    """Compare an organisation's subscription with its organisation."""
    with transaction():
        known = db.session.scalars(select(Org.stripe_subscription_id).where(Org.id == org_id)).one_or_none()
    if known == id:
        sync_seats(org_id)
        return
    try:
        sync_org_subscription(id)
    except PaymentMismatch as error:
        yield SubscriptionDifference(id, str(error), repaired=False)
    else:
        yield SubscriptionDifference(id, "the organisation did not know its subscription", repaired=True)


def reversal_difference(reversal: dict[str, Any]) -> Iterator[SubscriptionDifference]:
    """Compare the refunds and disputes of a payment with those stored for the subscription invoice that it paid.
    `reversal` is a refund or dispute object from Stripe. Yields nothing for other payments. Uses its own transactions.
    Raises StripeError."""
    intent, charge = id_of(reversal.get("payment_intent")), id_of(reversal.get("charge"))
    with transaction():
        before = _reversed(intent, charge)
    if before is None:
        return
    try:
        id = sync_reversal(intent, charge)
    except PaymentMismatch as error:
        yield SubscriptionDifference(before.subscription_id, str(error), repaired=False)
        return
    with transaction():
        after = _reversed(intent, charge)
    if id is not None and after is not None and after != before:
        yield SubscriptionDifference(id, _moved(before, after), repaired=True)


def _moved(before: Reversed, after: Reversed) -> str:
    changes = [
        f"dispute {before.disputes.get(id, 'unknown')} → {status}"
        for id, status in after.disputes.items()
        if before.disputes.get(id) != status
    ]
    if before.taken_back != after.taken_back or not changes:
        changes.insert(0, f"taken back {before.taken_back} → {after.taken_back}")
    return ", ".join(changes)


def _repaired(id: str) -> Iterator[SubscriptionDifference]:
    with transaction():
        before = _known(id)
    try:
        sync_subscription(id)
    except StripeError:
        raise
    except (PaymentMismatch, DomainError) as error:
        message = error.message if isinstance(error, DomainError) else str(error)
        yield SubscriptionDifference(id, message, repaired=False)
        return
    with transaction():
        after = _known(id)
    changes = [
        f"{name} {before.get(name, 'unknown')} → {value}"
        for name, value in after.items()
        if before.get(name) != value
    ]
    if changes:
        yield SubscriptionDifference(id, ", ".join(changes), repaired=True)


def _known(id: str) -> dict[str, Any]:
    row = db.session.get(Subscription, id, populate_existing=True)
    if row is None:
        return {}
    invoices = db.session.scalars(
        select(SubscriptionInvoice)
        .where(SubscriptionInvoice.stripe_subscription_id == id)
        .execution_options(populate_existing=True)
    ).all()
    return {
        "status": row.status,
        "plan": row.plan_id,
        "next plan": row.scheduled_plan_id,
        "period end": f"{row.billing_period_end:%Y-%m-%d}",
        "cancels": row.cancel_at_period_end,
        "invoices paid": sum(each.status == "paid" for each in invoices),
        "credits": sum(each.credits - each.taken_back for each in invoices),
    }


def _agrees(listed: dict[str, Any]) -> bool:
    """Whether the row matches Stripe's subscription. Of a schedule only the presence is compared."""
    row = db.session.get(Subscription, listed["id"], populate_existing=True)
    try:
        state = subscription_state(listed)
    except PaymentMismatch:
        return row is None
    if row is None:
        return foreign(state)
    return (
        (row.stripe_customer_id, row.stripe_price_id, row.status)
        == (state.customer, state.price_id, state.status)
        and (row.billing_period_start, row.billing_period_end) == state.period
        and row.cancel_at_period_end == state.cancel_at_period_end
        and (row.scheduled_plan_id is not None) == (state.schedule_id is not None)
    )


def _live() -> list[str]:
    query = select(Subscription.stripe_subscription_id).where(
        Subscription.status.in_((*LIVE_STATUSES, "incomplete")), Subscription.plan_id.is_not(None)
    )
    return list(db.session.scalars(query.order_by(Subscription.stripe_subscription_id)))


def _undecided() -> list[str]:
    """The charges of invoices with a dispute that is open, however old."""
    query = (
        select(SubscriptionInvoice.stripe_charge_id)
        .join(SubscriptionDispute, SubscriptionDispute.invoice_id == SubscriptionInvoice.id)
        .where(
            SubscriptionDispute.status.not_in(("lost", *CLOSED_WELL)),
            SubscriptionInvoice.stripe_charge_id.is_not(None),
        )
        .distinct()
        .order_by(SubscriptionInvoice.stripe_charge_id)
    )
    return [charge for charge in db.session.scalars(query) if charge]


def _reversed(intent: str | None, charge: str | None) -> Reversed | None:
    row = invoice_paid_by(intent, charge)
    if row is None:
        return None
    disputes = select(SubscriptionDispute.id, SubscriptionDispute.status).where(
        SubscriptionDispute.invoice_id == row.id
    )
    statuses = {each.id: each.status for each in db.session.execute(disputes)}
    return Reversed(
        row.stripe_subscription_id, row.taken_back, row.refunded_cents, row.disputed_cents, statuses
    )
