"""Settings of Claude Code that the organisation manages for its members."""

import orjson
from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.orgs import client_settings
from models.orgs.client_settings import OrgClientSettings
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_caller, org_page, signed_in


@bp.get("/orgs/<slug>/client-settings")
@org_page("edit_settings")
def client_settings_form() -> ResponseReturnValue:
    """Show the settings as JSON."""
    row = client_settings.client_settings(current_org())
    return _page(row, _text(row))


@bp.post("/orgs/<slug>/client-settings")
@org_page("edit_settings")
@limiter.limit("60/minute", key_func=org_caller)
def save_client_settings() -> ResponseReturnValue:
    """Save the settings; without a text remove them."""
    text = request.form.get("settings", "")
    try:
        row = client_settings.save_client_settings(current_org(), signed_in().id, text, now())
    except Invalid as error:
        db.session.rollback()
        return _page(client_settings.client_settings(current_org()), text, error.message)
    db.session.commit()
    toast(
        "Saved. Clients get the settings within an hour."
        if row
        else "Claude Code has no managed settings now."
    )
    return see_other(url_for("orgs.client_settings_form"))


def _text(row: OrgClientSettings | None) -> str:
    return orjson.dumps(row.settings, option=orjson.OPT_INDENT_2).decode() if row else ""


def _page(row: OrgClientSettings | None, text: str, error: str | None = None) -> ResponseReturnValue:
    return render(
        "orgs/client_settings.html",
        partial="orgs/_client_settings_form.html" if error else None,
        row=row,
        text=text.replace("\0", ""),
        error=error,
        status=422 if error else 200,
    )
