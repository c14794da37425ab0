"""Tables of invitations and of what happened to each."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, BigInt
from models.orgs.org import OrgRole

OPEN = "accepted_at IS NULL AND declined_at IS NULL AND withdrawn_at IS NULL"
EVENT_KINDS = ("sent", "opened", "reminded", "expired", "accepted", "declined", "withdrawn")


class OrgInvite(Base):
    """An invitation to an organisation. `token` is the SHA-256 of the token in the e-mail, a UUID v4 derived from the server's
    secret, the id and `issue`, so that a reminder can repeat it. It is open until it is accepted, declined or withdrawn; an
    address has at most one open invitation of an organisation, expired ones included."""

    __tablename__ = "org_invite"
    __table_args__ = (
        Index("idx_org_invite_token", "token"),
        Index("idx_org_invite_email", "org_id", "email"),
        Index("idx_org_invite_expires", "expires_at"),
        Index("idx_org_invite_open", "org_id", "email", unique=True, postgresql_where=text(f"({OPEN})")),
        Index("idx_org_invite_list", "org_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    email: Mapped[str]
    role: Mapped[str] = mapped_column(OrgRole)
    token: Mapped[str] = mapped_column(unique=True)
    invited_by: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    declined_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    issue: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))

    def state(self, now: datetime) -> str:
        """`accepted`, `declined`, `withdrawn`, `expired` or `open`."""
        if self.accepted_at:
            return "accepted"
        if self.declined_at:
            return "declined"
        if self.withdrawn_at:
            return "withdrawn"
        return "expired" if self.expires_at <= now else "open"


class OrgInviteEvent(Base):
    """Something that happened to an invitation: one line of its timeline."""

    __tablename__ = "org_invite_event"
    __table_args__ = (
        CheckConstraint(
            "(kind = ANY (ARRAY["
            + ", ".join(f"'{kind}'::text" for kind in EVENT_KINDS)
            + "]))",
            name="kind_known",
        ),
        Index("idx_org_invite_event_invite", "invite_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    invite_id: Mapped[str] = mapped_column(ForeignKey("org_invite.id", ondelete="CASCADE"))
    kind: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)
