"""Pages of the viewer's runs: the list, a run with its trace, a model call."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.core.errors import NotFound
from models.runs import RUN_STATUSES, AgentRun, history, trace
from models.runs.history import RunFilter, RunSummary
from models.runs.trace import TraceEntry, TraceWindow
from models.store.catalogue.agent_page import is_published
from views.runs.pages.call_page import show_call
from views.web.charts import TimelineSpan, Waterfall, waterfall
from views.web.htmx import render, wants_fragment
from views.web.org_guards import account_page, viewed_account, viewed_member

bp = Blueprint("runs", __name__)

TIME_RANGES = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
STOP_POLLING = 286
MAX_AGENT_LENGTH = 200


@bp.app_template_filter("agent_name")
def agent_name(run: Any) -> str:
    """Return the agent's name without publisher and version, never empty."""
    return trace.agent_name_of(run)


@bp.app_template_global()
def call_address(run_id: str | None, request_id: str, **query: Any) -> str:
    """Return the URL of a model call, which is the same whether or not it belongs to a run."""
    return url_for("usage.call", request_id=request_id, **query)


@bp.get("/runs")
@bp.get("/orgs/<slug>/runs")
@account_page
def runs() -> ResponseReturnValue:
    """List the account's runs, newest first. With htmx, the list alone, or after a cursor only the next rows."""
    account_id = viewed_account().id
    form = RunFilterForm.of(request.args)
    after = request.args.get("after") or None
    page = None if form.errors else history.runs_of(account_id, form.filter, after)
    nothing_yet = page is not None and not (page.runs or after) and not history.has_runs(account_id)
    context: dict[str, Any] = {
        "form": form,
        "listing": page,
        "after": after,
        "nothing_yet": nothing_yet,
        "next_href": page and page.next and form.href(after=page.next),
    }
    if wants_fragment():
        partial = "runs/_more_rows.html" if after else "runs/_list.html"
        response = render("runs/runs.html", partial=partial, status=422 if form.errors else 200, **context)
        if not after:
            response.headers["HX-Push-Url"] = form.href()
        return response
    return render(
        "runs/runs.html",
        partial="runs/_list.html",
        status=422 if form.errors else 200,
        agents=history.agents_of(account_id, user_id=viewed_member()),
        **context,
    )


@bp.get("/runs/<run_id>")
@bp.get("/orgs/<slug>/runs/<run_id>")
@account_page
def run(run_id: str) -> ResponseReturnValue:
    """Show a run: its cost, and a window of its trace (steps, calls and spawned runs on one timeline)."""
    account_id = viewed_account().id
    if viewed_member():
        history.run_of(account_id, run_id, user_id=viewed_member())
    position: dict[str, Any] = {
        key: value for key in ("after", "before", "at") if (value := request.args.get(key))
    }
    found = trace.trace_of(
        account_id,
        run_id,
        after=position.get("after"),
        before=position.get("before"),
        tail=position["at"] == "end" if position.get("at") else None if not position else False,
    )
    summary = found.summary
    return render(
        "runs/run.html",
        partial="runs/_run.html",
        summary=summary,
        run=summary.run,
        parent=history.parent_of(account_id, summary.run),
        store_href=_store_href(summary.run),
        trace=found,
        waterfall=_waterfall(found.window),
        reported=_reported_values(summary),
        poll_href=url_for("runs.run", run_id=run_id, **(position or {"at": "end"})),
    )


@bp.get("/runs/<run_id>/row")
@bp.get("/orgs/<slug>/runs/<run_id>/row")
@account_page
def row(run_id: str) -> ResponseReturnValue:
    """Render a run's row in the list, for its polling. An unknown run removes its row."""
    account_id = viewed_account().id
    if not wants_fragment():
        return redirect(url_for("runs.run", run_id=run_id), 303)
    try:
        summary = history.summary_of(account_id, run_id, user_id=viewed_member())
    except NotFound:
        return "", STOP_POLLING
    return render("runs/_rows.html", partial="runs/_rows.html", summaries=[summary])


@bp.get("/runs/<run_id>/calls/<request_id>")
@bp.get("/orgs/<slug>/runs/<run_id>/calls/<request_id>")
@account_page
def call(run_id: str, request_id: str) -> ResponseReturnValue:
    """Show a model call of the run. Its own address is `usage.call`."""
    return show_call(request_id, run_id)


def _store_href(run: AgentRun) -> str | None:
    """Return the URL of the agent version that ran, if it is published here."""
    publisher, agent, version = run.publisher_id, run.agent_name, run.agent_version
    if not (publisher and agent and version and is_published(publisher, agent, version)):
        return None
    return url_for("agent.page", publisher_id=publisher, agent_id=agent, version=version)


