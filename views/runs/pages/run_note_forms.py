"""Score and tags of a run, from its page."""

from collections.abc import Callable
from typing import ParamSpec

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Forbidden, Invalid
from models.runs import AgentRun
from models.runs.run_notes import set_score, set_tags
from views.runs.pages.run_pages import bp, may_annotate_run, show_run, viewed_run
from views.web.guards import audit, cookie_user, limiter
from views.web.htmx import render, see_other, wants_fragment
from views.web.org_guards import account_page, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]
SCORES = {"1": 1, "-1": -1, "": None}


def run_form(path: str, limit: str) -> Callable[[View[P]], View[P]]:
    """Decorator: the route of a form on the page of a run, the account's or an organisation's, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/runs/<run_id>/{path}")(guarded)
        return guarded

    return decorate


@run_form("score", "120/minute")
def score(run_id: str) -> ResponseReturnValue:
    """Score a run: `1`, `-1`, or nothing to remove the score. Raises Forbidden, and Invalid for another value."""
    run = annotated_run(run_id)
    value, before = request.form.get("score", ""), run.score
    if value not in SCORES:
        raise Invalid("The score is 1, -1 or nothing.")
    if set_score(run, SCORES[value]):
        audit_run("run.scored", run, {"score": before}, {"score": run.score})
    db.session.commit()
    if wants_fragment():
        return render("runs/_score.html", partial="runs/_score.html", run=run, annotates=True)
    return see_other(url_for("runs.run", run_id=run.id))


@run_form("tags", "120/minute")
def tags(run_id: str) -> ResponseReturnValue:
    """Replace the tags of a run: `tags`, separated by commas. Raises Forbidden."""
    run = annotated_run(run_id)
    text, before = request.form.get("tags", "").replace("\x00", ""), run.tags
    try:
        if set_tags(run, text.split(",")):
            audit_run("run.tagged", run, {"tags": before}, {"tags": run.tags})
    except Invalid as error:
        return show_run(run_id, status=422, tag_error=error.message, tag_text=text[:2000])
    db.session.commit()
    return see_other(url_for("runs.run", run_id=run.id))


def annotated_run(run_id: str) -> AgentRun:
    """The run of the viewed account. Raises NotFound, and Forbidden unless the viewer may score, tag and share it."""
    run = viewed_run(run_id)
    if not may_annotate_run(run):
        raise Forbidden("Your role may not change runs of this organisation.")
    return run


def audit_run(action: str, run: AgentRun, before: object = None, after: object = None) -> None:
    """Write what happened to a run to the audit log."""
    audit(action, run.id, user=cookie_user(), before=before, after=after, org_id=run.org_id)
