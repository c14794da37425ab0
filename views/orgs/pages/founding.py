"""The viewer's organisations: list, found, restore."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError
from models.orgs import found_org, memberships
from models.orgs.counts import counts_of
from models.orgs.domain_joining import open_domains
from models.orgs.founding import GRACE, deleted_orgs, restore_org
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter, login_required
from views.web.htmx import render, see_other, toast
from views.web.org_guards import org_caller, signed_in


@bp.get("/orgs")
@login_required
def orgs() -> ResponseReturnValue:
    """List the viewer's organisations, and those deleted that the viewer can restore."""
    found = memberships(signed_in().id)
    return render(
        "orgs/orgs.html",
        memberships=found,
        counts=counts_of([org.id for org, _ in found]),
        colleagues=open_domains(signed_in()),
        deleted=[(org, org.deleted_at + GRACE) for org in deleted_orgs(signed_in().id) if org.deleted_at],
    )


@bp.get("/orgs/new")
@login_required
def new() -> ResponseReturnValue:
    """Show the form for a new organisation."""
    return _form("", "", {})


@bp.post("/orgs/new")
@login_required
@limiter.limit("30/hour;100/day", key_func=org_caller)
def create() -> ResponseReturnValue:
    """Found an organisation that the viewer owns."""
    name, description = request.form.get("name", ""), request.form.get("description", "")
    try:
        org = found_org(signed_in(), name, description)
    except DomainError as error:
        db.session.rollback()
        return _form(name, description, getattr(error, "fields", None) or {"name": error.message})
    db.session.commit()
    toast(f"{org.name} created. Invite the people you work with.")
    return see_other(url_for("orgs.overview", slug=org.slug))


def _form(name: str, description: str, errors: dict[str, str]) -> ResponseReturnValue:
    return render(
        "orgs/new.html",
        partial="orgs/_new_form.html",
        name=name,
        description=description,
        errors=errors,
        status=422 if errors else 200,
    )


@bp.post("/orgs/<slug>/restoration")
@login_required
@limiter.limit("60/minute", key_func=org_caller)
def restore(slug: str) -> ResponseReturnValue:
    """Restore a deleted organisation."""
    org = restore_org(signed_in().id, slug)
    db.session.commit()
    toast(f"{org.name} is back, with its members and keys.")
    return see_other(url_for("orgs.overview", slug=org.slug))
