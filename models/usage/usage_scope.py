"""Whose usage an API key may read: its own calls, its owner's account, or by role an organisation's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select

from models.accounts import ApiKey, Session
from models.core.db import db
from models.core.errors import Forbidden, Invalid, NotFound
from models.ledger import Account
from models.orgs import Org, can, member_org, membership
from models.orgs.sso_keys import check_key

Scope = Literal["key", "me", "org"]
SCOPES: tuple[Scope, ...] = ("key", "me", "org")
FILTERS = ("provider", "model", "type", "key", "agent", "member")
"""Names of the filters of usage: the values that calls must have."""


@dataclass(frozen=True)
class UsageScope:
    """The calls charged to an account; only those of one member or of one key if these are not empty."""

    account_id: str
    user_id: str = ""
    key_id: str = ""
    org: Org | None = None

    def narrowed(self, filters: Mapping[str, str]) -> dict[str, str] | None:
        """The filters with those of the scope; None if they contradict it, so that no call can match."""
        own = {name: value for name, value in (("member", self.user_id), ("key", self.key_id)) if value}
        if any(filters.get(name, value) != value for name, value in own.items()):
            return None
        return {**filters, **own}


def scope_of(key: Session, scope: Scope, org_key: str | None) -> UsageScope:
    """What the key asks for. `key`: its calls that its account pays. `me`: all calls of its owner's account; with a key of an
    organisation, those of its member there. `org`: an organisation, by id or slug (default: that of the key), of which roles without
    `see_all_usage` read their own calls only.

    Raises NotFound for an organisation of others, Forbidden (`org_sso`) for a personal key that is not authorised for one with single
    sign-on, Invalid without an organisation."""
    org = db.session.get_one(Org, key.org_id) if key.org_id else None
    if scope == "key":
        return UsageScope(Account.of(key).id, key_id=key.session_token, org=org)
    if scope == "me":
        return UsageScope(Account.of(key).id, user_id=key.user_id if org else "", org=org)
    if not (org_key or key.org_id):
        text = "Name the organisation: 'org_id' is its id or slug. Or use a key of the organisation."
        raise Invalid(text, fields={"org_id": text})
    return _org_scope(key, org_key or key.org_id or "")


def scope_of_key(key: ApiKey) -> UsageScope:
    """The calls of a key that its account pays, revoked or not."""
    org = db.session.get_one(Org, key.org_id) if key.org_id else None
    return UsageScope(key.org_id or key.user_id, key_id=key.key_id, org=org)


def _org_scope(key: Session, org_key: str) -> UsageScope:
    if "\0" in org_key:
        raise NotFound("Organization not found")
    org, member = member_org(key.user_id, org_key)
    if key.org_id is None:
        check_key(org, key)
    elif key.org_id != org.id:
        raise NotFound("Organization not found")
    return UsageScope(org.id, user_id="" if can(member, "see_all_usage") else key.user_id, org=org)


def may_read(key: Session, account_id: str, user_id: str) -> bool:
    """Whether the key may read the usage of a call of this member on this account, in any scope."""
    if account_id == Account.of(key).id and key.org_id is None:
        return True
    if key.org_id not in (None, account_id):
        return False
    member = membership(key.user_id, account_id)
    if member is None or not (user_id == key.user_id or can(member, "see_all_usage")):
        return False
    try:
        if key.org_id is None:
            check_key(db.session.get_one(Org, account_id), key)
    except Forbidden:
        return False
    return True


def calls_key(id: str) -> str:
    """What calls store of a key, from the id that usage shows for it: the public id for `key_…`, else the same."""
    if not id.startswith("key_"):
        return id
    return db.session.scalar(select(ApiKey.key_id).where(ApiKey.id == id)) or id


def shown_keys(keys: list[str]) -> dict[str, str]:
    """The id of each key that calls store, as usage shows it: `key_…`, or of the older kind its SHA-256."""
    rows = db.session.execute(select(ApiKey.key_id, ApiKey.id).where(ApiKey.key_id.in_(keys)))
    return {key: key for key in keys} | {row.key_id: row.id for row in rows}
