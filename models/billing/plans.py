"""Personal subscriptions, and per-user limits that override those of a tier."""

from datetime import datetime

from sqlalchemy import Enum, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base

SUBSCRIPTION_STATUSES = ("incomplete", "trialing", "active", "past_due", "canceled", "unpaid", "paused")


class Subscription(Base):
    """A person's Stripe subscription (contract A.3). `tier` is dollars per month."""

    __tablename__ = "subscription"
    __table_args__ = (
        Index("idx_subscription_customer", "stripe_customer_id"),
        Index("idx_subscription_user", "user_id"),
        Index(
            "idx_subscription_status",
            "status",
            postgresql_where=text("(status = 'active'::subscription_status)"),
        ),
    )

    stripe_subscription_id: Mapped[str] = mapped_column(primary_key=True)
    stripe_customer_id: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    stripe_price_id: Mapped[str]
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


class LimitOverride(Base):
    """A user's limits, in credits and hours, that override those of their tier (contract A.3)."""

    __tablename__ = "limit_override"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    credits_per_block: Mapped[int]
    block_duration_hours: Mapped[int]
    weekly_credit_limit: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())
