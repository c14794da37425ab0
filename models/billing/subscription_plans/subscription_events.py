"""Stripe's events of personal subscriptions and their invoices. Each leads to the present state of the subscription."""

from typing import Any

from sqlalchemy import select

from models.billing import stripe_api
from models.billing.payments import cards, disputes
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import CLOSED_WELL
from models.billing.payments.stripe_events import EventOfStripe, on_event
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.billing.subscription_plans.subscription_state import invoice_of_payment, subscription_of_invoice
from models.billing.subscription_plans.subscription_sync import sync_subscription
from models.billing.subscription_plans.subscriptions import Subscription, SubscriptionDispute, invoice_paid_by
from models.core.db import db
from models.core.jobs import transaction


@on_event(
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.trial_will_end",
)
def _subscription_changed(event: EventOfStripe) -> None:
    if not (event.object.get("metadata") or {}).get("organization_id"):
        sync_subscription(event.object["id"])


@on_event("checkout.session.completed", "checkout.session.async_payment_succeeded")
def _checkout_ended(event: EventOfStripe) -> None:
    subscription = id_of(event.object.get("subscription"))
    of_org = (event.object.get("metadata") or {}).get("organization_id")
    if event.object.get("mode") != "subscription" or subscription is None or of_org:
        return
    found = sync_subscription(subscription)
    if found is not None and found.status == "active":
        _keep_card(found)


def _keep_card(subscription: Subscription) -> None:
    """The card that pays for a plan on Checkout is the default where no other can be charged."""
    with stripe_api.api_client() as client:
        told = plain(client.v1.subscriptions.retrieve(subscription.stripe_subscription_id))
    method = id_of(told.get("default_payment_method"))
    if method is not None:
        cards.ensure_default_card(subscription.stripe_customer_id, method)


@on_event(
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
)
def _invoice_changed(event: EventOfStripe) -> None:
    subscription = subscription_of_invoice(event.object)
    if subscription is not None:
        sync_subscription(subscription)


@on_event(
    "charge.refunded",
    "charge.refund.updated",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
def _payment_reversed(event: EventOfStripe) -> None:
    """Money of an invoice went back, or came back."""
    charge = (
        event.object["id"] if event.object.get("object") == "charge" else id_of(event.object.get("charge"))
    )
    sync_reversal(id_of(event.object.get("payment_intent")), charge)


@on_event("radar.early_fraud_warning.created", "radar.early_fraud_warning.updated")
def _fraud_warned(event: EventOfStripe) -> None:
    """A bank reports the payment of an invoice as fraud: store that, and refund it if the operator's setting says so."""
    intent, charge = id_of(event.object.get("payment_intent")), id_of(event.object.get("charge"))
    if sync_reversal(intent, charge) is None:
        return
    with transaction():
        invoice = invoice_paid_by(intent, charge)
        if invoice is None:
            return
        invoice.fraud_warning_id = event.object["id"]
        touched = invoice.refunded_cents or invoice.disputed_cents or _disputed(invoice.id)
        charge, amount = invoice.stripe_charge_id, None if touched else invoice.amount_cents
    if disputes.refund_warned(event.object["id"], charge, amount):
        sync_reversal(intent, charge)


def sync_reversal(intent_id: str | None, charge_id: str | None) -> str | None:
    """Bring a subscription up to date of whose invoice's payment a part went back, or came back; its id, or None if the payment
    is of no subscription. Takes transactions of its own; idempotent. Raises as `sync_subscription`."""
    with transaction():
        known = invoice_paid_by(intent_id, charge_id)
        found = (known.id, known.stripe_subscription_id) if known else None
    if found is None:
        found = _unknown_invoice(intent_id, charge_id)
    if found is None:
        return None
    invoice_id, subscription_id = found
    sync_subscription(subscription_id, reversals_of=[invoice_id])
    return subscription_id


def _disputed(invoice_id: str) -> bool:
    open_or_lost = select(SubscriptionDispute.id).where(
        SubscriptionDispute.invoice_id == invoice_id, SubscriptionDispute.status.not_in(CLOSED_WELL)
    )
    return db.session.scalars(open_or_lost.limit(1)).one_or_none() is not None


def _unknown_invoice(intent_id: str | None, charge_id: str | None) -> tuple[str, str] | None:
    """Of a payment that we have not heard of yet: the event of its success is late."""
    try:
        with stripe_api.api_client() as client:
            if intent_id is None and charge_id is not None:
                intent_id = id_of(plain(client.v1.charges.retrieve(charge_id)).get("payment_intent"))
        invoice: dict[str, Any] | None = invoice_of_payment(intent_id) if intent_id else None
    except StripeError as error:
        if missing(error):
            raise PaymentMismatch(f"Stripe knows no payment {intent_id or charge_id}") from None
        raise
    subscription = subscription_of_invoice(invoice) if invoice else None
    return (invoice["id"], subscription) if invoice and subscription else None