# -- the filter of the list ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFilterForm:
    """The filter form of the list: values as entered, the resulting filter, and errors by field."""

    values: Mapping[str, str]
    filter: RunFilter
    errors: Mapping[str, str]

    @classmethod
    def of(cls, args: Mapping[str, str]) -> "RunFilterForm":
        """Parse query parameters. Empty fields count as missing."""
        values = {
            key: args.get(key, "").replace("\x00", "").strip()
            for key in ("agent", "status", "when", "from", "to", "spawned")
        }
        errors: dict[str, str] = {}
        if len(values["agent"]) > MAX_AGENT_LENGTH:
            errors["agent"] = f"Enter at most {MAX_AGENT_LENGTH} characters"
        if values["status"] and values["status"] not in RUN_STATUSES:
            errors["status"] = "Choose a status from the list"
        since, until = _time_range(values, errors)
        filter = RunFilter(
            agent=values["agent"],
            status=values["status"] or None,
            since=since,
            until=until,
            spawned=bool(values["spawned"]) or bool(values["agent"]),
            user_id=viewed_member(),
        )
        return cls(values, filter, errors)

    def href(self, **changes: str) -> str:
        """Return the URL of this list with some fields changed. Empty fields are omitted."""
        values: dict[str, Any] = {**self.values, **changes}
        if values["when"] != "custom":
            values = {**values, "from": "", "to": ""}
        return url_for("runs.runs", **{key: value for key, value in values.items() if value})

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Return the label of each active filter and the URL without it."""
        values, chips = self.values, []
        if values["agent"]:
            chips.append((f"Agent: {values['agent']}", self.href(agent="")))
        if values["status"]:
            chips.append((values["status"].capitalize(), self.href(status="")))
        if self.filter.since or self.filter.until:
            labels = {"24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}
            from_to = [f"{key} {values[key]}" for key in ("from", "to") if values[key]]
            label = labels.get(values["when"]) or " ".join(from_to).capitalize()
            chips.append((label, self.href(when="")))
        if values["spawned"]:
            chips.append(("Including spawned runs", self.href(spawned="")))
        return chips


def _time_range(values: Mapping[str, str], errors: dict[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return start (inclusive) and end (exclusive) of a preset or of the chosen UTC days."""
    when = values["when"]
    if when in TIME_RANGES:
        return now() - TIME_RANGES[when], None
    if when == "":
        return None, None
    if when != "custom":
        errors["when"] = "Choose a time range from the list"
        return None, None
    first, last = _date("from", values, errors), _date("to", values, errors)
    if first and last and last < first:
        errors["to"] = "Enter a date on or after the start date"
    return first, last + timedelta(days=1) if last else None


def _date(key: str, values: Mapping[str, str], errors: dict[str, str]) -> datetime | None:
    if not values[key]:
        return None
    try:
        day = date.fromisoformat(values[key])
    except ValueError:
        day = date.min
    if not 2000 <= day.year <= 2999:
        errors[key] = "Enter a date like 2026-11-20"
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True)
class ReportedValue:
    """A value of a finished run: as billed or recorded by this server, and as reported by the client."""

    name: str
    recorded: Decimal
    reported: Decimal

    @property
    def differs(self) -> bool:
        """Whether the client reported another value."""
        return self.recorded != self.reported

    @property
    def difference(self) -> str:
        """Difference of the reported value: `8.50 less`."""
        return f"{plain(abs(self.reported - self.recorded))} {'more' if self.reported > self.recorded else 'less'}"


def _reported_values(summary: RunSummary) -> dict[str, ReportedValue]:
    """Return values by `credits`, `own` and `steps`; empty for a running run, whose client reports at the end."""
    run, totals = summary.run, summary.totals
    if run.status == "running":
        return {}
    return {
        key: ReportedValue(name, Decimal(recorded), Decimal(reported or 0))
        for key, name, recorded, reported in (
            ("credits", "Credits including spawned runs", totals.all.credits, run.total_credits),
            ("own", "Credits of the run’s own calls", totals.own.credits, run.direct_credits),
            ("steps", "Steps", totals.steps, run.total_steps),
        )
    }


@bp.app_template_filter()
def plain(value: Decimal) -> str:
    """Format a number with at most two decimals: `1,204`, `3.50`."""
    return f"{value:,.2f}".removesuffix(".00")


# -- the timeline --------------------------------------------------------------------------------------------


def _waterfall(window: TraceWindow) -> Waterfall:
    """Lay out the window's rows on a time axis, clipped to the window."""
    return waterfall([_span(entry, window) for entry in window.entries], now=window.ends)


def _span(entry: TraceEntry, window: TraceWindow) -> TimelineSpan:
    starts = min(max(entry.starts, window.starts), window.ends)
    ends = None if entry.ends is None else min(max(entry.ends, starts), window.ends)
    if entry.depth == 0 and window.later:
        ends = window.ends
    return TimelineSpan(entry.kind, starts, ends, entry.state == "failed", entry.first_token)
