"""The runs of a person, newest first, with what each cost: everything here starts from the viewer's id.

Ancestor ids are the client's claim. A run is part of another one only when both are the viewer's.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    RowMapping,
    Select,
    Text,
    and_,
    cast,
    func,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import InstrumentedAttribute, aliased

from models.db import BigInt, db, now
from models.errors import Invalid, NotFound
from models.gateway import GatewayCall
from models.runs.run import AgentRun, AgentStep

PAGE_SIZE = 25
QUIET_AFTER = timedelta(hours=24)
"""A run still called running is shown as silent when nothing was heard of it for so long."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs to list. Without `spawned` only those that no other run of the viewer spawned."""

    agent: str = ""
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    spawned: bool = False

    @property
    def narrows(self) -> bool:
        """Whether it leaves anything out that a plain list shows."""
        return bool(self.agent or self.status or self.since or self.until)


@dataclass(frozen=True)
class Spent:
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

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(**{name: getattr(self, name) + getattr(other, name) for name in SPENT})

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(**{name: getattr(self, name) - getattr(other, name) for name in SPENT})


SPENT = tuple(part.name for part in fields(Spent))


@dataclass(frozen=True)
class RunSums:
    """What a run did itself (`own`), what it and all it spawned did (`all`), and when it was last heard of."""

    own: Spent = field(default_factory=Spent)
    all: Spent = field(default_factory=Spent)
    steps: int = 0
    spawned: int = 0
    spawned_failed: int = 0
    last_news: datetime | None = None


@dataclass(frozen=True)
class RunLine:
    """A run with its sums, as lists and heads of pages show it."""

    run: AgentRun
    sums: RunSums
    seen_at: datetime

    @property
    def last_news(self) -> datetime:
        """The last moment anything was heard of the run: its start, a step, a call, a spawned run."""
        return max(self.run.created_at, self.sums.last_news or self.run.created_at)

    @property
    def state(self) -> str:
        """The run's status, or `silent` for one called running of which nothing was heard for a day."""
        if self.run.status == "running" and self.seen_at - self.last_news > QUIET_AFTER:
            return "silent"
        return self.run.status

    @property
    def live(self) -> bool:
        """Whether more is to be expected, so that a page should look again."""
        return self.state == "running"

    @property
    def duration_ms(self) -> int:
        """How long the run took; so far, for a running one; up to the last news, for a silent one."""
        if self.run.completed_at is not None:
            return max(0, _ms(self.run.completed_at - self.run.created_at))
        return max(0, _ms((self.seen_at if self.live else self.last_news) - self.run.created_at))


@dataclass(frozen=True)
class RunPage:
    """One page of runs; `next` is the key of the page that follows, None on the last."""

    lines: Sequence[RunLine]
    next: str | None


def run_of(user_id: str, run_id: str) -> AgentRun:
    """The user's run. Raises NotFound, also for somebody else's."""
    run = db.session.scalar(select(AgentRun).where(AgentRun.user_id == user_id, AgentRun.id == _text(run_id)))
    if run is None:
        raise NotFound("There is no such run here")
    return run


def line_of(user_id: str, run_id: str) -> RunLine:
    """The user's run with its sums. Raises NotFound."""
    run = run_of(user_id, run_id)
    return RunLine(run, sums_of(user_id, [run.id])[run.id], now())


def parent_of(user_id: str, run: AgentRun) -> AgentRun | None:
    """The run that spawned `run`, when it is the user's, too."""
    if run.parent_run_id is None:
        return None
    query = select(AgentRun).where(AgentRun.user_id == user_id, AgentRun.id == run.parent_run_id)
    return db.session.scalar(query.where(AgentRun.id != run.id))


def runs_of(user_id: str, chosen: RunFilter, after: str | None = None, limit: int = PAGE_SIZE) -> RunPage:
    """A page of the user's runs, newest first, after the key `after`. Three queries, whatever their number.

    Raises Invalid for a key that this function did not make.
    """
    query = select(AgentRun).where(AgentRun.user_id == user_id, *_conditions(user_id, chosen))
    if after:
        query = query.where(tuple_(AgentRun.created_at, AgentRun.id) < tuple_(*opened(after)))
    query = query.order_by(AgentRun.created_at.desc(), AgentRun.id.desc()).limit(limit + 1)
    runs = db.session.scalars(query).all()
    shown = runs[:limit]
    sums = sums_of(user_id, [run.id for run in shown])
    moment = now()
    lines = [RunLine(run, sums[run.id], moment) for run in shown]
    return RunPage(lines, sealed(shown[-1].created_at, shown[-1].id) if len(runs) > limit else None)


def agents_of(user_id: str, limit: int = 50) -> list[str]:
    """The names of the agents of the user's latest runs, most used first, for suggestions."""
    latest = (
        select(AgentRun.agent_name)
        .where(AgentRun.user_id == user_id)
        .order_by(AgentRun.created_at.desc())
        .limit(1000)
        .subquery()
    )
    name = latest.c.agent_name
    ranked = select(name).where(name != "").group_by(name).order_by(func.count().desc(), name).limit(limit)
    return [str(found) for found in db.session.scalars(ranked)]


def has_runs(user_id: str) -> bool:
    """Whether the user ever started a run."""
    return db.session.scalar(select(AgentRun.id).where(AgentRun.user_id == user_id).limit(1)) is not None


