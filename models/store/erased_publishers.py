"""What stays in the store of a person whose account is erased: their publishers without profile, and the published versions."""

from datetime import datetime

from sqlalchemy import delete, update

from models.accounts.account_deletion import ERASED_NAME, account_erasing
from models.accounts.users import User
from models.core.db import db
from models.store.catalogue.stars import AgentStar
from models.store.tables import Publisher


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """Versions are immutable, and others depend on them."""
    db.session.execute(delete(AgentStar).where(AgentStar.user_id == user.id))
    own = update(Publisher).where(Publisher.user_id == user.id)
    db.session.execute(own.values(name=ERASED_NAME, email=None, bio=None, avatar_url=None))
