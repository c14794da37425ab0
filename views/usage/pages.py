"""Usage pages: balance, spend charts, CSV export, and calls without a run."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from flask import Blueprint, Response, g, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.ledger import Account, Balance, balance, cycle, ensure_quota
from models.runs.run_calls import call_of
from models.usage.export import csv_of
from models.usage.period import DEFAULT, Period, parse_period, preset
from models.usage.usage_calls import call_with_id, exported_calls, recent_calls
from models.usage.usage_report import By, UsageReport, UsageTotals, spending
from views.accounts.pages.profile import tab
from views.runs.pages.run_pages import call_address
from views.web import format
from views.web.charts import Chart, ChartSeries, SplitBar, SplitPart, line_chart, split_bar, stacked_chart
from views.web.guards import current_account, login_required, settings
from views.web.htmx import render, wants_fragment

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

METRICS = {"credits": "Credits", "calls": "Calls", "tokens": "Tokens", "latency": "Latency"}
GROUPS = {"model": "Model", "agent": "Agent"}
RANGES = {"24h": "24h", "7d": "7d", "30d": "30d"}

TOKENS = {
    "Input": "input_tokens",
    "Cache write": "cache_write_tokens",
    "Cache read": "cache_read_tokens",
    "Output": "plain_output_tokens",
    "Reasoning": "reasoning_tokens",
}
"""Disjoint; they add up to all tokens."""

RECENT_CALLS = 10

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class UsageQuery:
    """The page's query parameters as given; `url` builds a link with changes to them."""

    range: str
    by: By
    metric: str
    first: str
    last: str

    @property
    def date_input_types(self) -> tuple[str, str]:
        """Input types of the date fields: "text" for an invalid date, which a browser's date input would drop."""
        first, last = (
            "date" if not text or DATE.fullmatch(text) else "text" for text in (self.first, self.last)
        )
        return first, last

    def args(self, **changes: str) -> dict[str, Any]:
        """The query parameters with `changes`; dates only for a custom range."""
        args = {"tab": "usage", "range": self.range, "by": self.by, "show": self.metric} | changes
        if args["range"] == "custom":
            args = {"from": self.first, "to": self.last} | args
        return args

    def url(self, **changes: str) -> str:
        """The page's URL with `changes` to the query."""
        return url_for("profile.profile", **self.args(**changes))


@tab("usage")
@login_required
def page() -> ResponseReturnValue:
    """`/profile?tab=usage`: balance, charts and tables from rollups, and the latest calls (contract 6.3).

    Query: `range` (24h, 7d, 30d, or custom with `from` and `to`), `by` (model, agent), `show` (credits, calls,
    tokens, latency). htmx gets only the chart and its tables. Invalid dates: 422 with the input kept, showing the
    last 30 days. Runs a due quota cycle first (contract 3.6).
    """
    account, moment = current_account(), now()
    context = _report_context(account, _query(), moment)
    if not wants_fragment():
        ensure_quota(account, settings().stoa_free_credits, now=moment)
        db.session.commit()
        context |= _account_context(account, moment)
        g.balance = context["balance"]  # the navigation bar shows the same reading
    return render("usage/usage.html", partial="usage/_spending.html", **context)


def _report_context(account: Account, query: UsageQuery, moment: datetime) -> dict[str, Any]:
    """The requested report, or for an invalid range that of the last 30 days; field errors and response status."""
    errors: dict[str, str] = {}
    try:
        period = parse_period(query.range, query.first, query.last, moment)
    except Invalid as invalid:
        errors = invalid.fields
        period = preset(DEFAULT, moment)
    fields = {"range": None, "from": None, "to": None} | errors
    return _period_context(account, query, period, moment) | {
        "fields": fields,
        "status": 422 if errors else 200,
    }


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
    response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(period)}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/calls/<request_id>")
@login_required
def call(request_id: str) -> ResponseReturnValue:
    """The page of a call without a run; calls of a run redirect to their run's page."""
    account_id = current_account().id
    found = call_with_id(account_id, request_id)
    if found.run_id:
        return redirect(call_address(found.run_id, request_id))
    all_messages = request.args.get("messages") == "all"
    return render(
        "runs/call.html",
        run=None,
        detail=call_of(account_id, None, request_id, all_messages=all_messages),
        all_messages=all_messages,
        fragment=False,
    )


