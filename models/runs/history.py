"""Queries for an account's runs and their totals, always scoped to the account.

Ancestor ids are reported by clients. They count only between runs of the same account.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, any_, func, select, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute, aliased

from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.runs.run import AgentRun, agent_name_of
from models.runs.run_totals import RunTotals, text_array, totals_of

PAGE_SIZE = 25
MOST_AGENTS = 50
"""Agents of which the list reads the first runs of each; of more it tests every run, since it finds some soon."""
SILENT_AFTER = timedelta(hours=24)
"""A running run without activity for this long is shown as silent."""

SORTS: dict[str, InstrumentedAttribute[Any] | None] = {
    "newest": None,
    "dearest": AgentRun.settled_credits,
    "longest": AgentRun.duration_ms,
}
"""Sorts of the list, from the most to the least, and by start among equals. The longest are runs that ended."""


@dataclass(frozen=True)
class RunFilter:
    """Filters of the run list. Without `spawned`, runs that another run of the account spawned are left out; with `user_id`, all
    but this member's."""

    agent: str = ""
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    spawned: bool = False
    user_id: str = ""
    tag: str = ""
    sort: str = "newest"


@dataclass(frozen=True)
class RunSummary:
    """A run with its totals, for lists and page headers."""

    run: AgentRun
    totals: RunTotals
    viewed_at: datetime

    @property
    def last_activity(self) -> datetime:
        """Time of the latest activity: start, step, call or spawned run."""
        return max(self.run.created_at, self.totals.last_activity or self.run.created_at)

    @property
    def state(self) -> str:
        """The run's status, or `silent` for a running run without activity for a day."""
        if self.run.status == "running" and self.viewed_at - self.last_activity > SILENT_AFTER:
            return "silent"
        return self.run.status

    @property
    def live(self) -> bool:
        """Whether the run is still active, so pages should poll."""
        return self.state == "running"

    @property
    def duration_ms(self) -> int:
        """Duration in milliseconds: until now for a live run, until the last activity for a silent one."""
        if self.run.completed_at is not None:
            return max(0, _ms(self.run.completed_at - self.run.created_at))
        return max(0, _ms((self.viewed_at if self.live else self.last_activity) - self.run.created_at))


@dataclass(frozen=True)
class RunPage:
    """One page of runs. `next` is the cursor of the next page, None on the last."""

    runs: Sequence[RunSummary]
    next: str | None


def run_of(account_id: str, run_id: str, *, user_id: str = "") -> AgentRun:
    """Return the account's run. Raises NotFound, also for another account's run, and with `user_id` for another member's."""
    run = find_run(account_id, run_id, user_id=user_id)
    if run is None:
        raise NotFound("There is no such run here")
    return run


def find_run(account_id: str, run_id: str, *, user_id: str = "") -> AgentRun | None:
    """Return the account's run, with `user_id` only if it is that member's, or None."""
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id == run_id)
    if user_id:
        query = query.where(AgentRun.user_id == user_id)
    return None if "\x00" in run_id else db.session.scalar(query)


def summary_of(account_id: str, run_id: str, *, user_id: str = "") -> RunSummary:
    """Return the account's run with its totals. Raises NotFound as `run_of`."""
    run = run_of(account_id, run_id, user_id=user_id)
    return RunSummary(run, totals_of(account_id, [run.id])[run.id], now())


def parent_of(account_id: str, run: AgentRun) -> AgentRun | None:
    """Return the run that spawned `run`, if it belongs to the same account."""
    if run.parent_run_id is None:
        return None
    query = select(AgentRun).where(AgentRun.account_id == account_id, AgentRun.id == run.parent_run_id)
    return db.session.scalar(query.where(AgentRun.id != run.id))


def starter_of(run: AgentRun) -> User | None:
    """Return the person or service account that started the run."""
    return db.session.get(User, run.user_id) if run.user_id else None


def runs_of(account_id: str, filter: RunFilter, after: str | None = None, limit: int = PAGE_SIZE) -> RunPage:
    """Return a page of the account's runs in the filter's order, after the cursor `after`.

    Runs four queries, plus one to filter by agent. Raises Invalid for a malformed cursor.
    """
    column = SORTS[filter.sort]
    position = (*([] if column is None else [column]), AgentRun.created_at, AgentRun.id)
    query = select(AgentRun).where(AgentRun.account_id == account_id, *_conditions(account_id, filter))
    if column is AgentRun.duration_ms:
        query = query.where(AgentRun.duration_ms.is_not(None))
    if after:
        query = query.where(tuple_(*position) < tuple_(*_decode_position(after, sorted=column is not None)))
    query = query.order_by(*(each.desc() for each in position)).limit(limit + 1)
    if filter.agent:
        query = _of_agents(query, _agents_matching(account_id, filter.agent), position, limit + 1)
    runs = db.session.scalars(query).all()
    page = runs[:limit]
    totals = totals_of(account_id, [run.id for run in page])
    moment = now()
    summaries = [RunSummary(run, totals[run.id], moment) for run in page]
    return RunPage(summaries, _cursor(page[-1], column) if len(runs) > limit else None)


