"""The trace of a run: steps, model calls, tool calls and spawned runs in order of time, in windows of bounded size.

Clients report steps; the gateway records calls. They are matched by the ids the client reports (`message_id`,
`child_run_ids`), otherwise by the time a call started.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    ColumnElement,
    Select,
    any_,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)

from models.core.db import db, now
from models.core.errors import Invalid
from models.gateway import GatewayCall
from models.ledger import CreditHold
from models.runs.history import RunSummary, decode_cursor, run_of
from models.runs.run import AgentRun, AgentStep
from models.runs.run_totals import (
    RunCost,
    RunRelative,
    RunTotals,
    add_up,
    relatives_of,
    text_array,
    usage_columns,
    usage_from,
)
from models.runs.trace_rows import CALL, RUN, STEP, TraceItem, TraceWindow, WindowBuilder
from models.usage import Message

INT32_MAX = 2**31 - 1
WINDOW = 200
"""Maximum steps, calls and spawned runs of the run itself per page."""
MAX_TREE_RUNS = 200
"""Maximum spawned runs in the tree of a run."""
MAX_MODELS = 8


@dataclass
class TraceBranch:
    """A run and the runs it spawned."""

    run: AgentRun
    totals: RunTotals
    children: list["TraceBranch"] = field(default_factory=list)


@dataclass(frozen=True)
class ModelTotals:
    """Usage of one model in a run and its spawned runs."""

    model: str
    usage: RunCost


@dataclass(frozen=True)
class Trace:
    """The data of a run's page: summary, trace window, run tree and models. `run_ids` are the run and all it spawned.

    `unlisted` counts spawned runs left out of the tree. `held` are the credits reserved for calls in progress.
    """

    summary: RunSummary
    window: TraceWindow
    tree: TraceBranch
    unlisted: int
    models: Sequence[ModelTotals]
    held: int
    run_ids: Sequence[str]


def trace_of(
    account_id: str,
    run_id: str,
    *,
    after: str | None = None,
    before: str | None = None,
    tail: bool | None = None,
    reader: str | None = None,
) -> Trace:
    """Return the trace of the account's run with the window after or before a cursor, the last (`tail`) or the first.

    With `reader`, tool calls are read only from the messages of this user's calls. Without `tail`, a live run starts at its last window. Runs a fixed number of queries. Raises NotFound, also for
    another account's run, and Invalid for a malformed cursor.
    """
    run = run_of(account_id, run_id)
    relatives = relatives_of(account_id, [run.id])
    totals = add_up(account_id, relatives, [member.id for member in relatives])
    summary = RunSummary(run, totals[run.id], now())
    parents = nearest_parents(run.id, relatives)
    direct = [member for member in relatives if member.id in parents and parents[member.id] is None]
    tail = summary.live if tail is None else tail
    items, earlier, later = _window(account_id, run, direct, after, before, tail)
    listed = [member.id for member in relatives if member.id in parents][:MAX_TREE_RUNS]
    visible = _visible_run_ids(items, relatives, parents)
    runs = _runs(account_id, {*listed, *visible})
    holds = _holds(account_id, totals) if summary.live else []
    window = WindowBuilder(
        account_id, summary, items, [runs[run_id] for run_id in visible], parents, totals, holds, reader
    )
    return Trace(
        summary,
        window.build(earlier, later),
        build_tree(run, [runs[run_id] for run_id in listed], totals),
        len(parents) - len(listed),
        models_of(account_id, summary.totals.all, list(totals)),
        sum(hold.amount for hold in holds),
        list(totals),
    )


class _HasAncestors(Protocol):
    @property
    def id(self) -> Any: ...
    @property
    def ancestor_run_ids(self) -> Any: ...


def nearest_parents(run_id: str, relatives: Iterable[_HasAncestors]) -> dict[str, str | None]:
    """Map each descendant of `run_id` to its nearest known ancestor, None where that is `run_id`.

    A run whose parents are unknown, or that is part of a cycle, is attached to `run_id`.
    """
    ancestors = {member.id: member.ancestor_run_ids or () for member in relatives if member.id != run_id}
    parents: dict[str, str | None] = {}
    for member_id, ancestor_ids in ancestors.items():
        known = (each for each in reversed(ancestor_ids) if each in ancestors and each != member_id)
        parents[member_id] = next(known, None)
    for member_id in parents:
        if _in_cycle(member_id, parents):
            parents[member_id] = None
    return parents


def _in_cycle(member_id: str, parents: Mapping[str, str | None]) -> bool:
    seen = {member_id}
    parent = parents[member_id]
    while parent is not None and parent not in seen:
        seen.add(parent)
        parent = parents[parent]
    return parent is not None


def build_tree(
    run: AgentRun, descendants: Iterable[AgentRun], totals: Mapping[str, RunTotals]
) -> TraceBranch:
    """Build the tree of `run`, with each descendant once, below its nearest known ancestor."""
    branches = {each.id: TraceBranch(each, totals.get(each.id, RunTotals())) for each in descendants}
    root = TraceBranch(run, totals.get(run.id, RunTotals()))
    for run_id, parent in nearest_parents(run.id, [branch.run for branch in branches.values()]).items():
        (branches[parent] if parent else root).children.append(branches[run_id])
    return root


def models_of(account_id: str, total: RunCost, run_ids: Sequence[str]) -> list[ModelTotals]:
    """Return usage by model, most expensive first, with the remaining models as one entry. Adds up to `total`."""
    name = func.coalesce(GatewayCall.model, GatewayCall.requested_model)
    query = (
        select(name.label("model"), *usage_columns())
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.run_id == any_(text_array(run_ids)))
        .group_by(name)
        .order_by(func.sum(GatewayCall.micro_credits).desc(), name)
        .limit(MAX_MODELS)
    )
    found = [ModelTotals(row["model"], usage_from(row)) for row in db.session.execute(query).mappings()]
    rest = total
    for model in found:
        rest = rest - model.usage
    return [*found, ModelTotals("", rest)] if rest.calls > 0 else found


# -- the window: the run's own steps, calls and spawned runs, in order -----------------------------------------


def _window(
    account_id: str,
    run: AgentRun,
    direct: Sequence[RunRelative],
    after: str | None,
    before: str | None,
    tail: bool,
) -> tuple[list[TraceItem], str | None, str | None]:
    """Return a window of the run's steps, calls and directly spawned runs in order, and the cursors around it."""
    backwards = bool(before) or (tail and not after)
    edge = _decode_position(before or after or "") if before or after else None
    spawned = [TraceItem(member.created_at, RUN, 0, member.id) for member in direct]
    if edge:
        spawned = [item for item in spawned if (item.position < edge if before else item.position > edge)]
    items = _items(account_id, run).subquery("items")
    position = (items.c.at, items.c.kind, items.c.number, items.c.id)
    query: Select[Any] = select(*position).limit(WINDOW + 1)
    if edge:
        beyond = tuple_(*position) < tuple_(*edge) if before else tuple_(*position) > tuple_(*edge)
        query = query.where(beyond)
    query = query.order_by(*(column.desc() for column in position) if backwards else position)
    recorded = [TraceItem(**row) for row in db.session.execute(query).mappings()]
    found = sorted([*spawned, *recorded], key=lambda item: item.position, reverse=backwards)
    more = len(found) > WINDOW
    found = found[:WINDOW]
    if backwards:
        found.reverse()
    if not found:
        return [], None, None
    has_earlier = more if backwards else bool(after)
    has_later = bool(before) if backwards else more
    return found, found[0].cursor if has_earlier else None, found[-1].cursor if has_later else None


