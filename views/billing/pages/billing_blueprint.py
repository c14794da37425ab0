"""The blueprint of the billing pages, and what they share."""

from typing import Any, cast

from flask import Blueprint, Response, request, url_for

from models import billing
from models.accounts import User
from models.billing import stripe_api
from models.core.errors import Invalid
from models.ledger import Account
from views.web.guards import CSP, cookie_user, personal_account
from views.web.htmx import render

bp = Blueprint("billing", __name__)

FORM_ACTION = "form-action 'self' https:"

STATES = {
    "created": ("Waiting", "running", "clock"),
    "pending": ("Waiting", "running", "clock"),
    "failed": ("Failed", "bad", "x"),
    "cancelled": ("Cancelled", None, "cut"),
    "paid": ("Paid", "ok", "check"),
    "partly_refunded": ("Partly refunded", "held", "arrow"),
    "refunded": ("Refunded", None, "arrow"),
    "disputed": ("Disputed", "bad", "alert"),
    "lost": ("Dispute lost", "bad", "alert"),
}
"""Label, badge and icon of each state of a purchase."""

REASONS = {
    "requested_by_customer": "requested by the customer",
    "expired_uncaptured_charge": "the charge expired",
}


def user() -> User:
    """The signed-in user."""
    return cast(User, cookie_user())


def own_billing() -> Account:
    """The user's own account, on a server that sells credits. Raises Forbidden, BillingDisabled."""
    stripe_api.client()
    return personal_account()


def money_page(page: str, *, partial: str | None = None, status: int = 200, **context: Any) -> Response:
    """Render a page whose forms may redirect to Stripe; a simulator on plain HTTP needs its own origin in the policy."""
    response = render(
        page,
        partial=partial,
        status=status,
        enabled=billing.enabled(),
        mode=_mode(),
        states=STATES,
        reason=reason_text,
        **context,
    )
    if billing.enabled() and (address := stripe_api.billing_settings().stripe_api_base).startswith("http:"):
        policy = CSP.replace(FORM_ACTION, f"{FORM_ACTION} {address}")
        response.headers["Content-Security-Policy"] = policy
    response.headers["Cache-Control"] = "no-store"
    return response


def reason_text(reason: str | None) -> str:
    """Stripe's reason code of a refund or dispute in words."""
    return REASONS.get(reason or "", (reason or "no reason given").replace("_", " "))


def absolute(endpoint: str, **values: Any) -> str:
    """The full URL of a page of this server, for Stripe to return to."""
    return stripe_api.billing_settings().base_url + url_for(endpoint, **values)


def requested_credits(text: str | None, least: int, most: int) -> int:
    """Parse a number of credits. Raises Invalid with the field `credits`."""
    digits = (text or "").strip().replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9 and least <= int(digits) <= most):
        message = f"Enter {least:,} to {most:,} credits."
        raise Invalid(message, fields={"credits": message})
    return int(digits)


def page_number(name: str) -> int:
    """A small whole number of the query; 0 if missing or invalid."""
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0


def _mode() -> str | None:
    if not billing.test_mode():
        return None
    return "play" if stripe_api.billing_settings().stoa_stripe == "demo" else "test"
