"""What users say about an agent: a star, or a report to the operators."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.store.catalogue import agent_page, stars
from models.store.tables import Agent
from views.store.pages.agent import AGENT, newest_address
from views.web.guards import audit, caller_account, limiter, login_required, require_cookie_user
from views.web.htmx import render, see_other, toast

bp = Blueprint("opinions", __name__)

REASONS = {
    "harmful": "It does harm, or tries to",
    "secrets": "It leaks data or secrets",
    "copied": "It is somebody else’s work",
    "spam": "It is spam or misleading",
    "other": "Something else",
}
MAX_TEXT = 1000


@bp.post(f"{AGENT}/star")
@limiter.limit("120/hour", key_func=caller_account)
@login_required
def star(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Star the agent, or take the star back (`do=undo`). Idempotent."""
    undo = request.form.get("do") == "undo"
    (stars.unstar if undo else stars.star)(require_cookie_user(), publisher_id, agent_id)
    db.session.commit()
    return see_other(_address(publisher_id, agent_id))


@bp.get(f"{AGENT}/report")
@login_required
def ask_report(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Ask for the reason of a report, in a dialog or on its own page."""
    _, agent = agent_page.find(publisher_id, agent_id)
    return _form(agent, "", "", {})


@bp.post(f"{AGENT}/report")
@limiter.limit("10/day", key_func=caller_account, deduct_when=lambda response: response.status_code < 400)
@login_required
def report(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Report the agent: an entry in the audit log of the operators. Its publisher is not notified."""
    user = require_cookie_user()
    _, agent = agent_page.find(publisher_id, agent_id)
    reason, words = request.form.get("reason", ""), request.form.get("text", "").strip()
    errors = {}
    if reason not in REASONS:
        errors["reason"] = "Choose a reason"
    if len(words) > MAX_TEXT or "\x00" in words:
        errors["text"] = f"Use at most {MAX_TEXT} characters of plain text"
    elif reason == "other" and not words:
        errors["text"] = "Say what is wrong"
    if errors:
        return _form(agent, reason, words, errors)
    audit("store.report", f"{publisher_id}/{agent_id}", user=user, after={"reason": reason, "text": words})
    db.session.commit()
    toast("Reported. The operators of this server will look at it.")
    return see_other(_address(publisher_id, agent_id))


def _address(publisher_id: str, agent_id: str) -> str:
    return newest_address(Agent(publisher_id=publisher_id, id=agent_id))


def _form(agent: Agent, reason: str, words: str, errors: dict[str, str]) -> ResponseReturnValue:
    return render(
        "store/report.html",
        partial="store/_report.html",
        status=422 if errors else 200,
        agent=agent,
        reasons=[("", "Choose one"), *REASONS.items()],
        reason=reason,
        text=words,
        errors=errors,
        back=newest_address(agent),
    )
