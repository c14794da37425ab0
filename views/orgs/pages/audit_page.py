"""The audit log of an organisation: filters, exports, retention."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.audit_trail import actions, changes, entries
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.orgs.audit_retention import RETENTIONS, set_retention
from views.orgs.pages.orgs_blueprint import bp
from views.web.audit_query import NAMES, PAGE, audit_filter, before_id, entered, exported, shown
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_page
from views.web.viewer_locale import viewer_zone


@bp.get("/orgs/<slug>/audit")
@org_page("see_audit")
def audit_entries_page() -> ResponseReturnValue:
    """Show who did what, newest first. Query: `actor`, `action`, `subject`, `from`, `to`, and `before` (cursor)."""
    org, values = current_org(), entered()
    errors: dict[str, str] = {}
    try:
        filter = audit_filter(org.id, viewer_zone())
        rows, following = entries(filter, before=before_id(), limit=PAGE)
    except Invalid as invalid:
        if not invalid.fields:
            raise
        errors, rows, following = invalid.fields, [], None
    chosen: dict[str, Any] = {name: values[name] or None for name in NAMES}
    return render(
        "orgs/audit.html",
        partial="components/_audit_entries.html" if request.args.get("before") else "orgs/_audit.html",
        entries=[(row, changes(row.before, row.after)) for row in rows],
        shown=shown,
        names_org=False,
        subject_links={},
        more=url_for("orgs.audit_entries_page", before=following, **chosen) if following else None,
        filter=values,
        filtered=any(values.values()),
        errors=errors,
        actions=_choices(org.id, values["action"]),
        files={kind: url_for("orgs.audit_file", kind=kind, **chosen) for kind in ("csv", "json")},
        org=org,
        retentions=RETENTIONS,
        status=422 if errors else 200,
    )


def _choices(org_id: str, chosen: str) -> list[str]:
    """Actions to choose from: those of late, and the one that is chosen."""
    return sorted({*actions(org_id), *filter(None, [chosen])})


@bp.get("/orgs/<slug>/audit.csv", defaults={"kind": "csv"})
@bp.get("/orgs/<slug>/audit.json", defaults={"kind": "json"})
@org_page("see_audit")
@limiter.limit("10/minute")
def audit_file(kind: str) -> ResponseReturnValue:
    """Stream the filtered entries as a file. Query as on the page."""
    org = current_org()
    filter = audit_filter(org.id, viewer_zone())
    db.session.commit()
    return exported(filter, kind, f"stoa-audit-{org.slug}")


@bp.post("/orgs/<slug>/audit/retention")
@org_page("keep_audit")
def keep_audit() -> ResponseReturnValue:
    """Set how long entries are kept: `days`, or empty for ever."""
    days = request.form.get("days", "")
    if days and not (days.isascii() and days.isdecimal() and len(days) < 6):
        raise NotFound("There is no such retention.")
    set_retention(current_org(), int(days) if days else None)
    db.session.commit()
    toast("Saved. Older entries are removed at night." if days else "Saved. Entries are kept for ever.")
    return see_other(url_for("orgs.audit_entries_page"))
