"""View model of usage reports: query, chart, headline and table, for the usage of an account and of an organisation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from flask import request, url_for

from models.core.errors import Invalid
from models.usage.period import DEFAULT, Period, parse_period, preset
from models.usage.usage_report import MAX_SERIES, By, UsageReport, UsageTotals
from views.web import format
from views.web.charts import Chart, ChartSeries, line_chart, stacked_chart

METRICS = {"credits": "Credits", "calls": "Calls", "tokens": "Tokens", "latency": "Latency"}
RANGES = {"24h": "24h", "7d": "7d", "30d": "30d"}

TOKENS = {
    "Input": "input_tokens",
    "Cache write": "cache_write_tokens",
    "Cache read": "cache_read_tokens",
    "Output": "plain_output_tokens",
    "Reasoning": "reasoning_tokens",
}
"""Disjoint; they add up to all tokens."""

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class UsageQuery:
    """The page's query parameters as given; `url` builds a link with changes to them. `fixed` are those that its controls
    keep, `groups` the labels by which it can group."""

    endpoint: str
    groups: Mapping[By, str]
    range: str
    by: By
    metric: str
    first: str
    last: str
    fixed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def requested(
        cls, endpoint: str, groups: Mapping[By, str], fixed: Mapping[str, str] | None = None
    ) -> "UsageQuery":
        """The query of the current request."""
        return cls(
            endpoint=endpoint,
            groups=groups,
            range=request.args.get("range") or DEFAULT,
            by=cast(By, _one_of("by", tuple(groups))),
            metric=_one_of("show", tuple(METRICS)),
            first=request.args.get("from", ""),
            last=request.args.get("to", ""),
            fixed=fixed or {},
        )

    @property
    def home(self) -> str:
        """The page's URL without a query."""
        return url_for(self.endpoint)

    @property
    def date_input_types(self) -> tuple[str, str]:
        """Input types of the date fields: "text" for an invalid date, which a browser's date input would drop."""
        first, last = (
            "date" if not text or DATE.fullmatch(text) else "text" for text in (self.first, self.last)
        )
        return first, last

    @property
    def dates(self) -> dict[str, Any]:
        """The parameters of the time range only."""
        return {name: value for name, value in self.args().items() if name in ("range", "from", "to")}

    def args(self, **changes: str) -> dict[str, Any]:
        """The query parameters with `changes`; dates only for a custom range."""
        args = {**self.fixed, "range": self.range, "by": self.by, "show": self.metric} | changes
        if args["range"] == "custom":
            args = {"from": self.first, "to": self.last} | args
        return args

    def url(self, **changes: str) -> str:
        """The page's URL with `changes` to the query."""
        return url_for(self.endpoint, **self.args(**changes))


def requested_period(query: UsageQuery, moment: datetime, zone: Any = UTC) -> tuple[Period, dict[str, str]]:
    """The requested period, or for an invalid range the last 30 days; and the field errors."""
    try:
        return parse_period(query.range, query.first, query.last, moment, zone), {}
    except Invalid as invalid:
        return preset(DEFAULT, moment, zone), invalid.fields


def spending_context(
    query: UsageQuery,
    report: UsageReport,
    moment: datetime,
    errors: Mapping[str, str],
    *,
    name: Callable[[str], str] = lambda key: key or "No agent",
    href: Callable[[str], str | None] = lambda _key: None,
) -> dict[str, Any]:
    """The context of `usage/_spending.html`: chart, headline, table and controls, and the response's status. `name` and `href`
    are the label of a key, unique, and the page of its calls."""
    period = report.period

    def label(key: str | None) -> str:
        return "Other" if key is None else name(key)

    return {
        "query": query,
        "report": report,
        "fields": {"range": None, "from": None, "to": None} | dict(errors),
        "status": 422 if errors else 200,
        "chart": _chart(query.metric, report, moment, label),
        "headline": _headline(query.metric, report.total, _date_range(period, moment)),
        "rows": [
            (label(each.key), each.slot, each.total, None if each.key is None else href(each.key))
            for each in report.series
        ],
        "metrics": METRICS,
        "groups": query.groups,
        "ranges": RANGES | {"custom": "Custom"},
        "dates": query.url(range="custom", **{"from": str(period.first_day), "to": str(period.last_day)}),
        "zone": str(period.zone),
    }


def file_name(prefix: str, period: Period, kind: str) -> str:
    """The name of an exported file."""
    hours = "-24h" if period.name == "24h" else ""
    return f"{prefix}-{period.first_day}-to-{period.last_day}{hours}.{kind}"


def _one_of(name: str, choices: tuple[str, ...]) -> str:
    """The query parameter `name`; the first of `choices` if it is missing or unknown."""
    value = request.args.get(name, "")
    return value if value in choices else choices[0]


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
        return f"since {period.start:%-d %b, %H:%M %Z}"
    first, last = period.first_day, period.last_day
    if last == moment.astimezone(period.zone).date():
        return f"{first:%-d %b} to now" if first.year == last.year else f"{first:%-d %b %Y} to now"
    if first == last:
        return f"{first:%-d %b %Y}"
    return (
        f"{first:%-d %b} to {last:%-d %b %Y}"
        if first.year == last.year
        else f"{first:%-d %b %Y} to {last:%-d %b %Y}"
    )


def _chart(metric: str, report: UsageReport, moment: datetime, label: Callable[[str | None], str]) -> Chart:
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
        ChartSeries(label(each.key), [getattr(column, metric) for column in each.columns])
        for each in report.series
    ]
    colours = {label(each.key): each.slot for each in report.series if each.slot <= MAX_SERIES}
    unit: Any = metric
    return stacked_chart(starts, series, unit=unit, now=moment, grain=step, palette=colours)
