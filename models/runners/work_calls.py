"""Model calls of programs on a runner's machine: the token of a work, in whose name its calls are made, what they cost, and their end with the work.

Whichever web worker is asked makes the call, as the turn that the work belongs to; so nothing here is kept in one process but the calls that it has in flight.
"""

import base64
import hmac
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from models.accounts.key_format import PresentedKey
from models.core.db import context_maker, db, extension
from models.core.errors import DomainError, Forbidden
from models.core.job_queue import Context
from models.gateway import GatewayCall
from models.gateway.relay import Gateway
from models.ledger import CreditHold
from models.runners.runner_tables import HELD, RunnerWork
from models.runners.turn_calls import TurnCalls
from models.turns.turn import Turn

PREFIX = "wk_"
LOOK_SECONDS = 1.0
"""How often calls in flight are compared with their works."""
MARK_LENGTH = 12


class NoWorkToken(DomainError):
    """The token is not that of this work."""

    status = 401
    code = "invalid_work_token"

    def __init__(self) -> None:
        super().__init__("This is not the token of this work.")


class WorkOver(Forbidden):
    """The work makes no calls any more."""

    code = "work_over"

    def __init__(self) -> None:
        super().__init__("This work has ended, or is to end, so it makes no more model calls.")


@dataclass(frozen=True)
class CallsAs:
    """In whose name a work makes model calls: a turn, while the process `owner` runs it, paid by `org_id` if its key may, with these models."""

    turn_id: str
    owner: str
    org_id: str | None = None
    models: Sequence[str] = ()

    def stored(self) -> dict[str, Any]:
        """As a work has it."""
        return {**asdict(self), "models": [*self.models]}


def work_token(row: RunnerWork) -> str | None:
    """What opens the model doors for this lease of a work, and nothing else; None if it has none."""
    if row.calls_as is None:
        return None
    said = f"stoa runner work {row.id} {row.attempts}".encode()
    digest = hmac.digest(str(extension("settings").secret_key).encode(), said, "sha256")
    return PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def calls_of_work(work_id: str, token: str) -> TurnCalls:
    """The calls that a work may make now, ended when its lease or its turn does. Raises NoWorkToken (401), WorkOver (403)."""
    row = db.session.get(RunnerWork, work_id) if "\0" not in work_id else None
    expected = work_token(row) if row is not None else None
    if expected is None or not hmac.compare_digest(expected.encode(), token.encode()):
        raise NoWorkToken
    assert row is not None
    assert row.calls_as is not None
    called = CallsAs(**row.calls_as)
    turn = db.session.get(Turn, called.turn_id)
    if turn is None or turn.run_id is None or not _alive([row.id]):
        raise WorkOver
    run_id, mark, context = turn.run_id, _mark(row.id), context_maker()
    gateway: Gateway = extension("gateway")
    calls = TurnCalls(
        gateway,
        PresentedKey(turn.key_id, turn.key_secret),
        run_id=lambda: run_id,
        alive=lambda: _WATCH.add(work_id, calls, context),
        org_id=called.org_id,
        models=called.models,
        call_id=lambda: mark + uuid.uuid4().hex[MARK_LENGTH:],
    )
    return calls


def spent_elsewhere(run_id: str, works: Collection[str]) -> int:
    """Credits of the calls that works made in a run and that have ended."""
    query = select(func.sum(GatewayCall.credits)).where(GatewayCall.run_id == run_id)
    return int(db.session.scalar(query.where(_made_by(GatewayCall.request_id, works))) or 0)


def has_calls_elsewhere(run_id: str, works: Collection[str]) -> bool:
    """Whether calls of these works, which have ended, are still in flight: their workers end them within `LOOK_SECONDS`."""
    query = select(CreditHold.request_id).where(CreditHold.run_id == run_id, CreditHold.state == "live")
    query = query.where(CreditHold.expires_at > func.clock_timestamp())
    return db.session.scalar(query.where(_made_by(CreditHold.request_id, works)).limit(1)) is not None


class _Watch:
    """The calls of works that this process has in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[tuple[str, TurnCalls, Context]] = []
        self._running = False

    def add(self, work_id: str, calls: TurnCalls, context: Context) -> bool:
        """Watch a call that was admitted just now. Whether its work still goes on."""
        with self._lock:
            self._calls.append((work_id, calls, context))
            started, self._running = self._running, True
        if not started:
            threading.Thread(target=self._run, name="stoa-work-calls", daemon=True).start()
        with context():
            return bool(_alive([work_id]))

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                self._calls = [each for each in self._calls if each[1].open]
                found = [*self._calls]
                if not found:
                    self._running = False
                    return
            with suppress(Exception):
                # the database may be away: the next look ends them
                self._look(found)

    def _look(self, found: Sequence[tuple[str, TurnCalls, Context]]) -> None:
        for context in {context for _, _, context in found}:
            own = [each for each in found if each[2] == context]
            with context():
                alive = _alive({work_id for work_id, _, _ in own})
            for work_id, calls, _ in own:
                if work_id not in alive:
                    calls.stop()


_WATCH = _Watch()


def _alive(works: Collection[str]) -> set[str]:
    """Those of these works that a runner has, and whose turn runs in the process that opened them."""
    query = (
        select(RunnerWork.id)
        .join(Turn, Turn.id == RunnerWork.calls_as["turn_id"].astext)
        .where(
            RunnerWork.id.in_(works),
            RunnerWork.state.in_(HELD),
            RunnerWork.lease_until > func.clock_timestamp(),
            RunnerWork.stop_asked.is_(False),
            Turn.state == "running",
            Turn.stop.is_(None),
            Turn.lease_owner == RunnerWork.calls_as["owner"].astext,
        )
    )
    return set(db.session.scalars(query))


def _mark(work_id: str) -> str:
    """How the ids of a work's calls begin: enough to tell them from others of their run."""
    return uuid.UUID(work_id.removeprefix("work_")).hex[:MARK_LENGTH]


def _made_by(column: Any, works: Collection[str]) -> ColumnElement[bool]:
    return or_(*(column.startswith(_mark(work_id)) for work_id in works))
