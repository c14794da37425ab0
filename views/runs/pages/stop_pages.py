"""Pages that stop all calls of the viewer's account, resume them, and say what was stopped."""

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account, AccountStop, account_stop, current_stop, stops_of
from models.runs.kill_switch import resume_account, stop_account, stop_report
from views.web.guards import audit, limiter, login_required, require_cookie_user
from views.web.htmx import render, see_other, toast

bp = Blueprint("stops", __name__)


@bp.get("/usage/stop")
@login_required
def stop_page() -> ResponseReturnValue:
    """Offer to stop the account's calls, or to resume them, and list the last stops."""
    return show_stop(_own_account(), "stops")


@bp.get("/usage/stop/confirmation")
@login_required
def ask_stop() -> ResponseReturnValue:
    """Ask to stop the account's calls."""
    return render("runs/confirm_stop.html", partial="runs/_confirm_stop.html", room="stops")


@bp.post("/usage/stop")
@login_required
@limiter.limit("20/minute")
def stop_agents() -> ResponseReturnValue:
    """Stop the account's calls, and show what was stopped."""
    user = require_cookie_user()
    stop, new = stop_account(_own_account(), user)
    if new:
        audit("agents.stopped", user.id, user=user, after=stopped_counts(stop))
    db.session.commit()
    return see_other(url_for("stops.stop_result", stop_id=stop.id))


@bp.post("/usage/stop/end")
@login_required
@limiter.limit("20/minute")
def resume_agents() -> ResponseReturnValue:
    """Serve the account's calls again."""
    user = require_cookie_user()
    if (stop := resume_account(_own_account(), user)) is not None:
        audit("agents.resumed", user.id, user=user, after={"stop": stop.id})
        toast("Your calls are served again.")
    db.session.commit()
    return see_other(url_for("stops.stop_page"))


@bp.get("/usage/stops/<int:stop_id>")
@login_required
def stop_result(stop_id: int) -> ResponseReturnValue:
    """Show what a stop ended."""
    return show_stop_result(_own_account(), stop_id, "stops")


def _own_account() -> Account:
    return Account(user_id=require_cookie_user().id)


def show_stop(account: Account, room: str) -> ResponseReturnValue:
    """The page of an account, whose other pages are those of `room`."""
    return render("runs/stop.html", stop=current_stop(account), stops=stops_of(account, 20), room=room)


def show_stop_result(account: Account, stop_id: int, room: str) -> ResponseReturnValue:
    """The page of what one stop of the account ended. Raises NotFound."""
    stop = account_stop(account, stop_id)
    if stop is None:
        raise NotFound("There is no such stop.")
    return render(
        "runs/stop_result.html", partial="runs/_stop_result.html", report=stop_report(stop), room=room
    )


def stopped_counts(stop: AccountStop) -> dict[str, int]:
    """What a stop ended, for the audit log."""
    return {"stop": stop.id, "calls": len(stop.calls), "runs": len(stop.runs)}
