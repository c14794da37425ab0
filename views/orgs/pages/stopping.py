"""Stopping all agents of an organisation, and resuming them."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.orgs.audit import record_org
from models.runs.kill_switch import resume_account, stop_account
from views.orgs.pages.orgs_blueprint import bp
from views.runs.pages.stop_pages import show_stop, show_stop_result, stopped_counts
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_account, org_caller, org_page, signed_in


@bp.get("/orgs/<slug>/stop")
@org_page("stop_agents")
def stop_page() -> ResponseReturnValue:
    """Offer to stop all agents of the organisation, or to resume them, and list the last stops."""
    return show_stop(org_account(), "orgs")


@bp.get("/orgs/<slug>/stop/confirmation")
@org_page("stop_agents")
def ask_stop() -> ResponseReturnValue:
    """Ask to stop all agents of the organisation."""
    return render("runs/confirm_stop.html", partial="runs/_confirm_stop.html", room="orgs")


@bp.post("/orgs/<slug>/stop")
@org_page("stop_agents")
@limiter.limit("20/minute", key_func=org_caller)
def stop_agents() -> ResponseReturnValue:
    """Stop all agents of the organisation, and show what was stopped."""
    stop, new = stop_account(org_account(), signed_in())
    if new:
        record_org(current_org().id, "agents.stopped", current_org().slug, after=stopped_counts(stop))
    db.session.commit()
    return see_other(url_for("orgs.stop_result", stop_id=stop.id))


@bp.post("/orgs/<slug>/stop/end")
@org_page("stop_agents")
@limiter.limit("20/minute", key_func=org_caller)
def resume_agents() -> ResponseReturnValue:
    """Serve the organisation's calls again."""
    if (stop := resume_account(org_account(), signed_in())) is not None:
        record_org(current_org().id, "agents.resumed", current_org().slug, after={"stop": stop.id})
        toast(f"Calls of {current_org().name} are served again.")
    db.session.commit()
    return see_other(url_for("orgs.stop_page"))


@bp.get("/orgs/<slug>/stops/<int:stop_id>")
@org_page("stop_agents")
def stop_result(stop_id: int) -> ResponseReturnValue:
    """Show what a stop ended."""
    return show_stop_result(org_account(), stop_id, "orgs")
