"""Organisations that know a person by their address, so that the person cannot change it."""

from sqlalchemy import or_, select

from models.accounts.users import User
from models.core.db import db
from models.orgs.directory import ScimUser
from models.orgs.org import Org, memberships


def address_refusal(user: User) -> str | None:
    """Why the user cannot change their e-mail address; None if they can."""
    managing = (
        select(Org.name)
        .join(ScimUser, ScimUser.org_id == Org.id)
        .where(
            Org.deleted_at.is_(None),
            or_(ScimUser.user_id == user.id, ScimUser.user_id.is_(None) & (ScimUser.email == user.email)),
        )
        .order_by(Org.name)
        .limit(1)
    )
    if name := db.session.scalar(managing):
        return f"The directory of {name} manages your address. Ask its admins to change it."
    enforcing = next((org.name for org, _ in memberships(user.id) if org.sso_enforced_at), None)
    if enforcing:
        return f"{enforcing} requires single sign-on, which knows you by this address. Ask its admins."
    return None
