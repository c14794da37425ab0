"""What operators see of an account: its owner, holds, keys and sessions, members. No messages of calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, select

from models.accounts.sessions import Session
from models.accounts.users import SERVICE_DOMAIN, User
from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.errors import NotFound
from models.gateway.gateway_call import GatewayCall
from models.ledger import Account, CreditHold
from models.orgs import Org, OrgMember
from models.store import Publisher

LISTED = 50
"""Rows of each list."""
VIEW_LOGGED_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ReviewedAccount:
    """An account with its owner: a person, a service account, or an organisation."""

    account: Account
    user: User | None
    org: Org | None
    owner: User | None = None
    """Of an organisation."""

    @property
    def title(self) -> str:
        """The display name, or the address."""
        return self.org.name if self.org else self._user.display_name

    @property
    def detail(self) -> str:
        """The address or the slug."""
        return self.org.slug if self.org else self._user.email

    @property
    def signs_in(self) -> bool:
        """Whether it is a person, neither a service account nor an organisation."""
        return self.user is not None and not self.user.email.endswith(f"@{SERVICE_DOMAIN}")

    @property
    def _user(self) -> User:
        assert self.user
        return self.user


def reviewed_account(account_id: str) -> ReviewedAccount:
    """The account of the person or organisation with this id, deleted organisations included. Raises NotFound."""
    if "\0" not in account_id:
        if user := db.session.get(User, account_id):
            return ReviewedAccount(Account(user_id=user.id), user, None)
        if org := db.session.get(Org, account_id):
            return ReviewedAccount(Account(org_id=org.id), None, org, db.session.get(User, org.owner_id))
    raise NotFound("There is no person or organisation with this id.")


def holds_in_flight(account_id: str, now: datetime) -> Sequence[CreditHold]:
    """The account's holds of calls in progress, newest first; at most `LISTED`."""
    live = (CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.expires_at > now)
    query = select(CreditHold).where(*live).order_by(CreditHold.created_at.desc(), CreditHold.request_id)
    return db.session.scalars(query.limit(LISTED)).all()


def call_of_account(account_id: str, request_id: str) -> GatewayCall | None:
    """The account's call with this id that ended, or None."""
    query = select(GatewayCall).where(
        GatewayCall.request_id == request_id, GatewayCall.account_id == account_id
    )
    return None if "\0" in request_id else db.session.scalar(query)


def hold_of_account(account_id: str, request_id: str) -> CreditHold | None:
    """The hold of the account's call with this id that is in flight or lost, or None."""
    query = select(CreditHold).where(CreditHold.request_id == request_id, CreditHold.account_id == account_id)
    return None if "\0" in request_id else db.session.scalar(query)


def credentials_listed(account: Account) -> Sequence[tuple[Session, User]]:
    """Keys and sessions that act for the account, and a person's for organisations, each with its owner, newest first; at most
    `LISTED`, expired ones included."""
    query = select(Session, User).join(User, User.id == Session.user_id)
    query = query.where(
        Session.org_id == account.org_id if account.org_id else Session.user_id == account.user_id
    )
    query = query.order_by(Session.created_at.desc(), Session.session_token).limit(LISTED)
    return [(key, user) for key, user in db.session.execute(query)]


def membership_rows(account: Account) -> Sequence[tuple[OrgMember, User, Org]]:
    """The organisations of a person, or the members of an organisation, oldest first; at most `LISTED`."""
    query = (
        select(OrgMember, User, Org)
        .join(User, User.id == OrgMember.user_id)
        .join(Org, Org.id == OrgMember.org_id)
        .where(OrgMember.org_id == account.org_id if account.org_id else OrgMember.user_id == account.user_id)
        .order_by(OrgMember.joined_at, OrgMember.org_id, OrgMember.user_id)
        .limit(LISTED)
    )
    return [(member, user, org) for member, user, org in db.session.execute(query)]


def publishers_listed(account: Account) -> Sequence[Publisher]:
    """The publishers that belong to the account, by id; at most `LISTED`."""
    owned = Publisher.org_id == account.org_id if account.org_id else Publisher.user_id == account.user_id
    return db.session.scalars(select(Publisher).where(owned).order_by(Publisher.id).limit(LISTED)).all()


def view_is_due(subject: str, viewer_id: str, now: datetime, action: str = "account.viewed") -> bool:
    """Whether the audit log has no look of this operator at the subject, by default an account, within the last hour."""
    seen = exists().where(
        AuditLog.subject == subject,
        AuditLog.action == action,
        AuditLog.actor_id == viewer_id,
        AuditLog.at > now - VIEW_LOGGED_EVERY,
    )
    return not db.session.scalar(select(seen))
