"""`/admin/takedowns`: what operators took out of the store."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.store.publishing import withdrawing
from models.store.publishing.takedowns import StoreName, listed_takedowns
from views.admin.pages.admin_blueprint import bp, entered_reason, operating_user
from views.web.guards import admin_required, audit, limiter
from views.web.htmx import render, see_other, toast

SHOWN = 100
LONGEST_NAME = 300


@bp.get("/takedowns")
@admin_required
def takedown_list() -> ResponseReturnValue:
    """The takedowns in force, newest first, and the form for another. Query: `name`, to fill in."""
    return _page(request.args.get("name", ""))


@bp.post("/takedowns")
@admin_required
@limiter.limit("60 per minute")
def take_down() -> ResponseReturnValue:
    """Take a publisher, an agent or a version out of the store. Form: `name`, `reason`, which is public."""
    text = request.form.get("name", "").strip()
    try:
        name, reason = _named(text), entered_reason()
        changed = withdrawing.take_down(name, reason, operating_user().email, now())
    except (Invalid, NotFound) as error:
        fields = getattr(error, "fields", None) or {"name": error.message}
        return _page(text, request.form.get("reason", ""), fields)
    if changed:
        audit("store.taken_down", str(name), user=operating_user(), after={"reason": reason})
        db.session.commit()
    toast(f"{name} is taken down.")
    return see_other(url_for(".takedown_list"))


@bp.post("/takedowns/<path:name>/restoration")
@admin_required
@limiter.limit("60 per minute")
def restore(name: str) -> ResponseReturnValue:
    """Put a publisher, an agent or a version back into the store."""
    try:
        place = _named(name)
    except Invalid as error:
        raise NotFound(error.message) from None
    if not withdrawing.restore(place):
        raise NotFound(f"{place} is not taken down.")
    audit("store.restored", str(place), user=operating_user())
    db.session.commit()
    toast(f"{place} is back in the store.")
    return see_other(url_for(".takedown_list"))


def _named(text: str) -> StoreName:
    name = StoreName.parse(text) if len(text) <= LONGEST_NAME and text.isprintable() else None
    if name is None:
        message = "Enter publisher, publisher/agent or publisher/agent@1.0.0."
        raise Invalid(message, fields={"name": message})
    return name


def _page(name: str, reason: str = "", errors: dict[str, str] | None = None) -> ResponseReturnValue:
    return render(
        "admin/takedowns.html",
        takedowns=listed_takedowns(SHOWN),
        name=name,
        reason=reason,
        errors=errors or {},
        status=422 if errors else 200,
    )
