"""The filter form of the list of calls: parameters of the address, the search they ask for, errors by field, and chips."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import request, url_for

from models.core.db import midnight
from models.runs.call_order import DEAREST, NEWEST, SORTS
from models.runs.call_search import NONE, CallFilter
from models.usage.period import PRESETS, preset

STATES = {"settled": "Settled", "failed": "Failed"}
RANGES = {
    "all": "Any time",
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "custom": "Between two times",
}
NAMES = {
    "text": "Text",
    "model": "Model",
    "provider": "Provider",
    "key": "Key",
    "agent": "Agent",
    "run": "Run",
    "member": "Member",
    "team": "Team",
    "repository": "Repository",
    "state": "State",
    "status": "HTTP status",
    "error": "Error",
    "code": "Error code",
    "above": "Cost above",
}
ORDERS = {"": "Newest first", DEAREST: "Dearest first"}
MAX_LENGTH = 200
MAX_CREDITS = Decimal(1_000_000_000)
COLUMNS = {
    "finished": "Finished",
    "state": "State",
    "provider": "Provider",
    "member": "Member",
    "team": "Team",
    "key": "Key",
    "agent": "Agent",
    "run": "Run",
    "repository": "Repository",
    "status": "HTTP status",
    "error": "Error",
    "input": "Input tokens",
    "cached": "Cached tokens",
    "output": "Output tokens",
    "latency": "Latency",
    "first_token": "First token",
    "cost": "Cost",
    "credits": "Credits",
}
"""Columns of the list in order; the model comes first and is always shown."""
DEFAULT_COLUMNS = ("finished", "key", "agent", "input", "output", "latency", "cost", "credits")
COOKIE = "stoa_call_columns"

_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?", re.ASCII)


@dataclass(frozen=True)
class CallFilterForm:
    """Values as entered, the columns to show, the search, and errors by field."""

    values: Mapping[str, str]
    columns: tuple[str, ...]
    filter: CallFilter
    errors: Mapping[str, str]

    def href(self, endpoint: str = "usage.calls", **changes: str) -> str:
        """The address of the list, or of its export, with some parameters changed. Empty ones are omitted."""
        values: dict[str, Any] = {**self.values, **changes}
        if values.get("range") != "custom":
            values |= {"from": "", "to": ""}
        if values.get("range") == "all":
            values["range"] = ""
        if values.get("sort") == NEWEST:
            values["sort"] = ""
        if self.columns != DEFAULT_COLUMNS or endpoint != "usage.calls":
            values["column"] = list(self.columns)
        return url_for(endpoint, **{name: value for name, value in values.items() if value})

    def time_value(self, name: str) -> str:
        """`from` or `to` for a field of date and time: of a day, its first or last minute."""
        entered = self.values[name]
        if not entered or "T" in entered or name in self.errors:
            return entered
        return entered + ("T00:00" if name == "from" else "T23:59")

    def sorting(self, column: str) -> dict[str, str]:
        """What the head of a column needs to sort by it: the address, and the order if the list is in it."""
        sort = {"finished": NEWEST, "cost": DEAREST}.get(column)
        if sort is None:
            return {}
        return {"href": self.href(sort=sort)} | ({"sort": "descending"} if self.filter.sort == sort else {})

    @property
    def active(self) -> list[str]:
        """The names of the filters in use."""
        return [name for name in NAMES if self.values[name]]

    def chips(self, labels: Mapping[str, str]) -> list[tuple[str, str]]:
        """The label of each filter in use and the address without it. `labels` are names of ids, by parameter."""
        chips = []
        if self.values["range"] != "all":
            chips.append((self._range_label(), self.href(range="all")))
        for name in self.active:
            value = labels.get(name, self.values[name])
            shown = {NONE: "none", **STATES}.get(value, value)
            text = f"{NAMES[name]} {shown} credits" if name == "above" else f"{NAMES[name]}: {shown}"
            chips.append((text if len(text) <= 80 else f"{text[:79]}…", self.href(**{name: ""})))
        return chips

    def _range_label(self) -> str:
        if self.values["range"] != "custom":
            return RANGES[self.values["range"]]
        parts = [
            f"{name} {self.values[name].replace('T', ' ')}" for name in ("from", "to") if self.values[name]
        ]
        return " ".join(parts).capitalize() or RANGES["all"]


def calls_address(values: Mapping[str, Any]) -> str:
    """The address of the calls behind a figure of usage; an empty value is that of calls without one."""
    given: dict[str, Any] = {name: value or NONE for name, value in values.items()}
    if (code := given.pop("error", None)) is not None:
        given |= {"state": "settled"} if code == NONE else {"code": code, "state": "failed"}
    return url_for("usage.calls", **given)


def requested_filter(moment: datetime, zone: tzinfo, *, user_id: str, reader: str) -> CallFilterForm:
    """The form of the current request. Empty fields count as missing; `agent` may be given as `version`, as usage pages do."""
    values = {
        name: request.args.get(name, "").replace("\x00", "").strip()
        for name in ("range", "from", "to", "sort", *NAMES)
    }
    values["agent"] = values["agent"] or request.args.get("version", "").replace("\x00", "").strip()
    values["range"] = values["range"] or ("custom" if values["from"] or values["to"] else "all")
    errors: dict[str, str] = {
        name: f"Enter at most {MAX_LENGTH} characters" for name in NAMES if len(values[name]) > MAX_LENGTH
    }
    start, end = _period(values, moment, zone, errors)
    if values["state"] and values["state"] not in STATES:
        errors["state"] = "Choose a state from the list"
    values["sort"] = values["sort"] or NEWEST
    if values["sort"] not in SORTS:
        errors["sort"] = "Choose an order from the list"
    filter = CallFilter(
        start=start,
        end=end,
        status=_status(values["status"], errors),
        above=_micro_credits(values["above"], errors),
        state=values["state"] or None,
        error=values["error"] or None,
        code=values["code"] or None,
        text=values["text"],
        reader=reader,
        user_id=user_id,
        sort=values["sort"],
        **{
            name: values[name] or None
            for name in ("model", "provider", "key", "agent", "run", "member", "team", "repository")
        },
    )
    return CallFilterForm(values, _columns(), filter, errors)


def _columns() -> tuple[str, ...]:
    """The columns asked for, or those of the last time, or the default ones."""
    given = request.args.getlist("column") or request.cookies.get(COOKIE, "").split(".")
    return tuple(name for name in COLUMNS if name in given) or DEFAULT_COLUMNS


def _period(
    values: Mapping[str, str], moment: datetime, zone: tzinfo, errors: dict[str, str]
) -> tuple[datetime | None, datetime | None]:
    """Start and end: whole hours and days as in the usage charts, so that a figure there is the total of its calls here."""
    name = values["range"]
    if name == "1h":
        return moment - timedelta(hours=1), None
    if name in PRESETS:
        period = preset(name, moment, zone)
        return period.start, period.end
    if name == "custom":
        start = _time(values["from"], "from", zone, errors)
        end = _time(values["to"], "to", zone, errors)
        if start and end and end <= start and "to" not in errors:
            errors["to"] = "Enter a time after the first one"
        return start, end
    if name != "all":
        errors["range"] = "Choose a time from the list"
    return None, None


def _time(entered: str, name: str, zone: tzinfo, errors: dict[str, str]) -> datetime | None:
    """A time on the clock of `zone`; of a `to`, the end of the day or minute that it names."""
    if not entered:
        return None
    try:
        found = datetime.fromisoformat(entered) if _TIME.fullmatch(entered) else None
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year <= 2999:
        errors[name] = "Enter a time like 2026-11-20T14:30, or a day like 2026-11-20"
        return None
    if "T" in entered:
        return found.replace(tzinfo=zone).astimezone(UTC) + timedelta(minutes=name == "to")
    return midnight(found.date() + timedelta(days=name == "to"), zone)


def _status(entered: str, errors: dict[str, str]) -> int | None:
    if not entered:
        return None
    if re.fullmatch(r"[1-5]\d\d", entered, re.ASCII):
        return int(entered)
    errors["status"] = "Enter a status from 100 to 599"
    return None


def _micro_credits(entered: str, errors: dict[str, str]) -> int | None:
    if not entered:
        return None
    try:
        credits = Decimal(entered)
    except InvalidOperation:
        credits = Decimal(-1)
    if not (credits.is_finite() and 0 <= credits <= MAX_CREDITS):
        errors["above"] = "Enter credits such as 2 or 0.25"
        return None
    return int(credits * 1_000_000)
