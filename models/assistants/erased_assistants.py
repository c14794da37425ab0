"""Deletes the assistants, tools and secrets of a person whose account is erased; an organisation keeps what its members made for it."""

from datetime import datetime

from sqlalchemy import delete

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.assistants.assistant import Assistant
from models.assistants.tool import Tool, ToolSecret
from models.core.db import db


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """What was published stays in the store."""
    for table in (Assistant, Tool, ToolSecret):
        db.session.execute(delete(table).where(table.account_id == user.id))
