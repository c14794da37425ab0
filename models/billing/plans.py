"""Plans that people subscribe to, with their limits and versions.

A plan's limits are windows of credits: a subscriber's calls spend blocks, grants of type `subscription` that the windows
bound. Its `included_credits` are other credits: a grant of type `plan` for each paid period, which is part of the balance
and is spent before bought credits.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.core.db import NOW, Base, BigInt

INTERVALS = ("month", "year")


class PlanWindow(Base):
    """A limit of a plan: so many credits in so many hours; without hours in a billing period. All windows of a plan apply
    together."""

    __tablename__ = "plan_window"
    __table_args__ = (
        CheckConstraint("(hours > 0)", name="hours_positive"),
        CheckConstraint("(credits > 0)", name="credits_positive"),
    )

    plan_id: Mapped[str] = mapped_column(ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    hours: Mapped[int | None]
    credits: Mapped[int] = mapped_column(BigInt)


class Plan(Base):
    """A version of a plan. Its price and limits never change: a change makes the next version, and retires this one, whose
    subscribers keep it.

    `price_cents` is per `interval`. `features` are lines for people. `models` are patterns of model names as of `fnmatch`;
    None allows all. `tier` is the contract's number (A.3).
    """

    __tablename__ = "plan"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        CheckConstraint("(\"interval\" = ANY (ARRAY['month'::text, 'year'::text]))", name="interval_known"),
        CheckConstraint("(price_cents >= 0)", name="price_not_negative"),
        CheckConstraint("(included_credits >= 0)", name="included_credits_not_negative"),
        CheckConstraint("((requests_per_minute > 0) AND (seats > 0))", name="limits_positive"),
        Index("idx_plan_active_name", "name", unique=True, postgresql_where=text("active")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=text("''::text"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    price_cents: Mapped[int]
    currency: Mapped[str] = mapped_column(server_default=text("'usd'::text"))
    interval: Mapped[str]
    features: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    models: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    requests_per_minute: Mapped[int | None]
    seats: Mapped[int | None]
    included_credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    tier: Mapped[int | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    public: Mapped[bool] = mapped_column(server_default=text("true"))
    sort: Mapped[int] = mapped_column(server_default=text("0"))
    stripe_product_id: Mapped[str | None]
    stripe_price_id: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())

    windows: Mapped[list[PlanWindow]] = relationship(
        order_by=PlanWindow.hours.asc().nulls_last(), lazy="selectin", passive_deletes=True
    )
    """Shortest first; that of the billing period last."""


class LimitOverride(Base):
    """A user's limits, in credits and hours, in place of those of their plan's two shortest windows (contract A.3)."""

    __tablename__ = "limit_override"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    credits_per_block: Mapped[int]
    block_duration_hours: Mapped[int]
    weekly_credit_limit: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())
