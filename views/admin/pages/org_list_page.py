"""`/admin/orgs`: all organisations of the server with balance and use (contract 6.5)."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.admin.org_overview import HEALTHS, orgs_newest_first
from models.core.db import now
from views.admin.pages.admin_blueprint import bp
from views.web.guards import admin_required
from views.web.htmx import render

LOOKED_THROUGH = 200
"""Organisations of one page, before the status is compared."""
LONGEST = 100


@bp.get("/orgs")
@admin_required
def org_list() -> ResponseReturnValue:
    """List organisations, newest first. Query: `q`, the beginning of a name or slug; `status`; `after`, a cursor."""
    text = request.args.get("q", "").replace("\0", "").strip()[:LONGEST]
    status = request.args.get("status", "")
    status = status if status in HEALTHS else ""
    after = request.args.get("after") or None
    found, following = orgs_newest_first(now(), after=after, limit=LOOKED_THROUGH, beginning=text)
    shown = [each for each in found if not status or each.health == status]
    chosen: dict[str, Any] = {"q": text or None, "status": status or None}
    return render(
        "admin/orgs.html",
        partial="admin/_org_rows.html" if after else None,
        orgs=shown,
        more=url_for("admin.org_list", after=following, **chosen) if following else None,
        query=text,
        health=status,
        statuses=[(each, each.capitalize()) for each in HEALTHS],
        later=after is not None,
    )
