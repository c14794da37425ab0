"""Wakes those who wait for a work or for its runner, in whatever process: NOTIFY of the transaction that changes something."""

from sqlalchemy import func, select

from models.core.db import db
from models.turns.engine import TurnEngine
from models.turns.event_log import CHANNEL
from models.turns.news_waiters import NewsWaiters

NEWS = "runner "


class WorkNews(NewsWaiters):
    """The waiters of one process for works and accounts."""

    def __init__(self, engine: TurnEngine) -> None:
        super().__init__(engine, NEWS)


def tell_news(subject: str) -> None:
    """Wake the waiters of a work, or of an account's works, at the commit."""
    db.session.execute(select(func.pg_notify(CHANNEL, NEWS + subject)))
