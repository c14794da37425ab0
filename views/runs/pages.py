"""The pages of runs: the list, one run on its timeline, one model call opened. Only those of the viewer's account."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.core.errors import NotFound
from models.runs import RUN_STATUSES, AgentRun, history, run_calls, trace
from models.runs.history import RunFilter, RunLine
from models.runs.trace import TraceEntry, TraceWindow
from models.store.catalogue.agent_page import is_published
from views.web.charts import TimelineSpan, Waterfall, waterfall
from views.web.guards import current_account, login_required
from views.web.htmx import render, wants_fragment

bp = Blueprint("runs", __name__)

WHEN = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
STOP_POLLING = 286
MAX_AGENT = 200


@bp.app_template_filter("agent_name")
def agent_name(run: Any) -> str:
    """The agent's name without publisher and version; never empty."""
    return trace.name_of(run)


@bp.app_template_global()
def call_address(run_id: str | None, request_id: str, **query: Any) -> str:
    """Where a model call is shown: in its run, or by itself."""
    if run_id:
        return url_for("runs.call", run_id=run_id, request_id=request_id, **query)
    return url_for("usage.call", request_id=request_id, **query)


@bp.get("/runs")
@login_required
def runs() -> ResponseReturnValue:
    """The account's runs, newest first. With htmx the list alone, or with a key only what follows it."""
    account_id = current_account().id
    asked = RunFilterForm.of(request.args)
    after = request.args.get("after") or None
    page = None if asked.errors else history.runs_of(account_id, asked.chosen, after)
    nothing_yet = page is not None and not (page.lines or after) and not history.has_runs(account_id)
    context: dict[str, Any] = {
        "asked": asked,
        "listed": page,
        "after": after,
        "nothing_yet": nothing_yet,
        "next_href": page and page.next and asked.href(after=page.next),
    }
    if wants_fragment():
        partial = "runs/_more.html" if after else "runs/_list.html"
        response = render("runs/runs.html", partial=partial, status=422 if asked.errors else 200, **context)
        if not after:
            response.headers["HX-Push-Url"] = asked.href()
        return response
    return render(
        "runs/runs.html",
        partial="runs/_list.html",
        status=422 if asked.errors else 200,
        agents=history.agents_of(account_id),
        **context,
    )


@bp.get("/runs/<run_id>")
@login_required
def run(run_id: str) -> ResponseReturnValue:
    """One run: what it cost, and its steps, calls and spawned runs on one timeline, a window at a time."""
    account_id = current_account().id
    place: dict[str, Any] = {
        key: value for key in ("after", "before", "at") if (value := request.args.get(key))
    }
    found = trace.trace_of(
        account_id,
        run_id,
        after=place.get("after"),
        before=place.get("before"),
        tail=place["at"] == "end" if place.get("at") else None if not place else False,
    )
    line = found.line
    return render(
        "runs/run.html",
        partial="runs/_run.html",
        line=line,
        run=line.run,
        parent=history.parent_of(account_id, line.run),
        in_store=_store_page(line.run),
        trace=found,
        drawing=_drawing(found.window),
        claims=_claims(line),
        poll_href=url_for("runs.run", run_id=run_id, **(place or {"at": "end"})),
    )


@bp.get("/runs/<run_id>/row")
@login_required
def row(run_id: str) -> ResponseReturnValue:
    """The run as a row of the list, for a row that refreshes itself. One that is gone takes its row with it."""
    account_id = current_account().id
    if not wants_fragment():
        return redirect(url_for("runs.run", run_id=run_id), 303)
    try:
        line = history.line_of(account_id, run_id)
    except NotFound:
        return "", STOP_POLLING
    return render("runs/_rows.html", partial="runs/_rows.html", lines=[line])


@bp.get("/runs/<run_id>/calls/<request_id>")
@login_required
def call(run_id: str, request_id: str) -> ResponseReturnValue:
    """One model call: tokens, prices, ledger entries, times and messages. With htmx without the page around it."""
    account_id = current_account().id
    mine = history.run_of(account_id, run_id)
    every = request.args.get("messages") == "all"
    return render(
        "runs/call.html",
        partial="runs/_call.html",
        run=mine,
        detail=run_calls.call_of(account_id, mine, request_id, all_messages=every),
        every=every,
        fragment=wants_fragment(),
    )


def _store_page(run: AgentRun) -> str | None:
    """The page of the version that ran, when it is published here."""
    publisher, agent, version = run.publisher_id, run.agent_name, run.agent_version
    if not (publisher and agent and version and is_published(publisher, agent, version)):
        return None
    return url_for("agent.page", publisher_id=publisher, agent_id=agent, version=version)


