"""The page that says why there are few or no credits, when more arrive and whom to ask; and its banner on other pages."""

from typing import Any, cast

from flask import Blueprint, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from models.billing.credit_outlook import credit_outlook, credit_warning, low_credits
from models.core.db import db, now
from models.ledger import Account, ensure_quota
from models.orgs import memberships
from views.web.guards import current_account, limiter, path_of, settings
from views.web.htmx import render, see_other
from views.web.org_guards import account_page, current_membership, org_caller, signed_in, viewed_account

bp = Blueprint("credits", __name__)

DISMISSED = "dismissed_credits"


@bp.get("/credits")
@bp.get("/orgs/<slug>/credits")
@account_page
def outlook() -> ResponseReturnValue:
    """What is left, why, when more arrive, whom to ask. `?org=<id>`, as in refused calls, leads to that organisation's."""
    account, moment = viewed_account(), now()
    if org_id := request.args.get("org"):
        slug = next((org.slug for org, _ in memberships(signed_in().id) if org.id == org_id), None)
        return redirect(url_for("credits.outlook", slug=slug), 303)
    if not account.org_id:
        ensure_quota(account, settings().stoa_free_credits, now=moment)
        db.session.commit()
    found = credit_outlook(account, moment)
    g.balance = found.balance
    member = current_membership() if account.org_id else None
    response = render(
        "billing/credits.html",
        outlook=found,
        level=credit_warning(account, found.balance.available, moment),
        role=member.role if member else None,
        support=settings().stoa_support_email,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/credits/dismissal")
@bp.post("/orgs/<slug>/credits/dismissal")
@account_page
@limiter.limit("60/minute", key_func=org_caller)
def dismiss() -> ResponseReturnValue:
    """Hide the banner of low credits until the end of the day (UTC), and go back."""
    session[DISMISSED] = {**_dismissed(), viewed_account().id: _today()}
    return see_other(path_of(request.referrer) or url_for("credits.outlook"))


@bp.app_template_global()
def credit_banner(available: int | None) -> str | None:
    """Which banner a page of the console shows: `low`, `empty` or None. `available` are the credits of the page's account."""
    if available is None or available >= low_credits() or request.endpoint == "credits.outlook":
        return None
    org = g.get("org")
    account = Account(org_id=org.id) if org else current_account()
    level = credit_warning(account, available, now())
    return None if level == "low" and _dismissed().get(account.id) == _today() else level


def _dismissed() -> dict[str, str]:
    kept: Any = session.get(DISMISSED)
    today = _today()
    return {id: day for id, day in cast(dict[str, str], kept).items() if day == today} if kept else {}


def _today() -> str:
    return str(now().date())
