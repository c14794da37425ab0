"""What happens to a turn: it begins or waits, is stopped, resumed and ended. Each flushes and leaves the commit to its caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, Literal, NamedTuple

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from models.turns.event_log import CHANNEL
from models.turns.turn import ACTIVE, Turn, TurnEvent

LEASE_SECONDS = 3
"""How long a worker that is not heard of keeps its turns. It renews its leases every second."""
OnBusy = Literal["reject", "queue", "interrupt"]
ON_BUSY: tuple[OnBusy, ...] = ("reject", "queue", "interrupt")
MAX_QUEUED = 20
"""Turns that wait for one branch."""
STOP = "stop "
"""How a notification begins that asks for a turn to be stopped."""


class TurnInProgress(Conflict):
    """Another turn of the branch is active."""

    code = "turn_in_progress"


class TurnNotActive(Conflict):
    """The turn is not in a state for this."""

    code = "turn_not_active"


class NextTurn(NamedTuple):
    """A queued turn whose time has come, and the kind of its work."""

    id: str
    kind: str


@dataclass(frozen=True)
class NewTurn:
    """A turn to begin. `request` is for the code that runs its kind; `budget` is in credits, `None` for no limit of its own."""

    kind: str
    subject_id: str
    branch_id: str
    account_id: str
    user_id: str
    key: PresentedKey = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)
    budget: int | None = None


def active_turn(branch_id: str) -> Turn | None:
    """The active turn of a branch."""
    return db.session.scalars(
        select(Turn).where(Turn.branch_id == branch_id, Turn.state.in_(ACTIVE))
    ).one_or_none()


def begin_turn(
    new: NewTurn, *, owner: str, on_busy: OnBusy = "reject", busy: Turn | EllipsisType | None = ...
) -> Turn:
    """Begin a turn, leased to the worker `owner`, which runs it after the commit; while another turn of the branch is active: a queued one. `interrupt` also asks the active one to stop. The caller holds
    the lock of the conversation, and may know the active one, `busy`, already. Raises TurnInProgress."""
    if isinstance(busy, EllipsisType):
        busy = active_turn(new.branch_id)
    turn = Turn(
        kind=new.kind,
        subject_id=new.subject_id,
        branch_id=new.branch_id,
        account_id=new.account_id,
        user_id=new.user_id,
        key_id=new.key.id,
        key_secret=new.key.secret,
        request=dict(new.request),
        budget=new.budget,
        state="queued",
    )
    if busy is None:
        _lease(turn, owner)
        db.session.add(turn)
        try:
            db.session.flush()
        except IntegrityError as error:
            raise TurnInProgress(
                "Another turn of this branch has just begun. Wait for it, or send on_busy."
            ) from error
        return turn
    if on_busy == "reject":
        raise TurnInProgress(
            "A turn of this branch is in progress. Wait for it, stop it, or send 'on_busy' with 'queue' or 'interrupt'."
        )
    waiting = select(func.count()).where(Turn.branch_id == new.branch_id, Turn.state == "queued")
    if (db.session.scalar(waiting) or 0) >= MAX_QUEUED:
        raise TurnInProgress(f"{MAX_QUEUED} messages wait for this branch already. Wait for their answers.")
    if on_busy == "interrupt":
        request_stop(busy, "interrupt")
    db.session.add(turn)
    db.session.flush()
    return turn


def _lease(turn: Turn, owner: str) -> None:
    moment = now()
    turn.state, turn.lease_owner = "running", owner
    turn.lease_until = moment + timedelta(seconds=LEASE_SECONDS)
    turn.started_at = turn.started_at or moment


def own_turn(user_id: str, account_id: str, turn_id: str, *, lock: bool = False) -> Turn:
    """A turn of this person that this account pays. Raises NotFound."""
    query = select(Turn).where(Turn.id == turn_id, Turn.user_id == user_id, Turn.account_id == account_id)
    if lock:
        query = query.with_for_update()
    query = query.execution_options(populate_existing=True)
    turn = None if "\x00" in turn_id else db.session.scalars(query).one_or_none()
    if turn is None:
        raise NotFound(f"You have no turn '{turn_id[:80]}'.")
    return turn


def request_stop(turn: Turn, how: Literal["stop", "interrupt"] = "stop") -> bool:
    """Ask the worker of a running turn to end it: what was produced is charged and kept. Returns False if no worker runs it: then the caller
    ends it. Idempotent."""
    if turn.state != "running":
        return False
    db.session.execute(update(Turn).where(Turn.id == turn.id, Turn.stop.is_(None)).values(stop=how))
    db.session.execute(select(func.pg_notify(CHANNEL, STOP + turn.id)))
    return True


def take_to_end(turn: Turn, owner: str) -> bool:
    """Lease a turn that waits for somebody, to be ended by its work as if it was stopped: its run and its budgets end too. Returns False if it does
    not wait. A queued one, whose branch may be busy, has neither: it is cancelled here."""
    if turn.state == "queued":
        _cancel_queued(turn)
    if turn.state not in ("requires_action", "paused"):
        return False
    _lease(turn, owner)
    turn.stop = turn.stop or "stop"
    db.session.flush()
    return True


def _cancel_queued(turn: Turn) -> None:
    turn.stop, turn.credits, turn.last_seq = turn.stop or "stop", 0, turn.last_seq + 1
    ended(turn, "cancelled")
    told = {"state": "cancelled", "code": None, "message": None, "credits": 0}
    db.session.add(TurnEvent(turn_id=turn.id, seq=turn.last_seq, type="turn.cancelled", data=told))
    db.session.flush()
    db.session.execute(select(func.pg_notify(CHANNEL, turn.id)))


def lease_again(turn: Turn, owner: str) -> None:
    """Let a turn that waits for the client or for a budget go on, with the worker `owner`. Raises TurnNotActive."""
    if turn.state not in ("requires_action", "paused"):
        raise TurnNotActive(f"This turn is {turn.state.replace('_', ' ')}, so it does not wait for anything.")
    turn.required_action = turn.expires_at = turn.error_code = turn.error_message = turn.stop = None
    _lease(turn, owner)
    db.session.flush()


def next_queued(branch_id: str, owner: str) -> NextTurn | None:
    """Lease the turn that has waited longest for a branch of which no turn is active."""
    query = (
        select(Turn)
        .where(Turn.branch_id == branch_id, Turn.state == "queued")
        .order_by(Turn.created_at, Turn.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if active_turn(branch_id) is not None:
        return None
    turn = db.session.scalars(query).one_or_none()
    if turn is None:
        return None
    try:
        with db.session.begin_nested():
            _lease(turn, owner)
            db.session.flush()
    except IntegrityError:
        # another worker was faster
        return None
    return NextTurn(turn.id, turn.kind)


_RENEW = text("""
UPDATE turn SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
WHERE lease_owner = :owner AND id = ANY (:ids) RETURNING id, stop
""")
_RECLAIM = text("""
UPDATE turn SET lease_owner = :owner, lease_until = clock_timestamp() + make_interval(secs => :seconds)
WHERE id IN (
    SELECT id FROM turn WHERE lease_until < clock_timestamp() AND state = 'running'
    ORDER BY lease_until LIMIT :count FOR UPDATE SKIP LOCKED
) RETURNING id, kind
""")
_FORGOTTEN = text("""
SELECT DISTINCT q.branch_id FROM turn q
WHERE q.state = 'queued' AND q.created_at < clock_timestamp() - interval '2 seconds' AND NOT EXISTS (
    SELECT FROM turn a WHERE a.branch_id = q.branch_id AND a.state IN ('running', 'requires_action', 'paused')
) LIMIT :count
""")
_EXPIRED = text("""
UPDATE turn SET state = 'running', lease_owner = :owner, stop = 'stop',
    lease_until = clock_timestamp() + make_interval(secs => :seconds)
