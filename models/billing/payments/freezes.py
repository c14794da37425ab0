"""Frozen buying: an account with an open or lost dispute, of a purchase or of a plan's payment, buys nothing until the
dispute ends well or an operator clears it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Subquery, cast, false, func, null, select, true, union_all, update

from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments.purchase import CLOSED_WELL, Purchase, PurchaseDispute, dollars, of_account
from models.billing.subscription_plans.subscriptions import (
    Subscription,
    SubscriptionDispute,
    SubscriptionInvoice,
)
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Forbidden
from models.ledger import Account
from models.orgs import Org


@dataclass(frozen=True, slots=True)
class BuyingFreeze:
    """Why an account cannot buy: its first dispute that is open or lost. The amount is cents."""

    since: datetime
    payment_id: str
    """The id of the purchase, or of the plan's invoice."""
    of_plan: bool
    amount_cents: int
    lost: bool


@dataclass(frozen=True, slots=True)
class FrozenBuyer:
    """An account that cannot buy, why, and how many disputes freeze it."""

    account_id: str
    name: str
    """Of the organisation, or the person's address."""
    is_organisation: bool
    freeze: BuyingFreeze
    disputes: int


def buying_freeze(account: Account) -> BuyingFreeze | None:
    """Why the account cannot buy; None if it can."""
    standing = _standing()
    row = db.session.execute(
        select(standing)
        .where(standing.c.account_id == account.id)
        .order_by(standing.c.since, standing.c.payment_id)
        .limit(1)
    ).one_or_none()
    return None if row is None else _freeze(row)


def refuse_frozen(account: Account) -> None:
    """Raise Forbidden while the account's buying is frozen; the message has the reason."""
    freeze = buying_freeze(account)
    if freeze is not None:
        raise Forbidden(freeze_message(freeze), code="buying_frozen")


def freeze_message(freeze: BuyingFreeze) -> str:
    """Why the account cannot buy, and what the user can do. Raises BillingDisabled."""
    support = stripe_api.billing_settings().stoa_support_email or "the operator of this server"
    paid = f"a payment of {dollars(freeze.amount_cents)}{' for your plan' if freeze.of_plan else ''}"
    if freeze.lost:
        return (
            f"Your bank took back {paid} after a dispute, so this account cannot buy credits or plans. You can still spend "
            f"your remaining credits. Contact {support} to settle it."
        )
    return (
        f"Your bank disputes {paid}, so this account cannot buy credits or plans until the dispute is decided. You can still "
        f"spend your remaining credits. If the dispute is a mistake, ask your bank to withdraw it, or contact {support}."
    )


def clear_freeze(account: Account, *, now: datetime | None = None) -> int:
    """Let the account buy again after an operator settled its disputes; returns how many were cleared. Flushes."""
    purchases = select(Purchase.id).where(of_account(account))
    invoices = (
        select(SubscriptionInvoice.id)
        .join(Subscription, Subscription.stripe_subscription_id == SubscriptionInvoice.stripe_subscription_id)
        .where(Subscription.user_id == account.id)
    )
    cleared = 0
    for table, mine in (
        (PurchaseDispute, PurchaseDispute.purchase_id.in_(purchases)),
        (SubscriptionDispute, SubscriptionDispute.invoice_id.in_(invoices)),
    ):
        changed: Any = db.session.execute(
            update(table)
            .where(mine, _stands(table))
            .values(cleared_at=now or utc_now())
            .execution_options(synchronize_session=False)
        )
        cleared += int(changed.rowcount)
    return cleared


def frozen_buyers(*, limit: int = 100) -> list[FrozenBuyer]:
    """For operators: accounts whose buying is frozen, newest freeze first, each with its first dispute."""
    standing = _standing()
    account, first = standing.c.account_id, (standing.c.since, standing.c.payment_id)
    ranked = select(
        standing,
        func.row_number().over(partition_by=account, order_by=first).label("place"),
        func.count().over(partition_by=account).label("disputes"),
    ).subquery()
    rows = db.session.execute(
        select(ranked, User.email, Org.name)
        .join(User, User.id == ranked.c.user_id)
        .outerjoin(Org, Org.id == ranked.c.org_id)
        .where(ranked.c.place == 1)
        .order_by(ranked.c.since.desc(), ranked.c.account_id)
        .limit(limit)
    )
    return [
        FrozenBuyer(
            row.account_id,
            row.name if row.org_id else row.email,
            row.org_id is not None,
            _freeze(row),
            row.disputes,
        )
        for row in rows
    ]


def _standing() -> Subquery:
    """The disputes that freeze: open or lost, and not cleared by an operator."""
    of_purchases = (
        select(
            func.coalesce(Purchase.org_id, Purchase.user_id).label("account_id"),
            Purchase.user_id,
            Purchase.org_id,
            Purchase.id.label("payment_id"),
            false().label("of_plan"),
            PurchaseDispute.created_at.label("since"),
            PurchaseDispute.amount_cents,
            PurchaseDispute.status,
        )
        .join(Purchase, Purchase.id == PurchaseDispute.purchase_id)
        .where(_stands(PurchaseDispute))
    )
    of_plans = (
        select(
            Subscription.user_id,
            Subscription.user_id,
            cast(null(), Purchase.org_id.type),
            SubscriptionInvoice.id,
            true(),
            SubscriptionDispute.created_at,
            SubscriptionDispute.amount_cents,
            SubscriptionDispute.status,
        )
        .join(SubscriptionInvoice, SubscriptionInvoice.id == SubscriptionDispute.invoice_id)
        .join(Subscription, Subscription.stripe_subscription_id == SubscriptionInvoice.stripe_subscription_id)
        .where(_stands(SubscriptionDispute))
    )
    return union_all(of_purchases, of_plans).subquery()


def _stands(table: type[PurchaseDispute | SubscriptionDispute]) -> ColumnElement[bool]:
    return table.status.not_in(CLOSED_WELL) & table.cleared_at.is_(None)


def _freeze(row: Any) -> BuyingFreeze:
    return BuyingFreeze(row.since, row.payment_id, row.of_plan, row.amount_cents, row.status == "lost")
