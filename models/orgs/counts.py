"""Members and active repositories of organisations, counted."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from models.core.db import db
from models.orgs.org import Org, OrgMember, OrgRepo


class OrgCounts(NamedTuple):
    """People who are members, without service accounts, and repositories that are active."""

    members: int
    repositories: int


def counts_of(org_ids: Sequence[str]) -> dict[str, OrgCounts]:
    """Count the members and active repositories of each organisation."""
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
    rows = db.session.execute(select(Org.id, members, repositories).where(Org.id.in_(org_ids)))
    return {id: OrgCounts(people, repos) for id, people, repos in rows}
