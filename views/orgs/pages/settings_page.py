"""Settings of an organisation: profile, notifications, publishers, features; transfer of ownership, archive, deletion."""

from typing import Any

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.core.time_zones import time_zones
from models.orgs import Org, can, delete_org, edit_org, members
from models.orgs.features import features
from models.orgs.founding import GRACE
from models.store import publishers
from models.usage.org_archive import org_archive
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import page_balance, render, see_other, toast
from views.web.org_guards import (
    current_membership,
    current_org,
    org_account,
    org_caller,
    org_page,
    signed_in,
)

TEXTS = ("name", "description", "time_zone")
LABELS = {"name": "Name", "description": "Description", "time_zone": "Time zone"}


@bp.get("/orgs/<slug>/settings")
@org_page("edit_settings")
def org_settings() -> ResponseReturnValue:
    """Show the settings."""
    org = current_org()
    return _page({name: getattr(org, name) for name in TEXTS})


def _page(values: dict[str, Any], errors: dict[str, str] | None = None) -> ResponseReturnValue:
    org = current_org()
    errors = errors or {}
    return render(
        "orgs/settings.html",
        partial="orgs/_settings_form.html",
        values=values,
        errors=errors,
        summary=[(field, LABELS[field], message) for field, message in errors.items() if field in LABELS],
        zones=[(zone, zone) for zone in dict.fromkeys((*time_zones(), org.time_zone))],
        publishers=publishers.of_org(org.id),
        features=features(org),
        grace=GRACE.days,
        owner=can(current_membership(), "delete_org"),
        status=422 if errors else 200,
    )


@bp.post("/orgs/<slug>/settings")
@org_page("edit_settings")
@limiter.limit("120/minute", key_func=org_caller)
def save_settings() -> ResponseReturnValue:
    """Save name, description and time zone."""
    values: dict[str, Any] = {name: request.form.get(name, "").replace("\0", "") for name in TEXTS}
    try:
        edit_org(current_org(), values)
    except Invalid as error:
        db.session.rollback()
        return _page(values, error.fields)
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("orgs.org_settings"))


# -- ownership -----------------------------------------------------------------------------------------------


@bp.get("/orgs/<slug>/ownership")
@org_page("transfer")
def ask_transfer() -> ResponseReturnValue:
    """Ask whom to transfer the ownership to."""
    return _transfer_form()


def _transfer_form(error: str | None = None) -> ResponseReturnValue:
    org = current_org()
    others = [row for row in members.people(org) if row.user.id != signed_in().id]
    return render(
        "orgs/transfer.html",
        choices=[(row.user.id, f"{row.user.display_name} ({row.member.role})") for row in others],
        error=error,
        status=422 if error else 200,
    )


@bp.post("/orgs/<slug>/ownership")
@org_page("transfer")
@limiter.limit("60/minute", key_func=org_caller)
def transfer() -> ResponseReturnValue:
    """Transfer the ownership; the viewer becomes an admin."""
    if request.form.get("typed", "").strip() != current_org().slug:
        return _transfer_form(f"Type {current_org().slug} to confirm.")
    user = members.transfer(current_org(), signed_in().id, request.form.get("user", "").replace("\0", ""))
    db.session.commit()
    toast(f"{user.display_name} owns {current_org().name} now. You are an admin.")
    return see_other(url_for("orgs.team"))


# -- archive and deletion ------------------------------------------------------------------------------------


@bp.get("/orgs/<slug>/archive.zip")
@org_page("delete_org")
@limiter.limit("10/minute", key_func=org_caller)
def archive() -> ResponseReturnValue:
    """Stream everything the organisation has: members, repositories, calls, statement, audit log, assistants, and which threads it pays for."""
    org = current_org()
    chunks = org_archive(org)
    db.session.commit()
    response = Response(chunks, mimetype="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="stoa-{org.slug}.zip"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/orgs/<slug>/deletion")
@org_page("delete_org")
def ask_deletion() -> ResponseReturnValue:
    """Say what deletion does, and ask to type the organisation's address."""
    return _deletion_form(current_org())


def _deletion_form(org: Org, error: str | None = None) -> ResponseReturnValue:
    return render(
        "orgs/deletion.html",
        balance=page_balance(org_account()),
        publishers=publishers.of_org(org.id),
        grace=GRACE.days,
        error=error,
        status=422 if error else 200,
    )


@bp.post("/orgs/<slug>/deletion")
@org_page("delete_org")
@limiter.limit("60/minute", key_func=org_caller)
def delete() -> ResponseReturnValue:
    """Delete the organisation, which its owners can restore for 14 days."""
    org = current_org()
    if request.form.get("typed", "").strip() != org.slug:
        return _deletion_form(org, f"Type {org.slug} to confirm.")
    try:
        delete_org(org)
    except Conflict as error:
        db.session.rollback()
        return _deletion_form(org, error.message)
    db.session.commit()
    toast(f"{org.name} is deleted. You can restore it here for {GRACE.days} days.")
    return see_other(url_for("orgs.orgs"))
