"""The first call with a new API key."""

from datetime import datetime, timedelta

from sqlalchemy import Select, select

from models.accounts import Session
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import Account

SEARCHED = timedelta(hours=1)
"""How long after the key was created; also bounds how many calls are read."""


def first_call(key: Session) -> GatewayCall | None:
    """The first call with the key that was answered, else the latest that failed or was refused; None if there is none within
    an hour of its creation."""
    settled = db.session.scalar(
        _calls(key).where(GatewayCall.state == "settled").order_by(GatewayCall.finished_at)
    )
    return settled or db.session.scalar(_calls(key).order_by(GatewayCall.finished_at.desc()))


def is_recent(key: Session, moment: datetime) -> bool:
    """Whether a first call of the key may still be found."""
    return moment < key.created_at + SEARCHED


def _calls(key: Session) -> Select[GatewayCall]:
    return (
        select(GatewayCall)
        .where(
            GatewayCall.account_id == Account.of(key).id,
            GatewayCall.finished_at >= key.created_at,
            GatewayCall.finished_at < key.created_at + SEARCHED,
            GatewayCall.key_id == key.session_token,
        )
        .limit(1)
    )
