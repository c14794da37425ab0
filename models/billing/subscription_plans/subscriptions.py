"""Personal subscriptions to plans, and their invoices."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt, db
from models.core.errors import NotFound
from models.ledger import Account

SUBSCRIPTION_STATUSES = ("incomplete", "trialing", "active", "past_due", "canceled", "unpaid", "paused")
LIVE_STATUSES = ("trialing", "active", "past_due", "unpaid", "paused")
"""A user has at most one subscription with one of these."""


class Subscription(Base):
    """A person's Stripe subscription (contract A.3). `tier` is that of its plan, in dollars per month.

    `scheduled_plan_id` is the plan that follows at `billing_period_end`. Only `sync_subscription` writes here; `version`
    counts the changes of the row and of its invoices, so that an older answer of Stripe never overwrites a newer one.
    """

    __tablename__ = "subscription"
    __table_args__ = (
        Index("idx_subscription_customer", "stripe_customer_id"),
        Index("idx_subscription_user", "user_id"),
        Index("idx_subscription_plan", "plan_id"),
        Index(
            "idx_subscription_status",
            "status",
            postgresql_where=text("(status = 'active'::subscription_status)"),
        ),
        Index(
            "idx_subscription_live",
            "user_id",
            unique=True,
            postgresql_where=text(
                "(status = ANY (ARRAY['trialing'::subscription_status, 'active'::subscription_status,"
                " 'past_due'::subscription_status, 'unpaid'::subscription_status, 'paused'::subscription_status]))"
            ),
        ),
    )

    stripe_subscription_id: Mapped[str] = mapped_column(primary_key=True)
    stripe_customer_id: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    stripe_price_id: Mapped[str]
    plan_id: Mapped[str | None] = mapped_column(ForeignKey("plan.id", ondelete="RESTRICT"))
    scheduled_plan_id: Mapped[str | None] = mapped_column(ForeignKey("plan.id", ondelete="RESTRICT"))
    tier: Mapped[int | None]
    scheduled_tier: Mapped[int | None]
    status: Mapped[str] = mapped_column(
        Enum(*SUBSCRIPTION_STATUSES, name="subscription_status"),
        server_default=text("'active'::subscription_status"),
    )
    billing_period_start: Mapped[datetime]
    billing_period_end: Mapped[datetime]
    cancel_at_period_end: Mapped[bool] = mapped_column(server_default=text("false"))
    canceled_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


class SubscriptionInvoice(Base):
    """A finalized Stripe invoice of a subscription, with the credits that its payment granted. Amounts of money are cents.

    `status` is Stripe's (open, paid, void, uncollectible). `operation_id` names the grant of the plan's included credits,
    of type `plan`; refunds and disputes have taken back `taken_back` of them.
    """

    __tablename__ = "subscription_invoice"
    __table_args__ = (
        CheckConstraint("((credits > 0) = (operation_id IS NOT NULL))", name="credits_have_operation"),
        CheckConstraint("((taken_back >= 0) AND (taken_back <= credits))", name="taken_back_bounded"),
        CheckConstraint("((credits = 0) OR (status = 'paid'::text))", name="credits_need_payment"),
        Index("idx_subscription_invoice_subscription", "stripe_subscription_id", "created_at"),
        Index("idx_subscription_invoice_plan", "plan_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    stripe_subscription_id: Mapped[str] = mapped_column(
        ForeignKey("subscription.stripe_subscription_id", ondelete="CASCADE")
    )
    plan_id: Mapped[str] = mapped_column(ForeignKey("plan.id", ondelete="RESTRICT"))
    number: Mapped[str | None]
    billing_reason: Mapped[str]
    status: Mapped[str]
    amount_cents: Mapped[int] = mapped_column(BigInt)
    hosted_invoice_url: Mapped[str | None]
    period_start: Mapped[datetime]
    period_end: Mapped[datetime]
    stripe_payment_intent_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_charge_id: Mapped[str | None] = mapped_column(unique=True)
    operation_id: Mapped[str | None] = mapped_column(unique=True)
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    refunded_cents: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    disputed_cents: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    taken_back: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    fraud_warning_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    paid_at: Mapped[datetime | None]


class SubscriptionDispute(Base):
    """A dispute of an invoice's payment, as last fetched from Stripe. Amounts are cents.

    It freezes the person's buying like that of a purchase, until an operator clears it (`cleared_at`).
    """

    __tablename__ = "subscription_dispute"
    __table_args__ = (Index("idx_subscription_dispute_invoice", "invoice_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    invoice_id: Mapped[str] = mapped_column(ForeignKey("subscription_invoice.id", ondelete="CASCADE"))
    amount_cents: Mapped[int] = mapped_column(BigInt)
    withdrawn_cents: Mapped[int] = mapped_column(BigInt)
    status: Mapped[str]
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    cleared_at: Mapped[datetime | None]


# the numbers of a customer's invoices rise, also within a second
NEWEST_FIRST = (
    SubscriptionInvoice.created_at.desc(),
    SubscriptionInvoice.number.desc(),
    SubscriptionInvoice.id,
)


def live_subscription(account: Account) -> Subscription | None:
    """The account's live subscription; None also for an organisation."""
    return db.session.scalars(
        select(Subscription)
        .where(Subscription.user_id == account.user_id, Subscription.status.in_(LIVE_STATUSES))
        .execution_options(populate_existing=True)
    ).one_or_none()


