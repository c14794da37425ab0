"""What a person does with their subscription: subscribe, change the plan, cancel and resume.

Stripe is asked first, with no transaction open; then `sync_subscription` brings our rows to what it says. A process that is
stopped in between loses nothing: Stripe's event does the same.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from models.billing import stripe_api
from models.billing.payments import cards, trust
from models.billing.payments.billing_details import billing_snapshot
from models.billing.payments.customers import ensure_customer, replace_customer, send_billing_details
from models.billing.payments.freezes import refuse_frozen
from models.billing.payments.tax import tax_enabled
from models.billing.stripe_api import StripeError, plain
from models.billing.subscription_plans.plans import Plan, get_plan, stripe_price
from models.billing.subscription_plans.subscription_state import (
    SubscriptionState,
    fetch_subscription,
    payment_of_invoice,
    subscription_state,
)
from models.billing.subscription_plans.subscription_sync import sync_subscription
from models.billing.subscription_plans.subscriptions import Subscription, live_subscription
from models.core.db import now as utc_now
from models.core.errors import Conflict, DomainError, Invalid, NotFound
from models.core.jobs import transaction
from models.ledger import Account

PREVIEW_LASTS = timedelta(hours=1)
"""How long the amounts of a preview can be agreed to."""
NO_CHECKOUT = "Could not create Stripe checkout session."
NONE_ACTIVE = "No active subscription found."


class PaymentDeclined(DomainError):
    """The card was declined; nothing has changed."""

    status = 402
    code = "card_declined"


class ConfirmationNeeded(PaymentDeclined):
    """The bank wants the person to confirm the payment, on Stripe's page at `url`, within 23 hours; the plan changes then."""

    code = "confirmation_needed"

    def __init__(self, url: str) -> None:
        super().__init__(
            f"Your bank wants you to confirm this payment. Open {url} to confirm it: your plan changes then.",
            details=url,
        )
        self.url = url


@dataclass(frozen=True, slots=True)
class PlanCheckout:
    """Stripe's Checkout page for a subscription."""

    id: str
    url: str


@dataclass(frozen=True, slots=True)
class ChangePreview:
    """What a change of plan costs. `lines` are those of Stripe's invoice with their cents; `due_cents` is charged at `at`,
    which is now for an `immediate` change and else the end of the period."""

    plan: Plan
    immediate: bool
    lines: list[tuple[str, int]]
    due_cents: int
    at: datetime
    proration_date: int
    """What the person agrees to: pass it to `change`."""