def _of_agents(
    query: Select[AgentRun], agents: Sequence[str], position: Sequence[InstrumentedAttribute[Any]], limit: int
) -> Select[AgentRun]:
    """Narrow a query to agents: it reads the first rows of each by an index that begins with account and agent. A condition on the
    agent alone can lead past all dearer runs of others."""
    if len(agents) > MOST_AGENTS:
        return query.where(AgentRun.agent_id == any_(text_array(agents)))
    agent = func.unnest(text_array(agents)).table_valued("id", name="agent").render_derived()
    of_one = query.with_only_columns(AgentRun.id).where(AgentRun.agent_id == agent.c.id).lateral("of_one")
    run = aliased(AgentRun)
    joined = select(run).select_from(agent.join(of_one, true())).join(run, run.id == of_one.c.id)
    return joined.order_by(*(getattr(run, each.key).desc() for each in position)).limit(limit)


def _cursor(last: AgentRun, column: InstrumentedAttribute[Any] | None) -> str:
    number = "" if column is None else f"{getattr(last, column.key)}~"
    return encode_cursor(last.created_at, number + last.id)


def _decode_position(cursor: str, *, sorted: bool) -> tuple[Any, ...]:
    when, rest = decode_cursor(cursor)
    if not sorted:
        return when, rest
    number, _, run_id = rest.partition("~")
    if not re.fullmatch(r"-?[0-9]{1,18}", number):
        raise _broken_link()
    return int(number), when, run_id


def agents_of_runs(account_id: str, run_ids: Sequence[str]) -> dict[str, str]:
    """The name of the agent of each of these runs that is the account's."""
    # with a condition on the account too, a prepared statement reads all its runs: the plan is made for an account of average size
    found = db.session.scalars(select(AgentRun).where(AgentRun.id.in_(run_ids)))
    return {run.id: agent_name_of(run) for run in found if (run.org_id or run.user_id) == account_id}


def agents_of(account_id: str, limit: int = 50, *, user_id: str = "") -> Sequence[str]:
    """List agent names from the account's latest 1,000 runs, most used first, for suggestions; with `user_id` the member's."""
    names = select(AgentRun.agent_name.label("name")).where(AgentRun.account_id == account_id)
    if user_id:
        names = names.where(AgentRun.user_id == user_id)
    latest = names.order_by(AgentRun.created_at.desc()).limit(1000).subquery("latest")
    query = select(latest.c.name).where(latest.c.name != "").group_by(latest.c.name)
    return db.session.scalars(query.order_by(func.count().desc(), latest.c.name).limit(limit)).all()


def has_runs(account_id: str) -> bool:
    """Whether the account has any run."""
    return (
        db.session.scalar(select(AgentRun.id).where(AgentRun.account_id == account_id).limit(1)) is not None
    )


def _agents_matching(account_id: str, part: str) -> Sequence[str]:
    """Return the ids of the account's agents that contain `part`, ignoring case.

    A loose index scan from agent to agent, because an account has few agents but may have millions of runs.
    """
    first = select(func.min(AgentRun.agent_id).label("id")).where(AgentRun.account_id == account_id)
    agents = first.cte("agents", recursive=True)
    following = first.where(AgentRun.agent_id > agents.c.id).correlate(agents).scalar_subquery()
    agents = agents.union_all(select(following).where(agents.c.id.is_not(None)))
    query = select(agents.c.id).where(func.strpos(func.lower(agents.c.id), func.lower(part)) > 0)
    return db.session.scalars(query).all()


def _conditions(account_id: str, filter: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filter.user_id:
        conditions.append(AgentRun.user_id == filter.user_id)
    if filter.tag:
        conditions.append(AgentRun.tags.bool_op("@>")(text_array([filter.tag])))
    if filter.status:
        conditions.append(AgentRun.status == filter.status)
    if filter.since:
        conditions.append(AgentRun.created_at >= filter.since)
    if filter.until:
        conditions.append(AgentRun.created_at < filter.until)
    if not filter.spawned:
        parent = aliased(AgentRun)
        conditions.append(
            ~select(parent.id)
            .where(parent.id == AgentRun.parent_run_id, parent.account_id == account_id)
            .exists()
        )
    return conditions


def encode_cursor(when: datetime, rest: str) -> str:
    """Encode a keyset cursor for a URL."""
    return base64.urlsafe_b64encode(f"{when.isoformat()} {rest}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Decode a cursor of `encode_cursor`. Raises Invalid (400) for a malformed one."""
    try:
        moment, _, rest = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        when = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise _broken_link() from None
    if when.tzinfo is None or "\x00" in rest:
        raise _broken_link()
    return when, rest


def _broken_link() -> Invalid:
    return Invalid("This page link is invalid. Open the list again.", code="bad_key", status=400)


def _ms(span: timedelta) -> int:
    return int(span / timedelta(milliseconds=1))
