"""Settings of billing e-mails at `/profile?tab=emails`, and one-click unsubscribing (RFC 8058)."""

from typing import Any, cast

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.accounts import User
from models.billing import mails
from models.core.db import db
from models.core.errors import Invalid
from models.ledger import Account
from views.accounts.pages.profile import tab
from views.web.guards import cookie_user, limiter, login_required
from views.web.htmx import render, see_other, toast

bp = Blueprint("billing_emails", __name__)


@tab("emails")
@login_required
def preferences() -> ResponseReturnValue:
    """Choose the low balance threshold and the topics of e-mails."""
    user = _user()
    threshold = str(billing.low_balance_threshold(Account(user_id=user.id)))
    return _preferences(user, threshold, mails.TOPICS.keys() - mails.opt_outs(user.id))


@bp.post("/profile/emails")
@login_required
@limiter.limit("30 per minute")
def save_preferences() -> ResponseReturnValue:
    """Save the threshold and the topics."""
    user = _user()
    topics = set(request.form.getlist("topic"))
    text = request.form.get("threshold", "").strip().replace(",", "")
    try:
        if not (text.isascii() and text.isdigit() and len(text) <= 10):
            raise Invalid("Enter a whole number of credits.", fields={"threshold": "Enter a whole number."})
        billing.set_low_balance_threshold(Account(user_id=user.id), int(text))
        mails.subscribe_only(user.id, topics)
    except Invalid as error:
        if not error.fields:
            raise
        return _preferences(user, text, topics, error=error.fields["threshold"], status=422)
    db.session.commit()
    toast("E-mail settings saved.")
    return see_other(url_for("profile.profile", tab="emails"))


@bp.route(f"{mails.UNSUBSCRIBE_PATH}<token>", methods=["GET", "POST"])
@limiter.limit("60 per minute")
def unsubscribe(token: str) -> ResponseReturnValue:
    """GET shows a button, since mail scanners open links; POST unsubscribes, for mail clients (one click) and for the button.
    Needs no session and shows no account data."""
    if request.method == "POST":
        topic = mails.unsubscribe(token)
        db.session.commit()
    else:
        topic = mails.topic_of_token(token)
    done = request.method == "POST"
    return render("billing/unsubscribe.html", topic=mails.TOPICS[topic], token=token, done=done)


def _preferences(
    user: User, threshold: str, topics: Any, *, error: str | None = None, status: int = 200
) -> ResponseReturnValue:
    return render(
        "billing/emails.html",
        partial="billing/_emails_form.html",
        status=status,
        threshold=threshold,
        topics=topics,
        all_topics=mails.TOPICS,
        error=error,
        email=user.email,
    )


def _user() -> User:
    return cast(User, cookie_user())
