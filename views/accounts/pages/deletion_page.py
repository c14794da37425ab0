"""Delete one's own account: what it does, what stands against it, and the confirmation."""

from typing import cast

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import demo
from models.accounts import account_deletion
from models.accounts.account_deletion import GRACE, DeletionBlock, deletion_blocks
from models.accounts.relying_party import signed_in_recently
from models.accounts.sessions import Session
from models.accounts.users import User
from models.billing.subscription_plans.subscriptions import live_subscription
from models.core import mail
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden
from models.core.mail import moment_text
from models.ledger import Account
from models.orgs.deleted_people import owned_alone
from models.store import publishers
from views.accounts.pages.blueprint import bp
from views.web.guards import (
    audit,
    cookie_user,
    current_session,
    limiter,
    login_required,
    settings,
    sign_out_browser,
)
from views.web.htmx import page_balance, render, see_other, toast


def _user() -> User:
    return cast(User, cookie_user())


def _current() -> Session:
    return cast(Session, current_session())


def _blocks() -> list[DeletionBlock]:
    if _user().id == demo.USER_ID:
        return [DeletionBlock("The demo account stays.")]
    return deletion_blocks(_user())


@bp.get("/profile/deletion")
@login_required
def ask_account_deletion() -> ResponseReturnValue:
    """Say what the deletion does and what stands against it, and ask for the address."""
    return _page()


@bp.post("/profile/deletion")
@login_required
@limiter.limit("10/minute")
def delete_account() -> ResponseReturnValue:
    """Delete the account: sign out everywhere, and erase it after the grace unless the user signs in."""
    user, moment = _user(), now()
    if not signed_in_recently(_current(), moment):
        raise Forbidden("Sign in again first: this needs a sign-in in the last 15 minutes.")
    if blocks := _blocks():
        return _page(blocks[0].reason, 409)
    typed = request.form.get("typed", "").strip()[:320]
    if typed.lower() != user.email.lower():
        return _page(f"Type {user.email} to confirm.", 422, typed)
    ends = moment_text(moment + GRACE)
    try:
        account_deletion.delete_account(user, by=_current(), now=moment)
    except Conflict as error:
        db.session.rollback()
        return _page(error.message, 409)
    audit("user.deleted", user.id, user=user, after={"erased_at": ends})
    values = {"ends": ends, "url": settings().base_url + url_for("accounts.login")}
    mail.send(settings(), mail.composed(user.email, "account_deleted", values))
    sign_out_browser()
    db.session.commit()
    toast(f"Your account is deleted. Sign in before {ends} to keep it.")
    return see_other(url_for("accounts.login"))


def _page(error: str | None = None, status: int = 200, typed: str = "") -> ResponseReturnValue:
    user, account = _user(), Account(user_id=_user().id)
    alone = owned_alone(user.id)
    return render(
        "accounts/deletion.html",
        email=user.email,
        blocks=_blocks(),
        recent=signed_in_recently(_current(), now()),
        balance=page_balance(account),
        subscribed=live_subscription(account) is not None,
        alone=[org for org, people in alone if people == 1],
        publishers=[each.publisher for each in publishers.managed(user) if each.publisher.user_id == user.id],
        ends=now() + GRACE,
        grace=GRACE.days,
        typed=typed,
        error=error,
        status=status,
    )
