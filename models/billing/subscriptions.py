"""Personal subscriptions to plans, and their invoices."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt

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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    paid_at: Mapped[datetime | None]
