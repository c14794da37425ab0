"""The organisations of the viewer, and the overview of one."""

from flask.typing import ResponseReturnValue

from models.orgs import memberships
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import login_required
from views.web.htmx import render
from views.web.org_guards import current_membership, org_page, signed_in


@bp.get("/orgs")
@login_required
def orgs() -> ResponseReturnValue:
    """List the viewer's organisations."""
    return render("orgs/orgs.html", memberships=memberships(signed_in().id))


@bp.get("/orgs/<slug>")
@org_page()
def overview() -> ResponseReturnValue:
    """Show the organisation: the viewer's role, and where to go."""
    return render("orgs/overview.html", membership=current_membership())
