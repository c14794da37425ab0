"""One run as a table in the order of time: its steps, model calls and spawned runs, a bounded window of them.

Steps come from the client, calls from the gateway, and nothing ties them but ids that the client repeats
(`message_id`, `child_run_ids`) and the clock; where the ids say nothing, the time a call began decides.
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
from models.runs.history import RunLine, opened, run_of, sealed
from models.runs.run import AgentRun, AgentStep
from models.runs.run_totals import (
    RunCost,
    RunRelatives,
    RunTotals,
    added_up,
    billed,
    kin_of,
    spent_columns,
    spent_of,
    text_array,
)
from models.usage import Message

INT32_MAX = 2**31 - 1
WINDOW = 200
"""Steps, calls and spawned runs of the run itself on one page."""
FAMILY = 200
"""Spawned runs in the tree of a run."""
NESTED_CALLS = 200
"""Calls of spawned runs on one page, shared among them."""
DEEPEST = 4
MODELS = 8

Kind = Literal["run", "step", "model"]
State = Literal["done", "failed", "open", "cancelled", "skipped", "silent"]


@dataclass(frozen=True)
class TraceEntry:
    """A row of the trace. `credits` are what the ledger billed, None where it is not known on this page.

    `starts`, `first_token` and `ends` are moments; an open row has no end. `more` marks a spawned run that has
    more calls than are shown.
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
    more: bool = False

    def took_ms(self, seen_at: datetime) -> int:
        """How long it took, or has been going on when it is looked at."""
        return max(0, int(((self.ends or seen_at) - self.starts) / timedelta(milliseconds=1)))


@dataclass(frozen=True)
class TraceWindow:
    """A stretch of the trace. `earlier` and `later` are the keys of its neighbours."""

    entries: Sequence[TraceEntry]
    starts: datetime
    ends: datetime
    earlier: str | None
    later: str | None


@dataclass
class TraceBranch:
    """A run and the runs it spawned."""

    run: AgentRun
    sums: RunTotals
    children: list["TraceBranch"] = field(default_factory=list)


@dataclass(frozen=True)
class ModelTotals:
    """What one model was used for in a run and all it spawned."""

    model: str
    spent: RunCost


@dataclass(frozen=True)
class Trace:
    """What the page of a run shows: its head (`line`), a window, the tree, models. `unlisted` spawned runs are left out of the tree; `held` are
    the credits set aside for calls in progress."""

    line: RunLine
    window: TraceWindow
    tree: TraceBranch
    unlisted: int
    models: Sequence[ModelTotals]
    held: int


def trace_of(
    account_id: str,
    run_id: str,
    *,
    after: str | None = None,
    before: str | None = None,
    tail: bool | None = None,
) -> Trace:
    """The trace of the account's run: the window after or before a key, the last one (`tail`), or else the first.
    `tail` None: the last one while the run goes on.

    A fixed number of queries. Raises NotFound, also for somebody else's run; Invalid for a key not made here.
    """
    run = run_of(account_id, run_id)
    kin = kin_of(account_id, [run.id])
    sums = added_up(account_id, kin, [member.id for member in kin])
    line = RunLine(run, sums[run.id], now())
    parents = hang(run.id, kin)
    direct = [member for member in kin if member.id in parents and parents[member.id] is None]
    tail = line.live if tail is None else tail
    spine, earlier, later = _spine(account_id, run, direct, after, before, tail)
    listed = [member.id for member in kin if member.id in parents][:FAMILY]
    shown = _shown(spine, kin, parents)
    runs = _runs(account_id, {*listed, *shown})
    held = _held(account_id, sums) if line.live else []
    window = _WindowBuilder(account_id, line, spine, [runs[run_id] for run_id in shown], parents, sums, held)
    return Trace(
        line,
        window.build(earlier, later),
        nest(run, [runs[run_id] for run_id in listed], sums),
        len(parents) - len(listed),
        _models(account_id, line.sums.all, list(sums)),
        sum(hold.amount for hold in held),
    )


class _HasAncestors(Protocol):
    @property
    def id(self) -> Any: ...
    @property
    def ancestor_run_ids(self) -> Any: ...


def hang(run_id: str, family: Iterable[_HasAncestors]) -> dict[str, str | None]:
    """For each descendant of `run_id` the nearest ancestor that is in the family, None where it is `run_id`.

    A run whose parents are missing, and one that claims a circle, hangs on `run_id` itself.
    """
    ancestors = {member.id: member.ancestor_run_ids or () for member in family if member.id != run_id}
    parents: dict[str, str | None] = {}
    for member_id, above in ancestors.items():
        near = (one for one in reversed(above) if one in ancestors and one != member_id)
        parents[member_id] = next(near, None)
    for member_id in parents:
        if _circles(member_id, parents):
            parents[member_id] = None
    return parents


