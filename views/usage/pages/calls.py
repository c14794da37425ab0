"""The list of an account's model calls, of a person or an organisation, and its export."""

from collections.abc import Iterable, Iterator
from typing import Any

from flask import Response, g, request
from flask.typing import ResponseReturnValue
from sqlalchemy import Row

from models.core.csv_text import csv_lines
from models.core.db import db, now
from models.core.errors import Invalid
from models.orgs import can
from models.runs import call_search, call_totals
from models.runs.call_order import DEAREST
from models.runs.call_search import NONE, CallPage
from models.runs.call_sources import MESSAGE_SCAN, SCAN
from models.usage.export import json_lines
from models.usage.org_labels import labels_of
from views.usage.pages.call_filters import (
    COLUMNS,
    COOKIE,
    ORDERS,
    RANGES,
    STATES,
    CallFilterForm,
    requested_filter,
)
from views.usage.pages.own_usage import bp
from views.web.htmx import render, wants_fragment
from views.web.keyset import cost_cursor, cursor, position_text
from views.web.org_guards import (
    account_page,
    current_membership,
    current_org,
    signed_in,
    viewed_account,
    viewed_member,
)
from views.web.viewer_locale import viewer_zone

YEAR = 365 * 86_400


@bp.get("/calls")
@bp.get("/orgs/<slug>/calls")
@account_page
def calls() -> ResponseReturnValue:
    """List the account's model calls, newest first, refused and failed ones included, or with `sort=dearest` those that cost most. Query:
    the fields of the filter form, `column` for each column to show, `after`. Members of an organisation without the capability `see_all_usage` see their own. Text is searched
    in messages that the viewer may read. htmx gets the list alone, or after a cursor only the next rows. Bad values: 422 with the
    input kept."""
    form = _form()
    account_id = viewed_account().id
    after = cost_cursor() if form.filter.sort == DEAREST else cursor("after")
    context: dict[str, Any] = {
        "form": form,
        "listing": None,
        "totals": None,
        "after": after,
        "next_href": None,
        "nothing_yet": False,
        "appended": bool(after) and wants_fragment(),
        "columns": COLUMNS,
        "ranges": RANGES,
        "states": STATES,
        "orders": ORDERS,
        "dearest": form.filter.sort == DEAREST,
        "zone": str(viewer_zone()),
        "own_only": bool(viewed_member()),
    }
    if not form.errors:
        page = call_search.calls_page(account_id, form.filter, after)
        context |= _listing(account_id, form, page)
    status = 422 if form.errors else 200
    if wants_fragment():
        partial = "usage/_more_calls.html" if after else "usage/_call_list.html"
        response = render("usage/calls.html", partial=partial, status=status, **context)
        if not after:
            response.headers["HX-Push-Url"] = form.href()
    else:
        context["choices"] = call_search.call_choices(account_id, viewed_member())
        response = render("usage/calls.html", partial="usage/_call_list.html", status=status, **context)
    if "column" in request.args:
        response.set_cookie(COOKIE, ".".join(form.columns), YEAR, httponly=True, samesite="Lax")
    return response


@bp.get("/calls/export")
@bp.get("/orgs/<slug>/calls/export")
@account_page
def calls_export() -> ResponseReturnValue:
    """Stream all calls of the list, with its filters, order and columns, as CSV, or JSON with `format=json`. Raises Invalid (422)."""
    form, kind = _form(), request.args.get("format") or "csv"
    if kind not in ("csv", "json"):
        raise Invalid("Choose the format csv or json.")
    if form.errors:
        raise Invalid(
            "; ".join(f"{name}: {message}" for name, message in form.errors.items()), fields=dict(form.errors)
        )
    found = call_search.exported_calls(viewed_account().id, form.filter)
    db.session.commit()
    names = ("call", "model", *form.columns)
    lines = _lines(found, names)
    response = Response(
        csv_lines(names, lines) if kind == "csv" else json_lines(lines),
        mimetype="text/csv" if kind == "csv" else "application/json",
    )
    prefix = current_org().slug if "org" in g else "stoa"
    response.headers["Content-Disposition"] = f'attachment; filename="{prefix}-calls-{now():%Y-%m-%d}.{kind}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _form() -> CallFilterForm:
    moment, reader = now(), ""
    if "org" in g:
        reader = "" if can(current_membership(), "read_messages") else signed_in().id
    return requested_filter(moment, viewer_zone(), user_id=viewed_member(), reader=reader)


def _listing(account_id: str, form: CallFilterForm, page: CallPage) -> dict[str, Any]:
    """What the list shows besides its filters."""
    after = request.args.get("after")
    totals = None
    if not after:
        totals = (
            call_totals.totals_of(page)
            if form.filter.text
            else call_totals.call_totals(account_id, form.filter)
        )
    filtered = bool(form.active) or form.values["range"] != "all" or form.filter.sort == DEAREST
    return {
        "listing": page,
        "totals": totals,
        "scanned": MESSAGE_SCAN if form.filter.reads_messages else SCAN,
        "chips": form.chips(_labels(form)),
        "nothing_yet": not (
            page.calls or after or (filtered and call_search.has_calls(account_id, viewed_member()))
        ),
        "next_href": form.href(after=position_text(page.next)) if page.next else None,
        "exports": [
            (f"Export {kind.upper()}", form.href("usage.calls_export", format=kind))
            for kind in ("csv", "json")
        ],
    }


def _labels(form: CallFilterForm) -> dict[str, str]:
    """Names of the ids in the filter."""
    account = current_org() if "org" in g else signed_in()
    return {
        name: labels_of(account, name, [value])[value]
        for name in ("key", "member", "team")
        if (value := form.values[name]) and value != NONE
    }


def _lines(calls: Iterable[Row[Any]], names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for call in calls:
        line = _line(call)
        yield {name: line[name] for name in names}


def _line(call: Row[Any]) -> dict[str, Any]:
    """The values of all columns of a call in the export. Credits are exact."""
    return {
        "call": call.request_id,
        "model": call.model_name,
        "finished": call.finished_at,
        "state": call.state,
        "provider": call.provider,
        "member": call.user_name or call.user_email,
        "team": call.team_name,
        "key": call.key_name,
        "agent": call.agent_id,
        "run": call.run_id,
        "repository": call.repo_url,
        "status": call.http_status,
        "error": call.error,
        "input": call.input_tokens,
        "cached": call.cache_read_tokens,
        "output": call.output_tokens,
        "latency": call.latency_ms,
        "first_token": call.ttft_ms,
        "cost": call.cost,
        "credits": call.exact_credits,
    }
