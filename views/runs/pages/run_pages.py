"""Pages of a run: its trace, a model call, a tool call, and search in its messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, current_app, g, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import NotFound
from models.orgs import can
from models.projects.snapshots.run_changes import RunChange, changes_of_run
from models.runs import AgentRun, history, run_messages, trace
from models.runs.history import RunSummary
from models.runs.run import agent_name_of
from models.runs.run_export import export_run
from models.runs.run_failures import failures_of
from models.runs.run_messages import RunDialogue
from models.runs.run_notes import may_annotate
from models.runs.run_share import LIFETIMES, shares_of
from models.runs.tool_calls import tool_call_of
from models.runs.trace import Trace
from models.runs.trace_rows import TraceEntry, TraceWindow
from models.store.catalogue.agent_page import is_published
from models.usage.usage_calls import call_with_id
from views.runs.pages.call_page import show_call
from views.web import format
from views.web.charts import TimelineSpan, Waterfall, waterfall
from views.web.guards import require_cookie_user
from views.web.htmx import render, wants_fragment
from views.web.org_guards import (
    account_page,
    check_messages,
    current_membership,
    message_reader,
    viewed_account,
    viewed_member,
)

bp = Blueprint("runs", __name__)

LIFETIME_NAMES = {"day": "1 day", "week": "7 days", "month": "30 days", "never": "until revoked"}


@bp.app_template_filter("agent_name")
def agent_name(run: Any) -> str:
    """Return the agent's name without publisher and version, never empty."""
    return agent_name_of(run)


@bp.app_template_global()
def call_address(run_id: str | None, request_id: str, **query: Any) -> str:
    """Return the URL of a model call, which is the same whether or not it belongs to a run."""
    return url_for("usage.call", request_id=request_id, **query)


@bp.get("/runs/<run_id>")
@bp.get("/orgs/<slug>/runs/<run_id>")
@account_page
def run(run_id: str) -> ResponseReturnValue:
    """Show a run: what it was asked and answered, its cost, and a window of its trace (steps, calls, tool calls and spawned runs
    on one timeline)."""
    return show_run(run_id)


def show_run(run_id: str, *, status: int = 200, **context: Any) -> ResponseReturnValue:
    """The page of the account's run, or its fragment for the panel and for polling. `context` replaces values of its forms."""
    if viewed_member():
        viewed_run(run_id)
    position: dict[str, Any] = {
        key: value for key in ("after", "before", "at") if (value := request.args.get(key))
    }
    found = trace.trace_of(
        viewed_account().id,
        run_id,
        after=position.get("after"),
        before=position.get("before"),
        tail=position["at"] == "end" if position.get("at") else None if not position else False,
        reader=message_reader(),
    )
    summary = found.summary
    polled = wants_fragment() and request.headers.get("HX-Target") == "run"
    return render(
        "runs/run.html",
        partial="runs/_run.html",
        status=status,
        **run_context(found, message_reader()),
        parent=history.parent_of(viewed_account().id, summary.run),
        starter=history.starter_of(summary.run),
        store_href=_store_href(summary.run),
        reported=_reported_values(summary),
        run_changes=_changes(summary.run),
        poll_href=url_for("runs.run", run_id=run_id, **(position or {"at": "end"})),
        focused=wants_fragment() and not polled,
        polled=polled,
        **(_notes_context(summary.run) | context),
    )


def run_context(found: Trace, reader: str | None) -> dict[str, Any]:
    """What the pages of a run and of a shared one show; with `reader` only the messages of this user's calls."""
    run = found.summary.run
    account_id = run.org_id or run.user_id or ""
    readable = reader in (None, run.user_id)
    return {
        "summary": found.summary,
        "totals": found.summary.totals,
        "usage": found.summary.totals.all,
        "run": run,
        "public": False,
        "trace": found,
        "waterfall": _waterfall(found.window),
        "readable": readable,
        "dialogue": run_messages.dialogue_of(account_id, run) if readable else RunDialogue(),
        "failures": failures_of(account_id, found.summary, found.run_ids, reader=reader),
    }


def viewed_run(run_id: str) -> AgentRun:
    """The run of the viewed account, if the viewer sees it. Raises NotFound."""
    return history.run_of(viewed_account().id, run_id, user_id=viewed_member())


def may_annotate_run(run: AgentRun) -> bool:
    """Whether the viewer may score, tag and share a run that they see."""
    member = current_membership() if "org" in g else None
    return may_annotate(run, require_cookie_user().id, member)


def _changes(run: AgentRun) -> Sequence[RunChange]:
    """What it changed in projects, if the viewer's role shows them."""
    shown = "org" not in g or can(current_membership(), "see_projects")
    return changes_of_run(run) if shown else ()


def _notes_context(run: AgentRun) -> dict[str, Any]:
    annotates = may_annotate_run(run)
    return {
        "annotates": annotates,
        "shares": shares_of(run) if annotates else (),
        "lifetimes": [(key, LIFETIME_NAMES[key]) for key in LIFETIMES],
        "tag_error": None,
        "tag_text": ", ".join(run.tags or ()),
    }


@bp.get("/runs/<run_id>/search")
@bp.get("/orgs/<slug>/runs/<run_id>/search")
@account_page
def search(run_id: str) -> ResponseReturnValue:
    """Search the messages of a run: the query `q`. Raises Invalid (422) for a long one, and Forbidden as `check_messages`."""
    run = viewed_run(run_id)
    check_messages(run.user_id)
    text = request.args.get("q", "").strip()
    found = run_messages.search_run(viewed_account().id, run, text) if text else None
    return render("runs/search.html", partial="runs/_search_results.html", run=run, search=found, query=text)


@bp.get("/runs/<run_id>/export.json")
@bp.get("/orgs/<slug>/runs/<run_id>/export.json")
@account_page
def export(run_id: str) -> ResponseReturnValue:
    """Stream the run, all it spawned, and the messages that the viewer may read, as JSON."""
    found = viewed_run(run_id)
    pieces = export_run(viewed_account().id, found, reader=message_reader())
    name = f"stoa-run-{found.id[:8]}.json"
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    db.session.commit()
    # each context has a session of its own: nothing is held while the client reads
    response = Response(pieces(app.app_context), mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/runs/<run_id>/calls/<request_id>/tools/<int:number>")
@bp.get("/orgs/<slug>/runs/<run_id>/calls/<request_id>/tools/<int:number>")
@account_page
def tool(run_id: str, request_id: str, number: int) -> ResponseReturnValue:
    """Show a tool call of a model call of the run: its arguments, its result, and the time between the model calls."""
    run = viewed_run(run_id)
    found = call_with_id(viewed_account().id, request_id)
    if found.run_id != run.id:
        raise NotFound("There is no such call here")
    check_messages(found.user_id)
    return render(
        "runs/tool.html",
        partial="runs/_tool.html",
        run=run,
        tool=tool_call_of(viewed_account().id, request_id, number),
        fragment=wants_fragment(),
    )


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
    return format.number(value, 0 if value == round(value, 2).to_integral_value() else 2)


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
