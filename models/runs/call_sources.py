"""Where a search for calls reads: one index of calls or messages that one filter of the search selects, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)

from models.gateway import GatewayCall
from models.ledger.message import Message
from models.runs.call_order import NEWEST, Columns, Cursor, Execute, Query, descending, follows

NONE = "none"
"""The value of a filter for calls without a key, agent, run, team or repository."""

SCAN = 10_000
"""Calls that one page looks through, and that totals add up."""
MESSAGE_SCAN = 1_000
"""As SCAN, where the message of each call is read too."""
PROBE = 2_000
"""Calls up to which the number that a filter selects is counted, to choose the filter that selects the fewest."""

DEAR = 5_000_000
"""Micro-credits of a call from which an index has it: most calls cost less, and need not pay for it when they settle."""

# as in the indexes idx_gateway_call_faulty and idx_gateway_call_cost, so that every plan uses them
_FAULTY = text(
    "(gateway_call.state = 'failed' OR gateway_call.error IS NOT NULL OR gateway_call.http_status <> 200)"
)
_DEAR = text(f"gateway_call.micro_credits >= {DEAR}")


@dataclass(frozen=True)
class CallFilter:
    """Which calls: those that finished in `start <= t < end`, with these values where not None. `agent` is an agent id with or
    without its version; `error` is a part of the code or the message of the error, ignoring case, `code` the whole code as in reports
    of usage; `above` is in micro-credits. `text` is a part of the last
    message or of the answer, ignoring case, searched in the calls of `reader` only if that is not empty. `user_id`, if not empty,
    leaves only this member's calls. `sort` is the order of a list (`call_order`)."""

    start: datetime | None = None
    end: datetime | None = None
    model: str | None = None
    provider: str | None = None
    key: str | None = None
    agent: str | None = None
    run: str | None = None
    member: str | None = None
    team: str | None = None
    repository: str | None = None
    state: str | None = None
    status: int | None = None
    error: str | None = None
    code: str | None = None
    above: int | None = None
    text: str = ""
    reader: str = ""
    user_id: str = ""
    sort: str = NEWEST

    @property
    def tests(self) -> list[str]:
        """The names of the filters in use, time and text excepted."""
        names = [name for name in _NAMES if getattr(self, name) is not None]
        # a member who may see their own calls only, and asks for those of another
        return [*names, "owner"] if self.owner and self.owner != self.member else names

    @property
    def owner(self) -> str:
        """The one member whose calls may be found; empty: all."""
        return self.user_id or (self.reader if self.text else "")

    def tests_beyond(self, source: str) -> bool:
        """Whether the calls of a source must be tested for other filters than its own."""
        inexact = source == "faulty" or (source == "agent" and "@" in (self.agent or ""))
        return inexact or any(name != source for name in self.tests)

    @property
    def reads_messages(self) -> bool:
        """Whether the message of every call must be read, or what is kept of a failed one."""
        return any(
            getattr(self, name) is not None for name in ("agent", "team", "repository", "above", "error")
        )


_NAMES = (
    "run", "key", "model", "provider", "state", "status", "error", "code", "above", "agent", "team", "repository", "member",
)  # fmt: skip


@dataclass(frozen=True)
class CallSource:
    """A query for calls by one index, in the order of the list, and how many of them to look through; `name` is its filter. `whole`: a
    source of few calls, not in order. `merged`: in order but for calls with the same cost and time. `failed`: only failed ones of these
    are meant. `rows`: what to count instead of the query."""

    name: str
    query: Query
    scan: int
    whole: bool = False
    merged: bool = False
    failed: bool = False
    rows: Query | None = None

    def first(self, count: int) -> Query:
        """Its first calls, with those that equal the last."""
        return self.query.fetch(count, with_ties=True) if self.merged else self.query.limit(count)

    def narrowed(self, filter: CallFilter) -> CallFilter:
        """The filter of the calls that are looked through."""
        return replace(filter, state="failed") if self.failed else filter


def call_model(c: Columns) -> ColumnElement[str]:
    """The model that a call used, or asked for if it used none."""
    return func.coalesce(c.model, c.requested_model)


def agent_of(m: Columns, r: Columns) -> ColumnElement[str]:
    """The agent of a call: that of its message, of a failed call that of its run."""
    return func.coalesce(m.agent_id, r.agent_id)


def sources_of(
    account_id: str, filter: CallFilter, after: Cursor | None, execute: Execute
) -> list[CallSource]:
    """The sources that together have all calls that can match, newest first: of the filters with an index, that which selects the
    fewest. One query to choose if there are several."""
    choices = choices_of(account_id, filter, after)
    chosen = choices[0]
    if len(choices) > 1:
        counts = [count_of(choice, PROBE) for choice in choices]
        found = execute(select(*counts))[0]
        fewest = min(
            found[index] for index, choice in enumerate(choices) if not choice.whole or found[index] < PROBE
        )
        chosen = next(choice for choice, count in zip(choices, found, strict=True) if count == fewest)
    if chosen.name == "agent" and filter.state != "settled":
        # failed calls have no message; their agent is that of their run
        return [chosen, replace(_calls("faulty", account_id, filter, after, _FAULTY), failed=True)]
    return [chosen]


def most_scanned(filter: CallFilter) -> int:
    """The number of calls that a page looks through."""
    return MESSAGE_SCAN if filter.reads_messages else SCAN


def count_of(choice: CallSource, most: int) -> Any:
    """The number of calls of a source, at most `most`."""
    query = choice.query if choice.rows is None else choice.rows
    rows = query.with_only_columns(literal(1)).order_by(None).limit(most)
    return select(func.count()).select_from(rows.subquery()).scalar_subquery()


