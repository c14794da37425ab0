"""The queue of work for runners of accounts: leases, heartbeats, stops, and what is asked of a runner while it has a work.

Runner 0 is this server: its workers do the same kinds of work through the same `Workplace`, in the process that wants it, under the lease of
the turn, job or request that opened it. So it needs no queue, no second lease, and no HTTP to itself; what is here is for work that
leaves the server. Every statement that a runner causes begins from its account, and checks that the lease is still its own.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, delete, func, select, true, update

from models.core.db import db, extension, now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.sealing import SealBroken, open_sealed, seal
from models.runners.runner_tables import HELD, Runner, RunnerAction, RunnerWork
from models.runners.work_calls import CallsAs
from models.runners.work_news import tell_news

LEASE = timedelta(seconds=30)
"""How long a runner has a work without a request. It asks three times as often."""
ACK = timedelta(seconds=10)
"""How long it has a work that it did not acknowledge: the answer of the poll may be lost."""
OPENER = timedelta(seconds=60)
"""How long a work is wanted, unless whoever opened it says so again."""
SEEN_EVERY = timedelta(seconds=10)
MAX_ATTEMPTS = 3
MAX_OUTPUT = 4 << 20
"""Characters of the output of one command that are kept; the rest is dropped."""
MAX_ERROR = 1_000
KEPT_WORK = timedelta(days=7)
PURPOSE = "runner"


class LeaseGone(Conflict):
    """The runner does not have this work any more: it ended, or another one has it. What it does for it has no effect."""

    code = "lease_lost"

    def __init__(self) -> None:
        super().__init__("This work is not leased to you any more. Stop it, and poll for other work.")


# -- the side that wants something done ------------------------------------------------------------------------


def open_work(
    account_id: str,
    kind: str,
    request: Mapping[str, Any],
    labels: Sequence[str],
    calls_as: CallsAs | None = None,
) -> RunnerWork:
    """Queue a work for a runner of the account that has these labels. `calls_as`: in whose name its programs make model calls, if they may. Flushes."""
    row = RunnerWork(
        account_id=account_id,
        kind=kind,
        request=dict(request),
        labels=list(labels),
        opener_until=now() + OPENER,
        calls_as=calls_as.stored() if calls_as is not None else None,
    )
    db.session.add(row)
    db.session.flush()
    tell_news(account_id)
    return row


def want_still(work_id: str) -> None:
    """Say that the work is still wanted."""
    db.session.execute(
        update(RunnerWork)
        .where(RunnerWork.id == work_id, RunnerWork.ended_at.is_(None))
        .values(opener_until=func.now() + OPENER)
    )


def ask_action(work_id: str, verb: str, arguments: Mapping[str, Any]) -> int | None:
    """Ask the runner to perform a verb; returns its number. None if the work has ended. Locks the work; flushes."""
    row = db.session.get(RunnerWork, work_id, with_for_update=True, populate_existing=True)
    if row is None or row.state not in HELD or row.stop_asked:
        return None
    row.last_seq += 1
    sealed = seal(_secret_key(), PURPOSE, orjson.dumps(dict(arguments)), context=work_id)
    db.session.add(RunnerAction(work_id=work_id, seq=row.last_seq, verb=verb, sealed=sealed))
    db.session.flush()
    tell_news(work_id)
    return row.last_seq


def work_state(work_id: str) -> tuple[str, str]:
    """The state of a work and why it ended; `lost` if its runner did not ask in time, or it was deleted."""
    query = select(
        RunnerWork.state, RunnerWork.error, RunnerWork.lease_until < func.now(), RunnerWork.last_seq
    )
    row = db.session.execute(query.where(RunnerWork.id == work_id)).one_or_none()
    if row is None:
        return "lost", "It was deleted."
    if row[0] in HELD and row[2]:
        # nothing was asked of it: another one may take the work
        return ("lost", "It did not answer for too long.") if row[3] else ("queued", "")
    return row[0], row[1] or ""


def action_progress(work_id: str, seq: int, start: int) -> tuple[dict[str, Any] | None, str]:
    """The reply to an action, None while there is none, and what its command wrote after the first `start` characters."""
    query = select(RunnerAction.reply, func.substr(RunnerAction.output, start + 1))
    row = db.session.execute(
        query.where(RunnerAction.work_id == work_id, RunnerAction.seq == seq)
    ).one_or_none()
    return (row[0], row[1]) if row is not None else (None, "")


def forget_action(work_id: str, seq: int) -> None:
    """Delete an action whose reply was read."""
    db.session.execute(delete(RunnerAction).where(RunnerAction.work_id == work_id, RunnerAction.seq == seq))


def stop_command(work_id: str) -> None:
    """Let the command that runs end: its result says that it was stopped. Idempotent."""
    running = update(RunnerWork).where(RunnerWork.id == work_id, RunnerWork.ended_at.is_(None))
    db.session.execute(running.values(stop_seq=RunnerWork.last_seq))
    tell_news(work_id)


def ask_stop(row: RunnerWork, why: str = "It was stopped.") -> None:
    """Let a work end: at once if no runner has it, else when its runner hears of it. Idempotent; flushes. The caller has locked the row."""
    if row.state == "queued":
        _end(row, "failed", why)
    elif row.state in HELD:
        row.stop_asked = True
        tell_news(row.id)
    db.session.flush()


def close_work(work_id: str, why: str = "It was not needed any more.") -> None:
    """Let a work of this server end; see `ask_stop`. Idempotent."""
    row = db.session.get(RunnerWork, work_id, with_for_update=True, populate_existing=True)
    if row is not None and row.ended_at is None:
        ask_stop(row, why)


def work_of_account(account_id: str, id: str, *, lock: bool = False) -> RunnerWork:
    """A work of the account. Raises NotFound."""
    query = select(RunnerWork).where(RunnerWork.account_id == account_id, RunnerWork.id == id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    row = db.session.scalars(query).one_or_none() if "\0" not in id else None
    if row is None:
        raise NotFound("There is no such work.")
    return row


def recent_work(account_id: str, limit: int = 20) -> Sequence[RunnerWork]:
    """The newest works of the account."""
    query = select(RunnerWork).where(RunnerWork.account_id == account_id)
    return db.session.scalars(
        query.order_by(RunnerWork.created_at.desc(), RunnerWork.id.desc()).limit(limit)
    ).all()


class CurrentWork(NamedTuple):
    """What a runner does now: since when it has the work, and the verb that it performs, None between two."""

    since: datetime
    verb: str | None


def current_work(account_id: str) -> Mapping[str, Sequence[CurrentWork]]:
    """What the account's runners do now, by runner, the oldest first."""
    asked = (RunnerAction.work_id == RunnerWork.id) & (RunnerAction.seq == RunnerWork.answered_seq + 1)
    query = (
        select(RunnerWork.runner_id, RunnerWork.created_at, RunnerAction.verb)
        .outerjoin(RunnerAction, asked)
        .where(
            RunnerWork.account_id == account_id,
            RunnerWork.state.in_(HELD),
            RunnerWork.lease_until > func.now(),
            RunnerWork.runner_id.is_not(None),
        )
        .order_by(RunnerWork.created_at, RunnerWork.id)
    )
    found: dict[str, list[CurrentWork]] = {}
    for runner_id, since, verb in db.session.execute(query):
        assert runner_id is not None  # the query leaves out works that nobody took
        found.setdefault(runner_id, []).append(CurrentWork(since, verb))
    return found


