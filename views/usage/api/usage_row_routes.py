"""`/api/v1/usage`, `/{id}` and `/export`: usage as rows, one for each settled call (crafely contract 9.3).

`POST /api/v1/usage` beside them is the balance of the Codebuff command line (`balance_routes.py`), and creates nothing: usage is
written by the server only, so there is no other POST, and no DELETE (405)."""

import json
from collections.abc import Iterator

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.core.csv_text import csv_lines
from models.core.db import db
from models.usage.export import LINES_PER_CHUNK
from models.usage.usage_records import UsageRecord, exported_records, record_by_id, records_page
from views.usage.api.usage_answers import UsageRowAnswer, UsageRowList, row_facts
from views.usage.api.usage_params import (
    ERRORS,
    MAX_PAGE,
    NARROWED,
    PAGE,
    RANGE,
    SCOPED,
    USAGE_DOOR,
    asked_filters,
    asked_page,
    asked_scope,
    asked_window,
    asking_key,
    one_of,
)
from views.web.guards import key_caller, limiter
from views.web.keyset import cursor_text
from views.web.operation import Operation, path, query

bp = Blueprint("usage_records_api", __name__)

_NAMES = [name for name in UsageRowAnswer.model_fields if name != "metadata"]
_METADATA = (
    "request_id",
    "requested_model",
    "api",
    "run_id",
    "client_id",
    "repository",
    "streamed",
    "usage_source",
)


@bp.get("/api/v1/usage")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[
        *(*SCOPED, *RANGE, *NARROWED),
        query("cursor", "`next_cursor` of the previous page"),
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    ],
    answers={200: ("A page of rows", UsageRowList), **ERRORS},
    door=USAGE_DOOR,
)
def usage_rows() -> ResponseReturnValue:
    """List usage: a row for each settled call, newest first.

    The rows of a range add up to its summary and its series. A page reads a bounded number of calls: with a rare filter it may be
    short or empty and still have a `next_cursor`. `POST` on this address returns the balance of an account and creates nothing.
    """
    scope = asked_scope(asking_key())
    window, filters = asked_window(), asked_filters()
    after, limit = asked_page()
    page = records_page(scope, window, filters, after, limit)
    following = cursor_text(*page.following).replace("+00:00", "Z") if page.following else None
    return jsonify(data=[row_facts(each) for each in page.rows], next_cursor=following)


@bp.get("/api/v1/usage/<id>")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[path("id", "`id` of the row: that of the call's message")],
    answers={
        200: ("The row", UsageRowAnswer),
        401: ERRORS[401],
        403: ERRORS[403],
        404: "No such row, or not yours",
    },
    door=USAGE_DOOR,
)
def usage_row(id: str) -> ResponseReturnValue:
    """Return one row of usage.

    Of any scope of the key: its owner's account, and by role an organisation.
    """
    return jsonify(row_facts(record_by_id(asking_key(), id)))


@bp.get("/api/v1/usage/export")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[
        *SCOPED,
        *RANGE,
        *NARROWED,
        query("format", "`csv` (default) or `jsonl`: one JSON object a line"),
    ],
    answers={200: ("A stream of all rows, newest first", str), **ERRORS},
    door=USAGE_DOOR,
)
def export_usage() -> ResponseReturnValue:
    """Stream all usage of a range as CSV or JSON lines.

    CSV has the keys of a row as columns, those of `metadata` too; times are UTC, and text that a spreadsheet would run as a formula
    begins with an apostrophe.
    """
    scope = asked_scope(asking_key())
    window, filters = asked_window(), asked_filters()
    kind = one_of("format", ("csv", "jsonl"), "csv")
    records = exported_records(scope, window, filters)
    db.session.commit()
    chunks = _csv(records) if kind == "csv" else _json_lines(records)
    response = Response(chunks, mimetype="text/csv" if kind == "csv" else "application/jsonl")
    name = f"usage-{window.start:%Y-%m-%d}-{window.end:%Y-%m-%d}.{kind}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _csv(records: Iterator[UsageRecord]) -> Iterator[str]:
    facts = map(row_facts, records)
    return csv_lines([*_NAMES, *_METADATA], ({**each, **each["metadata"]} for each in facts))


def _json_lines(records: Iterator[UsageRecord]) -> Iterator[str]:
    lines: list[str] = []
    for record in records:
        lines.append(json.dumps(row_facts(record), ensure_ascii=False) + "\n")
        if len(lines) == LINES_PER_CHUNK:
            yield "".join(lines)
            lines = []
    yield "".join(lines)
