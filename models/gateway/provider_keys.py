"""Provider keys of an account: a person's or an organisation's own keys at OpenRouter, OpenAI and others, which pay for calls
instead of credits.

A key may be restricted to models, to API keys and, in an organisation, to members. It is stored encrypted, bound to its account
and provider, and never shown again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ColumnElement, ForeignKey, Index, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.audit_log import current_actor, record
from models.core.db import NEW_ID, NOW, Base, db, extension
from models.core.errors import Conflict, Invalid, NotFound
from models.core.sealing import has_context, open_sealed, seal
from models.ledger import Account
from models.orgs import OrgMember, lock_org
from models.orgs.team_editing import check_label, check_patterns

PURPOSE = "provider"
"""Of the encryption."""
PROVIDERS = {
    "anthropic": "Anthropic",
    "gemini": "Google Gemini",
    "openai": "OpenAI",
    "openrouter": "OpenRouter",
}
CLIENT_PROVIDERS = {"aws": "AWS", "azure": "Azure OpenAI", "groq": "Groq", "mistral": "Mistral"}
"""Providers whose keys pay for no calls here: clients of projects keep them for the programs that they start."""
TITLES = PROVIDERS | CLIENT_PROVIDERS
"""Of the providers of all stored keys."""
MAX_KEYS = 50
USUAL_PRIORITY, LAST_PRIORITY = 50, 100
_SECRET = re.compile(r"[!-~]{8,500}")


class ProviderKey(Base):
    """A key at a provider. Without restrictions (null) it pays for every call of its owner at that provider. Of several, the one
    with the lowest `priority` is used first, then the one with most restrictions, then the oldest."""

    __tablename__ = "org_provider_key"
    __table_args__ = (
        Index("idx_org_provider_key_org", "org_id"),
        Index("idx_org_provider_key_user", "user_id", postgresql_where=text("(user_id IS NOT NULL)")),
        CheckConstraint(
            "(provider = ANY (ARRAY['anthropic'::text, 'aws'::text, 'azure'::text, 'gemini'::text, 'groq'::text, "
            "'mistral'::text, 'openai'::text, 'openrouter'::text]))",
            name="provider_known",
        ),
        CheckConstraint("(num_nonnulls(org_id, user_id) = 1)", name="one_owner"),
        Index(
            "idx_org_provider_key_client",
            "user_id",
            "provider",
            unique=True,
            postgresql_where=text("from_client"),
        ),
        CheckConstraint("((NOT from_client) OR (user_id IS NOT NULL))", name="client_of_person"),
        CheckConstraint("((priority >= 0) AND (priority <= 100))", name="priority_known"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    """The owner, if it is a person."""
    provider: Mapped[str]
    name: Mapped[str]
    sealed: Mapped[str]
    hint: Mapped[str]
    """Its last four characters."""
    models: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Patterns of the models that it pays for."""
    user_ids: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Members of the organisation who may use it."""
    key_ids: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Ids of the owner's API keys that may use it."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    priority: Mapped[int] = mapped_column(server_default=text("50"))
    use_credits: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the owner's credits pay when the key fails."""
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    from_client: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether a client of projects set it. Its owner's command lines may read it."""
    updated_at: Mapped[datetime | None]
    """When a client of projects replaced its secret."""

    @property
    def account(self) -> Account:
        """The owner's account."""
        return Account(org_id=self.org_id) if self.org_id else Account(user_id=self.user_id)


@dataclass(frozen=True, slots=True)
class ProviderKeyForm:
    """A new key, as entered. Empty restrictions restrict nothing."""

    provider: str
    name: str
    secret: str
    models: Sequence[str] = ()
    user_ids: Sequence[str] = ()
    key_ids: Sequence[str] = ()
    priority: int | None = USUAL_PRIORITY
    """None if it is not a number."""
    use_credits: bool = False


def provider_keys(account: Account) -> list[ProviderKey]:
    """The account's provider keys, by provider and order of use."""
    query = select(ProviderKey).where(_owned_by(account))
    order = ProviderKey.provider, ProviderKey.priority, ProviderKey.created_at
    return list(db.session.scalars(query.order_by(*order)))


def provider_key(account: Account, id: str) -> ProviderKey:
    """One of them. Raises NotFound."""
    query = select(ProviderKey).where(ProviderKey.id == id, _owned_by(account))
    found = None if "\x00" in id else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("Provider key not found")
    return found


def check_form(form: ProviderKeyForm) -> None:
    """Check what needs no other rows. Raises Invalid (400) with the field."""
    if form.provider not in PROVIDERS:
        raise invalid("provider", "Choose a provider.")
    check_label(form.name)
    if not _SECRET.fullmatch(form.secret.strip()):
        raise invalid("secret", "Paste the key as the provider shows it: 8 to 500 characters without spaces.")
    check_patterns(form.models or None)
    _check_priority(form.priority)


def add_provider_key(account: Account, by_id: str, form: ProviderKeyForm) -> ProviderKey:
    """Store a key, encrypted. Locks the owner, flushes. Raises Invalid (400) with the field, and Conflict at the limit."""
    check_form(form)
    _lock_owner(account)
    return _add(account, by_id, form)


def client_key(user_id: str, provider: str) -> ProviderKey | None:
    """The key of a person at a provider that a client of projects set."""
    mine = ProviderKey.user_id == user_id, ProviderKey.provider == provider, ProviderKey.from_client
    return db.session.scalars(select(ProviderKey).where(*mine)).one_or_none()