def _circles(member_id: str, parents: Mapping[str, str | None]) -> bool:
    seen = {member_id}
    at = parents[member_id]
    while at is not None and at not in seen:
        seen.add(at)
        at = parents[at]
    return at is not None


def nest(run: AgentRun, family: Iterable[AgentRun], sums: Mapping[str, RunTotals]) -> TraceBranch:
    """`run` with its descendants below their nearest ancestor; each is there once."""
    members = {member.id: TraceBranch(member, sums.get(member.id, RunTotals())) for member in family}
    root = TraceBranch(run, sums.get(run.id, RunTotals()))
    for member_id, parent in hang(run.id, [branch.run for branch in members.values()]).items():
        (members[parent] if parent else root).children.append(members[member_id])
    return root


# -- the spine: what the run did itself, in order --------------------------------------------------------------

_STEP, _RUN, _CALL = 0, 1, 2


@dataclass(frozen=True)
class _Item:
    at: datetime
    kind: int
    number: int
    id: str

    @property
    def place(self) -> tuple[datetime, int, int, str]:
        return self.at, self.kind, self.number, self.id

    @property
    def key(self) -> str:
        return sealed(self.at, f"{self.kind}.{self.number}.{self.id}")


def _spine(
    account_id: str,
    run: AgentRun,
    direct: Sequence[RunRelatives],
    after: str | None,
    before: str | None,
    tail: bool,
) -> tuple[list[_Item], str | None, str | None]:
    """A window of the run's own steps and calls and of the runs it spawned, in order, and its neighbours' keys."""
    backwards = bool(before) or (tail and not after)
    edge = _place(before or after or "") if before or after else None
    spawned = [_Item(member.created_at, _RUN, 0, member.id) for member in direct]
    if edge:
        spawned = [item for item in spawned if (item.place < edge if before else item.place > edge)]
    items = _items(account_id, run).subquery("spine")
    place = (items.c.at, items.c.kind, items.c.number, items.c.id)
    query: Select[Any] = select(*place).limit(WINDOW + 1)
    if edge:
        query = query.where(tuple_(*place) < tuple_(*edge) if before else tuple_(*place) > tuple_(*edge))
    query = query.order_by(*(column.desc() for column in place)) if backwards else query.order_by(*place)
    recorded = [_Item(**row) for row in db.session.execute(query).mappings()]
    found = sorted([*spawned, *recorded], key=lambda item: item.place, reverse=backwards)
    more = len(found) > WINDOW
    found = found[:WINDOW]
    if backwards:
        found.reverse()
    if not found:
        return [], None, None
    has_earlier = more if backwards else bool(after)
    has_later = bool(before) if backwards else more
    return found, found[0].key if has_earlier else None, found[-1].key if has_later else None


def _items(account_id: str, run: AgentRun) -> Any:
    kinds: dict[int, ColumnElement[int]] = {
        kind: literal_column(str(kind)).label("kind") for kind in (_STEP, _CALL)
    }
    mine = (GatewayCall.account_id == account_id, GatewayCall.run_id == run.id)
    # What a step names as its own was not there before it: its client's clock may say otherwise. Materialized,
    # since on young statistics the planner would run these once for each step.
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
    begun = func.least(AgentStep.created_at, first_call.c.at, first_run.c.at)
    return union_all(
        select(
            func.greatest(begun, literal(run.created_at)).label("at"),
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


def _place(key: str) -> tuple[datetime, int, int, str]:
    when, rest = opened(key)
    kind, _, rest = rest.partition(".")
    number, _, item_id = rest.partition(".")
    if kind not in ("0", "1", "2") or not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > INT32_MAX:
        raise Invalid("This link into the trace is broken. Open the run again.", code="bad_key", status=400)
    return when, int(kind), int(number), item_id


# -- the rows ------------------------------------------------------------------------------------------------


def _shown(
    spine: Sequence[_Item], kin: Sequence[RunRelatives], parents: Mapping[str, str | None]
) -> list[str]:
    """The spawned runs of a window, then the first of those below them."""
    own = [item.id for item in spine if item.kind == _RUN]
    inside = set(own)
    below = []
    for member in kin:
        above = parents.get(member.id)
        while above is not None and above not in inside:
            above = parents[above]
        if above is not None and member.id not in inside:
            below.append(member.id)
    return [*own, *below[:FAMILY]]


def _runs(account_id: str, run_ids: Iterable[str]) -> dict[str, AgentRun]:
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id.in_(run_ids))
    return {run.id: run for run in db.session.scalars(query)}


@dataclass(frozen=True)
class _Called:
    """A call and what the ledger took for it."""

    call: GatewayCall
    billed: int


def _calls(account_id: str, spine: Sequence[_Item]) -> dict[str, _Called]:
    ids = [item.id for item in spine if item.kind == _CALL]
    query = (
        select(GatewayCall, billed())
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.request_id.in_(ids))
        .options(defer(GatewayCall.price))
    )
    return {call.request_id: _Called(call, credits) for call, credits in db.session.execute(query)}


