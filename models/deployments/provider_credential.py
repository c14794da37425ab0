"""Credentials of providers that an account deploys to: tokens, verified, sealed, and never shown again (fastest contract 3.15)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import CheckConstraint, ForeignKey, Index, delete, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, extension, lock_name, now
from models.core.errors import DomainError, Invalid
from models.core.sealing import SealBroken, open_sealed, seal
from models.ledger import Account
from models.projects.project import one_of
from models.projects.project_access import ProjectCaller, check_project_role
from models.projects.project_ids import new_id

PROVIDERS = ("railway", "cloudflare")
PURPOSE = "provider"
MAX_TOKEN, MAX_METADATA = 4_096, 4_096


class ProviderTokenRefused(DomainError):
    """The provider does not accept the token."""

    status = 400
    code = "invalid_credentials"


class ProviderTokenUnverified(DomainError):
    """The provider is unknown, or could not say whether the token is right."""

    status = 400
    code = "validation_failed"


class ProviderCredential(Base):
    """A token of a provider. `sealed` is bound to account and provider; `last_four` is all that is ever shown of it. `verified` is what the
    provider said of it: the account that it reaches."""

    __tablename__ = "provider_credential"
    __table_args__ = (
        CheckConstraint(one_of("provider", PROVIDERS), name="provider_known"),
        CheckConstraint("(length(last_four) <= 4)", name="last_four_short"),
        CheckConstraint(
            "((metadata IS NULL) OR (jsonb_typeof(metadata) = 'object'::text))", name="metadata_object"
        ),
        Index("idx_provider_credential_account", "account_id", "provider", unique=True),
        Index("idx_provider_credential_user", "user_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    provider: Mapped[str]
    sealed: Mapped[str]
    last_four: Mapped[str]
    about: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def credentials_of(caller: ProjectCaller, account: Account) -> Sequence[ProviderCredential]:
    """The credentials of an account by provider; their tokens stay sealed. Raises NotFound, Forbidden."""
    check_project_role(caller, account.id, "see_projects")
    query = select(ProviderCredential).where(ProviderCredential.account_id == account.id)
    return db.session.scalars(query.order_by(ProviderCredential.provider)).all()


def check_credential(
    caller: ProjectCaller, account: Account, provider: str, token: str, metadata: Mapping[str, Any] | None
) -> None:
    """What can be said of a new credential before its provider is asked. Raises NotFound, Forbidden, Invalid (422), ProviderTokenUnverified
    (400) for an unknown provider."""
    check_project_role(caller, account.id, "manage_projects")
    if provider not in PROVIDERS:
        raise ProviderTokenUnverified(f"'provider' must be one of {', '.join(PROVIDERS)}.")
    if not 8 <= len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid(
            "'api_token' must be the token alone, without spaces.",
            fields={"api_token": "Enter the token alone, without spaces."},
        )
    if metadata is not None:
        written = orjson.dumps(dict(metadata))
        if len(written) > MAX_METADATA or b"\\u0000" in written:
            raise Invalid(f"'metadata' must have at most {MAX_METADATA} bytes, and no NUL character.")


def store_credential(
    caller: ProjectCaller, account: Account, provider: str, token: str, metadata: Mapping[str, Any] | None
) -> tuple[ProviderCredential, bool]:
    """Store a verified token, in place of the one before; whether it is the first of the provider. `metadata` None keeps what was there.
    Flushes. Raises as `check_credential`."""
    check_credential(caller, account, provider, token, metadata)
    lock_name(f"provider credential {account.id} {provider}")
    found = credential_of(account.id, provider)
    row = found or ProviderCredential(account_id=account.id, provider=provider, created_at=now())
    row.sealed = seal(_key(), PURPOSE, token.encode(), context=f"{account.id} {provider}")
    row.last_four, row.user_id, row.updated_at = token[-4:], caller.user_id, now()
    if metadata is not None:
        row.about = dict(metadata)
    db.session.add(row)
    db.session.flush()
    return row, found is None


def credential_of(account_id: str, provider: str) -> ProviderCredential | None:
    """The account's credential of a provider, or None."""
    query = select(ProviderCredential).where(
        ProviderCredential.account_id == account_id, ProviderCredential.provider == provider
    )
    return db.session.scalars(query).one_or_none()


def token_of(credential: ProviderCredential) -> str | None:
    """The token, None if it was sealed with another STOA_SECRET_KEY. Never log it."""
    context = f"{credential.account_id} {credential.provider}"
    try:
        return open_sealed(_key(), PURPOSE, credential.sealed, context=context).decode()
    except SealBroken:
        return None


def remove_credential(caller: ProjectCaller, account: Account, provider: str) -> None:
    """Forget a credential if there is one. Raises NotFound, Forbidden."""
    check_project_role(caller, account.id, "manage_projects")
    if "\0" in provider:
        return
    db.session.execute(
        delete(ProviderCredential).where(
            ProviderCredential.account_id == account.id, ProviderCredential.provider == provider
        )
    )


def _key() -> str:
    key: str = extension("settings").secret_key
    return key
