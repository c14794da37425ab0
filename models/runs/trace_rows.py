"""The rows of a trace: steps, calls, tool calls and spawned runs of a window, each below what it belongs to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.orm import aliased, defer

from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import CreditHold
from models.runs.history import RunSummary, encode_cursor
from models.runs.run import AgentRun, AgentStep, agent_name_of
from models.runs.run_totals import RunTotals, billed_credits
from models.runs.tool_calls import ToolCall, tool_calls_of
from models.usage import Message

MAX_NESTED_CALLS = 200
"""Maximum calls of spawned runs per page, shared among these runs."""
MAX_DEPTH = 4
STEP, RUN, CALL = 0, 1, 2
"""Kinds of `TraceItem`, in the order in which those of the same time are listed."""

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


@dataclass(frozen=True)
class TraceItem:
    """A step, call or spawned run of the run itself, at its place in the trace. `number` is that of a step."""

    at: datetime
    kind: int
    number: int
    id: str

    @property
    def position(self) -> tuple[datetime, int, int, str]:
        """Its sort key."""
        return self.at, self.kind, self.number, self.id

    @property
    def cursor(self) -> str:
        """Its position in a URL."""
        return encode_cursor(self.at, f"{self.kind}.{self.number}.{self.id}")


@dataclass(frozen=True)
class _BilledCall:
    """A call and the credits charged for it."""

    call: GatewayCall
    credits: int


def _calls(account_id: str, items: Sequence[TraceItem]) -> dict[str, _BilledCall]:
    ids = [item.id for item in items if item.kind == CALL]
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


def _steps(items: Sequence[TraceItem], run_id: str) -> dict[str, AgentStep]:
    """Return the steps of a window and the step before it, whose calls may continue in the window."""
    ids = [item.id for item in items if item.kind == STEP]
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


@dataclass
class _Node:
    entry: TraceEntry
    children: list["_Node"] = field(default_factory=list)


class WindowBuilder:
    """Builds the rows of a window, with calls and spawned runs below their step."""

    def __init__(
        self,
        account_id: str,
        summary: RunSummary,
        items: Sequence[TraceItem],
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
        self.step_starts = {item.id: item.at for item in items if item.kind == STEP}

    def build(self, earlier: str | None, later: str | None) -> TraceWindow:
        top: list[_Node] = []
        by_step: dict[str, _Node] = {}
        children = self._children()
        for item in self.items:
            if item.kind == STEP:
                node = _Node(self._step_entry(self.steps[item.id], item.at))
                by_step[item.id] = node
                top.append(node)
                continue
            step = self._step_of(item)
            depth = 2 if step else 1
            if item.kind == CALL:
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
        return next((item.id for item in reversed(self.items) if item.kind == STEP), None)

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

    def _step_of(self, item: TraceItem) -> AgentStep | None:
        for step in self.steps.values():
            if item.kind == RUN and item.id in (step.child_run_ids or ()):
                return step
            if (
                item.kind == CALL
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
