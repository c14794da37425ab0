"""The audit log of the whole server, for operators."""

from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from models.core.audit_trail import changes, entries
from models.core.db import db
from models.core.errors import Invalid
from models.orgs import by_slug, org_by_id
from models.orgs.audit_names import org_slugs
from views.admin.pages.audit_links import subject_links
from views.web.audit_query import NAMES, PAGE, audit_filter, before_id, entered, exported, shown
from views.web.guards import admin_required
from views.web.htmx import render
from views.web.viewer_locale import viewer_zone

bp = Blueprint("admin_audit", __name__)


@bp.get("/admin/audit")
@admin_required
def everything() -> ResponseReturnValue:
    """Show who did what on this server, newest first. Query: `org` (slug or id), and as on an organisation's page."""
    name = _named()
    values, errors = entered(), {}
    try:
        filter = audit_filter(_org_id(name), viewer_zone())
        rows, following = entries(filter, before=before_id(), limit=PAGE)
    except Invalid as invalid:
        if not invalid.fields:
            raise
        errors, rows, following = invalid.fields, [], None
    chosen: dict[str, Any] = {"org": name or None, **{each: values[each] or None for each in NAMES}}
    return render(
        "admin/audit.html",
        partial="components/_audit_entries.html" if request.args.get("before") else "admin/_audit.html",
        entries=[(row, changes(row.before, row.after)) for row in rows],
        shown=shown,
        names_org=True,
        subject_links=subject_links(rows),
        slugs=org_slugs({row.org_id for row in rows if row.org_id}),
        more=url_for("admin_audit.everything", before=following, **chosen) if following else None,
        filter={**values, "org": name},
        filtered=bool(name) or any(values.values()),
        errors=errors,
        files={kind: url_for("admin_audit.file", kind=kind, **chosen) for kind in ("csv", "json")},
        status=422 if errors else 200,
    )


@bp.get("/admin/audit.csv", defaults={"kind": "csv"})
@bp.get("/admin/audit.json", defaults={"kind": "json"})
@admin_required
def file(kind: str) -> ResponseReturnValue:
    """Stream the filtered entries as a file."""
    filter = audit_filter(_org_id(_named()), viewer_zone())
    db.session.commit()
    return exported(filter, kind, "stoa-audit")


def _named() -> str:
    return request.args.get("org", "").replace("\0", "").strip()


def _org_id(name: str) -> str | None:
    if not name:
        return None
    found = by_slug(name) or org_by_id(name)
    return found.id if found else name  # entries outlive their organisation
