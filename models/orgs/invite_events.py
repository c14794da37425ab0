"""The table of what happened to invitations."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt

EVENT_KINDS = ("sent", "opened", "reminded", "expired", "accepted", "declined", "withdrawn")


class OrgInviteEvent(Base):
    """Something that happened to an invitation: one line of its timeline."""

    __tablename__ = "org_invite_event"
    __table_args__ = (
        CheckConstraint(
            "(kind = ANY (ARRAY[" + ", ".join(f"'{kind}'::text" for kind in EVENT_KINDS) + "]))",
            name="kind_known",
        ),
        Index("idx_org_invite_event_invite", "invite_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    invite_id: Mapped[str] = mapped_column(ForeignKey("org_invite.id", ondelete="CASCADE"))
    kind: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)
