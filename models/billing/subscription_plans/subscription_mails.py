"""E-mails about subscription changes, enqueued in the transaction of the change."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from models.billing.mails import credits_text, enqueue
from models.billing.payments.freezes import BuyingFreeze
from models.billing.payments.purchase import CLOSED, dollars
from models.billing.subscription_plans.plans import Plan
from models.billing.subscription_plans.subscriptions import (
    LIVE_STATUSES,
    NEWEST_FIRST,
    Subscription,
    SubscriptionDispute,
    SubscriptionInvoice,
)
from models.core.db import db


@dataclass(frozen=True, slots=True)
class SubscriptionSnapshot:
    """The state of a subscription before a change, limited to what its e-mails depend on."""

    live: bool
    plan_id: str | None
    scheduled_plan_id: str | None
    cancels: bool


def snapshot(row: Subscription | None) -> SubscriptionSnapshot:
    """The state before a change; `row` None: the subscription is new."""
    if row is None:
        return SubscriptionSnapshot(False, None, None, False)
    return SubscriptionSnapshot(
        row.status in LIVE_STATUSES, row.plan_id, row.scheduled_plan_id, row.cancel_at_period_end
    )


def enqueue_subscription_changes(row: Subscription, plan: Plan, before: SubscriptionSnapshot) -> None:
    """Enqueue the e-mails for a change of a subscription, in its transaction, each once. Flushes."""
    user, id, live = row.user_id or "", row.stripe_subscription_id, row.status in LIVE_STATUSES
    facts = _facts(row, plan)
    # the version makes each change's id unique: a person may switch back to an earlier plan
    change = f"{id}/{row.version}"
    for invoice in _invoices(id):
        if (
            invoice.status == "paid"
            and invoice.amount_cents
            and invoice.billing_reason == "subscription_cycle"
        ):
            enqueue("plan_renewed", f"plan-renewed/{invoice.id}", user, facts | _invoice_facts(invoice))
        if invoice.status == "open" and live and invoice.billing_reason == "subscription_cycle":
            enqueue(
                "plan_payment_failed",
                f"plan-payment-failed/{invoice.id}",
                user,
                facts | _invoice_facts(invoice),
            )
    if not before.live:
        if live:
            enqueue("plan_started", f"plan-started/{id}", user, facts | _first_payment(id))
        return
    if not live:
        unpaid = any(each.status == "open" for each in _invoices(id)[:1])
        enqueue("plan_ended", f"plan-ended/{id}", user, facts | {"unpaid": unpaid})
        return
    if row.plan_id != before.plan_id:
        enqueue("plan_changed", f"plan-changed/{change}", user, facts)
    if row.scheduled_plan_id and row.scheduled_plan_id != before.scheduled_plan_id:
        following = db.session.get_one(Plan, row.scheduled_plan_id)
        facts |= {"next_plan": following.name, "next_price": price_text(following)}
        enqueue("plan_change_scheduled", f"plan-change-scheduled/{change}", user, facts)
    if row.cancel_at_period_end and not before.cancels:
        enqueue("plan_canceling", f"plan-canceling/{change}", user, facts)


def enqueue_reversal(
    row: Subscription, plan: Plan, invoice: SubscriptionInvoice, before: tuple[int, int, int]
) -> None:
    """Enqueue the e-mails for refunds and disputes of an invoice, in the transaction of the change. `before` holds the
    earlier `refunded_cents`, `disputed_cents` and `taken_back`. Flushes."""
    refunded, disputed = invoice.refunded_cents - before[0], invoice.disputed_cents - before[1]
    credits = invoice.taken_back - before[2]
    facts = _facts(row, plan) | _invoice_facts(invoice)
    moved = {"refund": refunded, "dispute": disputed}
    for kind, cents in moved.items():
        if cents:
            facts |= {
                "disputed": kind == "dispute",
                "back": cents > 0,
                "moved": dollars(abs(cents)),
                "credits_moved": credits_text(abs(credits)) if credits else None,
            }
            total = f"{invoice.refunded_cents}/{invoice.disputed_cents}/{row.version}"
            id = f"plan-payment-reversed/{kind}/{invoice.id}/{total}"
            enqueue("plan_payment_reversed", id, row.user_id or "", facts)
            credits = 0  # reported in the first e-mail only


def enqueue_dispute(
    row: Subscription,
    plan: Plan,
    invoice: SubscriptionInvoice,
    dispute: SubscriptionDispute,
    before: tuple[str | None, int],
) -> None:
    """Enqueue the e-mail that a dispute of an invoice's payment was opened or closed, in the transaction of the change, unless
    money moved with it (`enqueue_reversal` tells that) and it is not lost. `before` holds its earlier status (None: it is new) and withdrawn cents.
    Flushes."""
    status, withdrawn = before
    facts = (
        _facts(row, plan)
        | _invoice_facts(invoice)
        | {
            "disputed": dollars(dispute.amount_cents),
            "withdrawn": None,
            "took_back": False,
            "gave_back": False,
            "credits_moved": None,
            "taken_back_total": credits_text(invoice.taken_back),
            "lost": dispute.status == "lost",
            "inquiry": dispute.status.startswith("warning_"),
        }
    )
    if dispute.status in CLOSED:
        if status not in CLOSED and (dispute.status == "lost" or dispute.withdrawn_cents == withdrawn):
            id = f"dispute-closed/{dispute.id}/{dispute.status}"
            enqueue("dispute_closed", id, row.user_id or "", facts)
    elif status is None and not dispute.withdrawn_cents:
        enqueue("dispute_opened", f"dispute-opened/{dispute.id}", row.user_id or "", facts)


def enqueue_freeze(row: Subscription, plan: Plan, invoice: SubscriptionInvoice, freeze: BuyingFreeze) -> None:
    """Enqueue the e-mail that a dispute of an invoice's payment freezes buying, in the transaction that stores the dispute.
    Flushes."""
    facts = _facts(row, plan) | _invoice_facts(invoice) | {"lost": freeze.lost, "organisation": None}
    # the version makes each freeze's id unique: an inquiry that ended may become a dispute
    enqueue("buying_frozen", f"buying-frozen/{invoice.id}/{row.version}", row.user_id or "", facts)


def price_text(plan: Plan) -> str:
    """A plan's price, as in `$20.00 a month`."""
    return f"{dollars(plan.price_cents)} a {plan.interval}"


def _facts(row: Subscription, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.name,
        "price": price_text(plan),
        "included": credits_text(plan.included_credits) if plan.included_credits else None,
        "period_end": _day(row.billing_period_end),
        "amount": None,
        "number": None,
        "invoice_url": None,
    }


def _invoice_facts(invoice: SubscriptionInvoice) -> dict[str, Any]:
    return {
        "amount": dollars(invoice.amount_cents),
        "number": invoice.number,
        "invoice_url": invoice.hosted_invoice_url,
    }


def _first_payment(id: str) -> dict[str, Any]:
    paid = [each for each in _invoices(id) if each.status == "paid" and each.amount_cents]
    return _invoice_facts(paid[0]) if paid else {}


def _invoices(id: str) -> list[SubscriptionInvoice]:
    """The three newest invoices, newest first: e-mails about older ones were sent before."""
    query = select(SubscriptionInvoice).where(SubscriptionInvoice.stripe_subscription_id == id)
    return list(db.session.scalars(query.order_by(*NEWEST_FIRST).limit(3)))


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).day} {moment.astimezone(UTC):%B %Y}"
