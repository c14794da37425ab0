"""The overview of an organisation."""

from flask.typing import ResponseReturnValue

from views.orgs.pages.orgs_blueprint import bp
from views.web.htmx import render
from views.web.org_guards import current_membership, org_page


@bp.get("/orgs/<slug>")
@org_page()
def overview() -> ResponseReturnValue:
    """Show the organisation: the viewer's role, and where to go."""
    return render("orgs/overview.html", membership=current_membership())
