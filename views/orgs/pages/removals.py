"""Removing a member and leaving: what becomes of each key, and the receipts."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.orgs import can, members, offboarding, org_keys
from models.orgs.members import LAST_OWNER
from models.orgs.offboarding import NEW, STOP, KeyFate, offboard
from models.usage.departures import KeyTraffic, departure
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in

MOVE = "move:"
"""Prefix of the form's value for a key that goes to a user."""


@bp.get("/orgs/<slug>/team/<user_id>/removal")
@org_page("manage_members")
def ask_removal(user_id: str) -> ResponseReturnValue:
    """Show the member's keys with their traffic, and ask what becomes of each."""
    return _removal_page(user_id)


@bp.post("/orgs/<slug>/team/<user_id>/removal")
@org_page("manage_members")
@limiter.limit("120/minute", key_func=org_caller)
def remove_member(user_id: str) -> ResponseReturnValue:
    """Remove a member, and show the receipt."""
    return _remove(user_id)


@bp.get("/orgs/<slug>/departure")
@org_page()
def ask_departure() -> ResponseReturnValue:
    """Ask to leave the organisation."""
    return _removal_page(signed_in().id)


@bp.post("/orgs/<slug>/departure")
@org_page()
@limiter.limit("60/minute", key_func=org_caller)
def leave() -> ResponseReturnValue:
    """Leave the organisation."""
    return _remove(signed_in().id)


@bp.get("/orgs/<slug>/removals")
@org_page("manage_members")
def removals() -> ResponseReturnValue:
    """List who left or was removed."""
    return render("orgs/removals.html", removals=offboarding.removals(current_org().id))


@bp.get("/orgs/<slug>/removals/<removal_id>")
@org_page("manage_members")
def removal_receipt(removal_id: str) -> ResponseReturnValue:
    """Show what was done when somebody left or was removed."""
    return render("orgs/removal_receipt.html", removal=offboarding.removal_of(current_org().id, removal_id))


def _remove(user_id: str) -> ResponseReturnValue:
    org, me = current_org(), signed_in().id
    fates = {
        name.removeprefix("fate-"): _fate(value)
        for name, value in request.form.items()
        if name.startswith("fate-")
    }
    try:
        removal = offboard(org, me, user_id, fates, now())
    except Invalid as error:
        db.session.rollback()
        return _removal_page(user_id, error=error.message, status=422)
    db.session.commit()
    if user_id == me:
        toast(f"You left {org.name}.")
        return see_other(url_for("orgs.orgs"))
    toast(f"{removal.receipt['name'] or removal.email} is no longer a member.")
    return see_other(url_for("orgs.removal_receipt", removal_id=removal.id))


def _fate(value: str) -> KeyFate:
    if value.startswith(MOVE):
        return KeyFate("move", value.removeprefix(MOVE))
    if value == NEW:
        return KeyFate(NEW, request.form.get("service_name", "").replace("\0", ""))
    return KeyFate(STOP)


def _removal_page(user_id: str, *, error: str | None = None, status: int = 200) -> ResponseReturnValue:
    org = current_org()
    member, user = members.person(org, user_id)
    left = departure(org.id, user_id, now())
    keys = [each.key for each in org_keys.keys_of(org.id, user_id)]
    own = {key.session_token for key in keys}
    alone = member.role == "owner" and len(members.owners(org.id)) == 1
    return render(
        "orgs/removal.html",
        person=user,
        itself=user.id == signed_in().id,
        last_owner=LAST_OWNER if alone else None,
        left=left,
        keys=[(key, left.keys.get(key.session_token, KeyTraffic())) for key in keys],
        own_key_calls=sum(each.calls for key, each in left.keys.items() if key not in own),
        choices=_choices(user_id) if can(current_membership(), "manage_keys") else None,
        chosen=request.form,
        error=error,
        status=status,
    )


def _choices(user_id: str) -> list[tuple[str, str]]:
    found = org_keys.heirs(current_org().id, user_id)
    services = [(MOVE + heir.user_id, f"Move to {heir.name}") for heir in found if heir.service]
    colleagues = [(MOVE + heir.user_id, f"Hand to {heir.name}") for heir in found if not heir.service]
    return [(STOP, "Stop"), (NEW, "Move to a new service account"), *services, *colleagues]