def subscribe(
    account: Account, plan: Plan, success_url: str, cancel_url: str, *, address: str | None = None
) -> PlanCheckout:
    """Open Stripe's Checkout page for a subscription to the plan. Earlier pages of the account that are still open expire.

    `success_url` may contain `{CHECKOUT_SESSION_ID}`. `address` is the person's network address, for limits of declines. Takes
    transactions of its own. Raises Conflict (there is a live subscription, or the plan is retired), Forbidden (buying is
    frozen), BuyingLimited, NotFound (an organisation's account), StripeError, BillingDisabled.
    """
    stripe_api.client()
    if account.user_id is None:
        raise NotFound("Plans are for personal accounts.")
    with transaction():
        refuse_frozen(account)
        trust.refuse_declined(None, address)
        trust.refuse_limited(account, plan.price_cents)
        _refuse_retired(plan)
        if live_subscription(account) is not None:
            raise Conflict("You already have an active subscription.", code="already_subscribed")
    customer = ensure_customer(account)
    if not cards.customer_exists(customer):
        customer = replace_customer(account, customer)
    price = stripe_price(plan)
    with transaction():
        known = billing_snapshot(account.id) is not None
    details: Any = {
        "billing_address_collection": "required",
        "tax_id_collection": {"enabled": True},
        "customer_update": {"name": "auto", "address": "auto"},
    }
    metadata = {"userId": account.user_id, "planId": plan.id}
    taxed: Any = {}
    if tax_enabled():
        send_billing_details(account.id)  # Checkout takes the tax of the customer's address
        taxed = {"automatic_tax": {"enabled": True}}
    params: Any = (
        ({} if known else details)
        | taxed
        | {
            "mode": "subscription",
            "customer": customer,
            "client_reference_id": account.user_id,
            "line_items": [{"price": price, "quantity": 1}],
            "metadata": metadata,
            "subscription_data": {"metadata": metadata},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
    )
    with stripe_api.api_client() as client:
        open_sessions: Any = {"customer": customer, "status": "open", "limit": 100}
        for each in client.v1.checkout.sessions.list(open_sessions).auto_paging_iter():
            if each.mode == "subscription":
                client.v1.checkout.sessions.expire(each.id)
        session = client.v1.checkout.sessions.create(params)
    if not session.url:
        raise StripeError(NO_CHECKOUT, unknown=False)
    return PlanCheckout(session.id, session.url)


def preview_change(account: Account, plan: Plan, *, now: datetime | None = None) -> ChangePreview:
    """What a change to the plan would cost, by Stripe's preview. Takes transactions of its own. Raises Conflict (no change
    is possible now, with the reason), Forbidden (an upgrade while buying is frozen), NotFound (no live subscription),
    StripeError, BillingDisabled."""
    now = now or utc_now()
    _, current, state = _changeable(account, plan)
    price = stripe_price(plan)
    if not upgrade(current, plan):
        at = state.period[1]
        lines = [(f"{plan.name}, from {at.day} {at:%B %Y}", plan.price_cents)]
        if tax_enabled():
            renewal = {"customer": state.customer, "subscription_details": {"items": [{"price": price}]}}
            lines += _tax_lines(_previewed(renewal))
        due = sum(cents for _, cents in lines)
        return ChangePreview(plan, False, lines, due, at, int(now.timestamp()))
    proration_date = _within_period(int(now.timestamp()), state)
    params: Any = {
        "subscription": state.id,
        "subscription_details": {
            "items": [{"id": state.item_id, "price": price}],
            "proration_behavior": "always_invoice",
            "proration_date": proration_date,
        },
    }
    invoice = _previewed(params)
    lines = [(each["description"] or plan.name, each["amount"]) for each in invoice["lines"]["data"]]
    lines += _tax_lines(invoice)
    if invoice["amount_due"] != sum(cents for _, cents in lines):
        lines.append(
            ("Credit from earlier invoices", invoice["amount_due"] - sum(cents for _, cents in lines))
        )
    return ChangePreview(plan, True, lines, invoice["amount_due"], now, proration_date)


def _previewed(params: Any) -> dict[str, Any]:
    """Stripe's preview of an invoice, with tax where it is added."""
    if tax_enabled():
        params = params | {"automatic_tax": {"enabled": True}}
    with stripe_api.api_client() as client:
        return plain(client.v1.invoices.create_preview(params))


def _tax_lines(invoice: dict[str, Any]) -> list[tuple[str, int]]:
    """The tax that an invoice adds to its lines; none if it calculates no tax."""
    if not (invoice.get("automatic_tax") or {}).get("enabled"):
        return []
    return [
        ("Tax", sum(e["amount"] for e in invoice["total_taxes"] or [] if e["tax_behavior"] == "exclusive"))
    ]


def change(
    account: Account, plan: Plan, agreed_proration_date: int, *, now: datetime | None = None
) -> Subscription:
    """Change to the plan as previewed. An upgrade takes effect at once and its difference is charged now; if that payment fails
    nothing changes. A downgrade takes effect at the end of the period. Takes transactions of its own; idempotent by
    `agreed_proration_date`.

    Raises PaymentDeclined, ConfirmationNeeded, Conflict (the preview is too old, or no change is possible now), Forbidden (an
    upgrade while buying is frozen), NotFound (no live subscription), StripeError, BillingDisabled.
    """
    now = now or utc_now()
    moment = int(now.timestamp())
    if not moment - PREVIEW_LASTS.total_seconds() <= agreed_proration_date <= moment + 60:
        raise Conflict("The amounts may have changed. Look at them again.", code="preview_expired")
    row, current, state = _changeable(account, plan)
    price = stripe_price(plan)
    if upgrade(current, plan):
        if not state.period[0].timestamp() <= agreed_proration_date <= state.period[1].timestamp():
            raise Conflict("The amounts may have changed. Look at them again.", code="preview_expired")
        _release_schedule(state)
        try:
            _upgrade(state, price, agreed_proration_date)
        except PaymentDeclined as declined:
            if row.scheduled_plan_id is not None and not isinstance(declined, ConfirmationNeeded):
                _schedule_again(row)
            raise
    else:
        _schedule(state, plan, price)
    return _synced(state.id)


def undo_scheduled_change(account: Account) -> Subscription:
    """Keep the present plan after the end of the period. Takes transactions of its own. Raises NotFound (no live subscription),
    Conflict (no change is scheduled), StripeError, BillingDisabled."""
    row, state = _live(account)
    if row.scheduled_plan_id is None and state.schedule_id is None:
        raise Conflict("No change of plan is scheduled.")
    _release_schedule(state)
    return _synced(state.id)


def cancel(account: Account) -> Subscription:
    """End the subscription at the end of its period. Idempotent. Takes transactions of its own. Raises NotFound (no live
    subscription), StripeError, BillingDisabled."""
    return _set_cancel(account, True)


def resume(account: Account) -> Subscription:
    """Take a cancellation back before the period ends. Idempotent. Takes transactions of its own. Raises NotFound (no live
    subscription), Forbidden (buying is frozen: the renewal would be a purchase), StripeError, BillingDisabled."""
    return _set_cancel(account, False)


def upgrade(current: Plan, plan: Plan) -> bool:
    """Whether a change takes effect at once: to a longer interval, or to the same one for no less money."""
    if current.interval != plan.interval:
        return plan.interval == "year"
    return plan.price_cents >= current.price_cents


def _live(account: Account) -> tuple[Subscription, SubscriptionState]:
    """The live subscription, and Stripe's present word on it."""
    stripe_api.client()
    with transaction():
        row = live_subscription(account)
    if row is None:
        raise NotFound(NONE_ACTIVE)
    state = fetch_subscription(row.stripe_subscription_id, invoices=False)
    if state is None or state.ended_at is not None:
        sync_subscription(row.stripe_subscription_id)
        raise NotFound(NONE_ACTIVE)
    return row, state


def _changeable(account: Account, plan: Plan) -> tuple[Subscription, Plan, SubscriptionState]:
    row, state = _live(account)
    with transaction():
        current = get_plan(row.plan_id or "")
        _refuse_retired(plan)
        if upgrade(current, plan) and plan.id != current.id:
            refuse_frozen(account)
    if plan.id == current.id:
        raise Conflict(f"You have the plan {plan.name} already.", code="same_plan")
    if row.status != "active" or state.status != "active":
        raise Conflict(
            "The last payment of your plan is open. Pay it before you change the plan.", code="past_due"
        )
    if state.cancel_at_period_end:
        raise Conflict("Your plan is cancelled. Resume it before you change it.", code="cancelled")
    if plan.id == row.scheduled_plan_id:
        raise Conflict(f"The change to {plan.name} is scheduled already.", code="same_plan")
    return row, current, state


def _refuse_retired(plan: Plan) -> None:
    if not get_plan(plan.id).active:
        raise Conflict("This plan is no longer offered.", code="plan_retired")


def _upgrade(state: SubscriptionState, price: str, proration_date: int) -> None:
    params: Any = {
        "items": [{"id": state.item_id, "price": price}],
        "proration_behavior": "always_invoice",
        "proration_date": proration_date,
        "payment_behavior": "pending_if_incomplete",
    }
    key: Any = {"idempotency_key": f"change-{state.id}-{price}-{proration_date}"}
    with stripe_api.api_client() as client:
        if state.pending_invoice_id is not None:
            client.v1.invoices.void_invoice(state.pending_invoice_id)
        if tax_enabled():
            # a pending update cannot switch it on
            client.v1.subscriptions.update(state.id, {"automatic_tax": {"enabled": True}})
        client.v1.subscriptions.update(state.id, params, key)
        # a repeated request answers what was so then
        told = plain(client.v1.subscriptions.retrieve(state.id))
    now = subscription_state(told)
    pending = now.pending_invoice_id
    if pending is None and now.price_id != price:
        # the request repeats one that was declined
        raise Conflict("The amounts may have changed. Look at them again.", code="preview_expired")
    if pending is None:
        return
    with stripe_api.api_client() as client:
        invoice = plain(client.v1.invoices.retrieve(pending))
    intent = payment_of_invoice(pending)
    # an off-session charge that needs the person is declined with this code
    asks = intent is not None and (
        intent["status"] == "requires_action"
        or (intent.get("last_payment_error") or {}).get("code") == "authentication_required"
    )
    if asks and invoice.get("hosted_invoice_url"):
        sync_subscription(state.id)
        raise ConfirmationNeeded(invoice["hosted_invoice_url"])
    with stripe_api.api_client() as client:
        client.v1.invoices.void_invoice(pending)
    reason = ((intent or {}).get("last_payment_error") or {}).get("message") or "Your card was declined."
    raise PaymentDeclined(f"{reason} Your plan has not changed.")


def _schedule(state: SubscriptionState, plan: Plan, price: str) -> None:
    with stripe_api.api_client() as client:
        schedule = state.schedule_id
        if schedule is None:
            schedule = client.v1.subscription_schedules.create({"from_subscription": state.id}).id
        start, end = (int(moment.timestamp()) for moment in state.period)
        params: Any = {
            "end_behavior": "release",
            "phases": [
                {"start_date": start, "end_date": end, "items": [{"price": state.price_id, "quantity": 1}]},
                {
                    "start_date": end,
                    "duration": {"interval": plan.interval, "interval_count": 1},
                    "items": [{"price": price, "quantity": 1}],
                    "metadata": {"planId": plan.id},
                    "proration_behavior": "none",
                    **({"automatic_tax": {"enabled": True}} if tax_enabled() else {}),
                },
            ],
        }
        client.v1.subscription_schedules.update(schedule, params)


def _schedule_again(row: Subscription) -> None:
    """Put back a scheduled change that an upgrade would have dropped."""
    with transaction():
        plan = get_plan(row.scheduled_plan_id or "")
    state = fetch_subscription(row.stripe_subscription_id, invoices=False)
    if state is not None:
        _schedule(state, plan, stripe_price(plan))
        sync_subscription(state.id)


def _release_schedule(state: SubscriptionState) -> None:
    if state.schedule_id is not None:
        with stripe_api.api_client() as client:
            client.v1.subscription_schedules.release(state.schedule_id)


def _set_cancel(account: Account, cancels: bool) -> Subscription:
    _, state = _live(account)
    if state.cancel_at_period_end != cancels:
        if not cancels:
            with transaction():
                refuse_frozen(account)
        _release_schedule(state)
        with stripe_api.api_client() as client:
            client.v1.subscriptions.update(state.id, {"cancel_at_period_end": cancels})
    return _synced(state.id)


def _synced(id: str) -> Subscription:
    found = sync_subscription(id)
    if found is None:
        raise Invalid("This subscription is an organisation's.")
    return found


def _within_period(moment: int, state: SubscriptionState) -> int:
    """Stripe takes no time of proration outside the period; its clock and ours differ."""
    return min(max(moment, int(state.period[0].timestamp())), int(state.period[1].timestamp()))