def _nested_calls(account_id: str, run_ids: Sequence[str]) -> dict[str, list[_Called]]:
    """The first calls of each spawned run, one more than are shown."""
    found: dict[str, list[_Called]] = {run_id: [] for run_id in run_ids}
    if not run_ids:
        return found
    run, early = aliased(AgentRun), aliased(GatewayCall)
    first = (
        select(early.request_id)
        .where(early.run_id == run.id)
        .order_by(early.started_at, early.request_id)
        .limit(_calls_each(run_ids) + 1)
        .lateral()
    )
    query = (
        select(GatewayCall, billed())
        .select_from(run)
        .join(first, true())
        .join(GatewayCall, GatewayCall.request_id == first.c.request_id)
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        # the account is checked out here: inside, the planner may read all its calls for each run
        .where(run.account_id == account_id, run.id.in_(run_ids), GatewayCall.account_id == account_id)
        .order_by(GatewayCall.started_at, GatewayCall.request_id)
        .options(defer(GatewayCall.price))
    )
    for call, credits in db.session.execute(query):
        found[str(call.run_id)].append(_Called(call, credits))
    return found


def _calls_each(run_ids: Sequence[str]) -> int:
    return max(2, NESTED_CALLS // len(run_ids))


def _steps(spine: Sequence[_Item], run_id: str) -> dict[str, AgentStep]:
    """The steps of a window, and the one before it: its calls may go on in this one."""
    ids = [item.id for item in spine if item.kind == _STEP]
    wanted: ColumnElement[bool] = AgentStep.id.in_(ids)
    if spine:
        before = (
            select(AgentStep.id)
            .where(
                AgentStep.agent_run_id == run_id, AgentStep.created_at < spine[0].at, AgentStep.id.not_in(ids)
            )
            .order_by(AgentStep.created_at.desc(), AgentStep.step_number.desc())
            .limit(1)
        )
        wanted = or_(wanted, AgentStep.id.in_(before.scalar_subquery()))
    query = select(AgentStep).where(AgentStep.agent_run_id == run_id, wanted)
    return {step.id: step for step in db.session.scalars(query)}


def _held(account_id: str, run_ids: Iterable[str]) -> list[CreditHold]:
    """Calls still in flight: a hold stands for each until it is settled."""
    query = select(CreditHold).where(
        CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.run_id.in_(list(run_ids))
    )
    return list(db.session.scalars(query.order_by(CreditHold.created_at).limit(WINDOW)))


@dataclass
class _Node:
    entry: TraceEntry
    children: list["_Node"] = field(default_factory=list)


class _WindowBuilder:
    """Puts the rows of one window together: calls and spawned runs below the step they belong to."""

    def __init__(
        self,
        account_id: str,
        line: RunLine,
        spine: Sequence[_Item],
        members: Sequence[AgentRun],
        parents: Mapping[str, str | None],
        sums: Mapping[str, RunTotals],
        held: Sequence[CreditHold],
    ) -> None:
        self.line, self.spine, self.parents, self.sums = line, spine, parents, sums
        self.members = {member.id: member for member in members}
        self.calls = _calls(account_id, spine)
        self.steps = _steps(spine, line.run.id)
        self.nested = _nested_calls(account_id, list(self.members))
        self.per_run = _calls_each(list(self.members)) if self.members else 0
        self.held = held
        self.begins = {item.id: item.at for item in spine if item.kind == _STEP}

    def build(self, earlier: str | None, later: str | None) -> TraceWindow:
        top: list[_Node] = []
        by_step: dict[str, _Node] = {}
        below = self._below()
        for item in self.spine:
            if item.kind == _STEP:
                node = _Node(self._step(self.steps[item.id], item.at))
                by_step[item.id] = node
                top.append(node)
                continue
            step = self._step_of(item)
            depth = 2 if step else 1
            node = self._call(item.id, depth) if item.kind == _CALL else self._run(item.id, depth, below)
            (by_step[step.id].children if step and step.id in by_step else top).append(node)
        if not later:
            top.extend(_Node(_hold(hold, 1)) for hold in self.held if hold.run_id == self.line.run.id)
        for step_id, node in by_step.items():
            whole = not later or step_id != self._last_step()
            node.entry = replace(node.entry, credits=_sum(node.children) if whole else None)
        entries = [self._head(), *(entry for node in top for entry in _flat(node))]
        starts, ends = self._axis(entries[1:], earlier, later)
        return TraceWindow(entries, starts, ends, earlier, later)

    def _last_step(self) -> str | None:
        return next((item.id for item in reversed(self.spine) if item.kind == _STEP), None)

    def _axis(
        self, entries: Sequence[TraceEntry], earlier: str | None, later: str | None
    ) -> tuple[datetime, datetime]:
        run = self.line.run
        end = run.created_at + timedelta(milliseconds=self.line.duration_ms)
        starts = [entry.starts for entry in entries]
        ends = [entry.ends for entry in entries if entry.ends]
        first = min(starts, default=run.created_at) if earlier else run.created_at
        last = max([*ends, *starts], default=end) if later else max([*ends, *starts, end])
        return first, max(last, first + timedelta(milliseconds=1))

    def _head(self) -> TraceEntry:
        return _run_entry(self.line.run, self.line.sums, 0, self.line.state, self.line)

    def _step(self, step: AgentStep, at: datetime) -> TraceEntry:
        state: State = (
            "skipped"
            if step.status == "skipped"
            else "open"
            if step.status == "running" and self.line.live
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
        at_the_time = [
            step
            for step in self.steps.values()
            if self.begins.get(step.id, step.created_at) <= item.at <= step.completed_at
        ]
        return max(
            at_the_time,
            key=lambda step: (self.begins.get(step.id, step.created_at), -step.completed_at.timestamp()),
            default=None,
        )

    def _call(self, request_id: str, depth: int) -> _Node:
        return _Node(_call_entry(self.calls[request_id], depth))

    def _below(self) -> dict[str, list[str]]:
        """The nested runs by the run they hang on, in order of their start."""
        below: dict[str, list[str]] = {}
        for member in sorted(self.members.values(), key=lambda member: (member.created_at, member.id)):
            parent = self.parents[member.id]
            if parent in self.members:
                below.setdefault(str(parent), []).append(member.id)
        return below

    def _run(
        self, run_id: str, depth: int, below: dict[str, list[str]], seen: frozenset[str] = frozenset()
    ) -> _Node:
        member = self.members[run_id]
        calls = self.nested[run_id]
        line = RunLine(member, self.sums.get(run_id, RunTotals()), self.line.seen_at)
        entry = _run_entry(member, line.sums, depth, line.state, line)
        node = _Node(replace(entry, more=len(calls) > self.per_run))
        deeper = min(depth + 1, DEEPEST)
        node.children.extend(_Node(_call_entry(call, deeper)) for call in calls[: self.per_run])
        node.children.extend(_Node(_hold(hold, deeper)) for hold in self.held if hold.run_id == run_id)
        path = seen | {run_id}
        node.children.extend(
            self._run(child, deeper, below, path) for child in below.get(run_id, ()) if child not in path
        )
        node.children.sort(key=lambda child: child.entry.starts)
        return node


def _run_entry(run: AgentRun, sums: RunTotals, depth: int, state: str, line: RunLine) -> TraceEntry:
    states: dict[str, State] = {
        "running": "open",
        "completed": "done",
        "failed": "failed",
        "cancelled": "cancelled",
        "silent": "silent",
    }
    ends = None if line.live else run.created_at + timedelta(milliseconds=line.duration_ms)
    return TraceEntry(
        "run",
        depth,
        name_of(run),
        run.agent_version or "",
        states[state],
        sums.all.credits,
        run.created_at,
        ends,
        run_id=run.id,
    )


def _call_entry(called: _Called, depth: int) -> TraceEntry:
    call = called.call
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
        0 if failed else called.billed,
        call.started_at,
        ends,
        first,
        call.run_id,
        call.request_id,
    )


def _hold(hold: CreditHold, depth: int) -> TraceEntry:
    return TraceEntry("model", depth, hold.model, "in progress", "open", None, hold.created_at, None)


def _flat(node: _Node) -> Iterable[TraceEntry]:
    yield node.entry
    for child in node.children:
        yield from _flat(child)


def _sum(nodes: Sequence[_Node]) -> int:
    """What calls and whole spawned runs cost; a run's sum holds what is below it."""
    return sum(node.entry.credits or 0 for node in nodes)


def name_of(run: AgentRun) -> str:
    """The agent's name, for people: never empty."""
    return (run.agent_name or run.agent_id).strip() or "unnamed agent"


def _models(account_id: str, every: RunCost, run_ids: Sequence[str]) -> list[ModelTotals]:
    """Tokens and cost by model, dearest first, the rest as one; the sum is `every`."""
    name = func.coalesce(GatewayCall.model, GatewayCall.requested_model)
    query = (
        select(name.label("model"), *spent_columns())
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.run_id == any_(text_array(run_ids)))
        .group_by(name)
        .order_by(func.sum(GatewayCall.micro_credits).desc(), name)
        .limit(MODELS)
    )
    found = [ModelTotals(row["model"], spent_of(row)) for row in db.session.execute(query).mappings()]
    rest = every
    for model in found:
        rest = rest - model.spent
    return [*found, ModelTotals("", rest)] if rest.calls > 0 else found
