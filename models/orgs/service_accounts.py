"""Service accounts: create, change, switch off, delete. They own keys of an organisation, and can never sign in.

Every change locks the organisation, flushes, and is recorded in its audit log.
"""

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select, update

from models.accounts.sessions import Session
from models.accounts.users import SERVICE_DOMAIN, User
from models.core.db import db
from models.core.errors import Conflict, NotFound
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember, lock_org
from models.orgs.team_editing import check_label, team_of
from models.orgs.teams import OrgTeam, ServiceAccount

MAX_SERVICE_ACCOUNTS = 200


class ServiceAccountListed(NamedTuple):
    """A service account with its team, if it has its own, its keys, and when one was last used."""

    account: ServiceAccount
    team: OrgTeam | None
    keys: int
    last_used_at: datetime | None


def service_accounts(org: Org) -> list[ServiceAccountListed]:
    """The organisation's service accounts by name, without deleted ones."""
    query = (
        select(
            ServiceAccount,
            OrgTeam,
            func.count(Session.session_token),
            func.max(Session.last_used_at),
        )
        .outerjoin(OrgTeam, OrgTeam.id == ServiceAccount.team_id)
        .outerjoin(Session, (Session.user_id == ServiceAccount.user_id) & (Session.type == "pat"))
        .where(ServiceAccount.org_id == org.id, ServiceAccount.deleted_at.is_(None))
        .group_by(ServiceAccount.user_id, OrgTeam.id)
        .order_by(ServiceAccount.name, ServiceAccount.user_id)
    )
    return [ServiceAccountListed(*row) for row in db.session.execute(query)]


def service_account_of(org: Org, user_id: str) -> ServiceAccount:
    """A service account of the organisation. Raises NotFound, also after its deletion."""
    account = None if "\x00" in user_id else db.session.get(ServiceAccount, user_id)
    if account is None or account.org_id != org.id or account.deleted_at is not None:
        raise NotFound("Service account not found")
    return account


def create_service_account(
    org: Org, by_id: str | None, name: str, team_id: str | None = None
) -> ServiceAccount:
    """Create a service account. Raises Invalid (400), NotFound for the team, and Conflict for a name that is taken or too many."""
    name = check_label(name)
    lock_org(org.id)
    if team_id is not None:
        team_of(org, team_id)
    _check_name(org.id, name)
    count = db.session.scalar(_living(org.id).with_only_columns(func.count())) or 0
    if count >= MAX_SERVICE_ACCOUNTS:
        raise Conflict(f"An organization has at most {MAX_SERVICE_ACCOUNTS} service accounts.")
    id = str(uuid.uuid4())
    db.session.add(User(id=id, name=name, email=f"{id}@{SERVICE_DOMAIN}"))
    db.session.flush()
    db.session.add(OrgMember(org_id=org.id, user_id=id, role="service"))
    db.session.flush()
    account = ServiceAccount(user_id=id, org_id=org.id, name=name, team_id=team_id, created_by=by_id)
    db.session.add(account)
    db.session.flush()
    record_org(org.id, "service_account.created", name, after=_audited(account))
    return account


def edit_service_account(org: Org, account: ServiceAccount, name: str, team_id: str | None) -> None:
    """Set its name and team (None: the default one). Raises as `create_service_account` does."""
    name = check_label(name)
    lock_org(org.id)
    if team_id is not None:
        team_of(org, team_id)
    _check_name(org.id, name, account.user_id)
    before = _audited(account)
    account.name, account.team_id = name, team_id
    db.session.get_one(User, account.user_id).name = name
    db.session.flush()
    if before != _audited(account):
        record_org(org.id, "service_account.changed", name, before=before, after=_audited(account))


def switch_service_account(account: ServiceAccount, on: bool, now: datetime) -> None:
    """Switch the account and all its keys off, or on again. Calls in flight finish. Idempotent."""
    lock_org(account.org_id)
    if (account.disabled_at is None) == on:
        return
    account.disabled_at = None if on else now
    keys = update(Session).where(Session.user_id == account.user_id)
    db.session.execute(keys.values(disabled_at=account.disabled_at))
    db.session.flush()
    record_org(account.org_id, f"service_account.{'enabled' if on else 'disabled'}", account.name)


def delete_service_account(account: ServiceAccount, now: datetime) -> int:
    """Delete the account: its keys stop at once. What it did stays under its name. Returns how many keys it had."""
    lock_org(account.org_id)
    gone = db.session.scalars(
        delete(Session).where(Session.user_id == account.user_id).returning(Session.session_token)
    ).all()
    membership = delete(OrgMember).where(
        OrgMember.org_id == account.org_id, OrgMember.user_id == account.user_id
    )
    db.session.execute(membership)
    account.deleted_at = now
    db.session.flush()
    record_org(
        account.org_id,
        "service_account.deleted",
        account.name,
        before={**_audited(account), "keys": len(gone)},
    )
    return len(gone)


def _living(org_id: str) -> Any:
    return select(ServiceAccount.user_id).where(
        ServiceAccount.org_id == org_id, ServiceAccount.deleted_at.is_(None)
    )


def _check_name(org_id: str, name: str, but: str = "") -> None:
    taken = _living(org_id).where(
        func.lower(ServiceAccount.name) == name.lower(), ServiceAccount.user_id != but
    )
    if db.session.scalars(taken.limit(1)).first():
        raise Conflict("Another service account has this name.")


def _audited(account: ServiceAccount) -> dict[str, Any]:
    team = db.session.get(OrgTeam, account.team_id) if account.team_id else None
    return {"name": account.name, "team": team.name if team else None}
