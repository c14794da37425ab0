"""Usage of an organisation: charts by whom and what, the calls behind each figure, and exports."""

from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.orgs import can
from models.runs.history import agents_of_runs
from models.usage.export import ORG_COLUMNS, csv_of, json_of
from models.usage.org_figures import (
    Forecast,
    active_members,
    clock_of,
    forecast,
    largest_runs,
    month_of,
    month_used,
)
from models.usage.org_labels import labels_of
from models.usage.org_report import MAX_SERIES, org_spending, org_spending_before
from models.usage.period import Period, parse_period
from models.usage.usage_calls import exported_calls
from models.usage.usage_facts import MOST_CALLS, too_many_calls
from models.usage.usage_report import ROLLED, By
from models.usage.zone_rollups import note_view
from views.orgs.pages.orgs_blueprint import bp
from views.usage.pages.call_filters import calls_address
from views.usage.pages.spending_view import (
    UsageQuery,
    call_dates,
    file_name,
    namer,
    requested_period,
    spending_context,
)
from views.web import format
from views.web.htmx import page_balance, render, wants_fragment
from views.web.org_guards import current_membership, current_org, org_account, org_page, own_calls_of
from views.web.viewer_locale import viewer_zone

GROUPS: dict[By, str] = {
    "member": "Member",
    "team": "Team",
    "key": "Key",
    "repository": "Repository",
    "model": "Model",
    "agent": "Agent",
    "version": "Agent version",
    "error": "Status",
    "run": "Run",
}
FEWEST_CREDITS = 1000


@bp.get("/orgs/<slug>/usage")
@org_page()
def usage() -> ResponseReturnValue:
    """Show the organisation's usage: balance, month, forecast, charts, the largest runs (contract 6.4).

    Query as on a person's usage page, by more groups and filters. Members without the capability `see_all_usage` see their own.
    htmx gets only the chart and its tables.
    """
    org, moment = current_org(), now()
    query = _query()
    user_id = own_calls_of() or query.filters.get("member", "")
    period, errors = requested_period(query, moment, _clock(query))
    context = _report_context(query, period, moment, errors)
    if not wants_fragment():
        runs = largest_runs(org, period.start, period.end, user_id=user_id)
        context |= _figures(moment, user_id) | {
            "runs": runs,
            "agents": agents_of_runs(org.id, [run.key for run in runs]),
            "whose": labels_of(org, "member", [user_id]).get(user_id) if user_id else None,
            "own_only": bool(own_calls_of()),
        }
        note_view(org.id, period.zone, moment)
        db.session.commit()
    return render("orgs/usage.html", partial="usage/_spending.html", **context)


@bp.get("/orgs/<slug>/analytics")
@org_page()
def analytics() -> ResponseReturnValue:
    """Usage and analytics are one page (contract 6.4)."""
    given: dict[str, Any] = request.args.to_dict()
    return redirect(url_for("orgs.usage", **given))


@bp.get("/orgs/<slug>/usage/export")
@org_page()
def export_usage() -> ResponseReturnValue:
    """Stream the period's calls up to now as CSV, or JSON with `format=json`, with the filters of the page. Raises Invalid (422)."""
    org, moment = current_org(), now()
    query, kind = _query(), request.args.get("format") or "csv"
    if kind not in ("csv", "json"):
        raise Invalid("Choose the format csv or json.")
    period = parse_period(query.range, query.first, query.last, moment, _clock(query))
    filters = _filters(query)
    calls = exported_calls(org.id, period.start, min(period.end, moment), filters=filters)
    db.session.commit()
    text = csv_of(calls, ORG_COLUMNS) if kind == "csv" else json_of(calls, ORG_COLUMNS)
    response = Response(text, mimetype="text/csv" if kind == "csv" else "application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name(org.slug, period, kind)}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _query() -> UsageQuery:
    own = own_calls_of()
    # the first is the default
    groups: dict[By, str] = {name: label for name, label in GROUPS.items() if name != "member" or not own}
    if own:
        groups = {"model": groups.pop("model"), **groups}
    return UsageQuery.requested("orgs.usage", groups)


def _clock(query: UsageQuery) -> tzinfo:
    """The viewer's time zone; that of the organisation for what only its own days have, teams and repositories, and for weeks without
    filters, which it has added up."""
    dimensions: set[str] = {query.by, *query.filters}
    period, _ = requested_period(query, now(), viewer_zone())
    weeks = period.step == "week" and query.filters.keys() <= {"member"}
    own = weeks or not dimensions <= {*ROLLED, "run"}
    return clock_of(current_org()) if own else viewer_zone()


def _filters(query: UsageQuery) -> dict[str, str]:
    own = own_calls_of()
    return {**query.filters, **({"member": own} if own else {})}


def _report_context(
    query: UsageQuery, period: Period, moment: datetime, errors: dict[str, str]
) -> dict[str, Any]:
    org, filters = current_org(), _filters(query)
    too_many = query.by == "run" and too_many_calls(org.id, period)
    if too_many:
        query = replace(query, by="model")
    user_id = filters.pop("member", "")
    limit = query.limit(MAX_SERIES)
    report = org_spending(org, period, query.by, moment, user_id=user_id, filters=filters, limit=limit)
    before = org_spending_before(org, report, moment, user_id=user_id, filters=filters)
    narrowed: dict[str, Any] = query.narrowed if not errors else dict(query.filters)

    def calls(**values: str) -> str:
        return calls_address(narrowed | call_dates(query, period) | values)

    def run(run_id: str) -> str | None:
        return url_for("runs.run", slug=org.slug, run_id=run_id) if run_id else None

    name = namer(org, report, query.filters)
    return spending_context(query, report, before, moment, errors, name=name, calls=calls, run=run) | {
        "too_many_calls": MOST_CALLS if too_many else None,
        "exports": [
            (f"Export {kind.upper()}", url_for("orgs.export_usage", format=kind, **narrowed))
            for kind in ("csv", "json")
        ],
    }


def _figures(moment: datetime, user_id: str) -> dict[str, Any]:
    """Balance, usage and active members of the month, utilisation, forecast."""
    org = current_org()
    current = page_balance(org_account(), now=moment)
    used = month_used(org, moment, user_id=user_id)
    left = max(current.net_balance, 0)
    expected = forecast(org, current.net_balance, moment)
    return {
        "left": current.net_balance,
        "used": used,
        "month": month_of(org, moment)[0],
        "active": None if user_id else active_members(org, moment),
        "utilisation": used / (left + used) if left + used else None,
        "forecast": expected,
        "empty_at": forecast_text(expected, moment, used),
        "low": current.net_balance < FEWEST_CREDITS,
        "buys": can(current_membership(), "buy"),
    }


def forecast_text(expected: Forecast, moment: datetime, used: int) -> str:
    """When the credits end, as in `Thu 20 Nov, 14:00 UTC`. `used`: credits of this month."""
    if expected.balance <= 0:
        return "Empty now"
    if expected.empty_at is None:
        if expected.credits_per_day:
            return "Over a year"
        return "Not known yet" if used else "No usage"
    if (expected.empty_at - moment).days < 7:
        return format.minute(expected.empty_at.replace(minute=0))
    return format.date(expected.empty_at)
