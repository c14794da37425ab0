"""Usage pages: balance, spend charts, CSV export, and calls without a run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.ledger import Account, Balance, cycle, ensure_quota, ever_had_credits
from models.orgs import Org
from models.runs.call_search import CallFilter, calls_page
from models.usage.export import csv_of, json_of
from models.usage.period import Period, parse_period
from models.usage.usage_calls import exported_calls
from models.usage.usage_facts import MOST_CALLS, before_from_calls, report_from_calls, too_many_calls
from models.usage.usage_report import MAX_SERIES, By, spending, spending_before
from models.usage.zone_rollups import note_view
from views.accounts.pages.profile import tab
from views.runs.pages.call_page import download_request, show_call
from views.usage.pages.call_filters import calls_address
from views.usage.pages.spending_view import (
    UsageQuery,
    file_name,
    namer,
    requested_period,
    spending_context,
)
from views.web.charts import SplitBar, SplitPart, split_bar
from views.web.guards import current_account, login_required, settings
from views.web.htmx import page_balance, render, wants_fragment
from views.web.org_guards import account_page, signed_in
from views.web.viewer_locale import viewer_zone

bp = Blueprint("usage", __name__)

KINDS = {
    "free": ("Monthly free", 6),
    "referral": ("Referral", 2),
    "referral_legacy": ("Referral (legacy)", 2),
    "admin": ("Granted by operator", 4),
    "purchase": ("Purchased", 1),
    "subscription": ("Subscription", 3),
    "plan": ("Included in your plan", 3),
    "ad": ("Earned from ads", 5),
    "organization": ("Organisation", 7),
}
"""Label and colour of each grant type."""

GROUPS: dict[By, str] = {
    "model": "Model",
    "agent": "Agent",
    "key": "Key",
    "error": "Status",
    "run": "Run",
}

RECENT_CALLS = 10


@tab("usage")
@login_required
def page() -> ResponseReturnValue:
    """`/profile?tab=usage`: balance, charts and tables from rollups, and the latest calls (contract 6.3).

    Query: `range` (24h, 7d, 30d, or custom with `from` and `to`), `by` (model, agent, key, error, run), `show` (credits, calls,
    tokens, latency, errors, error_rate), filters by `model`, `agent`, `key`, `error` and `state`, `top=all`. htmx gets only the
    chart and its tables. Invalid dates: 422 with the input kept, showing the last 30 days. Runs a due quota cycle first (contract
    3.6).
    """
    account, moment = current_account(), now()
    query = _query()
    period, errors = requested_period(query, moment, viewer_zone())
    context = _report_context(query, account.id, period, moment, errors)
    if not wants_fragment():
        ensure_quota(account, settings().stoa_free_credits, now=moment)
        note_view(account.id, period.zone, moment)
        db.session.commit()
        context |= _account_context(account, moment)
    return render("usage/usage.html", partial="usage/_spending.html", **context)


def _report_context(
    query: UsageQuery, account_id: str, period: Period, moment: datetime, errors: dict[str, str]
) -> dict[str, Any]:
    filters, limit = query.filters, query.limit(MAX_SERIES)
    too_many = query.by == "run" and too_many_calls(account_id, period)
    if query.by == "run" and not too_many:
        by_version = _by_version(filters)
        report = report_from_calls(
            account_id, period, "run", moment, filters=by_version, limit=limit, ranks=None
        )
        before = before_from_calls(account_id, report, moment, filters=by_version)
    else:
        query = replace(query, by="model") if too_many else query
        report = spending(account_id, period, query.by, moment, filters=filters, limit=limit)
        before = spending_before(account_id, report, filters=filters)
    owner = db.session.get(Org, org_id) if (org_id := current_account().org_id) else signed_in()
    name = namer(owner or signed_in(), report, filters)
    narrowed: dict[str, Any] = query.narrowed if not errors else dict(query.filters)

    def calls(**values: str) -> str:
        return calls_address(narrowed | values)

    return spending_context(query, report, before, moment, errors, name=name, calls=calls, run=_run_page) | {
        "too_many_calls": MOST_CALLS if too_many else None,
        "exports": [
            (f"Export {kind.upper()}", url_for("usage.export", format=kind, **query.narrowed))
            for kind in ("csv", "json")
        ],
    }


def _by_version(filters: Mapping[str, str]) -> dict[str, str]:
    """Filters for the calls: rollups of an account have agents with their versions."""
    return {"version" if name == "agent" else name: value for name, value in filters.items()}


def _run_page(run_id: str) -> str | None:
    return url_for("runs.run", run_id=run_id) if run_id else None


@bp.get("/profile/usage.csv")
@login_required
def export() -> ResponseReturnValue:
    """Stream the period's calls up to now as CSV, or JSON with `format=json`. Query: `range`, `from`, `to` and filters as on the
    page. Raises Invalid (422)."""
    account, moment = current_account(), now()
    query, kind = _query(), request.args.get("format") or "csv"
    if kind not in ("csv", "json"):
        raise Invalid("Choose the format csv or json.")
    period = parse_period(query.range, query.first, query.last, moment, viewer_zone())
    calls = exported_calls(
        account.id, period.start, min(period.end, moment), filters=_by_version(query.filters)
    )
    db.session.commit()
    text = csv_of(calls) if kind == "csv" else json_of(calls)
    response = Response(text, mimetype="text/csv" if kind == "csv" else "application/json")
    response.headers["Content-Disposition"] = (
        f'attachment; filename="{file_name("stoa-usage", period, kind)}"'
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/calls/<request_id>")
@bp.get("/orgs/<slug>/calls/<request_id>")
@account_page
def call(request_id: str) -> ResponseReturnValue:
    """Show a model call."""
    return show_call(request_id)


@bp.get("/calls/<request_id>/request.json")
@bp.get("/orgs/<slug>/calls/<request_id>/request.json")
@account_page
def call_request(request_id: str) -> ResponseReturnValue:
    """Download the request of a call, to send it again."""
    return download_request(request_id)


def _query() -> UsageQuery:
    return UsageQuery.requested("profile.profile", GROUPS, {"tab": "usage"})


def _account_context(account: Account, moment: datetime) -> dict[str, Any]:
    """The account's balance, quota cycle and latest calls."""
    current = page_balance(account, now=moment)
    return {
        "moment": moment,
        "balance": current,
        "had_credits": bool(current.rows) or ever_had_credits(account),
        "cycle": cycle(account, now=moment),
        "kinds": KINDS,
        "split": _split(current),
        "calls": calls_page(account.id, CallFilter(), limit=RECENT_CALLS).calls,
    }


def _split(balance: Balance) -> SplitBar:
    held = sum(row.held for row in balance.rows)
    parts = [SplitPart(KINDS[row.kind][0].lower(), row.left, KINDS[row.kind][1]) for row in balance.rows]
    return split_bar([SplitPart("held", held, "held"), *parts])