def put_client_key(account: Account, by_id: str, form: ProviderKeyForm, now: datetime) -> None:
    """Store the key of a person that a client of projects sets, or replace its secret. Locks the owner, flushes. Raises Invalid (422)
    for the secret, and Conflict at the limit."""
    secret = form.secret.strip()
    if not _SECRET.fullmatch(secret):
        raise Invalid(
            "'key_value' must be the key as the provider shows it: 8 to 500 characters without spaces."
        )
    _lock_owner(account)
    row = client_key(account.id, form.provider)
    if row is None:
        row = _add(account, by_id, form)
        row.from_client = True
    else:
        before = _audited(row)
        row.sealed, row.hint = _sealed(account, form.provider, secret.encode()), secret[-4:]
        row.is_active, row.updated_at = True, now
        _audit(row, "provider_key.changed", before=before, after=_audited(row))
    db.session.flush()


def _add(account: Account, by_id: str, form: ProviderKeyForm) -> ProviderKey:
    _check_restrictions(account, form)
    total = select(func.count()).where(_owned_by(account))
    if (db.session.scalar(total) or 0) >= MAX_KEYS:
        owner = "An organization" if account.org_id else "An account"
        raise Conflict(f"{owner} has at most {MAX_KEYS} provider keys. Remove one first.")
    secret = form.secret.strip()
    row = ProviderKey(
        org_id=account.org_id,
        user_id=account.user_id,
        provider=form.provider,
        name=check_label(form.name),
        sealed=_sealed(account, form.provider, secret.encode()),
        hint=secret[-4:],
        models=check_patterns(form.models or None) or None,
        user_ids=sorted(set(form.user_ids)) or None,
        key_ids=sorted(set(form.key_ids)) or None,
        priority=form.priority,
        use_credits=form.use_credits,
        created_by=by_id,
    )
    db.session.add(row)
    db.session.flush()
    _audit(row, "provider_key.added", after=_audited(row))
    return row


def change_provider_key(
    row: ProviderKey,
    *,
    active: bool | None = None,
    priority: int | None = None,
    use_credits: bool | None = None,
) -> None:
    """Let the key pay for calls or not, change its order, or whether credits pay when it fails; None changes nothing. Flushes. Raises
    Invalid (400)."""
    before = _audited(row)
    if priority is not None:
        _check_priority(priority)
        row.priority = priority
    row.is_active = row.is_active if active is None else active
    row.use_credits = row.use_credits if use_credits is None else use_credits
    after = _audited(row)
    if after != before:
        db.session.flush()
        _audit(row, "provider_key.changed", before=before, after=after)


def remove_provider_key(row: ProviderKey) -> None:
    """Delete the key. Flushes."""
    _audit(row, "provider_key.removed", before=_audited(row))
    db.session.delete(row)
    db.session.flush()


def key_context(account_id: str, provider: str) -> str:
    """What the encryption of a key is bound to: its owner and its provider."""
    return f"{account_id}:{provider}"


def reseal_provider_keys() -> int:
    """Bind the keys that were encrypted before to their owner and provider. Returns how many. Idempotent; flushes. Raises SealBroken
    if a key was encrypted with another STOA_SECRET_KEY."""
    older = [row for row in db.session.scalars(select(ProviderKey)) if not has_context(PURPOSE, row.sealed)]
    for row in older:
        secret = open_sealed(extension("settings").secret_key, PURPOSE, row.sealed)
        row.sealed = _sealed(row.account, row.provider, secret)
    db.session.flush()
    return len(older)


def bad_priority() -> Invalid:
    """The error of an order that is no number in its range."""
    return invalid("priority", f"Enter a whole number from 0 to {LAST_PRIORITY}.")


def invalid(field: str, problem: str) -> Invalid:
    """The error of one field of the form."""
    return Invalid(problem, fields={field: problem}, status=400)


def _sealed(account: Account, provider: str, secret: bytes) -> str:
    context = key_context(account.id, provider)
    return seal(extension("settings").secret_key, PURPOSE, secret, context=context)


def _owned_by(account: Account) -> ColumnElement[bool]:
    return ProviderKey.org_id == account.org_id if account.org_id else ProviderKey.user_id == account.user_id


def _lock_owner(account: Account) -> None:
    if account.org_id:
        lock_org(account.org_id)
    else:
        db.session.execute(select(User.id).where(User.id == account.user_id).with_for_update(key_share=True))


def _check_restrictions(account: Account, form: ProviderKeyForm) -> None:
    members = select(OrgMember.user_id).where(OrgMember.org_id == account.org_id)
    if form.user_ids and not set(form.user_ids) <= set(db.session.scalars(members)):
        raise invalid("user_ids", "Choose members of the organisation.")
    keys = select(Session.session_token).where(
        Session.org_id == account.org_id
        if account.org_id
        else (Session.user_id == account.user_id) & Session.org_id.is_(None)
    )
    if form.key_ids and not set(form.key_ids) <= set(db.session.scalars(keys)):
        raise invalid("key_ids", f"Choose keys of the {'organisation' if account.org_id else 'account'}.")


def _check_priority(priority: int | None) -> None:
    if priority is None or not 0 <= priority <= LAST_PRIORITY:
        raise bad_priority()


def _audit(row: ProviderKey, action: str, *, before: Any = None, after: Any = None) -> None:
    who = current_actor()
    record(
        action,
        row.name,
        actor=who.name,
        actor_id=who.id,
        before=before,
        after=after,
        ip=who.ip,
        request_id=who.request_id,
        org_id=row.org_id,
    )


def _audited(row: ProviderKey) -> dict[str, Any]:
    names = ("provider", "hint", "models", "user_ids", "is_active", "priority", "use_credits")
    return {name: getattr(row, name) for name in names} | {"keys": [id[:12] for id in row.key_ids or ()]}
