"""What runs did and cost, own and with all they spawned, added up from the calls that were settled for them.

Ancestor ids are the client's claim. A run is part of another one only when both are the account's.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Numeric,
    RowMapping,
    Select,
    Text,
    any_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
)

from models.core.db import BigInt, db
from models.gateway import GatewayCall
from models.runs.run import AgentRun, AgentStep
from models.usage import Message


@dataclass(frozen=True)
class RunCost:
    """What model calls took. `credits` are what the ledger billed, `cost` dollars; the token buckets are disjoint
    but for `reasoning_tokens`, which are part of the output."""

    calls: int = 0
    failed: int = 0
    uncached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    latency_ms: int = 0
    cost: Decimal = Decimal(0)
    credits: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, each counted once."""
        return (
            self.uncached_input_tokens + self.cache_write_tokens + self.cache_read_tokens + self.output_tokens
        )

    def __add__(self, other: "RunCost") -> "RunCost":
        return RunCost(**{name: getattr(self, name) + getattr(other, name) for name in SPENT})

    def __sub__(self, other: "RunCost") -> "RunCost":
        return RunCost(**{name: getattr(self, name) - getattr(other, name) for name in SPENT})


SPENT = tuple(part.name for part in fields(RunCost))

_IDS = cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Text))


@dataclass(frozen=True)
class RunTotals:
    """What a run did itself (`own`), what it and all it spawned did (`all`), and when it was last heard of."""

    own: RunCost = field(default_factory=RunCost)
    all: RunCost = field(default_factory=RunCost)
    steps: int = 0
    spawned: int = 0
    spawned_failed: int = 0
    last_news: datetime | None = None


def sums_of(account_id: str, run_ids: Iterable[str]) -> dict[str, RunTotals]:
    """The sums of the account's runs, in three queries whatever their number. Ids of others get nil."""
    ids = set(run_ids)
    return added_up(account_id, kin_of(account_id, ids), ids) if ids else {}


@dataclass(frozen=True)
class RunRelatives:
    """As much of a run as its place in a family and its part of the sums need."""

    id: str
    ancestor_run_ids: Sequence[str]
    status: str
    created_at: datetime
    completed_at: datetime | None


def kin_of(account_id: str, run_ids: Collection[str]) -> list[RunRelatives]:
    """The account's runs of these ids and all that name one of them among their ancestors, in order of their start.

    Somebody else's claim is not seen.
    """
    found = db.session.execute(_kin(), {"account": account_id, "ids": list(run_ids)})
    return [
        RunRelatives(run.id, run.ancestor_run_ids or (), run.status, run.created_at, run.completed_at)
        for run in found
    ]


# Put together once: that takes longer than asking.


@cache
def _kin() -> Select[*tuple[Any, ...]]:
    columns = (
        AgentRun.id,
        AgentRun.ancestor_run_ids,
        AgentRun.status,
        AgentRun.created_at,
        AgentRun.completed_at,
    )
    spawned = AgentRun.ancestor_run_ids.bool_op("&&")(_IDS)
    query = select(*columns).where(
        AgentRun.account_id == bindparam("account"), or_(AgentRun.id == any_(_IDS), spawned)
    )
    return query.order_by(AgentRun.created_at, AgentRun.id)


@cache
def _spent() -> Select[*tuple[Any, ...]]:
    query = select(GatewayCall.run_id, *spent_columns(), func.max(GatewayCall.finished_at).label("last"))
    return (
        query.outerjoin(Message, Message.id == GatewayCall.message_id)
        .where(GatewayCall.account_id == bindparam("account"), GatewayCall.run_id == any_(_IDS))
        .group_by(GatewayCall.run_id)
    )


@cache
def _steps() -> Select[*tuple[Any, ...]]:
    last = func.max(AgentStep.completed_at)
    query = select(AgentStep.agent_run_id, func.count().label("steps"), last.label("last"))
    return query.where(AgentStep.agent_run_id == any_(_IDS)).group_by(AgentStep.agent_run_id)


def added_up(account_id: str, kin: Iterable[RunRelatives], run_ids: Collection[str]) -> dict[str, RunTotals]:
    """The sums of `run_ids` over `kin`, which holds them and all they spawned."""
    members = {member.id: member for member in kin}
    spent, last_call = _spent_by_run(account_id, members)
    steps = _steps_by_run(members)
    sums = {run_id: RunTotals() for run_id in run_ids}
    for member in members.values():
        count, last_step = steps.get(member.id, (0, None))
        news = (member.created_at, member.completed_at, last_call.get(member.id), last_step)
        own = RunTotals(
            own=spent.get(member.id, RunCost()),
            all=spent.get(member.id, RunCost()),
            steps=count,
            last_news=max(moment for moment in news if moment),
        )
        for top in {member.id, *member.ancestor_run_ids}:
            if top in sums:
                sums[top] = _joined(sums[top], own, member, itself=top == member.id)
    return sums


def _joined(sums: RunTotals, part: RunTotals, member: RunRelatives, *, itself: bool) -> RunTotals:
    return RunTotals(
        own=part.own if itself else sums.own,
        all=sums.all + part.all,
        steps=part.steps if itself else sums.steps,
        spawned=sums.spawned + (not itself),
        spawned_failed=sums.spawned_failed + (not itself and member.status == "failed"),
        last_news=max((moment for moment in (sums.last_news, part.last_news) if moment), default=None),
    )


def _spent_by_run(
    account_id: str, run_ids: Collection[str]
) -> tuple[dict[str, RunCost], dict[str, datetime | None]]:
    words = {"account": account_id, "ids": list(run_ids)}
    rows = db.session.execute(_spent(), words).mappings().all()
    return {row["run_id"]: spent_of(row) for row in rows}, {row["run_id"]: row["last"] for row in rows}


def _steps_by_run(run_ids: Collection[str]) -> dict[str, tuple[int, datetime]]:
    rows = db.session.execute(_steps(), {"ids": list(run_ids)})
    return {row.agent_run_id: (row.steps, row.last) for row in rows}


def spent_of(row: RowMapping) -> RunCost:
    """The `RunCost` of a row that `spent_columns` made."""
    return RunCost(**{name: row[name] for name in SPENT})


def spent_columns() -> list[ColumnElement[Any]]:
    """The columns of `RunCost`, summed over the calls of a query that outer-joins `Message`."""
    summed = [
        cast(
            func.sum(billed() if name == "credits" else getattr(GatewayCall, name)),
            Numeric if name == "cost" else BigInt,
        ).label(name)
        for name in SPENT
        if name not in ("calls", "failed")
    ]
    failed = func.count().filter(GatewayCall.state == "failed").label("failed")
    return [func.count().label("calls"), failed, *summed]


def billed() -> ColumnElement[int]:
    """What the ledger took for a call: nothing where the caller's own provider key paid. Outer-join `Message`."""
    return case((Message.byok, 0), else_=GatewayCall.credits)


def text_array(items: Iterable[str]) -> ColumnElement[Any]:
    """A text[] of values; the driver would make it varchar[], which no operator compares with text[]."""
    return cast(list(items), ARRAY(Text))
