"""Earned credits: referrals and ad impressions."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import Enum, ForeignKey, Index, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, UTC_NOW, Base, UtcTimestamp

REFERRAL_STATUSES = ("pending", "completed")


class Referral(Base):
    """A referral of one user by another, and the credits earned for it."""

    __tablename__ = "referral"
    __table_args__ = (Index("idx_referral_referred", "referred_id"),)

    referrer_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"), primary_key=True)
    referred_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"), primary_key=True)
    status: Mapped[str] = mapped_column(
        Enum(*REFERRAL_STATUSES, name="referral_status"), server_default=text("'pending'::referral_status")
    )
    credits: Mapped[int]
    is_legacy: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(UtcTimestamp, server_default=UTC_NOW)
    completed_at: Mapped[datetime | None] = mapped_column(UtcTimestamp)


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
