"""Consequences of disputes and early fraud warnings, beside the credits taken back and the freeze of buying: a customer with
five disputes in 14 days is banned (contract 3.13), and small payments that a bank reports as fraud are refunded."""

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from models.accounts import bans
from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import Purchase
from models.billing.payments.transitions import sync
from models.billing.stripe_api import id_of, plain
from models.core.db import db
from models.core.db import now as utc_now
from models.core.jobs import transaction

log = logging.getLogger("stoa.billing")

BAN_DISPUTES = 5
BAN_WINDOW = timedelta(days=14)


def banned_buyers(*, limit: int = 100) -> list[User]:
    """For operators: banned people who are customers at Stripe, newest accounts first."""
    query = (
        select(User)
        .where(User.banned, User.stripe_customer_id.is_not(None))
        .order_by(User.created_at.desc(), User.id)
        .limit(limit)
    )
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def ban_repeated(customer_id: str, *, now: datetime | None = None) -> bool:
    """Ban a user with five disputes within 14 days, as counted by Stripe; returns whether this call banned them.

    Takes transactions of its own; idempotent. Raises StripeError.
    """
    now = now or utc_now()
    with transaction():
        user = _person(customer_id)
        if user is None or user.banned:
            return False
    since = int((now - BAN_WINDOW).timestamp())
    with stripe_api.api_client() as client:
        listed = client.v1.disputes.list({"created": {"gte": since}, "limit": 100, "expand": ["data.charge"]})
        count = sum(_customer(plain(dispute)) == customer_id for dispute in listed.auto_paging_iter())
    if count < BAN_DISPUTES:
        return False
    days = BAN_WINDOW.days
    with transaction():
        user = _person(customer_id)
        reason = f"{count} disputes in past {days} days (threshold: {BAN_DISPUTES})"
        banned = user is not None and bans.ban(user, reason, now)
    if banned:
        log.warning("the customer %s is banned: %s", customer_id, reason)
    return banned


def answer_fraud_warning(warning_id: str, purchase_id: str) -> None:
    """Store a bank's early fraud warning on the purchase, and refund it if the operator's setting says so, before it is
    disputed. Takes transactions of its own; idempotent. Raises StripeError, PaymentMismatch."""
    purchase = sync(purchase_id)
    with transaction():
        db.session.execute(
            update(Purchase)
            .where(Purchase.id == purchase_id)
            .values(fraud_warning_id=warning_id)
            .execution_options(synchronize_session=False)
        )
    untouched = purchase.state == "paid"
    if refund_warned(warning_id, purchase.stripe_charge_id, purchase.amount_cents if untouched else None):
        sync(purchase_id)


def refund_warned(warning_id: str, charge_id: str | None, amount_cents: int | None) -> bool:
    """Refund the charge of an early fraud warning if the operator's setting says so; whether it was. `amount_cents` is None if
    there is nothing to refund: a part went back already, or the payment is disputed.

    Idempotent. Raises StripeError, and PaymentMismatch if the warning is of another charge.
    """
    with stripe_api.api_client() as client:
        warning = plain(client.v1.radar.early_fraud_warnings.retrieve(warning_id))
    if id_of(warning["charge"]) != charge_id:
        raise PaymentMismatch(f"{charge_id}: the warning {warning_id} is of another charge")
    below = stripe_api.billing_settings().stoa_refund_fraud_warnings_below
    if not warning["actionable"] or amount_cents is None or amount_cents > below:
        return False
    with stripe_api.api_client() as client:
        client.v1.refunds.create(
            {"charge": charge_id or "", "reason": "fraudulent"}, {"idempotency_key": f"refund-{warning_id}"}
        )
    return True


def _person(customer_id: str) -> User | None:
    return db.session.scalars(
        select(User).where(User.stripe_customer_id == customer_id).execution_options(populate_existing=True)
    ).one_or_none()


def _customer(dispute: dict[str, Any]) -> str | None:
    charge = dispute.get("charge")
    return id_of(charge.get("customer")) if isinstance(charge, dict) else None
