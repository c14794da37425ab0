"""Editing an agent's README, with preview, for members of its publisher."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.store.catalogue import readme
from models.store.catalogue.markdown import MAX_LENGTH
from models.store.catalogue.markdown import render as markdown
from models.store.tables import Agent
from views.store.pages.agent import AGENT, newest_address
from views.store.pages.limits import count_change
from views.web.guards import audit, cookie_user, limiter, login_required
from views.web.htmx import render, see_other, toast

bp = Blueprint("readme", __name__)


@bp.get(f"{AGENT}/edit")
@login_required
def edit(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Show the form with the current README."""
    user = cookie_user()
    assert user is not None
    agent = readme.open_agent(user, publisher_id, agent_id)
    return _form(agent, agent.readme or "", readme.revision(agent))


@bp.post(f"{AGENT}/edit")
@limiter.limit("60/minute")
@login_required
def save(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Save the README, or render a preview (`do=preview`).

    An invalid text or an edit conflict answers 422 with the form; the input is kept.
    """
    user = cookie_user()
    assert user is not None
    text, seen = request.form.get("readme", ""), request.form.get("seen", "")
    agent = readme.open_agent(user, publisher_id, agent_id)
    try:
        if request.form.get("do") == "preview":
            return _form(agent, text, seen, preview=readme.validated(text))
        count_change(user)
        readme.write(user, publisher_id, agent_id, text, seen)
    except Invalid as error:
        return _form(agent, text, seen, error=error.message)
    except Conflict as error:
        return _form(agent, text, readme.revision(agent), conflict=error.message, current=agent.readme or "")
    audit("store.readme", f"{publisher_id}/{agent_id}", user=user)
    db.session.commit()
    toast("README saved")
    return see_other(newest_address(agent))


def _form(
    agent: Agent,
    text: str,
    seen: str,
    *,
    preview: str | None = None,
    error: str | None = None,
    conflict: str | None = None,
    current: str = "",
) -> ResponseReturnValue:
    return render(
        "store/readme.html",
        partial="store/_readme_form.html",
        status=422 if error or conflict else 200,
        agent=agent,
        back=newest_address(agent),
        text=text,
        seen=seen,
        preview=preview,
        error=error,
        conflict=conflict,
        current=current,
        markdown=markdown,
        max_length=MAX_LENGTH,
    )
