"""How a subscription changes: what Stripe says of it and of its invoices becomes its rows, with the ledger's entries, in one
transaction.

Whoever hears of it first (a webhook, the page after Checkout, a change, the reconciler) ends here with the whole state. The
update names the version that was read before Stripe was asked, so an older answer never overwrites a newer one.
"""

import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import select

from models import ledger
from models.billing import stripe_api
from models.billing.payments.customers import account_of_customer, customer_of
from models.billing.payments.freezes import buying_freeze
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.billing.subscription_plans import subscription_mails
from models.billing.subscription_plans.plans import Plan, plan_of_price
from models.billing.subscription_plans.subscription_state import (
    InvoiceState,
    SubscriptionState,
    fetch_subscription,
    included_credits,
    main_line,
)
from models.billing.subscription_plans.subscriptions import (
    LIVE_STATUSES,
    Subscription,
    SubscriptionDispute,
    SubscriptionInvoice,
    live_subscription,
)
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, NotFound
from models.core.jobs import transaction
from models.ledger import Account

log = logging.getLogger("stoa.billing")

TRIES = 6


class SecondSubscription(Exception):
    """The user has another live subscription; `other` is its id."""

    def __init__(self, other: str) -> None:
        super().__init__(other)
        self.other = other


def sync_subscription(
    stripe_subscription_id: str, *, reversals_of: Collection[str] = (), now: datetime | None = None
) -> Subscription | None:
    """Ask Stripe for a person's subscription and bring its rows to it; None for an organisation's, and for one that has neither
    a customer nor a price of ours. Takes transactions of its own; idempotent.

    The payment of an invoice grants the plan's included credits for the period, as `sub:<subscription>:<period start>`, and for
    the rest of a period after an upgrade as `sub:<subscription>:<period start>:<plan>`; they expire with the period. Refunds and
    disputes of the payment take back their part, and disputes freeze buying; they are fetched for new payments, and for the
    invoices in `reversals_of`. A change of plan that waits for its payment while buying is frozen is withdrawn.
    Where a person has subscribed twice at the same time, the subscription that was heard of last is cancelled and refunded.
    Raises PaymentMismatch if customer, price or amounts do not fit, StripeError, and Conflict when others change it faster.
    """
    for _ in range(TRIES):
        with transaction():
            version, charged = _known(stripe_subscription_id)
        state = fetch_subscription(stripe_subscription_id, charged=charged, reversals_of=reversals_of)
        if state is None:
            raise PaymentMismatch(f"Stripe knows no subscription {stripe_subscription_id}")
        if state.metadata.get("organization_id"):
            return None
        with transaction():
            if foreign(state):
                return None
        try:
            with transaction():
                if not settle_subscription(state, version, now=now or utc_now()):
                    continue
                row = db.session.get_one(Subscription, state.id, populate_existing=True)
                frozen = state.pending_invoice_id and buying_freeze(_account(state))
            if frozen:
                _withdraw_upgrade(state)
            return row
        except SecondSubscription as second:
            other = sync_subscription(second.other, now=now)
            if other is not None and other.status in LIVE_STATUSES:
                _undo(state)
    raise Conflict("This subscription is changed by others just now. Try again.")


def withdraw_upgrade(account: Account) -> None:
    """Withdraw a change of plan that waits for its payment if the account's buying is frozen now. Idempotent. Raises as
    `sync_subscription`."""
    with transaction():
        row = live_subscription(account)
        id = row.stripe_subscription_id if row and buying_freeze(account) else None
    if id is not None:
        sync_subscription(id)


def _withdraw_upgrade(state: SubscriptionState) -> None:
    """Void the invoice of a change of plan that waits for its payment: buying was frozen after it was requested."""
    with stripe_api.api_client() as client:
        client.v1.invoices.void_invoice(cast(str, state.pending_invoice_id))


def sync_checkout(account: Account, session_id: str) -> Subscription | None:
    """The subscription that one of the account's Checkout sessions began, brought up to date; None while it is not paid. Takes
    transactions of its own. Raises NotFound for a session of another account, and as `sync_subscription`."""
    try:
        with stripe_api.api_client() as client:
            session = plain(client.v1.checkout.sessions.retrieve(session_id))
    except StripeError as error:
        if missing(error):
            raise NotFound("There is no such checkout.") from None
        raise
    with transaction():
        customer = customer_of(account)
    if customer is None or id_of(session.get("customer")) != customer or session["mode"] != "subscription":
        raise NotFound("There is no such checkout.")
    id = id_of(session.get("subscription"))
    return sync_subscription(id) if id else None


def foreign(state: SubscriptionState) -> bool:
    """Whether the subscription is none of ours: others may sell with the same Stripe account."""
    known = account_of_customer(state.customer) if state.customer else None
    return known is None and plan_of_price(state.price_id) is None


