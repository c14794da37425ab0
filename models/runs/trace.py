"""One run as a table in the order of time: its steps, model calls and spawned runs, a bounded window of them.

Steps come from the client, calls from the gateway, and nothing ties them but ids that the client repeats
(`message_id`, `child_run_ids`) and the clock; where the ids say nothing, the time a call began decides.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

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

from models.billing import CreditHold
from models.db import db
from models.errors import Invalid
from models.gateway import GatewayCall
from models.runs.history import (
    SPENT,
    RunLine,
    RunSums,
    Spent,
    descends,
    opened,
    sealed,
    spent_columns,
    sums_of,
    text_array,
)
from models.runs.run import AgentRun, AgentStep

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
class Entry:
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
class Window:
    """A stretch of the trace. `earlier` and `later` are the keys of its neighbours."""

    entries: Sequence[Entry]
    starts: datetime
    ends: datetime
    earlier: str | None
    later: str | None


@dataclass
class Branch:
    """A run and the runs it spawned."""

    run: AgentRun
    sums: RunSums
    children: list["Branch"] = field(default_factory=list)


@dataclass(frozen=True)
class ModelSum:
    """What one model was used for in a run and all it spawned."""

    model: str
    spent: Spent


@dataclass(frozen=True)
class Trace:
    """What the page of a run shows below its head. `unlisted` spawned runs are left out of the tree; `held` are
    the credits set aside for calls in progress."""

    window: Window
    tree: Branch
    unlisted: int
    models: Sequence[ModelSum]
    held: int


def trace_of(
    user_id: str, line: RunLine, *, after: str | None = None, before: str | None = None, tail: bool = False
) -> Trace:
    """The trace of the user's run: the window after or before a key, the last one, or else the first.

    A fixed number of queries, each bounded. Raises Invalid for a key that did not come from here.
    """
    run = line.run
    spine, earlier, later = _spine(user_id, run, after, before, tail)
    family = _family(user_id, run.id)
    members = _members(user_id, [item.id for item in spine if item.kind == _RUN])
    known = {member.id: member for member in [*family, *members]}
    sums = sums_of(user_id, known) | {run.id: line.sums}
    held = _held(user_id, [run.id, *known]) if line.live else []
    window = _WindowBuilder(user_id, line, spine, members, sums, held).build(earlier, later)
    return Trace(
        window,
        nest(run, family, sums),
        max(0, line.sums.spawned - len(family)),
        _models(user_id, line),
        sum(hold.amount for hold in held),
    )


def nest(run: AgentRun, family: Iterable[AgentRun], sums: dict[str, RunSums]) -> Branch:
    """`run` with its descendants below their nearest ancestor that is here.

    A run whose parents are missing, and one that claims a circle, hangs on `run` itself; each is there once.
    """
    branches = {member.id: Branch(member, sums.get(member.id, RunSums())) for member in family}
    branches.pop(run.id, None)
    root = Branch(run, sums.get(run.id, RunSums()))
    parents = {
        member_id: next(
            (
                ancestor
                for ancestor in reversed(branch.run.ancestor_run_ids or [])
                if ancestor in branches and ancestor != member_id
            ),
            None,
        )
        for member_id, branch in branches.items()
    }
    for member_id, branch in branches.items():
        parent = parents[member_id]
        if parent is None or _circles(member_id, parents):
            parents[member_id] = None
            root.children.append(branch)
        else:
            branches[parent].children.append(branch)
    return root


def _circles(member_id: str, parents: dict[str, str | None]) -> bool:
    seen = {member_id}
    at = parents[member_id]
    while at is not None and at not in seen:
        seen.add(at)
        at = parents[at]
    return at is not None


# -- the spine: what the run did itself, in order --------------------------------------------------------------

_STEP, _RUN, _CALL = 0, 1, 2


@dataclass(frozen=True)
class _Item:
    at: datetime
    kind: int
    number: int
    id: str

    @property
    def key(self) -> str:
        return sealed(self.at, f"{self.kind}.{self.number}.{self.id}")


def _spine(
    user_id: str, run: AgentRun, after: str | None, before: str | None, tail: bool
) -> tuple[list[_Item], str | None, str | None]:
    items = _items(user_id, run).subquery("spine")
    place = (items.c.at, items.c.kind, items.c.number, items.c.id)
    backwards = bool(before) or (tail and not after)
    query: Select[Any] = select(*place).limit(WINDOW + 1)
    if before:
        query = query.where(tuple_(*place) < tuple_(*_place(before)))
    elif after:
        query = query.where(tuple_(*place) > tuple_(*_place(after)))
    query = query.order_by(*(column.desc() for column in place)) if backwards else query.order_by(*place)
    found = [_Item(*row) for row in db.session.execute(query)]
    more = len(found) > WINDOW
    found = found[:WINDOW]
    if backwards:
        found.reverse()
    if not found:
        return [], None, None
    has_earlier = more if backwards else bool(after)
    has_later = bool(before) if backwards else more
    return found, found[0].key if has_earlier else None, found[-1].key if has_later else None


def _items(user_id: str, run: AgentRun) -> Any:
    return union_all(
        select(
            _step_at(user_id, run).label("at"),
            literal_column(str(_STEP)).label("kind"),
            AgentStep.step_number.label("number"),
            AgentStep.id.label("id"),
        ).where(AgentStep.agent_run_id == run.id),
        select(AgentRun.created_at, literal_column(str(_RUN)), literal_column("0"), AgentRun.id).where(
            descends(AgentRun, user_id, run.id),
            or_(AgentRun.parent_run_id == run.id, _parentless(user_id, run.id)),
        ),
        select(
            GatewayCall.started_at, literal_column(str(_CALL)), literal_column("0"), GatewayCall.request_id
        ).where(GatewayCall.user_id == user_id, GatewayCall.run_id == run.id),
    )


def _step_at(user_id: str, run: AgentRun) -> Any:
    """When a step began: not after what it names as its own, not before its run, whatever its client's clock."""
    spawned = aliased(AgentRun)
    first_call = (
        select(func.min(GatewayCall.started_at))
        .where(
            GatewayCall.user_id == user_id,
            GatewayCall.run_id == run.id,
            GatewayCall.message_id == AgentStep.message_id,
        )
        .scalar_subquery()
    )
    first_run = (
        select(func.min(spawned.created_at))
        .where(spawned.user_id == user_id, spawned.id == any_(AgentStep.child_run_ids))
        .scalar_subquery()
    )
    return func.greatest(func.least(AgentStep.created_at, first_call, first_run), literal(run.created_at))


