"""The runs of an account, newest first, with what each cost: everything here starts from the account that is looked at.

Ancestor ids are the client's claim. A run is part of another one only when both are the account's.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, any_, func, select, tuple_
from sqlalchemy.orm import aliased

from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.runs.run import AgentRun
from models.runs.run_totals import RunTotals, sums_of, text_array

PAGE_SIZE = 25
QUIET_AFTER = timedelta(hours=24)
"""A run still called running is shown as silent when nothing was heard of it for so long."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs to list. Without `spawned` only those that no other run of the account spawned."""

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
class RunLine:
    """A run with its sums, as lists and heads of pages show it."""

    run: AgentRun
    sums: RunTotals
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


def run_of(account_id: str, run_id: str) -> AgentRun:
    """The account's run. Raises NotFound, also for somebody else's."""
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id == run_id)
    run = None if "\x00" in run_id else db.session.scalar(query)
    if run is None:
        raise NotFound("There is no such run here")
    return run


def line_of(account_id: str, run_id: str) -> RunLine:
    """The account's run with its sums. Raises NotFound."""
    run = run_of(account_id, run_id)
    return RunLine(run, sums_of(account_id, [run.id])[run.id], now())


def parent_of(account_id: str, run: AgentRun) -> AgentRun | None:
    """The run that spawned `run`, when it is the account's, too."""
    if run.parent_run_id is None:
        return None
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id == run.parent_run_id)
    return db.session.scalar(query.where(AgentRun.id != run.id))


def runs_of(account_id: str, chosen: RunFilter, after: str | None = None, limit: int = PAGE_SIZE) -> RunPage:
    """A page of the account's runs, newest first, after the key `after`. Four queries, whatever their number;
    one more for a part of an agent's name.

    Raises Invalid for a key that this function did not make.
    """
    query = select(AgentRun).where(AgentRun.account_id == account_id, *_conditions(account_id, chosen))
    if after:
        query = query.where(tuple_(AgentRun.created_at, AgentRun.id) < tuple_(*opened(after)))
    query = query.order_by(AgentRun.created_at.desc(), AgentRun.id.desc()).limit(limit + 1)
    runs = db.session.scalars(query).all()
    shown = runs[:limit]
    sums = sums_of(account_id, [run.id for run in shown])
    moment = now()
    lines = [RunLine(run, sums[run.id], moment) for run in shown]
    return RunPage(lines, sealed(shown[-1].created_at, shown[-1].id) if len(runs) > limit else None)


def agents_of(account_id: str, limit: int = 50) -> Sequence[str]:
    """The names of the agents of the account's latest 1,000 runs, most used first, for suggestions."""
    names = select(AgentRun.agent_name.label("name")).where(AgentRun.account_id == account_id)
    latest = names.order_by(AgentRun.created_at.desc()).limit(1000).subquery("latest")
    query = select(latest.c.name).where(latest.c.name != "").group_by(latest.c.name)
    return db.session.scalars(query.order_by(func.count().desc(), latest.c.name).limit(limit)).all()


def has_runs(account_id: str) -> bool:
    """Whether the account ever started a run."""
    return (
        db.session.scalar(select(AgentRun.id).where(AgentRun.account_id == account_id).limit(1)) is not None
    )


def _agents_named(account_id: str, part: str) -> Sequence[str]:
    """The agents of the account's runs whose id has `part` in it, in whatever case.

    Goes from one agent to the next by the index, however many runs each has: an account has few agents and may have a
    million runs.
    """
    first = select(func.min(AgentRun.agent_id).label("id")).where(AgentRun.account_id == account_id)
    agents = first.cte("agents", recursive=True)
    following = first.where(AgentRun.agent_id > agents.c.id).correlate(agents).scalar_subquery()
    agents = agents.union_all(select(following).where(agents.c.id.is_not(None)))
    query = select(agents.c.id).where(func.strpos(func.lower(agents.c.id), func.lower(part)) > 0)
    return db.session.scalars(query).all()


def _conditions(account_id: str, chosen: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if chosen.agent:
        conditions.append(AgentRun.agent_id == any_(text_array(_agents_named(account_id, chosen.agent))))
    if chosen.status:
        conditions.append(AgentRun.status == chosen.status)
    if chosen.since:
        conditions.append(AgentRun.created_at >= chosen.since)
    if chosen.until:
        conditions.append(AgentRun.created_at < chosen.until)
    if not chosen.spawned:
        parent = aliased(AgentRun)
        conditions.append(
            ~select(parent.id)
            .where(parent.id == AgentRun.parent_run_id, parent.account_id == account_id)
            .exists()
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