def _items(account_id: str, run: AgentRun) -> Any:
    kinds: dict[int, ColumnElement[int]] = {
        kind: literal_column(str(kind)).label("kind") for kind in (STEP, CALL)
    }
    mine = (GatewayCall.account_id == account_id, GatewayCall.run_id == run.id)
    # A step starts no later than the calls and runs it names, even if the client's clock disagrees. MATERIALIZED,
    # because with stale statistics the planner would run these once per step.
    first_call = (
        select(GatewayCall.message_id, func.min(GatewayCall.started_at).label("at"))
        .where(*mine, GatewayCall.message_id.is_not(None))
        .group_by(GatewayCall.message_id)
        .cte("first_call")
        .prefix_with("MATERIALIZED")
    )
    named = (
        select(AgentStep.id, func.unnest(AgentStep.child_run_ids).label("child"))
        .where(AgentStep.agent_run_id == run.id)
        .subquery("named")
    )
    first_run = (
        select(named.c.id, func.min(AgentRun.created_at).label("at"))
        .join(AgentRun, AgentRun.id == named.c.child)
        .where(AgentRun.account_id == account_id)
        .group_by(named.c.id)
        .cte("first_run")
        .prefix_with("MATERIALIZED")
    )
    started = func.least(AgentStep.created_at, first_call.c.at, first_run.c.at)
    return union_all(
        select(
            func.greatest(started, literal(run.created_at)).label("at"),
            kinds[STEP],
            AgentStep.step_number.label("number"),
            AgentStep.id.label("id"),
        )
        .outerjoin(first_call, first_call.c.message_id == AgentStep.message_id)
        .outerjoin(first_run, first_run.c.id == AgentStep.id)
        .where(AgentStep.agent_run_id == run.id),
        select(GatewayCall.started_at, kinds[CALL], literal_column("0"), GatewayCall.request_id).where(*mine),
    )


def _decode_position(cursor: str) -> tuple[datetime, int, int, str]:
    when, rest = decode_cursor(cursor)
    kind, _, rest = rest.partition(".")
    number, _, item_id = rest.partition(".")
    if kind not in ("0", "1", "2") or not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > INT32_MAX:
        raise Invalid("This page link is invalid. Open the run again.", code="bad_key", status=400)
    return when, int(kind), int(number), item_id


def _visible_run_ids(
    items: Sequence[TraceItem], relatives: Sequence[RunRelative], parents: Mapping[str, str | None]
) -> list[str]:
    """Return the ids of the spawned runs of a window, then of the first runs below them."""
    direct = [item.id for item in items if item.kind == RUN]
    in_window = set(direct)
    below = []
    for member in relatives:
        ancestor = parents.get(member.id)
        while ancestor is not None and ancestor not in in_window:
            ancestor = parents[ancestor]
        if ancestor is not None and member.id not in in_window:
            below.append(member.id)
    return [*direct, *below[:MAX_TREE_RUNS]]


def _runs(account_id: str, run_ids: Iterable[str]) -> dict[str, AgentRun]:
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id.in_(run_ids))
    return {run.id: run for run in db.session.scalars(query)}


def _holds(account_id: str, run_ids: Iterable[str]) -> list[CreditHold]:
    """Return the live holds of these runs, one per call in flight."""
    query = select(CreditHold).where(
        CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.run_id.in_(list(run_ids))
    )
    return list(db.session.scalars(query.order_by(CreditHold.created_at).limit(WINDOW)))
