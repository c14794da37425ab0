"""What the keys of an organisation spent."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select

from models.core.db import db
from models.ledger.message import Message


def spent_by_key(org_id: str, key_ids: Sequence[str], since: datetime) -> dict[str, int]:
    """Credits that each of the keys spent from the organisation's account since then; keys without calls are left out."""
    query = (
        select(Message.key_id, func.sum(Message.credits))
        .where(
            Message.org_id == org_id,
            Message.finished_at >= since,
            Message.key_id.in_(key_ids),
            Message.byok.is_(False),
        )
        .group_by(Message.key_id)
    )
    return {str(key_id): int(credits) for key_id, credits in db.session.execute(query)}
