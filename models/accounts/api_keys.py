"""API keys with an id of their own (`sk_live_…`, `sk_test_…`): scopes, environment, limits, rotation.

The credential is the key's session, whose primary key is the key's public id: it has name, owner, expiry and last use, and deleting
it revokes the key. The row of `api_key` has the rest, and stays when the session is deleted (trigger `api_key_follow_session`).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import ARRAY, TEXT, CheckConstraint, ForeignKey, Index, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts import key_format, scopes
from models.accounts.key_format import ENVIRONMENTS, LIVE, PresentedKey
from models.accounts.sessions import Session
from models.core.db import NOW, Base, db
from models.core.errors import Conflict, DomainError, Forbidden, Invalid

MAX_GRACE = timedelta(days=7)
DEFAULT_GRACE = timedelta(days=1)
MAX_LISTED = 100
"""Entries of a list of models, agents or addresses."""
MAX_ENTRY = 200
MAX_LIMIT = 1_000_000_000


class ApiKey(Base):
    """A key. Lists are null if they restrict nothing. `name`, `expires_at` and `last_used_at` are set when it is revoked; until
    then, those of its session count."""

    __tablename__ = "api_key"
    __table_args__ = (
        CheckConstraint("(environment = ANY (ARRAY['live'::text, 'test'::text]))", name="environment_known"),
        CheckConstraint("starts_with(key_id, concat('sk_', environment, '_'))", name="environment_in_id"),
        CheckConstraint(
            "((rpm_limit > 0) AND (tpm_limit > 0) AND (concurrency_limit > 0))", name="limits_positive"
        ),
        CheckConstraint("((prev_hashed_key IS NULL) = (prev_valid_until IS NULL))", name="grace_complete"),
        Index("idx_api_key_user", "user_id", "created_at", "id"),
        Index("idx_api_key_org", "org_id", "created_at", "id", postgresql_where=text("(org_id IS NOT NULL)")),
        Index("idx_api_key_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("concat('key_', gen_random_uuid())")
    )
    key_id: Mapped[str] = mapped_column(unique=True)
    """Its public id, stable through rotation: `session.sessionToken`, and `key_id` of its calls."""
    hashed_key: Mapped[str]
    """SHA-256 of the key."""
    prev_hashed_key: Mapped[str | None]
    prev_valid_until: Mapped[datetime | None]
    """Until when the key before the last rotation still works."""
    name: Mapped[str | None]
    last4: Mapped[str]
    environment: Mapped[str]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    """False once it is revoked; a key that is switched off has `session.disabled_at`."""
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    allowed_models: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Patterns: `*` stands for any text."""
    allowed_agents: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Patterns of `publisher/agent`, with or without `@version`: calls must belong to a run of one."""
    allowed_ips: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Networks (CIDR)."""
    rpm_limit: Mapped[int | None]
    """Model calls a minute; null: the server's default."""
    tpm_limit: Mapped[int | None]
    """Tokens a minute, input and output."""
    concurrency_limit: Mapped[int | None]
    """Calls in flight."""
    is_strict: Mapped[bool] = mapped_column(server_default=text("false"))
    """Refuse calls for which fields of the request would be dropped."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    rotated_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class KeyExpired(DomainError):
    """The key is right, and has expired."""

    status = 401
    code = "key_expired"

    def __init__(self) -> None:
        super().__init__("This API key has expired. Create a new one, or let this one expire later.")


class AddressNotAllowed(Forbidden):
    """The key may not be used from this address."""

    code = "ip_not_allowed"

    def __init__(self) -> None:
        super().__init__("This API key may not be used from your address. Its owner can allow more.")


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What a key may do. Empty lists and null limits restrict nothing, except that without permissions nothing is allowed."""

    environment: str = LIVE
    permissions: Sequence[str] = scopes.INFERENCE
    allowed_models: Sequence[str] | None = None
    allowed_agents: Sequence[str] | None = None
    allowed_ips: Sequence[str] | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    concurrency_limit: int | None = None
    is_strict: bool = False


_LISTS = ("allowed_models", "allowed_agents", "allowed_ips")
_LIMITS = ("rpm_limit", "tpm_limit", "concurrency_limit")


def checked_rules(rules: KeyRules) -> KeyRules:
    """The rules in normal form. Raises Invalid (422) with what is wrong by field."""
    problems: dict[str, str] = {}
    values: dict[str, object] = {}
    if rules.environment not in ENVIRONMENTS:
        problems["environment"] = "Choose live or test."
    try:
        values["permissions"] = scopes.normal_scopes(rules.permissions)
    except Invalid as error:
        problems |= error.fields
    for name in _LISTS:
        try:
            values[name] = _checked_list(name, getattr(rules, name))
        except ValueError as error:
            problems[name] = str(error)
    for name in _LIMITS:
        value = getattr(rules, name)
        if value is not None and not 1 <= value <= MAX_LIMIT:
            problems[name] = f"Enter a whole number from 1 to {MAX_LIMIT:,}, or leave it empty."
    if problems:
        raise Invalid(next(iter(problems.values())), fields=problems)
    return replace(rules, **values)  # type: ignore[arg-type]


