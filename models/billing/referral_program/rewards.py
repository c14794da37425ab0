"""Tables of earned credits: referrals and ad impressions."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, UTC_NOW, Base, UtcTimestamp

REFERRAL_STATUSES = ("pending", "completed")


class Referral(Base):
    """A referral of one user by another, and the credits that each of the two earned for it.

    Completed: both were paid `credits`, and get them again in every quota cycle. Pending: nothing was paid, `credits` is 0.
    The reward then waits for a purchase (`purchase_id` is null), is held until `held_until`, or is void for good
    (`voided_at`). Two users refer each other at most once, and a user is referred at most once.
    """

    __tablename__ = "referral"
    __table_args__ = (
        UniqueConstraint("referred_id"),
        Index(
            "idx_referral_pair",
            text("LEAST(referrer_id, referred_id)"),
            text("GREATEST(referrer_id, referred_id)"),
            unique=True,
        ),
        Index("idx_referral_referrer", "referrer_id", "created_at", "referred_id"),
        Index(
            "idx_referral_held",
            "held_until",
            postgresql_where=text("((status = 'pending'::referral_status) AND (voided_at IS NULL))"),
        ),
        CheckConstraint("(referrer_id <> referred_id)", name="of_another_user"),
        CheckConstraint("((purchase_id IS NULL) = (held_until IS NULL))", name="held_for_a_purchase"),
        CheckConstraint(
            "((voided_at IS NULL) OR ((status = 'pending'::referral_status) AND (credits = 0)))",
            name="void_earns_nothing",
        ),
        CheckConstraint(
            "((voided_at IS NULL) = (void_reason IS NULL))"
            " AND (void_reason = ANY (ARRAY['refund'::text, 'dispute'::text, 'self_referral'::text]))",
            name="void_for_a_known_reason",
        ),
    )

    referrer_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"), primary_key=True)
    referred_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"), primary_key=True)
    status: Mapped[str] = mapped_column(
        Enum(*REFERRAL_STATUSES, name="referral_status"), server_default=text("'pending'::referral_status")
    )
    credits: Mapped[int]
    is_legacy: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(UtcTimestamp, server_default=UTC_NOW)
    completed_at: Mapped[datetime | None] = mapped_column(UtcTimestamp)
    purchase_id: Mapped[str | None]
    """The first purchase that the referred user paid after the referral, while its reward waits for one."""
    held_until: Mapped[datetime | None]
    voided_at: Mapped[datetime | None]
    void_reason: Mapped[str | None]


class AdImpression(Base):
    """An ad served to a user, and the credits it granted (contract A.5). `payout` is dollars."""

    __tablename__ = "ad_impression"
    __table_args__ = (Index("idx_ad_impression_user", "user_id", "served_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    ad_text: Mapped[str]
    title: Mapped[str]
    cta: Mapped[str] = mapped_column(server_default=text("''::text"))
    url: Mapped[str]
    favicon: Mapped[str]
    click_url: Mapped[str]
    imp_url: Mapped[str] = mapped_column(unique=True)
    payout: Mapped[Decimal] = mapped_column(Numeric(10, 6))
    credits_granted: Mapped[int] = mapped_column(server_default=text("0"))
    grant_operation_id: Mapped[str | None]
    served_at: Mapped[datetime] = mapped_column(server_default=NOW)
    impression_fired_at: Mapped[datetime | None]
    clicked_at: Mapped[datetime | None]
