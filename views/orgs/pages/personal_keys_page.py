"""A member's own keys under enforced single sign-on: which of them the organisation pays for."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.orgs import personal_keys, sso_keys
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_caller, org_page, signed_in


@bp.get("/orgs/<slug>/personal-keys")
@org_page()
def personal_key_list() -> ResponseReturnValue:
    """List the member's own keys, and for which of them the organisation pays."""
    org = current_org()
    return render("orgs/personal_keys.html", org=org, keys=personal_keys(org, signed_in().id, now()))


@bp.post("/orgs/<slug>/personal-keys")
@org_page()
@limiter.limit("60/minute", key_func=org_caller)
def authorize_personal_key() -> ResponseReturnValue:
    """Authorise a personal key (`key`) for the organisation, or with `withdraw` end that."""
    change = sso_keys.withdraw_key if "withdraw" in request.form else sso_keys.authorize_key
    key = change(current_org(), signed_in().id, request.form.get("key", "").replace("\0", ""), now())
    db.session.commit()
    done = "is no longer authorised" if "withdraw" in request.form else "is authorised"
    toast(f"{key.name or key.token_hint} {done} for {current_org().name}.")
    return see_other(url_for("orgs.personal_key_list"))