def _checked_list(name: str, entries: Sequence[str] | None) -> list[str] | None:
    found = list(dict.fromkeys(each.strip() for each in entries or () if each.strip()))
    if len(found) > MAX_LISTED:
        raise ValueError(f"Enter at most {MAX_LISTED}.")
    if any(len(each) > MAX_ENTRY or not each.isprintable() for each in found):
        raise ValueError(f"Use at most {MAX_ENTRY} ordinary characters for each.")
    if name == "allowed_ips":
        try:
            found = [str(ipaddress.ip_network(each, strict=False)) for each in found]
        except ValueError:
            raise ValueError("Enter addresses or networks, such as 203.0.113.7 or 10.0.0.0/8.") from None
    return found or None


def rules_of(key: ApiKey) -> KeyRules:
    """What a key may do."""
    return KeyRules(**{name: getattr(key, name) for name in KeyRules.__slots__})


def audited_rules(key: ApiKey | None) -> dict[str, object]:
    """What a key may do, for the audit log: what restricts it."""
    values = {name: getattr(key, name) for name in KeyRules.__slots__} if key else {}
    return {name: value for name, value in values.items() if value not in (None, False)}


def add_key(session: Session, token: str, rules: KeyRules, *, by: str | None) -> ApiKey:
    """Store the key of a new session, created by this user. Flushes."""
    row = ApiKey(
        key_id=session.session_token,
        hashed_key=key_format.present(token).secret,
        last4=token[-key_format.LAST :],
        user_id=session.user_id,
        org_id=session.org_id,
        created_by=by,
        name=session.name,
    )
    set_rules(row, rules)
    row.environment = rules.environment
    db.session.add(row)
    db.session.flush()
    return row


def set_rules(key: ApiKey, rules: KeyRules) -> None:
    """Change what a key may do; its environment stays."""
    for name in KeyRules.__slots__:
        if name != "environment":
            value = getattr(rules, name)
            setattr(key, name, list(value) if isinstance(value, Sequence) else value)


def keys_by_id(key_ids: Sequence[str]) -> dict[str, ApiKey]:
    """Keys by public id; keys of the older kind have none."""
    query = select(ApiKey).where(ApiKey.key_id.in_(key_ids))
    return {row.key_id: row for row in db.session.scalars(query)} if key_ids else {}


def rotate(key: ApiKey, session: Session, *, grace: timedelta, now: datetime) -> str:
    """Give the key a new secret and return it. The old one works for `grace`, 0 to 7 days; one from an earlier rotation ends at once.
    Flushes; locks the key. Raises Invalid (422), and Conflict for a key that is switched off or has expired."""
    if not timedelta() <= grace <= MAX_GRACE:
        problem = "Let the old key work for 0 to 7 days."
        raise Invalid(problem, fields={"grace_seconds": problem})
    db.session.refresh(key, with_for_update=True)
    if session.disabled_at is not None or session.expires <= now:
        raise Conflict("This key is switched off or has expired. Switch it on, or let it expire later.")
    token = key_format.new_secret(key.key_id)
    key.prev_hashed_key, key.prev_valid_until = (key.hashed_key, now + grace) if grace else (None, None)
    key.hashed_key, key.last4 = key_format.present(token).secret or "", token[-key_format.LAST :]
    key.rotated_at = key.updated_at = now
    session.token_hint = key_format.key_hint(token)
    db.session.flush()
    return token


def matches(key: ApiKey | None, presented: PresentedKey, now: datetime) -> bool:
    """Whether the secret is the key's, or that from before its rotation during the grace."""
    if presented.secret is None or key is None:
        return presented.secret is None and key is None
    if presented.secret == key.hashed_key:
        return True
    grace = key.prev_valid_until is not None and key.prev_valid_until > now
    return grace and presented.secret == key.prev_hashed_key


def check_use(key: ApiKey | None, scope: str | None, address: str | None) -> None:
    """Raise AddressNotAllowed or MissingScope (403) if the key may not be used from this address on a route with this scope. None:
    the route is not open to keys with scopes."""
    if key is None:
        return
    if key.allowed_ips is not None and not _within(address, key.allowed_ips):
        raise AddressNotAllowed
    if scope is None or not scopes.allows(key.permissions, scope):
        raise scopes.MissingScope(scope or scopes.ORG_ADMIN)


def _within(address: str | None, networks: Sequence[str]) -> bool:
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network) for network in networks)
