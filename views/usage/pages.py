"""The pages of usage: what an account has and used, its statement, and the export."""

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
from models.usage import period as periods
from models.usage.export import csv_of
from models.usage.period import Period
from models.usage.statement import Show, sheet, statement
from models.usage.usage_calls import call_with_id, exported_calls, recent_calls
from models.usage.usage_report import By, UsageReport, UsageTotals, spending
from views.accounts.pages.profile import tab
from views.runs.pages import call_address
from views.web import format
from views.web.charts import Chart, ChartSeries, SplitBar, SplitPart, line_chart, split_bar, stacked_chart
from views.web.guards import current_account, login_required, settings
from views.web.htmx import render, wants_fragment

bp = Blueprint("usage", __name__)

KINDS = {
    "free": ("Free, monthly", 6),
    "referral": ("Referral", 2),
    "referral_legacy": ("Referral, earlier", 2),
    "admin": ("Granted by the operator", 4),
    "purchase": ("Purchased", 1),
    "subscription": ("Subscription", 3),
    "ad": ("Earned from ads", 5),
    "organization": ("Organisation", 7),
}
"""How a kind of grant is called, and its colour."""

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
"""Disjoint: their sum is all tokens."""

RECENT = 10

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class UsageQuery:
    """What the page was asked to show, as given; `address` writes it back with changes."""

    range: str
    by: By
    metric: str
    first: str
    last: str

    @property
    def date_kinds(self) -> tuple[str, str]:
        """What fields keep the dates as they were given: a browser's date field would drop what is no date."""
        first, last = (
            "date" if not text or DATE.fullmatch(text) else "text" for text in (self.first, self.last)
        )
        return first, last

    def words(self, **changes: str) -> dict[str, Any]:
        """The question as query words, but for `changes`; dates only where they are the range."""
        words = {"tab": "usage", "range": self.range, "by": self.by, "show": self.metric} | changes
        if words["range"] == "custom":
            words = {"from": self.first, "to": self.last} | words
        return words

    def address(self, **changes: str) -> str:
        """The page's address for the same question but for `changes`."""
        return url_for("profile.profile", **self.words(**changes))


@tab("usage")
@login_required
def page() -> ResponseReturnValue:
    """`/profile?tab=usage`: balance, charts and tables from rollups, and the latest calls (contract 6.3).

    Query: `range` (24h, 7d, 30d, or custom with `from` and `to`), `by` (model, agent), `show` (credits, calls,
    tokens, latency). htmx gets the chart and its tables alone. Dates that cannot be used: 422, kept as they were
    given, and 30 days are shown. A due quota cycle is run first (contract 3.6).
    """
    account, moment = current_account(), now()
    context = _shown(account, _asked(), moment)
    if not wants_fragment():
        ensure_quota(account, settings().stoa_free_credits, now=moment)
        db.session.commit()
        context |= _account(account, moment)
        g.balance = context["has"]  # for the bar: two readings could differ by a call
    return render("usage/usage.html", partial="usage/_spending.html", **context)


def _shown(account: Account, asked: "UsageQuery", moment: datetime) -> dict[str, Any]:
    """The figures that were asked for, or with dates that cannot be used those of 30 days; and the answer's status."""
    wrong: dict[str, str] = {}
    try:
        period = periods.chosen(asked.range, asked.first, asked.last, moment)
    except Invalid as refusal:
        wrong = refusal.fields
        period = periods.preset(periods.DEFAULT, moment)
    fields = {"range": None, "from": None, "to": None} | wrong
    return _used(account, asked, period, moment) | {"fields": fields, "status": 422 if wrong else 200}


@bp.get("/profile/usage.csv")
@login_required
def export() -> ResponseReturnValue:
    """The period's calls as CSV, streamed: `range` or `from` and `to` as on the page; at most what has finished by now.

    Raises Invalid (422).
    """
    account, moment = current_account(), now()
    asked = _asked()
    period = periods.chosen(asked.range, asked.first, asked.last, moment)
    calls = exported_calls(account.id, period.start, min(period.end, moment))
    db.session.commit()
    response = Response(csv_of(calls), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(period)}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/profile/statement")
@login_required
def ledger() -> ResponseReturnValue:
    """Every credit in and out, newest first, in keyset pages: `show` (all, in), `before` (an entry's id)."""
    account = current_account()
    show = cast(Show, _one_of("show", ("all", "in")))
    ensure_quota(account, settings().stoa_free_credits)
    db.session.commit()
    lines, more = statement(account.id, show, _entry_id(request.args.get("before")))
    context: dict[str, Any] = {
        "lines": lines,
        "kinds": KINDS,
        "show": show,
    }
    context["more"] = url_for("usage.ledger", show=show, before=more) if more else None
    if not wants_fragment():
        context["sheet"] = sheet(account.id)
    return render("usage/statement.html", partial="usage/_entries.html", **context)


