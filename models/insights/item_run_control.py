"""Stopping runs of action items, and letting those go on that a budget has paused. Each flushes; the caller commits, then runs the turns that it
returns."""

from typing import NamedTuple

from sqlalchemy import select

from models.accounts.key_format import PresentedKey
from models.conversations import ProjectConversation
from models.core.db import db, now
from models.core.errors import Invalid
from models.insights.item_run import ActionItemRun
from models.insights.item_run_reading import FoundRun, WrongState, locked_run, own_run
from models.insights.item_run_starting import MAX_BUDGET
from models.projects import ProjectCaller
from models.threads import Thread, tree
from models.threads.turn_resuming import resume_turn
from models.turns import Turn
from models.turns.turn_verbs import lease_again, request_stop, take_to_end


class ControlledRun(NamedTuple):
    """A run, and the ids of its turns that are leased to the caller's process, which runs them."""

    found: FoundRun
    turns: list[str]


def stop_run(caller: ProjectCaller, run_id: str, owner: str) -> ControlledRun:
    """End a run: what its attempts cost is paid, and it fails as stopped. A paused one is leased to the worker `owner`, which ends it. Idempotent;
    does nothing to one that has ended. Locks its turn. Raises NotFound, Forbidden."""
    found = own_run(caller, run_id, "edit_projects")
    turn = _locked_turn(found.run.turn_id)
    if not found.run.active or turn is None or request_stop(turn):
        return ControlledRun(found, [])
    return ControlledRun(found, [turn.id] if take_to_end(turn, owner) else [])


def resume_run(
    caller: ProjectCaller,
    run_id: str,
    *,
    owner: str,
    key: PresentedKey | None = None,
    budget: int | None = None,
) -> ControlledRun:
    """Let a paused run go on where it was, with a new `budget` in credits for all attempts, those before included, if one is given. Without a
    change it pauses again. Whoever began it pays with `key` from now on, if it is theirs. Locks turn, item and run, then the agent's turn and
    thread. Raises NotFound, Forbidden, WrongState (400) unless it is paused, Invalid (422) for a budget that it has spent."""
    found = own_run(caller, run_id, "edit_projects")
    turn = _locked_turn(found.run.turn_id)
    locked = locked_run(run_id)
    if locked is None or locked[1].status != "paused" or turn is None or turn.state != "paused":
        raise WrongState("This run is not paused.")
    run = locked[1]
    last = run.attempts[-1] if run.attempts else None
    agent = _locked_turn(last["turn_id"]) if last is not None and last["state"] == "working" else None
    if budget is not None:
        _raise_budget(run, budget)
    mine = key if caller.user_id == turn.user_id else None
    if mine is not None:
        turn.key_id, turn.key_secret = mine
    lease_again(turn, owner)
    turns = [turn.id]
    if agent is not None and agent.state == "paused":
        resume_turn(agent, owner, key=mine)
        turns.append(agent.id)
    run.status, run.error_code, run.error, run.updated_at = "running", None, None, now()
    db.session.flush()
    return ControlledRun(found._replace(run=run), turns)


def _raise_budget(run: ActionItemRun, budget: int) -> None:
    problem = None
    if budget <= run.credits:
        problem = f"The run has spent {run.credits:,} credits: its budget must be more."
    elif budget > MAX_BUDGET:
        problem = f"The budget of a run has at most {MAX_BUDGET:,} credits."
    if problem is not None:
        raise Invalid(problem, fields={"budget": problem})
    run.budget = budget
    conversation = db.session.get(ProjectConversation, run.conversation_id) if run.conversation_id else None
    thread = db.session.get(Thread, conversation.thread_id) if conversation is not None else None
    if thread is not None:
        tree.lock(thread).budget = budget


def _locked_turn(id: str | None) -> Turn | None:
    query = select(Turn).where(Turn.id == id).with_for_update()
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none() if id else None
