"""View model of usage reports: query, filters and table, for the usage of an account and of an organisation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from flask import request, url_for

from models.accounts import User
from models.core.errors import Invalid
from models.orgs import Org
from models.usage.org_labels import labels_of
from models.usage.period import DEFAULT, Period, parse_period, preset
from models.usage.usage_report import EXPANDED, By, UsageBefore, UsageReport, UsageTotals
from views.usage.pages.spending_figures import METRICS, change_of, figures, headline, spending_chart
from views.web import format
from views.web.viewer_locale import viewer_zone

RANGES = {"24h": "24h", "7d": "7d", "30d": "30d"}
STATES = {"settled": "Succeeded", "failed": "Failed"}
LONGEST = 512
"""Characters of a filter's value."""

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class UsageQuery:
    """The page's query parameters as given; `url` builds a link with changes to them. `fixed` are those that its controls
    keep, `groups` the labels by which it can group, `filters` the values by dimension to which it is narrowed. `expanded`: Other
    is listed one by one."""

    endpoint: str
    groups: Mapping[By, str]
    range: str
    by: By
    metric: str
    first: str
    last: str
    fixed: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, str] = field(default_factory=dict)
    expanded: bool = False

    @classmethod
    def requested(
        cls, endpoint: str, groups: Mapping[By, str], fixed: Mapping[str, str] | None = None
    ) -> "UsageQuery":
        """The query of the current request. Every group but runs is a filter, and so is `state`; a value is cut at 512 characters."""
        filters = {
            name: request.args[name].replace("\x00", "")[:LONGEST]
            for name in (*groups, "state")
            if name in request.args and name != "run"
        }
        if filters.get("state") not in STATES:
            filters.pop("state", None)
        return cls(
            endpoint=endpoint,
            groups=groups,
            range=request.args.get("range") or DEFAULT,
            by=cast(By, _one_of("by", tuple(groups))),
            metric=_one_of("show", tuple(METRICS)),
            first=request.args.get("from", ""),
            last=request.args.get("to", ""),
            fixed=fixed or {},
            filters=filters,
            expanded=request.args.get("top") == "all",
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

    @property
    def narrowed(self) -> dict[str, Any]:
        """The parameters of the time range and the filters only."""
        return {**self.dates, **self.filters}

    def limit(self, usual: int) -> int:
        """How many keys have a series of their own."""
        return EXPANDED if self.expanded else usual

    def args(self, **changes: str | None) -> dict[str, Any]:
        """The query parameters with `changes`, without those changed to None; dates only for a custom range."""
        args: dict[str, Any] = {
            **self.fixed,
            "range": self.range,
            "by": self.by,
            "show": self.metric,
            **self.filters,
        }
        if self.expanded and changes.keys() <= {"range", "show", "from", "to"}:
            args["top"] = "all"
        args |= changes
        if args["range"] == "custom":
            args = {"from": self.first, "to": self.last} | args
        return {name: value for name, value in args.items() if value is not None}

    def url(self, **changes: str | None) -> str:
        """The page's URL with `changes` to the query."""
        return url_for(self.endpoint, **self.args(**changes))


def requested_period(query: UsageQuery, moment: datetime, zone: Any = UTC) -> tuple[Period, dict[str, str]]:
    """The requested period, or for an invalid range the last 30 days; and the field errors."""
    try:
        return parse_period(query.range, query.first, query.last, moment, zone), {}
    except Invalid as invalid:
        return preset(DEFAULT, moment, zone), invalid.fields


@dataclass(frozen=True)
class SpendingRow:
    """A row of the table: a series with its label and colour, the address that filters by it (that of Other lists it), the pages of
    its calls and failed calls, and its credits in the period before."""

    name: str
    slot: int
    totals: UsageTotals
    href: str | None
    calls: str | None
    failed: str | None
    before: int

    @property
    def change(self) -> Any:
        """The change of its credits."""
        return change_of(self.totals.credits, self.before)


def spending_context(
    query: UsageQuery,
    report: UsageReport,
    before: UsageBefore,
    moment: datetime,
    errors: Mapping[str, str],
    *,
    name: Callable[[str, str], str],
    calls: Callable[..., str | None] = lambda **_values: None,
    run: Callable[[str], str | None] = lambda _run: None,
) -> dict[str, Any]:
    """The context of `usage/_spending.html`: chart, figures, table and controls, and the response's status.

    `name` is the label of a value of a dimension, unique in it; `calls` the address of the list of calls with the given query
    parameters, and `run` that of a run's page, for where there is no such list.
    """
    period = report.period
    rows = _rows(query, report, before, name, calls, run)
    labels = {each.key: row.name for each, row in zip(report.series, rows, strict=True)}
    return {
        "query": query,
        "report": report,
        "before": before,
        "fields": {"range": None, "from": None, "to": None} | dict(errors),
        "status": 422 if errors else 200,
        "chart": spending_chart(query.metric, report, before, moment, lambda key: labels[key]),
        "headline": headline(query.metric, report.total, _date_range(period, moment)),
        "figures": figures(query.metric, report.total, before.total, lambda metric: query.url(show=metric)),
        "rows": rows,
        "hrefs": {row.name: row.href for row in rows},
        "column_links": _column_links(query, period),
        "chips": [
            (f"{_dimension(query, each)}: {_value_label(each, value, name)}", query.url(**{each: None}))
            for each, value in query.filters.items()
        ],
        "groups": query.groups,
        "metrics": METRICS,
        "ranges": RANGES | {"custom": "Custom"},
        "dates": query.url(range="custom", **{"from": str(period.first_day), "to": str(period.last_day)}),
        "before_dates": _date_range(before.period, moment),
        "all_calls": calls(),
        "all_failed": calls(state="failed"),
        "dearest_calls": calls(sort="dearest"),
        "total_change": change_of(report.total.credits, before.total.credits),
        "zone": str(period.zone),
    }


def call_dates(query: UsageQuery, period: Period) -> dict[str, str]:
    """Parameters that let the list of calls, on the viewer's clock, show a period on another one; else none."""
    if str(period.zone) == str(viewer_zone()):
        return {}
    ends = {"from": period.start, "to": period.end - timedelta(minutes=1)}
    times = {name: moment.astimezone(viewer_zone()).replace(tzinfo=None) for name, moment in ends.items()}
    return {"range": "custom", **{name: time.isoformat(timespec="minutes") for name, time in times.items()}}


def namer(account: Org | User, report: UsageReport, filters: Mapping[str, str]) -> Callable[[str, str], str]:
    """The names of the report's series and of the values of its filters, by dimension and key."""
    keys: dict[str, set[str]] = {name: {value} for name, value in filters.items() if name != "state"}
    keys.setdefault(report.by, set()).update(each.key for each in report.series if each.key is not None)
    names = {dimension: labels_of(account, dimension, sorted(found)) for dimension, found in keys.items()}
    return lambda dimension, key: names[dimension][key]


def _rows(
    query: UsageQuery,
    report: UsageReport,
    before: UsageBefore,
    name: Callable[[str, str], str],
    calls: Callable[..., str | None],
    run: Callable[[str], str | None],
) -> list[SpendingRow]:
    rows = []
    for each in report.series:
        if each.key is None:
            rest = before.total.credits - sum(before.keys.values())
            href = None if query.expanded else query.url(top="all")
            rows.append(SpendingRow("Other", each.slot, each.total, href, None, None, rest))
            continue
        by = query.by
        rows.append(
            SpendingRow(
                name(by, each.key),
                each.slot,
                each.total,
                calls(run=each.key) or run(each.key)
                if by == "run"
                else query.url(**{"by": _regrouped(query), by: each.key}),
                calls(**{by: each.key}),
                calls(**{by: each.key, "state": "failed"}),
                before.keys.get(each.key, 0),
            )
        )
    return rows


def _regrouped(query: UsageQuery) -> str:
    """The group to show of one value of the current group."""
    others = [name for name in query.groups if name != query.by and name not in query.filters]
    return others[0] if others else query.by


def _column_links(query: UsageQuery, period: Period) -> list[str]:
    """Of a chart by day or week: the same page for each column."""
    if period.step == "hour":
        return []
    starts = [start.date() for start in period.columns()]
    ends = [start - timedelta(days=1) for start in starts[1:]] + [period.last_day]
    return [
        query.url(range="custom", **{"from": str(start), "to": str(end)})
        for start, end in zip(starts, ends, strict=True)
    ]


def _dimension(query: UsageQuery, name: str) -> str:
    groups: Mapping[Any, str] = query.groups
    return groups.get(name, "Calls")


def _value_label(dimension: str, value: str, name: Callable[[str, str], str]) -> str:
    return STATES[value] if dimension == "state" else name(dimension, value)


def file_name(prefix: str, period: Period, kind: str) -> str:
    """The name of an exported file."""
    hours = "-24h" if period.name == "24h" else ""
    return f"{prefix}-{period.first_day}-to-{period.last_day}{hours}.{kind}"


def _one_of(name: str, choices: tuple[str, ...]) -> str:
    """The query parameter `name`; the first of `choices` if it is missing or unknown."""
    value = request.args.get(name, "")
    return value if value in choices else choices[0]


def _date_range(period: Period, moment: datetime) -> str:
    """`22 Oct to now`, `1 Aug to 20 Nov 2026`, `since 20 Nov, 15:00 UTC`."""
    if period.name == "24h":
        return f"since {format.minute(period.start)}"
    first, last = period.first_day, period.last_day
    if last == moment.astimezone(period.zone).date():
        return f"{_start_day(first, last)} to now"
    return format.day(first) if first == last else f"{_start_day(first, last)} to {format.day(last)}"


def _start_day(first: date, last: date) -> str:
    return format.short_day(first) if first.year == last.year else format.day(first)
