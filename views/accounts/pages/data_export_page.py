"""The export of a user's data: request it on the profile, watch it being made, download it."""

from typing import cast

from flask import Response, url_for
from flask.typing import ResponseReturnValue

from models.accounts import data_exports
from models.accounts.credentials import lock_browser
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import Conflict
from models.core.files import files
from views.accounts.pages.blueprint import bp
from views.web.guards import audit, cookie_user, current_session, limiter, login_required, settings
from views.web.htmx import render, see_other, toast, wants_fragment


def _user() -> User:
    return cast(User, cookie_user())


def _current() -> Session:
    return cast(Session, current_session())


def _back() -> ResponseReturnValue:
    return see_other(url_for("profile.profile", tab="account", _anchor="data-export"))


@bp.get("/profile/exports")
@login_required
def export_state() -> ResponseReturnValue:
    """The state of the user's latest export, for the page that waits for it."""
    if not wants_fragment():
        return _back()
    return render("accounts/_data_export.html", export=data_exports.latest_export(_user()), now=now())


@bp.post("/profile/exports")
@login_required
@limiter.limit("5/hour;10/day", key_func=lambda: _user().id if cookie_user() else "anonymous")
def request_export() -> ResponseReturnValue:
    """Request an export; a job makes it."""
    try:
        row = data_exports.request_export(_user(), by=_current(), now=now())
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "info")
        return _back()
    audit("data.export_requested", _user().id, user=_user(), after={"id": row.id})
    db.session.commit()
    toast("Your export is being made. We will send you an e-mail when it is ready.", "info")
    return _back()


@bp.get("/profile/exports/<identifier>")
@login_required
@limiter.limit("30/hour")
def download_export(identifier: str) -> ResponseReturnValue:
    """Stream the ZIP file of one of the user's exports."""
    lock_browser(_current())
    row = data_exports.own_export(_user(), identifier, now())
    audit("data.export_downloaded", _user().id, user=_user(), after={"id": row.id})
    db.session.commit()  # no connection is held while the file is sent
    response = Response(data_exports.content(row, files(settings())), mimetype="application/zip")
    response.content_length = row.bytes
    response.headers["Content-Disposition"] = (
        f'attachment; filename="stoa-data-{row.created_at:%Y-%m-%d}.zip"'
    )
    response.headers["Cache-Control"] = "no-store"
    return response