def choices_of(account_id: str, filter: CallFilter, after: Cursor | None) -> list[CallSource]:
    """The sources by each filter that has an index; by time alone if there is none."""
    found: list[CallSource] = []

    def add(name: str, *conditions: Any) -> None:
        found.append(_calls(name, account_id, filter, after, *conditions))

    if _named(filter.run):
        add("run", GatewayCall.run_id == filter.run)
    if _named(filter.key):
        add("key", GatewayCall.key_id == filter.key)
    if filter.model is not None:
        add("model", call_model(GatewayCall) == filter.model)
    if filter.provider is not None:
        add("provider", GatewayCall.provider == filter.provider)
    if (
        filter.state == "failed"
        or filter.error is not None
        or filter.code is not None
        or filter.status not in (None, 200)
    ):
        add("faulty", _FAULTY)
    for name, member in (("owner", filter.owner), ("member", filter.member)):
        if member and member != account_id:
            add(name, GatewayCall.user_id == member, GatewayCall.user_id != GatewayCall.account_id)
    for name, condition in _message_conditions(filter):
        if filter.state != "failed":
            found.append(_messages(name, account_id, filter, after, condition))
    if filter.above is not None and filter.above >= DEAR:
        above = _calls("above", account_id, filter, after, GatewayCall.micro_credits > filter.above, _DEAR)
        found.append(CallSource("above", above.query.order_by(None).limit(PROBE), PROBE, whole=True))
    if not found or found[0].whole:
        found.insert(0, _calls("time", account_id, filter, after))
    return found


def _message_conditions(filter: CallFilter) -> list[tuple[str, Any]]:
    conditions: list[tuple[str, Any]] = []
    if filter.agent is not None and _named(filter.agent):
        name: ColumnElement[str] = func.split_part(
            Message.agent_id, literal_column("'@'"), literal_column("1")
        )
        condition = and_(Message.agent_id.is_not(None), name == filter.agent.partition("@")[0])
        conditions.append(("agent", condition))
    if _named(filter.team):
        conditions.append(("team", Message.team_id == filter.team))
    if _named(filter.repository):
        conditions.append(("repository", Message.repo_url == filter.repository))
    return conditions


def _named(value: str | None) -> bool:
    return value is not None and value != NONE


def _calls(
    name: str, account_id: str, filter: CallFilter, after: Cursor | None, *conditions: Any
) -> CallSource:
    c = GatewayCall
    query: Query = select(c).where(c.account_id == account_id, *conditions, *in_period(c.finished_at, filter))
    if after is not None:
        query = query.where(follows(c, NEWEST, after))
    return CallSource(name, query.order_by(*descending(c, NEWEST)), most_scanned(filter))


def _messages(
    name: str, account_id: str, filter: CallFilter, after: Cursor | None, condition: Any
) -> CallSource:
    m, c = Message, GatewayCall
    rows: Query = select(m).where(m.account_id == account_id, condition, *in_period(m.finished_at, filter))
    query: Query = rows.join(c, c.message_id == m.id).with_only_columns(c)
    if after is not None:
        time, request_id = literal(after[0], m.finished_at.type), literal(after[1])
        query = query.where(
            m.finished_at <= time, tuple_(m.finished_at, c.request_id) < tuple_(time, request_id)
        )
    ordered = query.order_by(m.finished_at.desc(), c.request_id.desc())
    return CallSource(name, ordered, MESSAGE_SCAN, rows=rows)


def in_period(column: Any, filter: CallFilter) -> Sequence[Any]:
    """The conditions of the period on the time of a call."""
    start = [] if filter.start is None else [column >= filter.start]
    return start if filter.end is None else [*start, column < filter.end]


def call_conditions(c: Columns, filter: CallFilter) -> list[Any]:
    """The conditions of a filter on the row of a call, the period excepted."""
    conditions: list[Any] = []
    for value, column in ((filter.key, c.key_id), (filter.run, c.run_id)):
        if value is not None:
            conditions.append(column.is_(None) if value == NONE else column == value)
    if filter.model is not None:
        conditions.append(call_model(c) == filter.model)
    if filter.provider is not None:
        conditions.append(c.provider == filter.provider)
    if filter.state is not None:
        conditions.append(c.state == filter.state)
    if filter.code is not None:
        # as a rollup of failed calls has it
        faulty = or_(c.state == "failed", c.error.is_not(None))
        conditions += [
            faulty,
            func.coalesce(func.nullif(func.left(c.error, 64), ""), "failed") == filter.code,
        ]
    if filter.status is not None:
        conditions.append(c.http_status == filter.status)
    if filter.above is not None:
        conditions.append(c.micro_credits > filter.above)
    conditions += [c.user_id == each for each in (filter.owner, filter.member) if each]
    return conditions


def message_conditions(c: Columns, m: Columns, r: Columns, b: Columns, filter: CallFilter) -> list[Any]:
    """The conditions of a filter on the message of a call, on its run, and on what is kept of a failed one; each may be missing."""
    conditions: list[Any] = []
    if filter.error is not None:
        stated = func.lower(func.concat(c.error, " ", b.error_message))
        conditions.append(func.strpos(stated, filter.error.lower()) > 0)
    agent = agent_of(m, r)
    if filter.agent == NONE:
        conditions.append(func.coalesce(agent, "") == "")
    elif filter.agent is not None and "@" in filter.agent:
        conditions.append(agent == filter.agent)
    elif filter.agent is not None:
        conditions.append(func.split_part(agent, "@", 1) == filter.agent)
    for value, column in ((filter.team, m.team_id), (filter.repository, m.repo_url)):
        if value is not None:
            conditions.append(or_(column.is_(None), column == "") if value == NONE else column == value)
    if filter.above is not None:
        conditions.append(m.byok.is_not(True))
    return conditions
