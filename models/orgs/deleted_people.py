"""What the deletion of a person's account does to their organisations."""

from datetime import datetime

from sqlalchemy import delete, select

from models.accounts.account_deletion import (
    DeletionBlock,
    account_deleted,
    account_erasing,
    deletion_blocking,
)
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict
from models.orgs import members
from models.orgs.audit import record_org
from models.orgs.domain_joining import OrgJoinRequest
from models.orgs.founding import delete_org
from models.orgs.org import Org, OrgMember, memberships


def owned_alone(user_id: str) -> list[tuple[Org, int]]:
    """The organisations whose only owner the user is, and how many people each has."""
    return [
        (org, members.count_people(org.id))
        for org, member in memberships(user_id)
        if member.role == "owner" and len(members.owners(org.id)) == 1
    ]


@deletion_blocking.connect
def _blocks(user: User) -> list[DeletionBlock]:
    """Somebody else must own an organisation that has other people."""
    return [
        DeletionBlock(
            f"You are the only owner of {org.name}, which has other members. Transfer it first.", org.slug
        )
        for org, people in owned_alone(user.id)
        if people > 1
    ]


@account_deleted.connect
def _deleted(user: User, *, now: datetime) -> None:
    """Delete the organisations that have nobody else; the owner can restore them after a sign-in. Raises Conflict."""
    for org, _ in owned_alone(user.id):
        try:
            delete_org(org)
        except Conflict as error:
            raise Conflict(f"{org.name} cannot be deleted with your account: {error.message}.") from None
    keys = select(Session).where(
        Session.user_id == user.id, Session.type == "pat", Session.org_id.is_not(None)
    )
    for key in db.session.scalars(keys):
        record_org(str(key.org_id), "key.revoked", key.name or key.token_hint, before={"key": key.token_hint})


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """End the memberships, except of organisations that are being deleted themselves."""
    db.session.execute(delete(OrgJoinRequest).where(OrgJoinRequest.user_id == user.id))
    query = select(Org).join(OrgMember, OrgMember.org_id == Org.id).where(OrgMember.user_id == user.id)
    for org in db.session.scalars(query.where(Org.deleted_at.is_(None)).order_by(Org.id)):
        members.remove(org, user.id, user.id)
