"""Erases the prompts, answers and notes of a person whose account is erased; what was billed stays."""

from datetime import datetime

from sqlalchemy import JSON, delete, select, text, update

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db
from models.gateway import CallBody, GatewayCall
from models.ledger.message import HAS_BODIES, Message


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """An organisation keeps what its members sent for it."""
    db.session.execute(text("SET LOCAL statement_timeout = 0"))  # the calls may be millions
    own = update(Message).where(Message.user_id == user.id, Message.org_id.is_(None), text(HAS_BODIES))
    db.session.execute(own.values(request=None, reasoning_text=None, response=JSON.NULL))
    calls = select(GatewayCall.request_id).where(GatewayCall.account_id == user.id)
    db.session.execute(delete(CallBody).where(CallBody.request_id.in_(calls)))
