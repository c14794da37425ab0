"""Lets turns of threads that wait go on: with the results of the client's tools, or because a budget was raised. Each flushes; the caller
commits, then runs the turns."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, tuple_

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.errors import Invalid
from models.threads import tree
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_turn_start import KINDS
from models.threads.turn_budgets import CODE
from models.turns import Turn
from models.turns.turn_verbs import TurnNotActive, lease_again

MAX_OUTPUT_BYTES = 512 << 10


def submit_outputs(turn: Turn, outputs: Sequence[Mapping[str, Any]], owner: str) -> None:
    """Give a turn, whose row is locked, the results of all the tool calls that its client owes: `tool_call_id` and `output`, text. It goes on
    with the worker `owner`. Raises TurnNotActive if it does not wait for them, or not any more, and Invalid (422) for ids that are unknown,
    missing or given twice."""
    if turn.state != "requires_action" or not turn.required_action:
        raise TurnNotActive(f"This turn is {turn.state.replace('_', ' ')}: it waits for no results of tools.")
    if turn.expires_at is not None and turn.expires_at <= now():
        raise TurnNotActive("The results of the tools came too late: the turn has expired.")
    calls = {call["id"]: call for call in turn.required_action["tool_calls"]}
    given = _by_id(outputs, calls)
    thread = tree.lock(db.session.get_one(Thread, turn.subject_id))
    newest = select(ThreadMessage.id).where(ThreadMessage.turn_id == turn.id)
    parent_id = db.session.scalars(newest.order_by(ThreadMessage.seq.desc()).limit(1)).one()
    answered: list[str] = []
    for id, call in calls.items():
        message = tree.append(
            thread,
            role="tool",
            content=given[id] or " ",
            parent_id=parent_id,
            tool_call_id=id,
            name=call["function"]["name"][:200],
            turn_id=turn.id,
        )
        parent_id = message.id
        answered.append(message.id)
    turn.request = {**turn.request, "answered": answered}
    lease_again(turn, owner)


def turn_owing(thread: Thread, call_ids: Sequence[str]) -> Turn | None:
    """The newest turn of the thread that waits for the results of these tool calls, its row locked."""
    waiting = (
        select(Turn)
        .where(Turn.subject_id == thread.id, Turn.kind.in_(KINDS), Turn.state == "requires_action")
        .order_by(Turn.created_at.desc(), Turn.id)
        .with_for_update()
    )
    for turn in db.session.scalars(waiting.execution_options(populate_existing=True)):
        owed = {call["id"] for call in (turn.required_action or {}).get("tool_calls", ())}
        if owed.intersection(call_ids):
            return turn
    return None


def resume_turn(
    turn: Turn, owner: str, *, budget: int | None = None, key: PresentedKey | None = None
) -> None:
    """Let a paused turn, whose row is locked, go on, with a new `budget` in credits if one is given: the most that it may spend, what it has spent
    included. Its calls are made with `key` from now on: the one that began it may have ended. Raises TurnNotActive if it is not paused, Invalid for a budget that it has spent already."""
    if turn.state != "paused":
        raise TurnNotActive(f"This turn is {turn.state.replace('_', ' ')}: only a paused one is resumed.")
    if budget is not None:
        if budget <= (turn.credits or 0):
            problem = f"The turn has spent {turn.credits or 0:,} credits: its budget must be more."
            raise Invalid(problem, fields={"budget": problem})
        turn.budget = budget
    if key is not None:
        turn.key_id, turn.key_secret = key
    lease_again(turn, owner)


def resume_paused(owner: str, *, thread_id: str | None = None, assistant_id: str | None = None) -> list[str]:
    """Let the turns go on that a budget of this thread or assistant may have paused: it was raised, and that is committed. Returns their ids.
    One whose budget still leaves nothing pauses again."""
    query = select(Turn).where(Turn.kind.in_(KINDS), Turn.state == "paused", Turn.error_code == CODE)
    if thread_id is not None:
        query = query.where(Turn.subject_id == thread_id)
    else:
        assert assistant_id is not None
        # those of an account are few
        query = query.where(Turn.request["assistant_id"].astext == assistant_id)
    found = list(db.session.scalars(query.order_by(Turn.id).limit(100).with_for_update(skip_locked=True)))
    for turn in found:
        lease_again(turn, owner)
    return [turn.id for turn in found]


def turns_of(thread: Thread, before: tuple[Any, str] | None, limit: int) -> list[Turn]:
    """At most `limit` turns of the thread, newest first, before the one with this time and id."""
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.kind.in_(KINDS))
    if before is not None:
        query = query.where(tuple_(Turn.created_at, Turn.id) < tuple_(*before))
    return list(db.session.scalars(query.order_by(Turn.created_at.desc(), Turn.id.desc()).limit(limit)))


def _by_id(outputs: Sequence[Mapping[str, Any]], owed: Mapping[str, Any]) -> dict[str, str]:
    given: dict[str, str] = {}
    for each in outputs:
        id, output = each.get("tool_call_id"), each.get("output")
        if not isinstance(id, str) or not isinstance(output, str):
            raise _wrong("Each result is {tool_call_id, output}, both text.")
        if id not in owed:
            raise _wrong(f"The turn waits for no tool call '{id[:80]}'.")
        if id in given:
            raise _wrong(f"The tool call '{id[:80]}' has two results.")
        if len(output.encode("utf-8", "surrogatepass")) > MAX_OUTPUT_BYTES:
            raise _wrong(f"The result of '{id[:80]}' has more than {MAX_OUTPUT_BYTES >> 10} KiB.")
        given[id] = output
    if missing := owed.keys() - given.keys():
        listed = ", ".join(sorted(missing)[:5])
        raise _wrong(f"Send the results of all tool calls at once; missing: {listed}.")
    return given


def _wrong(problem: str) -> Invalid:
    return Invalid(problem, fields={"tool_outputs": problem})
