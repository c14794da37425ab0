"""Provider keys of an organisation: its own keys at OpenRouter, OpenAI and others, which pay for calls instead of its credits.

A key may be restricted to members, to keys of the organisation and to models. It is stored encrypted and never shown again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.sessions import Session
from models.core.db import NEW_ID, NOW, Base, db, extension
from models.core.errors import Conflict, Invalid, NotFound
from models.core.sealing import seal
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember, lock_org
from models.orgs.team_editing import check_label, check_patterns

PURPOSE = "provider"
"""Of the encryption."""
PROVIDERS = {
    "anthropic": "Anthropic",
    "gemini": "Google Gemini",
    "openai": "OpenAI",
    "openrouter": "OpenRouter",
}
MAX_KEYS = 50
_SECRET = re.compile(r"[!-~]{8,500}")


class OrgProviderKey(Base):
    """A key at a provider. Without restrictions (null) it pays for every call of the organisation at that provider."""

    __tablename__ = "org_provider_key"
    __table_args__ = (
        Index("idx_org_provider_key_org", "org_id"),
        CheckConstraint(
            "(provider = ANY (ARRAY['anthropic'::text, 'gemini'::text, 'openai'::text, 'openrouter'::text]))",
            name="provider_known",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    provider: Mapped[str]
    name: Mapped[str]
    sealed: Mapped[str]
    hint: Mapped[str]
    """Its last four characters."""
    models: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Patterns of the models that it pays for."""
    user_ids: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    key_ids: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """SHA-256 of the keys of the organisation that may use it."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


@dataclass(frozen=True, slots=True)
class ProviderKeyForm:
    """A new key, as entered. Empty restrictions restrict nothing."""

    provider: str
    name: str
    secret: str
    models: Sequence[str] = ()
    user_ids: Sequence[str] = ()
    key_ids: Sequence[str] = ()


def provider_keys(org: Org) -> list[OrgProviderKey]:
    """The organisation's provider keys, by provider and age."""
    query = select(OrgProviderKey).where(OrgProviderKey.org_id == org.id)
    return list(db.session.scalars(query.order_by(OrgProviderKey.provider, OrgProviderKey.created_at)))


def provider_key(org: Org, id: str) -> OrgProviderKey:
    """One of them. Raises NotFound."""
    query = select(OrgProviderKey).where(OrgProviderKey.id == id, OrgProviderKey.org_id == org.id)
    found = None if "\x00" in id else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("Provider key not found")
    return found


def add_provider_key(org: Org, by_id: str, form: ProviderKeyForm) -> OrgProviderKey:
    """Store a key, encrypted. Locks the organisation, flushes. Raises Invalid (400) with the field, and Conflict at the limit."""
    name = check_label(form.name)
    secret = form.secret.strip()
    if form.provider not in PROVIDERS:
        raise _invalid("provider", "Choose a provider.")
    if not _SECRET.fullmatch(secret):
        raise _invalid(
            "secret", "Paste the key as the provider shows it: 8 to 500 characters without spaces."
        )
    patterns = check_patterns(form.models or None)
    lock_org(org.id)
    _check_restrictions(org.id, form)
    total = select(func.count()).where(OrgProviderKey.org_id == org.id)
    if (db.session.scalar(total) or 0) >= MAX_KEYS:
        raise Conflict(f"An organization has at most {MAX_KEYS} provider keys. Remove one first.")
    row = OrgProviderKey(
        org_id=org.id,
        provider=form.provider,
        name=name,
        sealed=seal(extension("settings").secret_key, PURPOSE, secret.encode()),
        hint=secret[-4:],
        models=patterns or None,
        user_ids=sorted(set(form.user_ids)) or None,
        key_ids=sorted(set(form.key_ids)) or None,
        created_by=by_id,
    )
    db.session.add(row)
    db.session.flush()
    record_org(org.id, "provider_key.added", name, after=_audited(row))
    return row


def switch_provider_key(row: OrgProviderKey, active: bool) -> None:
    """Let the key pay for calls, or not. Flushes."""
    if row.is_active != active:
        before = _audited(row)
        row.is_active = active
        db.session.flush()
        record_org(row.org_id, "provider_key.changed", row.name, before=before, after=_audited(row))


def remove_provider_key(row: OrgProviderKey) -> None:
    """Delete the key. Flushes."""
    record_org(row.org_id, "provider_key.removed", row.name, before=_audited(row))
    db.session.delete(row)
    db.session.flush()


def _check_restrictions(org_id: str, form: ProviderKeyForm) -> None:
    members = select(OrgMember.user_id).where(OrgMember.org_id == org_id)
    if not set(form.user_ids) <= set(db.session.scalars(members)):
        raise _invalid("user_ids", "Choose members of the organisation.")
    keys = select(Session.session_token).where(Session.org_id == org_id)
    if not set(form.key_ids) <= set(db.session.scalars(keys)):
        raise _invalid("key_ids", "Choose keys of the organisation.")


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(problem, fields={field: problem}, status=400)


def _audited(row: OrgProviderKey) -> dict[str, Any]:
    names = ("provider", "hint", "models", "user_ids", "is_active")
    return {name: getattr(row, name) for name in names} | {"keys": [id[:12] for id in row.key_ids or ()]}
