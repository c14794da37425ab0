"""Change the e-mail address of the account: a link to the new address, and a notice to the old one."""

from typing import cast

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models import demo
from models.accounts import email_changes
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core import mail
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.core.mail import moment_text
from models.orgs.address_keepers import address_refusal
from views.accounts.pages.blueprint import bp
from views.accounts.pages.sign_in import limit_mail_to
from views.web.guards import audit, cookie_user, current_session, limiter, login_required, settings
from views.web.htmx import render, see_other, toast


def _user() -> User:
    return cast(User, cookie_user())


def email_refusal(user: User) -> str | None:
    """Why the user cannot change their address; None if they can."""
    return "The demo account keeps its address." if user.id == demo.USER_ID else address_refusal(user)


def _back() -> ResponseReturnValue:
    return see_other(url_for("profile.profile", tab="account"))


@bp.get("/profile/email")
@login_required
def edit_email() -> ResponseReturnValue:
    """Ask for the new address, in a dialog or, without JavaScript, a page."""
    return _form()


@bp.post("/profile/email")
@login_required
@limiter.limit("5/minute;20/hour")
def request_email() -> ResponseReturnValue:
    """Mail a link to the new address and a notice to the present one."""
    entered = request.form.get("email", "")[:320]
    if problem := email_refusal(_user()):
        return _form(entered, problem, 409)
    try:
        token, row = email_changes.request_change(
            _user(), entered, by=cast(Session, current_session()), now=now()
        )
    except Invalid as error:
        return _form(entered, error.fields["email"], 422)
    limit_mail_to(row.email)
    values = {
        "former": _user().email,
        "email": row.email,
        "url": settings().base_url + url_for("accounts.email_link", token=token),
        "expires": moment_text(row.expires_at),
    }
    mail.send(settings(), mail.composed(row.email, "email_change_link", values))
    _notify(_user().email, row.email, done=False)
    audit("email.change_requested", _user().id, user=_user(), after={"email": row.email})
    db.session.commit()
    toast(f"We sent a link to {row.email}. Open it in this browser.", "info")
    return _back()


@bp.post("/profile/email/cancellation")
@login_required
def cancel_email() -> ResponseReturnValue:
    """Forget the requested change."""
    email_changes.cancel_change(_user())
    db.session.commit()
    toast("Your address stays as it is.")
    return _back()


@bp.get("/profile/email/<token>")
@login_required
@limiter.limit("60/minute")
def email_link(token: str) -> ResponseReturnValue:
    """Show a button that uses the link: mail scanners, which open every URL, must not use it."""
    row = email_changes.find_change(_user(), token, now())
    if row is None:
        return _dead_link()
    return _guarded(
        render("accounts/email_link.html", state="open", email=row.email, former=_user().email, token=token)
    )


@bp.post("/profile/email/<token>")
@login_required
@limiter.limit("60/minute")
def confirm_email(token: str) -> ResponseReturnValue:
    """Change the address to the one that received the link, once."""
    if problem := email_refusal(_user()):
        raise Conflict(problem)
    former = email_changes.confirm_change(_user(), token, by=cast(Session, current_session()), now=now())
    if former is None:
        return _dead_link()
    email = _user().email
    audit("email.changed", _user().id, user=_user(), before={"email": former}, after={"email": email})
    _notify(former, email, done=True)
    db.session.commit()
    toast(f"Your address is {email} now.")
    return _back()


def _notify(to: str, email: str, *, done: bool) -> None:
    mail.send(settings(), mail.composed(to, "email_change_notice", {"email": email, "done": done}))


def _form(entered: str = "", error: str | None = None, status: int = 200) -> ResponseReturnValue:
    return render(
        "accounts/edit_email.html",
        partial="accounts/_edit_email.html",
        entered=entered,
        error=error,
        present=_user().email,
        status=status,
    )


def _dead_link() -> ResponseReturnValue:
    return _guarded(render("accounts/email_link.html", state="dead", status=410))


def _guarded(response: Response) -> Response:
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response
