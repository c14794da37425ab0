"""Joining by a proven domain: the form on /orgs, the setting and the requests on the team page."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Conflict
from models.orgs import can, domain_joining
from models.orgs.domain_joining import JOIN_MODES, JOIN_ROLES
from models.orgs.domains import owned_domain
from models.orgs.invite_mails import person_name
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter, login_required
from views.web.htmx import see_other, toast
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in


def joining() -> dict[str, Any]:
    """Values of `orgs/_joining.html` for the current organisation; empty for those who do not manage members."""
    may = can(current_membership(), "manage_members")
    return {
        "join_requests": domain_joining.join_requests(current_org().id) if may else [],
        "join_domains": domain_joining.joining_of(current_org().id) if may else [],
        "join_modes": list(JOIN_MODES.items()),
        "join_roles": [(role, role.capitalize()) for role in JOIN_ROLES],
    }


@bp.post("/orgs-by-domain/<org_id>")
@login_required
@limiter.limit("10/minute")
def join_by_domain(org_id: str) -> ResponseReturnValue:
    """Join the organisation that has proven the domain of the viewer's address, or ask to."""
    try:
        found = domain_joining.join_or_ask(org_id, signed_in(), now())
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("orgs.orgs"))
    db.session.commit()
    if found.joining.mode == "join":
        toast(f"Welcome to {found.org.name}.")
        return see_other(url_for("orgs.overview", slug=found.org.slug))
    toast(f"You asked to join {found.org.name}. You get an e-mail with the answer.")
    return see_other(url_for("orgs.orgs"))


@bp.post("/orgs/<slug>/join-requests/<join_request_id>/decision")
@org_page("manage_members")
@limiter.limit("120/minute", key_func=org_caller)
def decide_join_request(join_request_id: str) -> ResponseReturnValue:
    """Accept or decline a request to join."""
    accept = request.form.get("decision") == "accept"
    try:
        user = domain_joining.decide(current_org(), join_request_id, now(), accept=accept)
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("orgs.team"))
    db.session.commit()
    toast(f"{person_name(user)} {'is a member now' if accept else 'was declined'}. They get an e-mail.")
    return see_other(url_for("orgs.team"))


@bp.post("/orgs/<slug>/domains/<domain_id>/joining")
@org_page("manage_members")
@limiter.limit("60/minute", key_func=org_caller)
def set_joining(domain_id: str) -> ResponseReturnValue:
    """Save how people of a proven domain join."""
    row = owned_domain(current_org().id, domain_id)
    domain_joining.set_joining(row, request.form.get("mode", ""), request.form.get("role", ""))
    db.session.commit()
    toast(f"Saved for {row.domain}.")
    return see_other(url_for("orgs.team"))
