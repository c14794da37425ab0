"""What every door counts before it changes something in the store."""

from models.accounts import User
from models.store.publishing import publish
from views.web.guards import settings


def count_change(user: User) -> None:
    """Count a change for the user's limit a day. Raises QuotaExceeded; comes before anything is locked."""
    publish.count_change(user, settings())