def _parentless(user_id: str, run_id: str) -> Any:
    """None of the ancestors a spawned run names, but `run_id`, is one of the runs below `run_id`."""
    between = aliased(AgentRun)
    return ~(
        select(between.id)
        .where(between.id == any_(AgentRun.ancestor_run_ids), descends(between, user_id, run_id))
        .exists()
    )


def _place(key: str) -> tuple[datetime, int, int, str]:
    when, rest = opened(key)
    kind, _, rest = rest.partition(".")
    number, _, item_id = rest.partition(".")
    if kind not in ("0", "1", "2") or not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > INT32_MAX:
        raise Invalid("This link into the trace is broken. Open the run again.", code="bad_key", status=400)
    return when, int(kind), int(number), item_id


# -- the rows ------------------------------------------------------------------------------------------------


def _family(user_id: str, run_id: str) -> list[AgentRun]:
    query = select(AgentRun).where(descends(AgentRun, user_id, run_id))
    return list(db.session.scalars(query.order_by(AgentRun.created_at, AgentRun.id).limit(FAMILY)))


def _members(user_id: str, run_ids: Sequence[str]) -> list[AgentRun]:
    """The spawned runs of a window, and those below them."""
    if not run_ids:
        return []
    ids = text_array([literal(run_id) for run_id in run_ids])
    among = or_(AgentRun.id.in_(run_ids), AgentRun.ancestor_run_ids.bool_op("&&")(ids))
    query = select(AgentRun).where(AgentRun.user_id == user_id, among)
    # the window's own come first, so that the bound cuts off what is nested, not what was asked for
    order = (AgentRun.id.in_(run_ids).desc(), AgentRun.created_at, AgentRun.id)
    return list(db.session.scalars(query.order_by(*order).limit(len(run_ids) + FAMILY)))