def settle_subscription(state: SubscriptionState, version: int | None, *, now: datetime) -> bool:
    """Bring a subscription's rows to what Stripe says, with their entries, in the running transaction; False if they have
    changed since `version` was read (None: no row), and nothing was done.

    Takes the account's lock first, then the subscription's. Flushes. Raises PaymentMismatch, SecondSubscription.
    """
    account = _account(state)
    plans = _plans(state)
    if state.price_id not in plans:
        raise PaymentMismatch(f"subscription {state.id}: the price {state.price_id} is of no plan")
    ledger.lock_account(account)
    row = db.session.get(Subscription, state.id, with_for_update=True, populate_existing=True)
    if (row.version if row else None) != version:
        return False
    if row is not None and row.user_id != account.user_id:
        raise PaymentMismatch(f"subscription {state.id}: it is another account's")
    _refuse_second(state, account)
    before = subscription_mails.snapshot(row)
    values = _values(state, account, plans)
    changed = row is None or any(getattr(row, name) != value for name, value in values.items())
    if row is None:
        row = Subscription(stripe_subscription_id=state.id, created_at=state.created_at, version=0)
        db.session.add(row)
    for name, value in values.items():
        setattr(row, name, value)
    db.session.flush()
    for invoice in state.invoices:
        changed |= _settle_invoice(account, row, state, invoice, plans, now)
        changed |= _settle_disputes(account, row, invoice)
    if changed and version is not None:
        row.version += 1
    db.session.flush()
    if changed:
        subscription_mails.enqueue_subscription_changes(row, plans[state.price_id], before)
    return True


def _known(id: str) -> tuple[int | None, set[str]]:
    """The version of the subscription's row, and the invoices whose charge is known."""
    version = db.session.scalars(
        select(Subscription.version).where(Subscription.stripe_subscription_id == id)
    ).one_or_none()
    charged = select(SubscriptionInvoice.id).where(
        SubscriptionInvoice.stripe_subscription_id == id,
        SubscriptionInvoice.stripe_payment_intent_id.is_not(None),
    )
    return version, set(db.session.scalars(charged))


def _account(state: SubscriptionState) -> Account:
    account = account_of_customer(state.customer) if state.customer else None
    if account is None or account.user_id is None:
        raise PaymentMismatch(f"subscription {state.id}: the customer is none of ours")
    if state.metadata.get("userId", account.user_id) != account.user_id:
        raise PaymentMismatch(f"subscription {state.id}: the customer is another account's")
    return account


def _plans(state: SubscriptionState) -> dict[str, Plan]:
    """The plans of all prices that the subscription names, by price."""
    prices = {state.price_id, state.scheduled_price_id}
    prices |= {line.price_id for invoice in state.invoices for line in invoice.lines}
    query = select(Plan).where(Plan.stripe_price_id.in_(prices - {None}))
    return {plan.stripe_price_id or "": plan for plan in db.session.scalars(query)}


def _refuse_second(state: SubscriptionState, account: Account) -> None:
    if state.status not in LIVE_STATUSES:
        return
    other = db.session.scalars(
        select(Subscription.stripe_subscription_id).where(
            Subscription.user_id == account.user_id,
            Subscription.status.in_(LIVE_STATUSES),
            Subscription.stripe_subscription_id != state.id,
        )
    ).one_or_none()
    if other is not None:
        raise SecondSubscription(other)


def _undo(state: SubscriptionState) -> None:
    """Cancel a subscription at once and refund what it took: its person pays for another one."""
    log.warning("subscription %s is the second of its user: it is cancelled and refunded", state.id)
    with stripe_api.api_client() as client:
        for invoice in state.invoices:
            if invoice.charge is not None and not invoice.charge.refunded:
                client.v1.refunds.create(
                    {"payment_intent": invoice.charge.intent_id, "reason": "duplicate"},
                    {"idempotency_key": f"second-{invoice.id}"},
                )
        client.v1.subscriptions.cancel(state.id, {"prorate": False, "invoice_now": False})


def _values(state: SubscriptionState, account: Account, plans: Mapping[str, Plan]) -> dict[str, Any]:
    plan, scheduled = plans[state.price_id], plans.get(state.scheduled_price_id or "")
    return {
        "stripe_customer_id": state.customer,
        "user_id": account.user_id,
        "stripe_price_id": state.price_id,
        "plan_id": plan.id,
        "scheduled_plan_id": scheduled.id if scheduled else None,
        "tier": plan.tier,
        "scheduled_tier": scheduled.tier if scheduled else None,
        "status": state.status,
        "billing_period_start": state.period[0],
        "billing_period_end": state.period[1],
        "cancel_at_period_end": state.cancel_at_period_end,
        "canceled_at": state.canceled_at,
        "ended_at": state.ended_at,
    }


