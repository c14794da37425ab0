"""The trace of a run: steps, model calls and spawned runs in order of time, in windows of bounded size.

Clients report steps; the gateway records calls. They are matched by the ids the client reports (`message_id`,
`child_run_ids`), otherwise by the time a call started.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from sqlalchemy import (
    ColumnElement,
    Select,
    any_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import aliased, defer

from models.core.db import db, now
from models.core.errors import Invalid
from models.gateway import GatewayCall
from models.ledger import CreditHold
from models.runs.history import RunSummary, decode_cursor, encode_cursor, run_of
from models.runs.run import AgentRun, AgentStep
from models.runs.run_totals import (
    RunCost,
    RunRelative,
    RunTotals,
    add_up,
    billed_credits,
    relatives_of,
    text_array,
    usage_columns,
    usage_from,
)
from models.runs.tool_calls import ToolCall, tool_calls_of
from models.usage import Message

INT32_MAX = 2**31 - 1
WINDOW = 200
"""Maximum steps, calls and spawned runs of the run itself per page."""
MAX_TREE_RUNS = 200
"""Maximum spawned runs in the tree of a run."""
MAX_NESTED_CALLS = 200
"""Maximum calls of spawned runs per page, shared among these runs."""
MAX_DEPTH = 4
MAX_MODELS = 8

Kind = Literal["run", "step", "model", "tool"]
State = Literal["done", "failed", "open", "cancelled", "skipped", "silent"]


@dataclass(frozen=True)
class TraceEntry:
    """A row of the trace. `credits` are the credits charged, None if this page does not know them.

    An open row has no `ends`. `truncated` marks a spawned run with more calls than are shown. `tool` is the number of a tool call
    within its model call, `parent` whether rows below belong to this one.
    """

    kind: Kind
    depth: int
    name: str
    note: str
    state: State
    credits: int | None
    starts: datetime
    ends: datetime | None
    first_token: datetime | None = None
    run_id: str | None = None
    request_id: str | None = None
    truncated: bool = False
    tool: int | None = None
    parent: bool = False

    def duration_ms(self, viewed_at: datetime) -> int:
        """Duration in milliseconds; until `viewed_at` for an open row."""
        return max(0, int(((self.ends or viewed_at) - self.starts) / timedelta(milliseconds=1)))


@dataclass(frozen=True)
class TraceWindow:
    """One page of the trace. `earlier` and `later` are the cursors of the adjacent pages."""

    entries: Sequence[TraceEntry]
    starts: datetime
    ends: datetime
    earlier: str | None
    later: str | None


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
    window = _WindowBuilder(
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


# -- the window: the run's own steps, calls and spawned runs, in order -----------------------------------------

_STEP, _RUN, _CALL = 0, 1, 2


@dataclass(frozen=True)
class _Item:
    at: datetime
    kind: int
    number: int
    id: str

    @property
    def position(self) -> tuple[datetime, int, int, str]:
        return self.at, self.kind, self.number, self.id

    @property
    def cursor(self) -> str:
        return encode_cursor(self.at, f"{self.kind}.{self.number}.{self.id}")


def _window(
    account_id: str,
    run: AgentRun,
    direct: Sequence[RunRelative],
    after: str | None,
    before: str | None,
    tail: bool,
) -> tuple[list[_Item], str | None, str | None]:
    """Return a window of the run's steps, calls and directly spawned runs in order, and the cursors around it."""
    backwards = bool(before) or (tail and not after)
    edge = _decode_position(before or after or "") if before or after else None
    spawned = [_Item(member.created_at, _RUN, 0, member.id) for member in direct]
    if edge:
        spawned = [item for item in spawned if (item.position < edge if before else item.position > edge)]
    items = _items(account_id, run).subquery("items")
    position = (items.c.at, items.c.kind, items.c.number, items.c.id)
    query: Select[Any] = select(*position).limit(WINDOW + 1)
    if edge:
        beyond = tuple_(*position) < tuple_(*edge) if before else tuple_(*position) > tuple_(*edge)
        query = query.where(beyond)
    query = query.order_by(*(column.desc() for column in position) if backwards else position)
    recorded = [_Item(**row) for row in db.session.execute(query).mappings()]
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
        kind: literal_column(str(kind)).label("kind") for kind in (_STEP, _CALL)
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
            kinds[_STEP],
            AgentStep.step_number.label("number"),
            AgentStep.id.label("id"),
        )
        .outerjoin(first_call, first_call.c.message_id == AgentStep.message_id)
        .outerjoin(first_run, first_run.c.id == AgentStep.id)
        .where(AgentStep.agent_run_id == run.id),
        select(GatewayCall.started_at, kinds[_CALL], literal_column("0"), GatewayCall.request_id).where(
            *mine
        ),
    )