def _calls(user_id: str, spine: Sequence[_Item]) -> dict[str, GatewayCall]:
    ids = [item.id for item in spine if item.kind == _CALL]
    query = select(GatewayCall).where(GatewayCall.user_id == user_id, GatewayCall.request_id.in_(ids))
    return {call.request_id: call for call in db.session.scalars(query.options(defer(GatewayCall.price)))}


def _nested_calls(user_id: str, run_ids: Sequence[str]) -> dict[str, list[GatewayCall]]:
    """The first calls of each spawned run, one more than are shown."""
    found: dict[str, list[GatewayCall]] = {run_id: [] for run_id in run_ids}
    if not run_ids:
        return found
    run = aliased(AgentRun)
    first = (
        select(GatewayCall)
        .where(GatewayCall.user_id == user_id, GatewayCall.run_id == run.id)
        .order_by(GatewayCall.started_at, GatewayCall.request_id)
        .limit(_calls_each(run_ids) + 1)
        .lateral()
    )
    call = aliased(GatewayCall, first)
    query = (
        select(call).select_from(run).join(first, true()).where(run.user_id == user_id, run.id.in_(run_ids))
    )
    for one in db.session.scalars(query.order_by(call.started_at, call.request_id)):
        found[str(one.run_id)].append(one)
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


def _held(user_id: str, run_ids: Sequence[str]) -> list[CreditHold]:
    """Calls still in flight: a hold stands for each until it is settled."""
    query = select(CreditHold).where(
        CreditHold.user_id == user_id, CreditHold.state == "live", CreditHold.run_id.in_(run_ids)
    )
    return list(db.session.scalars(query.order_by(CreditHold.created_at).limit(WINDOW)))


@dataclass
class _Node:
    entry: Entry
    children: list["_Node"] = field(default_factory=list)


class _WindowBuilder:
    """Puts the rows of one window together: calls and spawned runs below the step they belong to."""

    def __init__(
        self,
        user_id: str,
        line: RunLine,
        spine: Sequence[_Item],
        members: Sequence[AgentRun],
        sums: dict[str, RunSums],
        held: Sequence[CreditHold],
    ) -> None:
        self.line, self.spine, self.sums = line, spine, sums
        self.members = {member.id: member for member in members}
        self.calls = _calls(user_id, spine)
        self.steps = _steps(spine, line.run.id)
        self.nested = _nested_calls(user_id, list(self.members))
        self.per_run = _calls_each(list(self.members)) if self.members else 0
        self.held = held
        self.begins = {item.id: item.at for item in spine if item.kind == _STEP}

    def build(self, earlier: str | None, later: str | None) -> Window:
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
        return Window(entries, starts, ends, earlier, later)

    def _last_step(self) -> str | None:
        return next((item.id for item in reversed(self.spine) if item.kind == _STEP), None)

    def _axis(
        self, entries: Sequence[Entry], earlier: str | None, later: str | None
    ) -> tuple[datetime, datetime]:
        run = self.line.run
        end = run.created_at + timedelta(milliseconds=self.line.duration_ms)
        starts = [entry.starts for entry in entries]
        ends = [entry.ends for entry in entries if entry.ends]
        first = min(starts, default=run.created_at) if earlier else run.created_at
        last = max([*ends, *starts], default=end) if later else max([*ends, *starts, end])
        return first, max(last, first + timedelta(milliseconds=1))

    def _head(self) -> Entry:
        return _run_entry(self.line.run, self.line.sums, 0, self.line.state, self.line)

    def _step(self, step: AgentStep, at: datetime) -> Entry:
        state: State = (
            "skipped" if step.status == "skipped" else "open" if step.status == "running" else "done"
        )
        return Entry(
            "step",
            1,
            f"Step {step.step_number}",
            (step.error_message or "").strip(),
            "failed" if step.error_message else state,
            0,
            at,
            None if state == "open" and self.line.live else max(step.completed_at, at),
        )

    def _step_of(self, item: _Item) -> AgentStep | None:
        for step in self.steps.values():
            if item.kind == _RUN and item.id in (step.child_run_ids or ()):
                return step
            if item.kind == _CALL and step.message_id and step.message_id == self.calls[item.id].message_id:
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
        spine = {item.id for item in self.spine if item.kind == _RUN}
        for member in sorted(self.members.values(), key=lambda member: (member.created_at, member.id)):
            if member.id in spine:
                continue
            nearest = next((a for a in reversed(member.ancestor_run_ids or []) if a in self.members), None)
            if nearest:
                below.setdefault(nearest, []).append(member.id)
        return below

    def _run(
        self, run_id: str, depth: int, below: dict[str, list[str]], seen: frozenset[str] = frozenset()
    ) -> _Node:
        member = self.members[run_id]
        calls = self.nested[run_id]
        line = RunLine(member, self.sums.get(run_id, RunSums()), self.line.seen_at)
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