# -- the filter of the list ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFilterForm:
    """What the form of the list says: its values as they were entered, the filter they make, and what is wrong."""

    values: Mapping[str, str]
    chosen: RunFilter
    errors: Mapping[str, str]

    @classmethod
    def of(cls, args: Mapping[str, str]) -> "RunFilterForm":
        """Read a query string. Empty fields count as not given."""
        values = {
            key: args.get(key, "").replace("\x00", "").strip()
            for key in ("agent", "status", "when", "from", "to", "spawned")
        }
        errors: dict[str, str] = {}
        if len(values["agent"]) > MAX_AGENT:
            errors["agent"] = f"Enter at most {MAX_AGENT} characters"
        if values["status"] and values["status"] not in RUN_STATUSES:
            errors["status"] = "Choose a state of the list"
        since, until = _stretch(values, errors)
        chosen = RunFilter(
            agent=values["agent"],
            status=values["status"] or None,
            since=since,
            until=until,
            spawned=bool(values["spawned"]) or bool(values["agent"]),
        )
        return cls(values, chosen, errors)

    def href(self, **changes: str) -> str:
        """The address of this list with some fields changed; empty ones are left out."""
        values: dict[str, Any] = {**self.values, **changes}
        if values["when"] != "custom":
            values = {**values, "from": "", "to": ""}
        return url_for("runs.runs", **{key: value for key, value in values.items() if value})

    @property
    def chips(self) -> list[tuple[str, str]]:
        """The filters in use, in words, and the address without each."""
        values, found = self.values, []
        if values["agent"]:
            found.append((f"Agent: {values['agent']}", self.href(agent="")))
        if values["status"]:
            found.append((values["status"].capitalize(), self.href(status="")))
        if self.chosen.since or self.chosen.until:
            words = {"24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}
            from_to = [
                part
                for part in (
                    values["from"] and f"from {values['from']}",
                    values["to"] and f"to {values['to']}",
                )
                if part
            ]
            text = words.get(values["when"]) or " ".join(from_to).capitalize()
            found.append((text, self.href(when="")))
        if values["spawned"]:
            found.append(("Spawned runs too", self.href(spawned="")))
        return found


def _stretch(values: Mapping[str, str], errors: dict[str, str]) -> tuple[datetime | None, datetime | None]:
    """The half-open stretch of time: one of the presets up to now, or UTC days, both counted."""
    when = values["when"]
    if when in WHEN:
        return now() - WHEN[when], None
    if when == "":
        return None, None
    if when != "custom":
        errors["when"] = "Choose a time of the list"
        return None, None
    first, last = _day("from", values, errors), _day("to", values, errors)
    if first and last and last < first:
        errors["to"] = "Enter a day that is not before the first"
    return first, last + timedelta(days=1) if last else None


def _day(key: str, values: Mapping[str, str], errors: dict[str, str]) -> datetime | None:
    if not values[key]:
        return None
    try:
        day = date.fromisoformat(values[key])
    except ValueError:
        day = date.min
    if not 2000 <= day.year <= 2999:
        errors[key] = "Enter a day like 2026-11-20"
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True)
class ReportedFigure:
    """One figure of an ended run: what was billed or recorded here, and what its client reported."""

    name: str
    here: Decimal
    client: Decimal

    @property
    def differs(self) -> bool:
        """The client is wrong."""
        return self.here != self.client

    @property
    def difference(self) -> str:
        """By how much the client's figure is off: `8.50 less`."""
        return f"{plain(abs(self.client - self.here))} {'more' if self.client > self.here else 'less'}"


def _claims(line: RunLine) -> dict[str, ReportedFigure]:
    """By `credits`, `own` and `steps`; nothing while the run goes on, because its client reports at the end."""
    run, sums = line.run, line.sums
    if run.status == "running":
        return {}
    return {
        key: ReportedFigure(name, Decimal(here), Decimal(client or 0))
        for key, name, here, client in (
            ("credits", "Credits, with all it spawned", sums.all.credits, run.total_credits),
            ("own", "Credits of its own calls", sums.own.credits, run.direct_credits),
            ("steps", "Steps", sums.steps, run.total_steps),
        )
    }


@bp.app_template_filter()
def plain(value: Decimal) -> str:
    """A client's figure as it is, with two decimals at most: `1,204`, `3.50`."""
    return f"{value:,.2f}".removesuffix(".00")


# -- the timeline --------------------------------------------------------------------------------------------


def _drawing(window: TraceWindow) -> Waterfall:
    """The window's rows on its own axis; what lies outside is cut at its edges."""
    return waterfall([_span(entry, window) for entry in window.entries], now=window.ends)


def _span(entry: TraceEntry, window: TraceWindow) -> TimelineSpan:
    starts = min(max(entry.starts, window.starts), window.ends)
    ends = None if entry.ends is None else min(max(entry.ends, starts), window.ends)
    if entry.depth == 0 and window.later:
        ends = window.ends
    return TimelineSpan(entry.kind, starts, ends, entry.state == "failed", entry.first_token)
