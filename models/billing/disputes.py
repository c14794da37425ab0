"""Consequences of disputes and early fraud warnings, beside the credits taken back: buying is frozen, and a customer with
five disputes in 14 days is banned (contract 3.13)."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from models.accounts import bans
from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payment_state import PaymentMismatch
from models.billing.purchase import (
    CLOSED_WELL,
    BuyingFreeze,
    Purchase,
    PurchaseDispute,
    buying_freeze,
    dollars,
    of_account,
)
from models.billing.stripe_api import id_of, plain
from models.billing.transitions import sync
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Forbidden
from models.core.jobs import transaction
from models.ledger import Account
from models.orgs import Org

log = logging.getLogger("stoa.billing")

BAN_DISPUTES = 5
BAN_WINDOW = timedelta(days=14)


def refuse_frozen(account: Account) -> None:
    """Raise Forbidden while the account's buying is frozen; the message has the reason."""
    freeze = buying_freeze(account)
    if freeze is not None:
        raise Forbidden(freeze_message(freeze), code="buying_frozen")


def freeze_message(freeze: BuyingFreeze) -> str:
    """Why the account cannot buy, and what the user can do. Raises BillingDisabled."""
    support = stripe_api.billing_settings().stoa_support_email or "the operator of this server"
    paid = f"a payment of {dollars(freeze.amount_cents)}"
    if freeze.lost:
        return (
            f"Your bank took back {paid} after a dispute, so this account cannot buy credits. You can still spend your "
            f"remaining credits. Contact {support} to settle it."
        )
    return (
        f"Your bank disputes {paid}, so this account cannot buy credits until the dispute is decided. You can still spend "
        f"your remaining credits. If the dispute is a mistake, ask your bank to withdraw it, or contact {support}."
    )


def clear_freeze(account: Account, *, now: datetime | None = None) -> int:
    """Let the account buy again after an operator settled its disputes; returns how many were cleared. Flushes."""
    mine = select(Purchase.id).where(of_account(account))
    cleared: Any = db.session.execute(
        update(PurchaseDispute)
        .where(
            PurchaseDispute.purchase_id.in_(mine),
            PurchaseDispute.status.not_in(CLOSED_WELL),
            PurchaseDispute.cleared_at.is_(None),
        )
        .values(cleared_at=now or utc_now())
        .execution_options(synchronize_session=False)
    )
    return int(cleared.rowcount)


@dataclass(frozen=True, slots=True)
class FrozenBuyer:
    """An account that buys nothing because of disputes: the first of them, and how many. Amounts are cents."""

    account_id: str
    name: str
    """Of the organisation, or the person's address."""
    is_organisation: bool
    since: datetime
    purchase_id: str
    amount_cents: int
    lost: bool
    disputes: int


def frozen_buyers(*, limit: int = 100) -> list[FrozenBuyer]:
    """For operators: accounts whose buying is frozen, newest freeze first."""
    account = func.coalesce(Purchase.org_id, Purchase.user_id)
    standing = (
        select(
            account.label("account"),
            Purchase.org_id,
            Purchase.user_id,
            Purchase.id.label("purchase"),
            PurchaseDispute.created_at.label("since"),
            PurchaseDispute.amount_cents.label("cents"),
            (PurchaseDispute.status == "lost").label("lost"),
            func.row_number().over(partition_by=account, order_by=PurchaseDispute.created_at).label("place"),
            func.count().over(partition_by=account).label("disputes"),
        )
        .join(Purchase, Purchase.id == PurchaseDispute.purchase_id)
        .where(PurchaseDispute.status.not_in(CLOSED_WELL), PurchaseDispute.cleared_at.is_(None))
        .subquery()
    )
    rows = db.session.execute(
        select(standing, User.email, Org.name)
        .join(User, User.id == standing.c.user_id)
        .outerjoin(Org, Org.id == standing.c.org_id)
        .where(standing.c.place == 1)
        .order_by(standing.c.since.desc(), standing.c.account)
        .limit(limit)
    )
    return [
        FrozenBuyer(
            row.account,
            row.name if row.org_id else row.email,
            row.org_id is not None,
            row.since,
            row.purchase,
            row.cents,
            row.lost,
            row.disputes,
        )
        for row in rows
    ]


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
    with stripe_api.asking() as client:
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
    with stripe_api.asking() as client:
        warning = plain(client.v1.radar.early_fraud_warnings.retrieve(warning_id))
    purchase = sync(purchase_id)
    with transaction():
        db.session.execute(
            update(Purchase)
            .where(Purchase.id == purchase_id)
            .values(fraud_warning_id=warning_id)
            .execution_options(synchronize_session=False)
        )
    if id_of(warning["charge"]) != purchase.stripe_charge_id:
        raise PaymentMismatch(f"{purchase_id}: the warning {warning_id} is of another charge")
    below = stripe_api.billing_settings().stoa_refund_fraud_warnings_below
    if not warning["actionable"] or purchase.state != "paid" or purchase.amount_cents > below:
        return
    with stripe_api.asking() as client:
        client.v1.refunds.create(
            {"charge": id_of(warning["charge"]) or "", "reason": "fraudulent"},
            {"idempotency_key": f"refund-{warning_id}"},
        )
    sync(purchase_id)


def _person(customer_id: str) -> User | None:
    return db.session.scalars(
        select(User).where(User.stripe_customer_id == customer_id).execution_options(populate_existing=True)
    ).one_or_none()


def _customer(dispute: dict[str, Any]) -> str | None:
    charge = dispute.get("charge")
    return id_of(charge.get("customer")) if isinstance(charge, dict) else None
