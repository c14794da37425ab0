"""`/admin/relabels`: what each model answered to a person's stored requests, side by side. The audit log keeps who looked."""

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import signing_in
from models.accounts.users import User
from models.admin.account_review import view_is_due
from models.admin.account_search import LONGEST_TEXT
from models.admin.relabels import relabelled_traces
from models.core.db import db, now
from views.admin.pages.admin_blueprint import bp, operating_user
from views.web.guards import admin_required, audit, settings
from views.web.htmx import render

SHOWN = 20


@bp.get("/relabels")
@admin_required
def relabels() -> ResponseReturnValue:
    """The latest calls of a person with the answers of each model. Query: `user`, an id or an address."""
    text = request.args.get("user", "").replace("\0", "").strip()[:LONGEST_TEXT]
    person = (db.session.get(User, text) or signing_in.by_email(text.lower())) if text else None
    if person is not None and view_is_due(person.id, operating_user().id, now(), "relabels.viewed"):
        audit("relabels.viewed", person.id, user=operating_user())
        db.session.commit()
    return render(
        "admin/relabels.html",
        query=text,
        person=person,
        traces=relabelled_traces(person.id, SHOWN) if person else [],
        models=settings().stoa_relabel_models,
    )


@bp.get("/file-picker")
@admin_required
def file_picker() -> ResponseReturnValue:
    """The address of the compatible contract (6.5)."""
    return redirect(url_for("admin.relabels", user=request.args.get("user")))
