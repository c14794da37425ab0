"""Usage pages: balance, spend charts, CSV export, and calls without a run."""

from datetime import datetime
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import NotFound
from models.ledger import Account, Balance, balance, cycle, ensure_quota, ever_had_credits
from models.runs.history import find_run
from models.runs.run_calls import call_of
from models.usage.export import csv_of
from models.usage.period import parse_period
from models.usage.usage_calls import call_with_id, exported_calls, recent_calls
from models.usage.usage_report import By, UsageReport, spending
from views.accounts.pages.profile import tab
from views.runs.pages import call_address
from views.usage.pages.spending_view import UsageQuery, file_name, requested_period, spending_context
from views.web.charts import SplitBar, SplitPart, split_bar
from views.web.guards import current_account, login_required, settings
from views.web.htmx import render, wants_fragment
from views.web.org_guards import account_page, check_messages, viewed_account, viewed_member

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

GROUPS: dict[By, str] = {"model": "Model", "agent": "Agent"}

RECENT_CALLS = 10


@tab("usage")
@login_required
def page() -> ResponseReturnValue:
    """`/profile?tab=usage`: balance, charts and tables from rollups, and the latest calls (contract 6.3).

    Query: `range` (24h, 7d, 30d, or custom with `from` and `to`), `by` (model, agent), `show` (credits, calls,
    tokens, latency). htmx gets only the chart and its tables. Invalid dates: 422 with the input kept, showing the
    last 30 days. Runs a due quota cycle first (contract 3.6).
    """
    account, moment = current_account(), now()
    query = _query()
    period, errors = requested_period(query, moment)
    report = spending(account.id, period, query.by, moment)
    context: dict[str, Any] = spending_context(query, report, moment, errors) | {
        "day_links": _day_links(report),
        "exports": [("Export CSV", url_for("usage.export", **query.dates))],
    }
    if not wants_fragment():
        ensure_quota(account, settings().stoa_free_credits, now=moment)
        db.session.commit()
        context |= _account_context(account, moment)
        g.balance = context["balance"]  # the navigation bar shows the same reading
    return render("usage/usage.html", partial="usage/_spending.html", **context)


@bp.get("/profile/usage.csv")
@login_required
def export() -> ResponseReturnValue:
    """Stream the period's calls up to now as CSV. Query: `range`, `from` and `to` as on the page. Raises Invalid
    (422)."""
    account, moment = current_account(), now()
    query = _query()
    period = parse_period(query.range, query.first, query.last, moment)
    calls = exported_calls(account.id, period.start, min(period.end, moment))
    db.session.commit()
    response = Response(csv_of(calls), mimetype="text/csv")
    response.headers["Content-Disposition"] = (
        f'attachment; filename="{file_name("stoa-usage", period, "csv")}"'
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/calls/<request_id>")
@bp.get("/orgs/<slug>/calls/<request_id>")
@account_page
def call(request_id: str) -> ResponseReturnValue:
    """The page of a call without a run; calls of a run of the account redirect to their run's page."""
    account_id = viewed_account().id
    found = call_with_id(account_id, request_id)
    if viewed_member() and found.user_id != viewed_member():
        raise NotFound("There is no such call")
    if found.run_id and find_run(account_id, found.run_id):
        return redirect(call_address(found.run_id, request_id))
    check_messages(found.user_id)
    all_messages = request.args.get("messages") == "all"
    return render(
        "runs/call.html",
        run=None,
        detail=call_of(account_id, None, request_id, all_messages=all_messages),
        all_messages=all_messages,
        fragment=False,
    )


def _query() -> UsageQuery:
    return UsageQuery.requested("profile.profile", GROUPS, {"tab": "usage"})


def _day_links(report: UsageReport) -> list[str]:
    """Of a chart by day: the explanation of each day."""
    starts = report.starts if report.period.step == "day" else []
    return [url_for("billing.statement_day", day=str(start.date())) for start in starts]


def _account_context(account: Account, moment: datetime) -> dict[str, Any]:
    """The account's balance, quota cycle and latest calls."""
    current = balance(account, now=moment)
    return {
        "moment": moment,
        "balance": current,
        "had_credits": bool(current.rows) or ever_had_credits(account),
        "cycle": cycle(account, now=moment),
        "kinds": KINDS,
        "split": _split(current),
        "calls": recent_calls(account.id, RECENT_CALLS),
    }


def _split(balance: Balance) -> SplitBar:
    held = sum(row.held for row in balance.rows)
    parts = [SplitPart(KINDS[row.kind][0].lower(), row.left, KINDS[row.kind][1]) for row in balance.rows]
    return split_bar([SplitPart("held", held, "held"), *parts])