def _decode_position(cursor: str) -> tuple[datetime, int, int, str]:
    when, rest = decode_cursor(cursor)
    kind, _, rest = rest.partition(".")
    number, _, item_id = rest.partition(".")
    if kind not in ("0", "1", "2") or not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > INT32_MAX:
        raise Invalid("This page link is invalid. Open the run again.", code="bad_key", status=400)
    return when, int(kind), int(number), item_id


# -- the rows ------------------------------------------------------------------------------------------------


def _visible_run_ids(
    items: Sequence[_Item], relatives: Sequence[RunRelative], parents: Mapping[str, str | None]
) -> list[str]:
    """Return the ids of the spawned runs of a window, then of the first runs below them."""
    direct = [item.id for item in items if item.kind == _RUN]
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


@dataclass(frozen=True)
class _BilledCall:
    """A call and the credits charged for it."""

    call: GatewayCall
    credits: int


def _calls(account_id: str, items: Sequence[_Item]) -> dict[str, _BilledCall]:
    ids = [item.id for item in items if item.kind == _CALL]
    query = (
        select(GatewayCall, billed_credits())
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.request_id.in_(ids))
        .options(defer(GatewayCall.price))
    )
    return {call.request_id: _BilledCall(call, credits) for call, credits in db.session.execute(query)}


def _nested_calls(account_id: str, run_ids: Sequence[str]) -> dict[str, list[_BilledCall]]:
    """Return the first calls of each spawned run, one more than are shown."""
    found: dict[str, list[_BilledCall]] = {run_id: [] for run_id in run_ids}
    if not run_ids:
        return found
    run, early = aliased(AgentRun), aliased(GatewayCall)
    first = (
        select(early.request_id)
        .where(early.run_id == run.id)
        .order_by(early.started_at, early.request_id)
        .limit(_calls_per_run(run_ids) + 1)
        .lateral()
    )
    query = (
        select(GatewayCall, billed_credits())
        .select_from(run)
        .join(first, true())
        .join(GatewayCall, GatewayCall.request_id == first.c.request_id)
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        # The account is checked outside the lateral query: inside, the planner may read all its calls for each run.
        .where(run.account_id == account_id, run.id.in_(run_ids), GatewayCall.account_id == account_id)
        .order_by(GatewayCall.started_at, GatewayCall.request_id)
        .options(defer(GatewayCall.price))
    )
    for call, credits in db.session.execute(query):
        found[str(call.run_id)].append(_BilledCall(call, credits))
    return found


