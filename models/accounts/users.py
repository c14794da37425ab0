"""Tables of users, their external identities, and their own provider keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ColumnElement, Enum, ForeignKey, Index, func, literal_column, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, UTC_NOW, Base, UtcTimestamp

SERVICE_DOMAIN = "service-account.invalid"
"""Domain of the addresses of service accounts, which nobody can prove to own. They never sign in."""
THEMES = ("system", "light", "dark")
NUMBER_LANGUAGES = (
    *(
        "en",
        "en_IN",
        "bg",
        "ca",
        "cs",
        "da",
        "de",
        "de_AT",
        "de_CH",
        "el",
        "es",
        "es_MX",
        "et",
        "fi",
        "fr",
        "fr_CA",
        "fr_CH",
        "he",
    ),
    *(
        "hi",
        "hr",
        "hu",
        "id",
        "it",
        "it_CH",
        "ja",
        "ko",
        "lt",
        "lv",
        "nb",
        "nl",
        "pl",
        "pt",
        "pt_PT",
        "ro",
        "ru",
        "sk",
        "sl",
        "sv",
    ),
    *("th", "tr", "uk", "vi", "zh"),
)
"""Languages of numbers on pages, by their Unicode identifiers (CLDR)."""
API_KEY_TYPES = ("anthropic", "gemini", "openai")


class User(Base):
    """A user and the billing settings of their personal account."""

    __tablename__ = "user"
    __table_args__ = (
        Index("idx_user_auto_topup", "id", postgresql_where=text("auto_topup_enabled")),
        Index("idx_user_banned", "created_at", postgresql_where=text("banned")),
        CheckConstraint("theme IN ('system', 'light', 'dark')", name="theme"),
        Index(
            "idx_user_deleted",
            "deleted_at",
            postgresql_where=text("((deleted_at IS NOT NULL) AND (erased_at IS NULL))"),
        ),
        # operators search by the beginning (models/admin/account_search.py)
        Index("idx_user_email_beginning", "email", postgresql_ops={"email": "text_pattern_ops"}),
        Index(
            "idx_user_name_beginning",
            literal_column("lower(name)").label("name_start"),
            postgresql_ops={"name_start": "text_pattern_ops"},
        ),
    )

    # The interface Flask-Login expects of a signed-in user.
    is_authenticated = True
    is_active = True
    is_anonymous = False

    def get_id(self) -> str:
        """Return the id, for Flask-Login."""
        return self.id

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    name: Mapped[str | None]
    email: Mapped[str] = mapped_column(unique=True)
    password: Mapped[str | None]
    email_verified: Mapped[datetime | None] = mapped_column("emailVerified", UtcTimestamp)
    image: Mapped[str | None]
    stripe_customer_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_price_id: Mapped[str | None]
    next_quota_reset: Mapped[datetime | None] = mapped_column(
        UtcTimestamp, server_default=text("((now() AT TIME ZONE 'utc'::text) + '1 mon'::interval)")
    )
    created_at: Mapped[datetime] = mapped_column(UtcTimestamp, server_default=UTC_NOW)
    referral_code: Mapped[str | None] = mapped_column(
        unique=True, server_default=text("('ref-'::text || gen_random_uuid())")
    )
    referral_limit: Mapped[int] = mapped_column(server_default=text("5"))
    discord_id: Mapped[str | None] = mapped_column(unique=True)
    handle: Mapped[str | None] = mapped_column(unique=True)
    auto_topup_enabled: Mapped[bool] = mapped_column(server_default=text("false"))
    auto_topup_threshold: Mapped[int | None]
    auto_topup_amount: Mapped[int | None]
    banned: Mapped[bool] = mapped_column(server_default=text("false"))
    banned_reason: Mapped[str | None]
    """The reason shown to the banned user."""
    fallback_to_a_la_carte: Mapped[bool] = mapped_column(server_default=text("false"))
    theme: Mapped[str] = mapped_column(server_default=text("'system'"))
    """Colour scheme of the pages, one of `THEMES`."""
    time_zone: Mapped[str | None]
    """IANA name of the clock of the pages; null for what the browser says."""
    number_language: Mapped[str] = mapped_column(server_default=text("'en'"))
    """Language of the numbers on pages, one of `NUMBER_LANGUAGES`."""
    deleted_at: Mapped[datetime | None]
    """When the user deleted the account; a sign-in in the grace period takes it back (`account_deletion`)."""
    erased_at: Mapped[datetime | None]
    """When what is personal was erased for good."""

    @hybrid_property
    def display_name(self) -> str:
        """The name on pages: without one, the first part of the address. Also a column of queries."""
        return (self.name or "").strip() or self.email.partition("@")[0]

    @display_name.inplace.expression
    @classmethod
    def _display_name_column(cls) -> ColumnElement[str]:
        return func.coalesce(func.nullif(func.btrim(cls.name), ""), func.split_part(cls.email, "@", 1))


class OAuthAccount(Base):
    """An identity at an OAuth or OpenID Connect provider that signs a user in."""

    __tablename__ = "account"
    __table_args__ = (Index("idx_account_user", "userId"),)

    user_id: Mapped[str] = mapped_column("userId", ForeignKey("user.id", ondelete="CASCADE"))
    type: Mapped[str]
    provider: Mapped[str] = mapped_column(primary_key=True)
    provider_account_id: Mapped[str] = mapped_column("providerAccountId", primary_key=True)
    refresh_token: Mapped[str | None]
    access_token: Mapped[str | None]
    expires_at: Mapped[int | None]
    token_type: Mapped[str | None]
    scope: Mapped[str | None]
    id_token: Mapped[str | None]
    session_state: Mapped[str | None]


class VerificationToken(Base):
    """A token mailed to verify an address."""

    __tablename__ = "verificationToken"

    identifier: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    expires: Mapped[datetime] = mapped_column(UtcTimestamp)


class EncryptedApiKey(Base):
    """A user's own provider key, encrypted at rest."""

    __tablename__ = "encrypted_api_keys"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    type: Mapped[str] = mapped_column(Enum(*API_KEY_TYPES, name="api_key_type"), primary_key=True)
    api_key: Mapped[str]
