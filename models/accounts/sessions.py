"""Tables of sessions (browser, command line, API key), their devices, and sign-in links."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Enum, ForeignKey, ForeignKeyConstraint, Index, literal_column, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, UTC_NOW, Base, UtcTimestamp

SESSION_TYPES = ("web", "pat", "cli")
USER_AGENT_LENGTH = 300
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""`expires` of a key that does not expire."""


class Session(Base):
    """A credential. The primary key holds the SHA-256 of the token, never the token (contract 1.1).

    `org_id` is the organisation the credential acts for, whose account is charged; null for the user's own account.
    The row is deleted when the membership ends.
    """

    __tablename__ = "session"
    __table_args__ = (
        Index("idx_session_user", "userId", "type"),
        Index("idx_session_fingerprint", "fingerprint_id"),
        Index(
            "idx_session_hint_ending",
            literal_column("reverse(token_hint)").label("hint_end"),
            postgresql_ops={"hint_end": "text_pattern_ops"},
        ),
        Index(
            "idx_session_org",
            "org_id",
            "created_at",
            "sessionToken",
            postgresql_where=text("(org_id IS NOT NULL)"),
        ),
        Index(
            "idx_session_key_expires",
            "expires",
            "sessionToken",
            postgresql_where=text("(type = 'pat'::session_type)"),
        ),
        Index("idx_session_team", "team_id", postgresql_where=text("(team_id IS NOT NULL)")),
        ForeignKeyConstraint(
            ["org_id", "userId"],
            ["org_member.org_id", "org_member.user_id"],
            ondelete="CASCADE",
            name="session_member_fk",
        ),
    )

    session_token: Mapped[str] = mapped_column("sessionToken", primary_key=True)
    user_id: Mapped[str] = mapped_column("userId", ForeignKey("user.id", ondelete="CASCADE"))
    expires: Mapped[datetime] = mapped_column(UtcTimestamp)
    fingerprint_id: Mapped[str | None] = mapped_column(ForeignKey("fingerprint.id", ondelete="NO ACTION"))
    type: Mapped[str] = mapped_column(
        Enum(*SESSION_TYPES, name="session_type"), server_default=text("'web'::session_type")
    )
    created_at: Mapped[datetime] = mapped_column(UtcTimestamp, server_default=UTC_NOW)
    name: Mapped[str | None]
    token_hint: Mapped[str]
    cli_auth_hash: Mapped[str | None]
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTimestamp)
    # The session or key that created this credential. No foreign key: the id outlives a browser session.
    parent: Mapped[str | None]
    cli_collected_at: Mapped[datetime | None] = mapped_column(UtcTimestamp)
    org_id: Mapped[str | None]
    kept_expires: Mapped[datetime | None] = mapped_column(UtcTimestamp)
    """Its expiry before its organisation was deleted, to be restored with it."""
    team_id: Mapped[str | None] = mapped_column(
        ForeignKey("org_team.id", ondelete="SET NULL", name="session_team_fk")
    )
    disabled_at: Mapped[datetime | None] = mapped_column(UtcTimestamp)
    """When the credential was switched off: it is unknown to every door until it is switched on again."""
    user_agent: Mapped[str | None]
    """The browser at sign-in, at most `USER_AGENT_LENGTH` characters."""
    last_used_ip: Mapped[str | None]
    """The address of the last use, as exact as `last_used_at`."""
    fixed_expiry: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether a command line session keeps its expiry however it is used."""


class Fingerprint(Base):
    """A command line device (contract 1.4)."""

    __tablename__ = "fingerprint"

    id: Mapped[str] = mapped_column(primary_key=True)
    sig_hash: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcTimestamp, server_default=UTC_NOW)


class FingerprintUser(Base):
    """A user who signed in on a device. The row outlives the session: self-referrals are recognised by it."""

    __tablename__ = "fingerprint_user"
    __table_args__ = (Index("idx_fingerprint_user_user", "user_id"),)

    fingerprint_id: Mapped[str] = mapped_column(
        ForeignKey("fingerprint.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class LoginLink(Base):
    """A single-use magic link, stored as the SHA-256 of its token.

    With an `identity` (the fields of `signing_in.Identity`), it connects that external identity to the account of
    `email`, in the browser that requested it; `browser` is the SHA-256 of that browser's nonce.
    """

    __tablename__ = "login_link"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(index=True)
    next: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    ip: Mapped[str | None]
    identity: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    browser: Mapped[str | None]
