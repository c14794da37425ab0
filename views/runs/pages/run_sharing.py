"""Links that show a run to whoever has them: creating and revoking them, and the page that they open."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.runs import run_calls
from models.runs.run_share import revoke_share, share_run, shared_run
from models.runs.trace import trace_of
from models.usage.usage_calls import call_with_id
from views.runs.pages.run_note_forms import annotated_run, audit_run, run_form
from views.runs.pages.run_pages import bp, run_context
from views.web.guards import caller_address, limiter, require_cookie_user
from views.web.htmx import render, see_other, toast
from views.web.org_guards import check_messages


@run_form("shares", "30/minute")
def share(run_id: str) -> ResponseReturnValue:
    """Create a link to the run. Raises Forbidden, Invalid for an unknown lifetime, Conflict for too many."""
    run = annotated_run(run_id)
    with_messages = bool(request.form.get("messages"))
    if with_messages:
        check_messages(run.user_id)
    made = share_run(
        run, require_cookie_user(), request.form.get("lifetime", ""), with_messages=with_messages
    )
    audit_run("run.shared", run, after={"share": made.id, "messages": made.with_messages})
    db.session.commit()
    toast("The link works. Copy it from the list.")
    return see_other(url_for("runs.run", run_id=run.id, _anchor="share-h"))


@run_form("shares/<share_id>/revoke", "60/minute")
def revoke(run_id: str, share_id: str) -> ResponseReturnValue:
    """Revoke a link to the run: its page is 404 from now on. Raises Forbidden and NotFound."""
    run = annotated_run(run_id)
    ended = revoke_share(run, share_id)
    audit_run("run.share_revoked", run, after={"share": ended.id})
    db.session.commit()
    toast("The link is revoked.")
    return see_other(url_for("runs.run", run_id=run.id, _anchor="share-h"))


@bp.get("/shared/<token>")
@limiter.limit("120/minute", key_func=caller_address)
def shared(token: str) -> ResponseReturnValue:
    """Show a shared run to anybody who has the link. Raises NotFound for an unknown, expired or revoked one."""
    link, run = shared_run(token)
    account_id = run.org_id or run.user_id or ""
    reader = (run.user_id if link.with_messages else None) or ""
    found = trace_of(account_id, run.id, tail=False, reader=reader)
    context = run_context(found, reader)
    last = context["dialogue"].answer_call
    detail = run_calls.call_of(call_with_id(account_id, last), run) if last else None
    context |= {"share": link, "conversation": detail and detail.transcript, "public": True}
    response = render("runs/shared.html", **context)
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response
