"""Usage and cost of runs, alone and including spawned runs, summed from their settled calls.

Ancestor ids are reported by clients. They count only between runs of the same account.
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
    """Usage of model calls. `credits` are billed by the ledger, `cost` is in dollars. Token counts are disjoint, but
    `output_tokens` includes `reasoning_tokens`."""

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
        """Total tokens, each counted once."""
        return (
            self.uncached_input_tokens + self.cache_write_tokens + self.cache_read_tokens + self.output_tokens
        )

    def __add__(self, other: "RunCost") -> "RunCost":
        return RunCost(**{name: getattr(self, name) + getattr(other, name) for name in USAGE_FIELDS})

    def __sub__(self, other: "RunCost") -> "RunCost":
        return RunCost(**{name: getattr(self, name) - getattr(other, name) for name in USAGE_FIELDS})


USAGE_FIELDS = tuple(each.name for each in fields(RunCost))

_IDS = cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Text))


@dataclass(frozen=True)
class RunTotals:
    """Totals of a run: its own usage (`own`), usage including spawned runs (`all`), and its latest activity."""

    own: RunCost = field(default_factory=RunCost)
    all: RunCost = field(default_factory=RunCost)
    steps: int = 0
    spawned: int = 0
    spawned_failed: int = 0
    last_activity: datetime | None = None


def totals_of(account_id: str, run_ids: Iterable[str]) -> dict[str, RunTotals]:
    """Return the totals of the account's runs by id, in three queries. Totals of unknown ids are zero."""
    ids = set(run_ids)
    return add_up(account_id, relatives_of(account_id, ids), ids) if ids else {}


@dataclass(frozen=True)
class RunRelative:
    """The columns of a run that its place in the run tree and its totals depend on."""

    id: str
    ancestor_run_ids: Sequence[str]
    status: str
    created_at: datetime
    completed_at: datetime | None


def relatives_of(account_id: str, run_ids: Collection[str]) -> list[RunRelative]:
    """Return the account's runs with these ids and all their descendants, in order of their start."""
    found = db.session.execute(_relatives(), {"account": account_id, "ids": list(run_ids)})
    return [
        RunRelative(run.id, run.ancestor_run_ids or (), run.status, run.created_at, run.completed_at)
        for run in found
    ]


# The statements are cached: building them takes longer than running them.


@cache
def _relatives() -> Select[*tuple[Any, ...]]:
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
def _usage() -> Select[*tuple[Any, ...]]:
    query = select(GatewayCall.run_id, *usage_columns(), func.max(GatewayCall.finished_at).label("last"))
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


def add_up(
    account_id: str, relatives: Iterable[RunRelative], run_ids: Collection[str]
) -> dict[str, RunTotals]:
    """Return the totals of `run_ids`. `relatives` must contain these runs and all their descendants."""
    members = {member.id: member for member in relatives}
    usage, last_call = _usage_by_run(account_id, members)
    steps = _steps_by_run(members)
    totals = {run_id: RunTotals() for run_id in run_ids}
    for member in members.values():
        count, last_step = steps.get(member.id, (0, None))
        activity = (member.created_at, member.completed_at, last_call.get(member.id), last_step)
        own = RunTotals(
            own=usage.get(member.id, RunCost()),
            all=usage.get(member.id, RunCost()),
            steps=count,
            last_activity=max(moment for moment in activity if moment),
        )
        for run_id in {member.id, *member.ancestor_run_ids}:
            if run_id in totals:
                totals[run_id] = _merged(totals[run_id], own, member, itself=run_id == member.id)
    return totals


def _merged(totals: RunTotals, part: RunTotals, member: RunRelative, *, itself: bool) -> RunTotals:
    activity = (totals.last_activity, part.last_activity)
    return RunTotals(
        own=part.own if itself else totals.own,
        all=totals.all + part.all,
        steps=part.steps if itself else totals.steps,
        spawned=totals.spawned + (not itself),
        spawned_failed=totals.spawned_failed + (not itself and member.status == "failed"),
        last_activity=max((moment for moment in activity if moment), default=None),
    )


def _usage_by_run(
    account_id: str, run_ids: Collection[str]
) -> tuple[dict[str, RunCost], dict[str, datetime | None]]:
    parameters = {"account": account_id, "ids": list(run_ids)}
    rows = db.session.execute(_usage(), parameters).mappings().all()
    return {row["run_id"]: usage_from(row) for row in rows}, {row["run_id"]: row["last"] for row in rows}


def _steps_by_run(run_ids: Collection[str]) -> dict[str, tuple[int, datetime]]:
    rows = db.session.execute(_steps(), {"ids": list(run_ids)})
    return {row.agent_run_id: (row.steps, row.last) for row in rows}


def usage_from(row: RowMapping) -> RunCost:
    """Return the `RunCost` of a row with `usage_columns`."""
    return RunCost(**{name: row[name] for name in USAGE_FIELDS})


def usage_columns() -> list[ColumnElement[Any]]:
    """Return the columns of `RunCost`, summed over the calls of a query that outer-joins `Message`."""
    sums = [
        cast(
            func.sum(billed_credits() if name == "credits" else getattr(GatewayCall, name)),
            Numeric if name == "cost" else BigInt,
        ).label(name)
        for name in USAGE_FIELDS
        if name not in ("calls", "failed")
    ]
    failed = func.count().filter(GatewayCall.state == "failed").label("failed")
    return [func.count().label("calls"), failed, *sums]


def billed_credits() -> ColumnElement[int]:
    """Return the credits charged for a call, zero if the user's own provider key paid. Needs an outer join of `Message`."""
    return case((Message.byok, 0), else_=GatewayCall.credits)


def text_array(items: Iterable[str]) -> ColumnElement[Any]:
    """Cast values to text[]. The driver would send varchar[], which cannot be compared with text[]."""
    return cast(list(items), ARRAY(Text))
