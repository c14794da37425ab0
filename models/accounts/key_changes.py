"""Change API keys with an id of their own: rules, rotation; and keys that a key creates, which are never wider than it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import NamedTuple

from sqlalchemy import select

from models.accounts import api_keys, credentials
from models.accounts.api_keys import ApiKey, KeyRules
from models.accounts.key_format import TEST
from models.accounts.sessions import NEVER, Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, Forbidden, NotFound

REVOKED_LISTED = 50


class WiderKey(Forbidden):
    """The new key would be wider than the one that creates it."""

    code = "wider_key"


class OlderKind(Conflict):
    """The key has no scopes and cannot be rotated."""

    def __init__(self) -> None:
        super().__init__("This key is of the older kind, which may do everything. Create a new one instead.")


class KeyWithRules(NamedTuple):
    """A person's key: its session, and what it may do if it has an id of its own."""

    session: Session
    rules: ApiKey | None


def own_key(user: User, key_id: str) -> KeyWithRules:
    """A key of the user by its public id, locked. Raises NotFound."""
    row = credentials.find_owned(user, key_id, ("pat",))
    if row is None:
        raise NotFound("This key does not exist.")
    db.session.refresh(row, with_for_update=True)
    return KeyWithRules(row, api_keys.keys_by_id([key_id]).get(key_id))


def change_rules(key: ApiKey | None, rules: KeyRules, now: datetime) -> None:
    """Change what a key may do; its environment stays. Flushes. Raises Invalid (422) with what is wrong by field, and OlderKind."""
    if key is None:
        raise OlderKind
    api_keys.set_rules(key, api_keys.checked_rules(replace(rules, environment=key.environment)))
    if key in db.session.dirty:
        key.updated_at = now
    db.session.flush()


def rotate(key: KeyWithRules, *, grace: timedelta, now: datetime) -> str:
    """Give the key a new secret and return it (`api_keys.rotate`). Raises OlderKind too."""
    if key.rules is None:
        raise OlderKind
    return api_keys.rotate(key.rules, key.session, grace=grace, now=now)


def revoked_keys(user_id: str) -> Sequence[ApiKey]:
    """The user's own keys that were revoked or deleted after they expired, newest first."""
    query = select(ApiKey).where(
        ApiKey.user_id == user_id, ApiKey.org_id.is_(None), ApiKey.revoked_at.is_not(None)
    )
    return db.session.scalars(
        query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(REVOKED_LISTED)
    ).all()


# -- keys made by keys ---------------------------------------------------------------------------------------


def lock_creator(session: Session, now: datetime) -> None:
    """Lock the credential that creates a key, so that it is not revoked meanwhile. Raises Forbidden if it was."""
    query = select(Session.session_token).where(
        Session.session_token == session.session_token, Session.expires > now, Session.disabled_at.is_(None)
    )
    if db.session.scalar(query.with_for_update(read=True)) is None:
        raise Forbidden("This API key was revoked just now.")


def check_not_wider(creator: Session, by: ApiKey | None, rules: KeyRules, expires: datetime | None) -> None:
    """Raise WiderKey if a key with these rules may do more than the one that creates it, or (None: for ever) for longer."""
    if (expires or NEVER) > creator.expires:
        raise WiderKey("A key cannot create one that expires later than itself.")
    if by is None:
        return
    if by.environment == TEST and rules.environment != TEST:
        raise WiderKey("A test key creates test keys only.")
    if extra := [name for name in rules.permissions if name not in by.permissions]:
        raise WiderKey(f"This key lacks {', '.join(extra)}, so it cannot create a key with it.")
    for name, within in (
        ("allowed_models", _pattern_within),
        ("allowed_agents", _agent_within),
        ("allowed_ips", _network_within),
    ):
        own, new = getattr(by, name), getattr(rules, name)
        if own is not None and (not new or not all(any(within(each, one) for one in own) for each in new)):
            raise WiderKey(f"'{name}' must stay within that of the key that creates it.")
    for name in ("rpm_limit", "tpm_limit", "concurrency_limit"):
        own, new = getattr(by, name), getattr(rules, name)
        if own is not None and (new is None or new > own):
            raise WiderKey(f"'{name}' must be at most {own}, that of the key that creates it.")
    if by.is_strict and not rules.is_strict:
        raise WiderKey("A strict key creates strict keys only.")


def _pattern_within(pattern: str, own: str) -> bool:
    # a `*` becomes a text that is too long for any number of `?`
    text = pattern.replace("*", "\0" * (api_keys.MAX_ENTRY + 1)).lower()
    return fnmatchcase(text, own.lower().replace("[", "[[]"))


def _agent_within(pattern: str, own: str) -> bool:
    return _pattern_within(pattern, own) or _pattern_within(pattern.partition("@")[0], own)


def _network_within(network: str, own: str) -> bool:
    inner, outer = ip_network(network), ip_network(own)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
