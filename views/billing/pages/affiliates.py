"""Affiliate pages: choose a handle, and the short link `/<handle>` (contract 3.9 and 6.3)."""

from typing import cast

from flask import Blueprint, current_app, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.billing.referral_program import affiliates
from models.core.db import db
from models.core.errors import Conflict, Invalid
from views.web.guards import audit, caller_address, cookie_user, limiter, login_required, settings
from views.web.htmx import render, see_other, toast
from views.web.unknown_routes import is_api

bp = Blueprint("affiliates", __name__)


def _user() -> User:
    return cast(User, cookie_user())


def _rate_limit_key() -> str:
    user = cookie_user()
    return user.id if user else caller_address()


@bp.get("/affiliates")
@login_required
def affiliate() -> ResponseReturnValue:
    """Show the user's short link, or the form to choose its handle."""
    return _page()


@bp.post("/affiliates")
@login_required
@limiter.limit("20/minute;200/day", key_func=_rate_limit_key)
def choose_handle() -> ResponseReturnValue:
    """Set the user's handle, once."""
    user, typed = _user(), request.form.get("handle", "")[:60]
    try:
        handle = affiliates.set_handle(user.id, typed, taken=_first_segments())
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(typed, error.message, 422 if isinstance(error, Invalid) else 409)
    audit("affiliate.named", user.id, user=user, after={"handle": handle})
    db.session.commit()
    toast(f"Your short link is {settings().base_url}/{handle}.")
    return see_other(url_for("affiliates.affiliate"))


@bp.before_app_request
def _short_link() -> ResponseReturnValue | None:
    """Redirect `/<handle>` to its invitation. Without a route, so that unknown paths keep their 404."""
    if request.routing_exception is None or request.method not in ("GET", "HEAD") or is_api(request.path):
        return None
    code = affiliates.code_of(handle) if (handle := request.path[1:]) else None
    if code is None:
        return None
    return redirect(url_for("referrals.invitation", code=code, referrer=handle.lower()))


def _first_segments() -> set[str]:
    rules = current_app.url_map.iter_rules()
    return {rule.rule.split("/")[1].lower() for rule in rules}


def _page(typed: str = "", error: str | None = None, status: int = 200) -> ResponseReturnValue:
    user = _user()
    return render(
        "billing/affiliates.html",
        partial="billing/_handle_form.html" if request.method == "POST" else None,
        status=status,
        short_link=f"{settings().base_url}/{user.handle}" if user.handle else None,
        limit=affiliates.AFFILIATE_LIMIT,
        host=settings().base_url.partition("://")[2],
        typed=typed,
        error=error,
    )
