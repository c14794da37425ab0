"""`/admin/feedback`: what users say about answers and about the product."""

from datetime import timedelta

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.admin.feedback import CATEGORIES, feedback_counts, feedback_page
from models.core.db import now
from views.admin.pages.admin_blueprint import bp
from views.web.guards import admin_required
from views.web.htmx import render
from views.web.keyset import cursor, cursor_text

NAMES = {
    "good_result": "Good result",
    "bad_result": "Bad result",
    "app_bug": "Bug",
    "other": "Other",
}
DAYS = 30


@bp.get("/feedback")
@admin_required
def feedback() -> ResponseReturnValue:
    """Feedback, newest first. Query: `category`; `before`, a cursor. Raises Invalid."""
    category = request.args.get("category", "")
    category = category if category in CATEGORIES else ""
    before = cursor()
    rows, following = feedback_page(category, before)
    return render(
        "admin/feedback.html",
        partial="admin/_feedback_rows.html" if before else None,
        rows=rows,
        more=url_for("admin.feedback", category=category or None, before=cursor_text(*following))
        if following
        else None,
        category=category,
        names=NAMES,
        counts=feedback_counts(now() - timedelta(days=DAYS)),
        days=DAYS,
        later=bool(before),
    )