def _settle_invoice(
    account: Account,
    subscription: Subscription,
    state: SubscriptionState,
    invoice: InvoiceState,
    plans: Mapping[str, Plan],
    now: datetime,
) -> bool:
    """Bring one invoice's row to what Stripe says, with its grant and what was taken back of it; whether it has changed."""
    line = main_line(invoice)
    plan = plans.get(line.price_id) if line else None
    if line is None or plan is None:
        return False
    row = db.session.get(SubscriptionInvoice, invoice.id, populate_existing=True)
    values: dict[str, Any] = {
        "plan_id": plan.id,
        "number": invoice.number,
        "billing_reason": invoice.reason,
        "status": invoice.status,
        "amount_cents": invoice.amount,
        "hosted_invoice_url": invoice.url,
        "period_start": line.start,
        "period_end": line.end,
        "paid_at": invoice.paid_at,
    }
    if row is not None and row.status == "paid" and invoice.status != "paid":
        raise PaymentMismatch(f"invoice {invoice.id}: it was paid, and Stripe says {invoice.status}")
    if row is not None and row.status == "paid" and row.amount_cents != invoice.amount:
        raise PaymentMismatch(
            f"invoice {invoice.id}: {row.amount_cents} cents were paid, and Stripe says {invoice.amount}"
        )
    if invoice.charge is not None:
        values |= {
            "stripe_payment_intent_id": invoice.charge.intent_id,
            "stripe_charge_id": invoice.charge.charge_id,
            "refunded_cents": invoice.charge.refunded,
            "disputed_cents": invoice.charge.withdrawn,
        }
    if invoice.status == "paid" and (row is None or row.status != "paid"):
        values |= _grant(account, state, invoice, plan, plans, now)
    if row is not None and all(getattr(row, name) == value for name, value in values.items()):
        return False
    before = (row.refunded_cents, row.disputed_cents, row.taken_back) if row else (0, 0, 0)
    if row is None:
        row = SubscriptionInvoice(
            id=invoice.id,
            stripe_subscription_id=state.id,
            created_at=invoice.created_at,
            **{"credits": 0, "refunded_cents": 0, "disputed_cents": 0, "taken_back": 0} | values,
        )
        db.session.add(row)
    for name, value in values.items():
        setattr(row, name, value)
    gone = min(row.amount_cents, row.refunded_cents + row.disputed_cents)
    if row.operation_id is not None and row.amount_cents:
        row.taken_back = (2 * row.credits * gone + row.amount_cents) // (2 * row.amount_cents)
        cause = "dispute" if row.disputed_cents != before[1] else "refund"
        ledger.take_back(row.operation_id, row.taken_back, cause, now=now)
    db.session.flush()
    if (row.refunded_cents, row.disputed_cents) != before[:2]:
        subscription_mails.enqueue_reversal(subscription, plan, row, before)
    return True


def _settle_disputes(account: Account, subscription: Subscription, invoice: InvoiceState) -> bool:
    """Bring the disputes of an invoice's payment to what Stripe says; whether one is new or has changed."""
    told = invoice.charge.disputes if invoice.charge else ()
    row = db.session.get(SubscriptionInvoice, invoice.id) if told else None
    if row is None:
        return False
    was_frozen, changed = buying_freeze(account) is not None, False
    plan = db.session.get_one(Plan, row.plan_id)
    for dispute in told:
        kept = db.session.get(SubscriptionDispute, dispute.id, populate_existing=True)
        before = (kept.status, kept.withdrawn_cents) if kept else (None, 0)
        if kept is None:
            kept = SubscriptionDispute(id=dispute.id, invoice_id=row.id, created_at=dispute.created_at)
            db.session.add(kept)
        for name, value in (
            ("amount_cents", dispute.amount),
            ("withdrawn_cents", dispute.withdrawn),
            ("status", dispute.status),
            ("reason", dispute.reason),
        ):
            if getattr(kept, name) != value:
                setattr(kept, name, value)
                changed = True
        subscription_mails.enqueue_dispute(subscription, plan, row, kept, before)
    db.session.flush()
    freeze = buying_freeze(account)
    if freeze is not None and not was_frozen:
        subscription_mails.enqueue_freeze(subscription, plan, row, freeze)
    return changed


def _grant(
    account: Account,
    state: SubscriptionState,
    invoice: InvoiceState,
    plan: Plan,
    plans: Mapping[str, Plan],
    now: datetime,
) -> dict[str, Any]:
    """Grant what the payment of an invoice includes; its operation and credits, for the invoice's row."""
    included = included_credits(state, invoice, plans)
    line = main_line(invoice)
    if included is None or line is None or _granted_before(included.operation_id):
        return {}
    # a period that ended before we heard of its payment is made up for
    expires = included.expires_at if included.expires_at > now else now + (line.end - line.start)
    ledger.grant(
        account,
        included.credits,
        "plan",
        operation_id=included.operation_id,
        description=f"Included in {plan.name}",
        expires_at=expires,
        now=now,
    )
    return {"operation_id": included.operation_id, "credits": included.credits}


def _granted_before(operation_id: str) -> bool:
    found = select(SubscriptionInvoice.id).where(SubscriptionInvoice.operation_id == operation_id)
    return db.session.scalars(found).one_or_none() is not None