def last_subscription(account: Account) -> Subscription | None:
    """The account's live subscription, else the newest of the others."""
    query = select(Subscription).where(Subscription.user_id == account.user_id)
    return db.session.scalars(
        query.order_by(Subscription.status.in_(LIVE_STATUSES).desc(), Subscription.created_at.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    ).one_or_none()


def subscription_of(account: Account, id: str) -> Subscription:
    """One of the account's subscriptions. Raises NotFound for another account's."""
    found = db.session.scalars(
        select(Subscription)
        .where(Subscription.stripe_subscription_id == id, Subscription.user_id == account.user_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound("There is no such subscription.")
    return found


def subscription_invoices(account: Account, *, limit: int = 24) -> list[SubscriptionInvoice]:
    """The newest invoices of the account's subscriptions, newest first."""
    query = (
        select(SubscriptionInvoice)
        .join(
            Subscription,
            Subscription.stripe_subscription_id == SubscriptionInvoice.stripe_subscription_id,
        )
        .where(Subscription.user_id == account.user_id)
        .order_by(*NEWEST_FIRST)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def invoice_paid_by(intent_id: str | None, charge_id: str | None) -> SubscriptionInvoice | None:
    """The invoice that was paid by this intent or charge, if that is known already."""
    for column, value in (
        (SubscriptionInvoice.stripe_payment_intent_id, intent_id),
        (SubscriptionInvoice.stripe_charge_id, charge_id),
    ):
        query = select(SubscriptionInvoice).where(column == value).execution_options(populate_existing=True)
        if value and (found := db.session.scalars(query).one_or_none()):
            return found
    return None


def unpaid_invoice(subscription: Subscription) -> SubscriptionInvoice | None:
    """The open invoice of a subscription that is past due, whose page takes another card or a confirmation."""
    return db.session.scalars(
        select(SubscriptionInvoice)
        .where(
            SubscriptionInvoice.stripe_subscription_id == subscription.stripe_subscription_id,
            SubscriptionInvoice.status == "open",
        )
        .order_by(*NEWEST_FIRST)
        .limit(1)
    ).one_or_none()


def subscriber_counts() -> dict[str, int]:
    """How many live subscriptions each plan has, by the plan's id; plans without one are missing."""
    query = (
        select(Subscription.plan_id, func.count())
        .where(Subscription.status.in_(LIVE_STATUSES), Subscription.plan_id.is_not(None))
        .group_by(Subscription.plan_id)
    )
    return {str(plan_id): count for plan_id, count in db.session.execute(query)}
