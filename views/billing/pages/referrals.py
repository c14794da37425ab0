"""Referral pages: the profile tab `referrals`, and the page of an invitation (contract 6.1 and 6.3)."""

from typing import Any, cast

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.billing.referral_program import referral_pages, referrals
from models.billing.referral_program.referral_pages import Invitation
from models.core.db import db
from models.core.errors import DomainError
from views.accounts.pages.profile import tab
from views.billing.api.referrals import referral_link
from views.web.guards import caller_address, cookie_user, limiter, login_required, settings
from views.web.htmx import render, see_other, toast

bp = Blueprint("referrals", __name__)

PAGE = 50


def _user() -> User:
    return cast(User, cookie_user())


def _rate_limit_key() -> str:
    user = cookie_user()
    return user.id if user else caller_address()


@bp.get("/referrals")
def moved() -> ResponseReturnValue:
    """Redirect to the tab (contract 2.15)."""
    return redirect(url_for("profile.profile", tab="referrals"), 308)


@tab("referrals")
@login_required
def own_referrals() -> ResponseReturnValue:
    """Show who referred the user, their link, and whom they referred. The lists refresh every 15 seconds."""
    user, before = _user(), request.args.get("before")
    people = referral_pages.referred_users(user, limit=PAGE + 1, before=before)
    more = people[PAGE - 1].id if len(people) > PAGE else None
    return render(
        "billing/referrals.html",
        partial="billing/_referrals.html",
        code=user.referral_code,
        link=referral_link(user.referral_code) if user.referral_code else None,
        short_link=f"{settings().base_url}/{user.handle}" if user.handle else None,
        count=referrals.referral_count(user.id),
        limit=user.referral_limit,
        referrer=referral_pages.referred_by(user),
        people=people[:PAGE],
        here=url_for("profile.profile", tab="referrals", before=before),
        newest_href=url_for("profile.profile", tab="referrals") if before else None,
        older_href=url_for("profile.profile", tab="referrals", before=more) if more else None,
        **_terms(),
    )


@bp.get("/referrals/<code>")
def invitation(code: str) -> ResponseReturnValue:
    """Show an invitation. A signed-in user can redeem the code here."""
    return _invitation_page(code)


@bp.post("/referrals/<code>")
@login_required
@limiter.limit("20/minute;200/day", key_func=_rate_limit_key)
def redeem(code: str) -> ResponseReturnValue:
    """Redeem the code as the signed-in user."""
    try:
        referral = referrals.redeem(
            _user().id,
            code,
            reward=settings().stoa_referral_reward,
            free_credits=settings().stoa_free_credits,
        )
    except DomainError as error:
        db.session.rollback()
        return _invitation_page(code, error)
    db.session.commit()
    if referral.credits:
        toast(f"You got {referral.credits} credits.")
    else:
        toast("Invitation accepted. You get your credits after your first purchase.")
    return see_other(url_for("profile.profile", tab="referrals"))


def _invitation_page(code: str, error: DomainError | None = None) -> ResponseReturnValue:
    found, user = referral_pages.invitation(code), cookie_user()
    if found is None or found.suspended:
        return render("billing/invitation.html", invitation=None, title="Unknown invitation", status=404)
    own = user is not None and user.id == found.owner_id
    if error is None and user is not None and not own:
        error = referrals.refusal(user.id, code)
    refused = request.method == "POST" and error is not None
    return render(
        "billing/invitation.html",
        status=error.status if refused and error is not None else 200,
        invitation=found,
        title=f"{_inviter(found)} invites you",
        name=_inviter(found),
        own=own,
        error=error.message if error is not None and not own else None,
        link=referral_link(code),
        here=url_for("referrals.invitation", code=code),
        **_terms(),
    )


def _terms() -> dict[str, Any]:
    waits = settings().stoa_referral_reward == "first_purchase"
    return {"bonus": referrals.BONUS, "waits": waits, "hold_days": referrals.HOLD.days}


def _inviter(found: Invitation) -> str:
    """The inviter's name in the title: the handle of the short link, if it is the owner's, else their name."""
    if found.handle and request.args.get("referrer", "").lower() == found.handle:
        return f"@{found.handle}"
    return found.name or "A friend"
