"""Figures and the chart of usage reports: what each metric shows, and how it changed since the period before."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from models.usage.usage_report import MAX_SERIES, UsageBefore, UsageReport, UsageTotals
from views.web import format
from views.web.charts import Chart, ChartSeries, line_chart, stacked_chart

METRICS = {
    "credits": "Credits",
    "calls": "Calls",
    "tokens": "Tokens",
    "latency": "Latency",
    "errors": "Errors",
    "error_rate": "Error rate",
}

_VALUES: dict[str, Callable[[UsageTotals], Any]] = {
    "credits": lambda totals: totals.credits,
    "calls": lambda totals: totals.calls,
    "tokens": lambda totals: totals.tokens,
    "latency": lambda totals: totals.p95_ms,
    "errors": lambda totals: totals.failed,
    "error_rate": lambda totals: totals.error_rate,
}
_TEXTS: dict[str, Callable[[Any], str]] = {
    "credits": format.credits,
    "calls": format.credits,
    "tokens": format.tokens,
    "latency": format.duration_ms,
    "errors": format.credits,
    "error_rate": format.percent,
}
_WORSE = ("latency", "errors", "error_rate")
"""Metrics of which less is better."""


@dataclass(frozen=True)
class Change:
    """How a figure changed since the period before: its text, `direction` (up, down, same) and the value before."""

    text: str
    direction: str
    before: str


@dataclass(frozen=True)
class Figure:
    """A total above the chart, and the link that shows it in the chart. `bad`: it became worse."""

    metric: str
    name: str
    value: str
    note: str
    change: Change | None
    href: str
    current: bool
    bad: bool


def figures(
    current: str, total: UsageTotals, before: UsageTotals, href: Callable[[str], str]
) -> list[Figure]:
    """A figure of each metric."""
    found = []
    for metric, name in METRICS.items():
        value, earlier, text = _VALUES[metric](total), _VALUES[metric](before), _TEXTS[metric]
        change = change_of(value, earlier, text, points=metric == "error_rate")
        found.append(
            Figure(
                metric,
                name,
                text(value),
                "p95" if metric == "latency" else "",
                change,
                href(metric),
                metric == current,
                change is not None and change.direction == "up" and metric in _WORSE,
            )
        )
    return found


def change_of(
    value: float | Decimal | None,
    before: float | Decimal | None,
    text: Callable[[Any], str] = format.credits,
    *,
    points: bool = False,
) -> Change | None:
    """The change of a figure, relative or in percentage points; None if one of the two is missing or the figure was zero before."""
    if value is None or before is None or (not before and (not points or not value)):
        return None
    change = float(value) - float(before) if points else float(value) / float(before) - 1
    size = round(abs(change) * 100, 1 if points else 0)
    amount = f"{format.number(size, 1)} pp" if points else f"{format.number(size, 0)}%"
    if not size:
        return Change("0%" if not points else "0 pp", "same", text(before))
    direction = "up" if change > 0 else "down"
    return Change(("+" if change > 0 else "\N{MINUS SIGN}") + amount, direction, text(before))


def headline(metric: str, total: UsageTotals, dates: str) -> dict[str, str]:
    """Title, total and note above the chart."""
    if metric == "latency":
        note = f"p50, {format.duration_ms(total.p95_ms)} p95, {dates}"
        return {"title": "Latency", "total": format.duration_ms(total.p50_ms), "note": note}
    if metric == "error_rate":
        calls = total.calls + total.failed
        note = f"{format.credits(total.failed)} of {format.credits(calls)} calls failed, {dates}"
        return {"title": "Error rate", "total": format.percent(total.error_rate), "note": note}
    value = _VALUES[metric](total)
    unit = metric.removesuffix("s") if value == 1 else metric
    title = "Errors" if metric == "errors" else "Usage"
    return {"title": title, "total": _TEXTS[metric](value), "note": f"{unit}, {dates}"}


def spending_chart(
    metric: str,
    report: UsageReport,
    before: UsageBefore,
    moment: datetime,
    label: Callable[[str | None], str],
) -> Chart:
    """The chart of a metric. A series has the colour of its slot in every metric."""
    value, starts = _VALUES[metric], report.starts
    colours = {label(each.key): each.slot for each in report.series if each.slot <= MAX_SERIES}
    earlier = [value(each) for each in before.columns[: len(starts)]]
    earlier += [None if metric in ("latency", "error_rate") else 0] * (len(starts) - len(earlier))
    if not before.total.calls + before.total.failed:
        earlier = []
    unit: Any
    shown, unit, draw = report.series, "calls" if metric == "errors" else metric, stacked_chart
    if metric in ("latency", "error_rate"):
        shown = [
            each
            for each in shown
            if each.slot <= MAX_SERIES and any(value(column) is not None for column in each.columns)
        ]
        unit, draw = "ms" if metric == "latency" else "percent", line_chart
        # the line before is that of all calls
        earlier = earlier if len(report.series) == 1 else []
    return draw(
        starts,
        [ChartSeries(label(each.key), [value(column) for column in each.columns]) for each in shown],
        unit=unit,
        now=moment,
        grain=report.period.step,
        palette=colours,
        height=250,
        before=earlier,
    )