def sums_of(user_id: str, run_ids: Iterable[str]) -> dict[str, RunSums]:
    """The sums of the user's runs, in one query whatever their number. Ids of others get nil."""
    ids = sorted(set(run_ids))
    sums = {run_id: RunSums() for run_id in ids}
    if ids:
        for row in db.session.execute(_sums_query(user_id, ids)).mappings():
            sums[row["top"]] = _added(sums[row["top"]], row)
    return sums


def _sums_query(user_id: str, ids: Sequence[str]) -> Select[Any]:
    top, member = aliased(AgentRun), aliased(AgentRun)
    columns = (member.id, member.status, member.created_at, member.completed_at)
    itself = select(member.id.label("top"), *columns).where(member.user_id == user_id, member.id.in_(ids))
    spawned = (
        select(top.id.label("top"), *columns)
        .join(member, descends(member, user_id, top.id))
        .where(top.user_id == user_id, top.id.in_(ids))
    )
    family = itself.union_all(spawned).subquery("family")
    calls = (
        select(*spent_columns(), func.max(GatewayCall.finished_at).label("last"))
        .where(GatewayCall.user_id == user_id, GatewayCall.run_id == family.c.id)
        .lateral("calls")
    )
    steps = (
        select(func.count().label("steps"), func.max(AgentStep.completed_at).label("last"))
        .where(AgentStep.agent_run_id == family.c.id)
        .lateral("steps")
    )
    own = family.c.id == family.c.top
    last = func.greatest(family.c.created_at, family.c.completed_at, calls.c.last, steps.c.last)
    return (
        select(
            family.c.top,
            own.label("own"),
            func.count().label("runs"),
            func.count().filter(family.c.status == "failed").label("runs_failed"),
            cast(func.sum(steps.c.steps), BigInt).label("steps"),
            func.max(last).label("last_news"),
            *(
                func.sum(calls.c[name]).label(name)
                if name == "cost"
                else cast(func.sum(calls.c[name]), BigInt).label(name)
                for name in SPENT
            ),
        )
        .select_from(family)
        .join(calls, true())
        .join(steps, true())
        .group_by(family.c.top, own)
    )


def _added(sums: RunSums, row: RowMapping) -> RunSums:
    spent = Spent(**{name: row[name] for name in SPENT})
    known = [moment for moment in (sums.last_news, row["last_news"]) if moment]
    if row["own"]:
        sums = replace(sums, own=spent, steps=row["steps"])
    else:
        sums = replace(sums, spawned=row["runs"], spawned_failed=row["runs_failed"])
    return replace(sums, all=sums.all + spent, last_news=max(known, default=None))


def spent_columns() -> list[ColumnElement[Any]]:
    """The columns of `Spent`, summed over the calls of a query."""
    summed = [
        func.coalesce(func.sum(getattr(GatewayCall, name)), 0).label(name)
        for name in SPENT
        if name not in ("calls", "failed")
    ]
    failed = func.count().filter(GatewayCall.state == "failed").label("failed")
    return [func.count().label("calls"), failed, *summed]


def text_array(items: Sequence[ColumnElement[str] | InstrumentedAttribute[str]]) -> ColumnElement[Any]:
    """A text[] of expressions; the driver would make it varchar[], which no operator compares with text[]."""
    return cast(array(items), ARRAY(Text))


def descends(
    member: type[AgentRun], user_id: str, run_id: str | InstrumentedAttribute[str]
) -> ColumnElement[bool]:
    """`member` is the user's and names `run_id` among its ancestors. Somebody else's claim is not seen."""
    named = text_array([literal(run_id) if isinstance(run_id, str) else run_id])
    return and_(member.user_id == user_id, member.ancestor_run_ids.bool_op("@>")(named), member.id != run_id)


def _conditions(user_id: str, chosen: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if chosen.agent:
        conditions.append(AgentRun.agent_id.icontains(chosen.agent, autoescape=True))
    if chosen.status:
        conditions.append(AgentRun.status == chosen.status)
    if chosen.since:
        conditions.append(AgentRun.created_at >= chosen.since)
    if chosen.until:
        conditions.append(AgentRun.created_at < chosen.until)
    if not chosen.spawned:
        parent = aliased(AgentRun)
        conditions.append(
            ~select(parent.id).where(parent.id == AgentRun.parent_run_id, parent.user_id == user_id).exists()
        )
    return conditions


def sealed(when: datetime, rest: str) -> str:
    """A keyset key as a URL carries it."""
    return base64.urlsafe_b64encode(f"{when.isoformat()} {rest}".encode()).decode().rstrip("=")


def opened(key: str) -> tuple[datetime, str]:
    """What `sealed` put in. Raises Invalid (400) for a key it did not make."""
    try:
        moment, _, rest = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)).decode().partition(" ")
        when = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise _broken_link() from None
    if when.tzinfo is None or "\x00" in rest:
        raise _broken_link()
    return when, rest


def _broken_link() -> Invalid:
    return Invalid("This link into the list is broken. Open the list again.", code="bad_key", status=400)


def _ms(span: timedelta) -> int:
    return int(span / timedelta(milliseconds=1))


def _text(value: str) -> str:
    return value.replace("\x00", "")
