"""Members, open invitations, active repositories and keys of organisations, counted."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from models.accounts.sessions import Session
from models.core.db import db
from models.orgs.invites import is_open
from models.orgs.org import Org, OrgInvite, OrgMember, OrgRepo


class OrgCounts(NamedTuple):
    """People who are members, without service accounts; repositories that are active; open invitations; API keys."""

    members: int
    repositories: int
    invites: int
    keys: int


def counts_of(org_ids: Sequence[str]) -> dict[str, OrgCounts]:
    """Count what each organisation has. One statement."""
    members = (
        select(func.count())
        .where(OrgMember.org_id == Org.id, OrgMember.role != "service")
        .correlate(Org)
        .scalar_subquery()
    )
    repositories = (
        select(func.count())
        .where(OrgRepo.org_id == Org.id, OrgRepo.is_active)
        .correlate(Org)
        .scalar_subquery()
    )
    invites = (
        select(func.count())
        .where(OrgInvite.org_id == Org.id, *is_open(), OrgInvite.expires_at > func.now())
        .correlate(Org)
        .scalar_subquery()
    )
    keys = (
        select(func.count())
        .where(Session.org_id == Org.id, Session.type == "pat", Session.expires > func.now())
        .correlate(Org)
        .scalar_subquery()
    )
    query = select(Org.id, members, repositories, invites, keys).where(Org.id.in_(org_ids))
    return {id: OrgCounts(*counts) for id, *counts in db.session.execute(query)}
