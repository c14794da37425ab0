"""The daily limit of store changes, counted by every door."""

from models.accounts import User
from models.store.publishing import publish
from views.web.guards import settings


def count_change(user: User) -> None:
    """Count one change towards the user's daily limit. Call before taking locks. Raises WriteLimitExceeded (429)."""
    publish.count_change(user, settings())
