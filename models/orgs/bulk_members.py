"""Adding several people who have an account at once (contract 2.8)."""

from collections.abc import Sequence
from typing import NamedTuple

from models.core.errors import Conflict, NotFound
from models.orgs import members
from models.orgs.org import Org


class SkippedPerson(NamedTuple):
    """Somebody who was not added, and why."""

    email: str
    reason: str


class BulkAdded(NamedTuple):
    """How many were added, and who was not."""

    added: int
    skipped: list[SkippedPerson]


def add_many(org: Org, by_id: str, entries: Sequence[tuple[str, str]]) -> BulkAdded:
    """Make the users with these addresses members with these roles. Flushes. Raises as `members.add` does for a bad role."""
    for _, role in entries:
        members.check_role(role)
    added, skipped = 0, []
    for email, role in entries:
        try:
            members.add(org, by_id, email, role)
            added += 1
        except NotFound:
            skipped.append(SkippedPerson(email, "User not found"))
        except Conflict:
            skipped.append(SkippedPerson(email, "Already a member"))
    return BulkAdded(added, skipped)