def _calls_per_run(run_ids: Sequence[str]) -> int:
    return max(2, MAX_NESTED_CALLS // len(run_ids))


def _steps(items: Sequence[_Item], run_id: str) -> dict[str, AgentStep]:
    """Return the steps of a window and the step before it, whose calls may continue in the window."""
    ids = [item.id for item in items if item.kind == _STEP]
    condition: ColumnElement[bool] = AgentStep.id.in_(ids)
    if items:
        before = (
            select(AgentStep.id)
            .where(
                AgentStep.agent_run_id == run_id, AgentStep.created_at < items[0].at, AgentStep.id.not_in(ids)
            )
            .order_by(AgentStep.created_at.desc(), AgentStep.step_number.desc())
            .limit(1)
        )
        condition = or_(condition, AgentStep.id.in_(before.scalar_subquery()))
    query = select(AgentStep).where(AgentStep.agent_run_id == run_id, condition)
    return {step.id: step for step in db.session.scalars(query)}


def _holds(account_id: str, run_ids: Iterable[str]) -> list[CreditHold]:
    """Return the live holds of these runs, one per call in flight."""
    query = select(CreditHold).where(
        CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.run_id.in_(list(run_ids))
    )
    return list(db.session.scalars(query.order_by(CreditHold.created_at).limit(WINDOW)))


@dataclass
class _Node:
    entry: TraceEntry
    children: list["_Node"] = field(default_factory=list)


class _WindowBuilder:
    """Builds the rows of a window, with calls and spawned runs below their step."""

    def __init__(
        self,
        account_id: str,
        summary: RunSummary,
        items: Sequence[_Item],
        members: Sequence[AgentRun],
        parents: Mapping[str, str | None],
        totals: Mapping[str, RunTotals],
        holds: Sequence[CreditHold],
        reader: str | None,
    ) -> None:
        self.summary, self.items, self.parents, self.totals = summary, items, parents, totals
        self.members = {member.id: member for member in members}
        self.calls = _calls(account_id, items)
        self.steps = _steps(items, summary.run.id)
        self.nested = _nested_calls(account_id, list(self.members))
        self.per_run = _calls_per_run(list(self.members)) if self.members else 0
        self.holds = holds
        shown = [*self.calls.values()]
        shown += [call for calls in self.nested.values() for call in calls[: self.per_run]]
        read = [each.call.request_id for each in shown if reader is None or each.call.user_id == reader]
        self.tools = tool_calls_of(account_id, read)
        self.step_starts = {item.id: item.at for item in items if item.kind == _STEP}

    def build(self, earlier: str | None, later: str | None) -> TraceWindow:
        top: list[_Node] = []
        by_step: dict[str, _Node] = {}
        children = self._children()
        for item in self.items:
            if item.kind == _STEP:
                node = _Node(self._step_entry(self.steps[item.id], item.at))
                by_step[item.id] = node
                top.append(node)
                continue
            step = self._step_of(item)
            depth = 2 if step else 1
            if item.kind == _CALL:
                node = self._call_node(self.calls[item.id], depth)
            else:
                node = self._run_node(item.id, depth, children)
            (by_step[step.id].children if step and step.id in by_step else top).append(node)
        if not later:
            top.extend(
                _Node(_hold_entry(hold, 1)) for hold in self.holds if hold.run_id == self.summary.run.id
            )
        for step_id, node in by_step.items():
            complete = not later or step_id != self._last_step()
            node.entry = replace(node.entry, credits=_total_credits(node.children) if complete else None)
        entries = [_run_entry(self.summary, 0), *(entry for node in top for entry in _flatten(node))]
        starts, ends = self._axis(entries[1:], earlier, later)
        return TraceWindow(entries, starts, ends, earlier, later)

    def _call_node(self, billed: _BilledCall, depth: int) -> _Node:
        node = _Node(_call_entry(billed, depth))
        tools = self.tools.get(billed.call.request_id, ())
        node.children = [
            _Node(self._tool_entry(each, billed.call, min(depth + 1, MAX_DEPTH))) for each in tools
        ]
        return node

    def _tool_entry(self, tool: ToolCall, call: GatewayCall, depth: int) -> TraceEntry:
        waiting = tool.ends is None and self.summary.live
        return TraceEntry(
            "tool", depth, tool.name, tool.preview, "open" if waiting else "done", 0, tool.starts,
            None if waiting else tool.ends or tool.starts, run_id=call.run_id, request_id=call.request_id, tool=tool.number,
        )  # fmt: skip

    def _last_step(self) -> str | None:
        return next((item.id for item in reversed(self.items) if item.kind == _STEP), None)

    def _axis(
        self, entries: Sequence[TraceEntry], earlier: str | None, later: str | None
    ) -> tuple[datetime, datetime]:
        run = self.summary.run
        end = run.created_at + timedelta(milliseconds=self.summary.duration_ms)
        starts = [entry.starts for entry in entries]
        ends = [entry.ends for entry in entries if entry.ends]
        first = min(starts, default=run.created_at) if earlier else run.created_at
        last = max([*ends, *starts], default=end) if later else max([*ends, *starts, end])
        return first, max(last, first + timedelta(milliseconds=1))

    def _step_entry(self, step: AgentStep, at: datetime) -> TraceEntry:
        state: State = (
            "skipped"
            if step.status == "skipped"
            else "open"
            if step.status == "running" and self.summary.live
            else "done"
        )
        return TraceEntry(
            "step",
            1,
            f"Step {step.step_number}",
            (step.error_message or "").strip(),
            "failed" if step.error_message else state,
            0,
            at,
            None if state == "open" else max(step.completed_at, at),
        )

    def _step_of(self, item: _Item) -> AgentStep | None:
        for step in self.steps.values():
            if item.kind == _RUN and item.id in (step.child_run_ids or ()):
                return step
            if (
                item.kind == _CALL
                and step.message_id
                and step.message_id == self.calls[item.id].call.message_id
            ):
                return step
        running = [
            step
            for step in self.steps.values()
            if self.step_starts.get(step.id, step.created_at) <= item.at <= step.completed_at
        ]
        return max(
            running,
            key=lambda step: (self.step_starts.get(step.id, step.created_at), -step.completed_at.timestamp()),
            default=None,
        )

    def _children(self) -> dict[str, list[str]]:
        """Return the ids of nested runs by parent, in order of their start."""
        children: dict[str, list[str]] = {}
        for member in sorted(self.members.values(), key=lambda member: (member.created_at, member.id)):
            parent = self.parents[member.id]
            if parent in self.members:
                children.setdefault(str(parent), []).append(member.id)
        return children

    def _run_node(
        self, run_id: str, depth: int, children: dict[str, list[str]], seen: frozenset[str] = frozenset()
    ) -> _Node:
        calls, totals = self.nested[run_id], self.totals.get(run_id, RunTotals())
        entry = _run_entry(RunSummary(self.members[run_id], totals, self.summary.viewed_at), depth)
        node = _Node(replace(entry, truncated=len(calls) > self.per_run))
        below = min(depth + 1, MAX_DEPTH)
        node.children.extend(self._call_node(call, below) for call in calls[: self.per_run])
        node.children.extend(_Node(_hold_entry(hold, below)) for hold in self.holds if hold.run_id == run_id)
        path = seen | {run_id}
        child_ids = [child for child in children.get(run_id, ()) if child not in path]
        node.children.extend(self._run_node(child, below, children, path) for child in child_ids)
        node.children.sort(key=lambda child: child.entry.starts)
        return node


def _run_entry(summary: RunSummary, depth: int) -> TraceEntry:
    run = summary.run
    states: dict[str, State] = {
        "running": "open",
        "completed": "done",
        "failed": "failed",
        "cancelled": "cancelled",
        "silent": "silent",
    }
    ends = None if summary.live else run.created_at + timedelta(milliseconds=summary.duration_ms)
    return TraceEntry(
        "run",
        depth,
        agent_name_of(run),
        run.agent_version or "",
        states[summary.state],
        summary.totals.all.credits,
        run.created_at,
        ends,
        run_id=run.id,
    )


def _call_entry(billed: _BilledCall, depth: int) -> TraceEntry:
    call = billed.call
    failed = call.state == "failed"
    ends = call.started_at + timedelta(milliseconds=max(0, call.latency_ms))
    first = None
    if call.ttft_ms is not None and not failed:
        first = min(ends, call.started_at + timedelta(milliseconds=max(0, call.ttft_ms)))
    return TraceEntry(
        "model",
        depth,
        call.model or call.requested_model,
        (call.error or "failed") if failed else "",
        "failed" if failed else "done",
        0 if failed else billed.credits,
        call.started_at,
        ends,
        first,
        call.run_id,
        call.request_id,
    )


def _hold_entry(hold: CreditHold, depth: int) -> TraceEntry:
    return TraceEntry("model", depth, hold.model, "in progress", "open", None, hold.created_at, None)


def _flatten(node: _Node) -> Iterable[TraceEntry]:
    yield replace(node.entry, parent=True) if node.children else node.entry
    for child in node.children:
        yield from _flatten(child)


def _total_credits(nodes: Sequence[_Node]) -> int:
    """Sum the credits of these nodes. A run's credits already include its descendants."""
    return sum(node.entry.credits or 0 for node in nodes)


def agent_name_of(run: AgentRun) -> str:
    """Return the agent's display name, never empty."""
    return (run.agent_name or run.agent_id).strip() or "unnamed agent"


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
