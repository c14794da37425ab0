"""Names of organisations in the operators' audit log."""

from collections.abc import Collection

from sqlalchemy import select

from models.core.db import db
from models.orgs.org import Org


def org_slugs(ids: Collection[str]) -> dict[str, str]:
    """The slugs of these organisations; deleted ones are missing."""
    if not ids:
        return {}
    return {org.id: org.slug for org in db.session.scalars(select(Org).where(Org.id.in_(ids)))}