WHERE id IN (
    SELECT id FROM turn WHERE expires_at < clock_timestamp() AND state = 'requires_action'
    ORDER BY expires_at LIMIT :count FOR UPDATE SKIP LOCKED
) RETURNING id, kind
""")


def renew(owner: str, ids: list[str]) -> dict[str, str | None]:
    """Renew the leases of these turns. Returns those that `owner` still has, with how each is to be stopped, if it is."""
    rows = db.session.execute(_RENEW, {"owner": owner, "ids": ids, "seconds": LEASE_SECONDS})
    return {row.id: row.stop for row in rows}


def reclaim(owner: str, count: int = 4) -> list[NextTurn]:
    """Take over turns whose worker is gone."""
    rows = db.session.execute(_RECLAIM, {"owner": owner, "seconds": LEASE_SECONDS, "count": count})
    return [NextTurn(*row) for row in rows]


def take_expired(owner: str, count: int = 10) -> list[NextTurn]:
    """Lease turns whose client did not send the results of its tools in time, to be ended."""
    rows = db.session.execute(_EXPIRED, {"owner": owner, "seconds": LEASE_SECONDS, "count": count})
    return [NextTurn(*row) for row in rows]


def take_forgotten(owner: str, count: int = 10) -> list[NextTurn]:
    """Lease queued turns that no worker thinks of, because the one that should have started them is gone."""
    branches = db.session.scalars(_FORGOTTEN, {"count": count}).all()
    return [found for branch in branches if (found := next_queued(branch, owner))]


def ended(
    turn: Turn, state: str, *, code: str | None = None, message: str | None = None, at: datetime | None = None
) -> None:
    """Set the state of an active or queued turn to its last one."""
    turn.state, turn.error_code, turn.error_message = state, code, message
    turn.lease_owner = turn.lease_until = turn.call_id = turn.required_action = turn.expires_at = None
    turn.ended_at = at or now()