# -- the side of the runner ------------------------------------------------------------------------------------


def see_runner(runner: Runner, **told: str | None) -> None:
    """Note that a runner asked just now, and what it says of itself. Flushes."""
    moment = now()
    if runner.last_seen_at is None or moment - runner.last_seen_at > SEEN_EVERY:
        runner.last_seen_at = moment
    for name, value in told.items():
        if getattr(runner, name) != value:
            setattr(runner, name, value)
    db.session.flush()


def take_work(runner: Runner) -> RunnerWork | None:
    """Lease the oldest work that the runner may do to it, for `ACK`. None if there is none. Flushes."""
    sweep_work(runner.account_id)
    waiting = (
        select(RunnerWork)
        .where(
            RunnerWork.account_id == runner.account_id,
            RunnerWork.state == "queued",
            RunnerWork.labels.contained_by(runner.labels),
        )
        .order_by(RunnerWork.created_at, RunnerWork.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = db.session.scalars(waiting.execution_options(populate_existing=True)).one_or_none()
    if row is not None:
        row.state, row.runner_id, row.attempts = "leased", runner.id, row.attempts + 1
        row.lease_until = now() + ACK
        db.session.flush()
    return row


def held_work(runner: Runner, id: str, lease: int) -> RunnerWork:
    """A work that the runner has under this lease, its row locked; the lease is prolonged. Flushes. Raises NotFound for one of another
    account, LeaseGone (409)."""
    row = work_of_account(runner.account_id, id, lock=True)
    moment = now()
    if not _is_holder(row, runner, lease) or row.lease_until is None or row.lease_until <= moment:
        raise LeaseGone
    row.lease_until = moment + (LEASE if row.state == "running" else ACK)
    see_runner(runner)
    return row


def begin_work(row: RunnerWork) -> None:
    """The runner begins. Idempotent; flushes."""
    row.state, row.lease_until = "running", now() + LEASE
    db.session.flush()
    tell_news(row.id)


def add_output(row: RunnerWork, seq: int, part: int, text: str) -> None:
    """Append a part, numbered from 0, of what the command of an action wrote. One that came before is left out. Raises Invalid for a part
    or an action that cannot be."""
    query = select(RunnerAction).where(RunnerAction.work_id == row.id, RunnerAction.seq == seq)
    action = db.session.scalars(query.with_for_update()).one_or_none()
    if action is None:
        if not 0 < seq <= row.answered_seq:
            raise Invalid(f"There is no action {seq}.")
        return
    if part > action.output_parts:
        raise Invalid(f"Send part {action.output_parts} of the output before part {part}.")
    if part == action.output_parts and action.reply is None:
        action.output_parts += 1
        action.output += text[: max(0, MAX_OUTPUT - len(action.output))]
        tell_news(row.id)
    db.session.flush()


def pending_actions(row: RunnerWork) -> list[tuple[int, str, dict[str, Any]]]:
    """The actions that the runner has not answered: number, verb, arguments."""
    query = select(RunnerAction).where(RunnerAction.work_id == row.id, RunnerAction.seq > row.answered_seq)
    found = db.session.scalars(query.order_by(RunnerAction.seq)).all()
    return [(each.seq, each.verb, _opened(each)) for each in found]


def has_news(work_id: str) -> bool:
    """Whether something is asked of a work, or it has ended."""
    query = select(RunnerWork.last_seq, RunnerWork.answered_seq, RunnerWork.stop_asked, RunnerWork.ended_at)
    row = db.session.execute(query.where(RunnerWork.id == work_id)).one_or_none()
    return row is None or row[0] > row[1] or row[2] or row[3] is not None


def answer_action(row: RunnerWork, seq: int, reply: Mapping[str, Any]) -> None:
    """Store the reply to the oldest action without one; one that was answered before stays as it is. Flushes. Raises Invalid for another one."""
    if 0 < seq <= row.answered_seq:
        return
    if seq != row.answered_seq + 1 or seq > row.last_seq:
        raise Invalid(f"Answer action {row.answered_seq + 1} first.")
    query = update(RunnerAction).where(RunnerAction.work_id == row.id, RunnerAction.seq == seq)
    db.session.execute(query.values(reply=dict(reply)))
    row.answered_seq = seq
    db.session.flush()
    tell_news(row.id)


def finish_work(runner: Runner, id: str, lease: int, *, error: str | None) -> RunnerWork:
    """The runner ends a work, with what went wrong if anything did. Repeating it does nothing. Flushes. Raises NotFound, LeaseGone."""
    row = work_of_account(runner.account_id, id, lock=True)
    if row.state in ("done", "failed") and row.runner_id == runner.id and row.attempts == lease:
        return row
    row = held_work(runner, id, lease)
    _end(row, "failed" if error else "done", error)
    db.session.flush()
    return row


def sweep_work(account_id: str | None = None) -> int:
    """Give work whose runner is gone to another one if nothing was done for it yet, else end it as lost; end what nobody waits for. Returns how many
    rows it changed. Rows that others have locked are left to the next sweep."""
    moment = func.now()
    whose = true() if account_id is None else RunnerWork.account_id == account_id
    mine = RunnerWork.ended_at.is_(None) & whose
    gone = mine & RunnerWork.state.in_(HELD) & (RunnerWork.lease_until < moment)
    unwanted = mine & (RunnerWork.opener_until < moment)
    again = (
        gone
        & (RunnerWork.last_seq == 0)
        & (RunnerWork.attempts < MAX_ATTEMPTS)
        & RunnerWork.stop_asked.is_(False)
        & (RunnerWork.opener_until >= moment)
    )
    lost = {"state": "lost", "lease_until": None, "ended_at": moment}
    waiting = _change(again, state="queued", runner_id=None, lease_until=None)
    nobody = "No runner took it in time."
    changed = [
        *_change(gone, **lost, error="Its runner did not answer for too long."),
        *_change(unwanted & (RunnerWork.state == "queued"), state="failed", ended_at=moment, error=nobody),
        *_change(unwanted & RunnerWork.stop_asked.is_(False), stop_asked=True),
    ]
    if waiting or changed:
        ended = select(RunnerWork.id).where(RunnerWork.ended_at.is_not(None), whose)
        db.session.execute(delete(RunnerAction).where(RunnerAction.work_id.in_(ended)))
    for subject in {account for _, account in waiting} | {id for id, _ in changed}:
        tell_news(subject)
    return len(waiting) + len(changed)


def forget_work() -> None:
    """Delete works that ended a week ago."""
    db.session.execute(delete(RunnerWork).where(RunnerWork.ended_at < func.now() - KEPT_WORK))


def _change(condition: ColumnElement[bool], **values: Any) -> list[tuple[str, str]]:
    """Change rows; returns their ids and accounts."""
    rows = select(RunnerWork.id, RunnerWork.account_id).where(condition).order_by(RunnerWork.id)
    rows = rows.with_for_update(skip_locked=True).limit(1_000)
    found = [(id, account) for id, account in db.session.execute(rows)]
    if found:
        statement = update(RunnerWork).where(RunnerWork.id.in_([id for id, _ in found])).values(values)
        db.session.execute(statement.execution_options(synchronize_session=False))
    return found


def _is_holder(row: RunnerWork, runner: Runner, lease: int) -> bool:
    return row.state in HELD and row.runner_id == runner.id and row.attempts == lease


def _end(row: RunnerWork, state: str, error: str | None) -> None:
    row.state, row.lease_until, row.ended_at = state, None, now()
    row.error = error and error[:MAX_ERROR]
    db.session.execute(delete(RunnerAction).where(RunnerAction.work_id == row.id))
    tell_news(row.id)


def _opened(action: RunnerAction) -> dict[str, Any]:
    try:
        return dict(orjson.loads(open_sealed(_secret_key(), PURPOSE, action.sealed, context=action.work_id)))
    except SealBroken:
        raise Conflict("STOA_SECRET_KEY was changed while this work ran.", code="sealed_otherwise") from None


def _secret_key() -> str:
    return str(extension("settings").secret_key)
