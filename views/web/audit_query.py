"""Filters, cursors and exports of the audit log, for its pages and its JSON route."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from flask import Response, request

from models.core.audit_trail import EXPORT_COLUMNS, AuditFilter, exported_entries
from models.core.csv_text import csv_lines
from models.core.db import midnight
from models.core.errors import Invalid
from views.web.format import iso

PAGE = 50
NAMES = ("actor", "action", "subject", "from", "to")
MAX_TEXT = 320
LAST_YEAR = 9999


def entered() -> dict[str, str]:
    """The filter as it was entered, by `NAMES`."""
    return {name: request.args.get(name, "").strip()[:MAX_TEXT] for name in NAMES}


def audit_filter(org_id: str | None, zone: tzinfo = UTC) -> AuditFilter:
    """The filter of this request: `actor`, `action`, `subject`, and the days `from` and `to` in the time zone, inclusive.

    Raises Invalid (422) with the fields.
    """
    found, fields = entered(), {}
    days: dict[str, datetime | None] = {"from": None, "to": None}
    for name in days:
        try:
            day = date.fromisoformat(found[name]) if found[name] else None
            if day is not None and (name == "from" or day.year < LAST_YEAR):
                days[name] = midnight(day + timedelta(days=name == "to"), zone)
        except ValueError:
            fields[name] = "Enter a day like 2026-11-29."
    if any("\0" in text for text in found.values()):
        fields["actor"] = "Enter printable text."
    if fields:
        raise Invalid("; ".join(f"{name}: {text}" for name, text in fields.items()), fields=fields)
    return AuditFilter(org_id, found["actor"], found["action"], found["subject"], days["from"], days["to"])


def before_id(name: str = "before") -> int | None:
    """The cursor of this request; None for the first page. Raises Invalid."""
    text = request.args.get(name, "")
    if text and not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid(f"Invalid page: '{name}' must be the number that the last page named.")
    return int(text) if text else None


def exported(filter: AuditFilter, kind: str, name: str) -> Response:
    """Stream all entries of the filter as a CSV or JSON file."""
    rows = exported_entries(filter)
    if kind == "csv":
        texts = ("before", "after")
        lines = ({**row, **{each: _compact(row[each]) for each in texts}} for row in rows)
        response = Response(csv_lines(EXPORT_COLUMNS, lines), mimetype="text/csv")
    else:
        response = Response(_json_array(rows), mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{kind}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _json_array(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    opening = "[\n"
    for row in rows:
        yield opening + _compact(
            {name: iso(row[name]) if name == "at" else row[name] for name in EXPORT_COLUMNS}
        )
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"


def _compact(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown(value: Any) -> str:
    """A value of the log for readers: text as it is, the rest as short JSON; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