def _run_entry(run: AgentRun, sums: RunSums, depth: int, state: str, line: RunLine) -> Entry:
    states: dict[str, State] = {
        "running": "open",
        "completed": "done",
        "failed": "failed",
        "cancelled": "cancelled",
        "silent": "silent",
    }
    ends = None if line.live else run.created_at + timedelta(milliseconds=line.duration_ms)
    return Entry(
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


def _call_entry(call: GatewayCall, depth: int) -> Entry:
    failed = call.state == "failed"
    ends = call.started_at + timedelta(milliseconds=max(0, call.latency_ms))
    first = None
    if call.ttft_ms is not None and not failed:
        first = min(ends, call.started_at + timedelta(milliseconds=max(0, call.ttft_ms)))
    return Entry(
        "model",
        depth,
        call.model or call.requested_model,
        (call.error or "failed") if failed else "",
        "failed" if failed else "done",
        0 if failed else call.credits,
        call.started_at,
        ends,
        first,
        call.run_id,
        call.request_id,
    )


def _hold(hold: CreditHold, depth: int) -> Entry:
    return Entry("model", depth, hold.model, "in progress", "open", None, hold.created_at, None)


def _flat(node: _Node) -> Iterable[Entry]:
    yield node.entry
    for child in node.children:
        yield from _flat(child)


def _sum(nodes: Sequence[_Node]) -> int:
    """What calls and whole spawned runs cost; a run's sum holds what is below it."""
    return sum(node.entry.credits or 0 for node in nodes)


def name_of(run: AgentRun) -> str:
    """The agent's name, for people: never empty."""
    return (run.agent_name or run.agent_id).strip() or "unnamed agent"


def _models(user_id: str, line: RunLine) -> list[ModelSum]:
    """Tokens and cost by model, dearest first, the rest as one; the sum is the head's."""
    members = select(AgentRun.id).where(descends(AgentRun, user_id, line.run.id))
    name = func.coalesce(GatewayCall.model, GatewayCall.requested_model)
    columns = spent_columns()
    query = (
        select(name.label("model"), *columns)
        .where(
            GatewayCall.user_id == user_id,
            or_(GatewayCall.run_id == line.run.id, GatewayCall.run_id.in_(members)),
        )
        .group_by(name)
        .order_by(func.sum(GatewayCall.micro_credits).desc(), name)
        .limit(MODELS)
    )
    found = [
        ModelSum(row["model"], Spent(**{part: row[part] for part in SPENT}))
        for row in db.session.execute(query).mappings()
    ]
    rest = line.sums.all
    for model in found:
        rest = rest - model.spent
    return [*found, ModelSum("", rest)] if rest.calls > 0 else found
