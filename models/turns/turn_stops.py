"""Stops the turns of people, organisations, conversations and assistants that end: what was written is kept and charged, what was reserved is given back.

Running turns end within a second or so; those that wait are taken by the next worker that looks, which ends them.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from models.accounts.account_deletion import account_deleted
from models.accounts.users import User
from models.core.db import db, now
from models.orgs import Org, org_deleted
from models.orgs.offboarding import member_leaving
from models.turns.turn import ACTIVE, Turn
from models.turns.turn_verbs import request_stop, take_to_end

NOBODY = "nobody"
"""The owner of a lease that has ended already."""


def stop_turns(*which: ColumnElement[bool]) -> int:
    """Stop all turns of these that have not ended; returns how many. Locks them, before anything that they lock themselves: threads and assistants. Flushes. Idempotent."""
    # as the partial indexes say it
    open = or_(Turn.state.in_(ACTIVE), Turn.state == "queued")
    query = select(Turn).where(open, *which).order_by(Turn.id).with_for_update()
    found = db.session.scalars(query.execution_options(populate_existing=True)).all()
    for turn in found:
        if not request_stop(turn) and take_to_end(turn, NOBODY):
            turn.lease_until = now()
    db.session.flush()
    return len(found)


def stop_turns_with(assistant_id: str) -> int:
    """`stop_turns` of those that an assistant answers."""
    return stop_turns(Turn.request["assistant_id"].astext == assistant_id)


@account_deleted.connect
def _deleted(user: User, *, now: datetime) -> None:
    """The keys that make their calls end, too."""
    stop_turns(Turn.user_id == user.id)


@member_leaving.connect
def _member_leaving(org_id: str, *, user_id: str, now: datetime) -> dict[str, Any]:
    """The organisation pays for them no longer."""
    stop_turns(Turn.user_id == user_id, Turn.account_id == org_id)
    return {"totals": {}, "keys": {}}


@org_deleted.connect
def _org_deleted(org: Org) -> None:
    stop_turns(Turn.account_id == org.id)