@bp.get("/calls/<request_id>")
@login_required
def call(request_id: str) -> ResponseReturnValue:
    """One model call that belongs to no run, as the page of a run shows its calls; others are shown in their run."""
    account_id = current_account().id
    found = call_with_id(account_id, request_id)
    if found.run_id:
        return redirect(call_address(found.run_id, request_id))
    every = request.args.get("messages") == "all"
    return render(
        "runs/call.html",
        run=None,
        detail=call_of(account_id, None, request_id, all_messages=every),
        all_messages=every,
        fragment=False,
    )


def _asked() -> UsageQuery:
    return UsageQuery(
        range=request.args.get("range") or periods.DEFAULT,
        by=cast(By, _one_of("by", tuple(GROUPS))),
        metric=_one_of("show", tuple(METRICS)),
        first=request.args.get("from", ""),
        last=request.args.get("to", ""),
    )


def _one_of(name: str, words: tuple[str, ...]) -> str:
    """The query's word for `name`; the first of `words` when it says nothing that is known."""
    word = request.args.get(name, "")
    return word if word in words else words[0]


def _entry_id(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid("There is no such page of the statement")
    return int(text)


def _file_name(period: Period) -> str:
    hours = "-24h" if period.name == "24h" else ""
    return f"stoa-usage-{period.first_day}-to-{period.last_day}{hours}.csv"


def _used(account: Account, asked: UsageQuery, period: Period, moment: datetime) -> dict[str, Any]:
    """What the fragment shows: the chart, its headline, the table, the controls."""
    used = spending(account.id, period, asked.by, moment)
    days = {name: word for name, word in asked.words().items() if name in ("range", "from", "to")}
    return {
        "asked": asked,
        "used": used,
        "chart": _chart(asked.metric, used, moment),
        "headline": _headline(asked.metric, used.total, _span(period, moment)),
        "rows": [(_name(one.key), one.slot, one.total) for one in used.series],
        "metrics": METRICS,
        "groups": GROUPS,
        "ranges": RANGES | {"custom": "Dates"},
        "dates": asked.address(range="custom", **{"from": str(period.first_day), "to": str(period.last_day)}),
        "csv": url_for("usage.export", **days),
    }


def _account(account: Account, moment: datetime) -> dict[str, Any]:
    """What the page says of the account as a whole."""
    has = balance(account, now=moment)
    return {
        "moment": moment,
        "has": has,
        "cycle": cycle(account, now=moment),
        "kinds": KINDS,
        "split": _split(has),
        "calls": recent_calls(account.id, RECENT),
    }


def _headline(metric: str, total: UsageTotals, span: str) -> dict[str, str]:
    """The name, the big number and the words after it, above the chart."""
    if metric == "latency":
        note = f"for half of the calls, {format.duration_ms(total.p95_ms)} for 95%, {span}"
        return {"title": "Answered within", "total": format.duration_ms(total.p50_ms), "note": note}
    value = getattr(total, metric)
    written = format.tokens(value) if metric == "tokens" else format.credits(value)
    unit = metric.removesuffix("s") if value == 1 else metric
    return {"title": "Used" if metric != "calls" else "Called", "total": written, "note": f"{unit}, {span}"}


def _span(period: Period, moment: datetime) -> str:
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


def _split(has: Balance) -> SplitBar:
    held = sum(row.held for row in has.rows)
    parts = [SplitPart(KINDS[row.kind][0].lower(), row.left, KINDS[row.kind][1]) for row in has.rows]
    return split_bar([SplitPart("held", held, "held"), *parts])


def _name(key: str | None) -> str:
    return "Other" if key is None else key or "No agent"


def _chart(metric: str, used: UsageReport, moment: datetime) -> Chart:
    step = used.period.step
    if metric == "latency":
        lines = [
            ChartSeries("Half of the calls within", [one.p50_ms for one in used.columns]),
            ChartSeries("95% of the calls within", [one.p95_ms for one in used.columns]),
        ]
        return line_chart(used.starts, lines, unit="ms", now=moment, grain=step, height=250)
    if metric == "tokens":
        series = [
            ChartSeries(name, [getattr(one, field) for one in used.columns]) for name, field in TOKENS.items()
        ]
        colours = {name: colour for colour, name in enumerate(TOKENS, 1)}
        return stacked_chart(used.starts, series, unit="tokens", now=moment, grain=step, palette=colours)
    series = [ChartSeries(_name(one.key), [getattr(at, metric) for at in one.columns]) for one in used.series]
    colours = {_name(one.key): one.slot for one in used.series if one.key is not None}
    unit: Any = metric
    return stacked_chart(used.starts, series, unit=unit, now=moment, grain=step, palette=colours)
