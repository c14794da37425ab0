"""What every door counts before it changes something in the store."""

from models.accounts import User
from models.store import publishing
from views.guards import settings


def count_change(user: User) -> None:
    """Count a change for the user's limit a day. Raises QuotaExceeded; comes before anything is locked."""
    publishing.count_change(user, settings())