def _query() -> UsageQuery:
    return UsageQuery(
        range=request.args.get("range") or DEFAULT,
        by=cast(By, _one_of("by", tuple(GROUPS))),
        metric=_one_of("show", tuple(METRICS)),
        first=request.args.get("from", ""),
        last=request.args.get("to", ""),
    )


def _one_of(name: str, choices: tuple[str, ...]) -> str:
    """The query parameter `name`; the first of `choices` if it is missing or unknown."""
    value = request.args.get(name, "")
    return value if value in choices else choices[0]


def _file_name(period: Period) -> str:
    hours = "-24h" if period.name == "24h" else ""
    return f"stoa-usage-{period.first_day}-to-{period.last_day}{hours}.csv"


def _period_context(account: Account, query: UsageQuery, period: Period, moment: datetime) -> dict[str, Any]:
    """The fragment: chart, headline, table and controls."""
    report = spending(account.id, period, query.by, moment)
    days = {name: value for name, value in query.args().items() if name in ("range", "from", "to")}
    return {
        "query": query,
        "report": report,
        "chart": _chart(query.metric, report, moment),
        "day_links": _day_links(report),
        "headline": _headline(query.metric, report.total, _date_range(period, moment)),
        "rows": [(_name(each.key), each.slot, each.total) for each in report.series],
        "metrics": METRICS,
        "groups": GROUPS,
        "ranges": RANGES | {"custom": "Custom"},
        "dates": query.url(range="custom", **{"from": str(period.first_day), "to": str(period.last_day)}),
        "csv": url_for("usage.export", **days),
    }


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
        "cycle": cycle(account, now=moment),
        "kinds": KINDS,
        "split": _split(current),
        "calls": recent_calls(account.id, RECENT_CALLS),
    }


def _headline(metric: str, total: UsageTotals, dates: str) -> dict[str, str]:
    """Title, total and note above the chart."""
    if metric == "latency":
        note = f"p50, {format.duration_ms(total.p95_ms)} p95, {dates}"
        return {"title": "Latency", "total": format.duration_ms(total.p50_ms), "note": note}
    value = getattr(total, metric)
    text = format.tokens(value) if metric == "tokens" else format.credits(value)
    unit = metric.removesuffix("s") if value == 1 else metric
    return {"title": "Usage", "total": text, "note": f"{unit}, {dates}"}


def _date_range(period: Period, moment: datetime) -> str:
    """`22 Oct to now`, `1 Aug to 20 Nov 2026`, `since 20 Nov, 15:00`."""
    if period.name == "24h":
        return f"since {period.start:%-d %b, %H:%M} UTC"
    first, last = period.first_day, period.last_day
    if last == moment.astimezone(UTC).date():
        return f"{first:%-d %b} to now" if first.year == last.year else f"{first:%-d %b %Y} to now"
    if first == last:
        return f"{first:%-d %b %Y}"
    return (
        f"{first:%-d %b} to {last:%-d %b %Y}"
        if first.year == last.year
        else f"{first:%-d %b %Y} to {last:%-d %b %Y}"
    )


def _split(balance: Balance) -> SplitBar:
    held = sum(row.held for row in balance.rows)
    parts = [SplitPart(KINDS[row.kind][0].lower(), row.left, KINDS[row.kind][1]) for row in balance.rows]
    return split_bar([SplitPart("held", held, "held"), *parts])


def _name(key: str | None) -> str:
    return "Other" if key is None else key or "No agent"


def _chart(metric: str, report: UsageReport, moment: datetime) -> Chart:
    step, starts = report.period.step, report.starts
    if metric == "latency":
        lines = [
            ChartSeries("p50", [each.p50_ms for each in report.columns]),
            ChartSeries("p95", [each.p95_ms for each in report.columns]),
        ]
        return line_chart(starts, lines, unit="ms", now=moment, grain=step, height=250)
    if metric == "tokens":
        series = [
            ChartSeries(name, [getattr(each, field) for each in report.columns])
            for name, field in TOKENS.items()
        ]
        colours = {name: colour for colour, name in enumerate(TOKENS, 1)}
        return stacked_chart(starts, series, unit="tokens", now=moment, grain=step, palette=colours)
    series = [
        ChartSeries(_name(each.key), [getattr(column, metric) for column in each.columns])
        for each in report.series
    ]
    colours = {_name(each.key): each.slot for each in report.series if each.key is not None}
    unit: Any = metric
    return stacked_chart(starts, series, unit=unit, now=moment, grain=step, palette=colours)
