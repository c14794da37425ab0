"""The blueprint of the billing pages, and what they share."""

from typing import Any, cast

from flask import Blueprint, Response, current_app, g, request, url_for

from models import billing
from models.accounts import User
from models.billing import stripe_api
from models.billing.payments.tax import tax_enabled
from models.core.errors import Forbidden, Invalid
from models.ledger import Account
from models.orgs import Org, can
from views.web import format
from views.web.guards import CSP, cookie_user, current_account
from views.web.htmx import render
from views.web.org_guards import enter_org

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


@bp.url_value_preprocessor
def _take_organisation(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Pages of an organisation are those of a person below `/orgs/<slug>/billing`: views get their account from
    `page_account`, not from an argument."""
    g.billing_slug = (values or {}).pop("slug", None)


@bp.url_defaults
def _keep_organisation(endpoint: str, values: dict[str, Any]) -> None:
    """Links between billing pages stay with the organisation."""
    slug = g.get("billing_slug")
    if slug and "slug" not in values and current_app.url_map.is_endpoint_expecting(endpoint, "slug"):
        values["slug"] = slug


def organisation() -> Org | None:
    """The organisation in the URL; None on a person's pages. Raises NotFound unless the user is a member, and Forbidden
    unless their role sees billing."""
    slug = g.get("billing_slug")
    if slug is None:
        return None
    if "org" not in g:
        message = "Only owners, admins and the billing role see the billing of an organisation."
        enter_org(slug, "see_billing", message)
    return cast(Org, g.org)


def page_account() -> Account:
    """The account whose billing the page shows: the user's own, or that of the organisation in the URL. Raises Forbidden,
    NotFound."""
    own, org = current_account(), organisation()
    return own if org is None else Account(org_id=org.id)


def own_billing() -> Account:
    """The page's account, on a server that sells credits. Raises Forbidden, NotFound, BillingDisabled."""
    stripe_api.client()
    return page_account()


def may_buy() -> bool:
    """Whether the user buys for the page's account: for an organisation its owners and the billing role do."""
    return organisation() is None or can(g.membership, "buy")


def buying_account() -> Account:
    """As `own_billing`, for whoever may buy. Raises Forbidden for others."""
    account = own_billing()
    if not may_buy():
        raise Forbidden("Only owners and the billing role buy credits for an organisation.")
    org = organisation()
    if org is not None and org.stripe_subscription_id is None and billing.seats_cost():
        raise Forbidden("Subscribe first: then this organisation buys credits.")
    return account


def billing_home() -> str:
    """The URL of the billing page of the page's account."""
    if g.get("billing_slug"):
        return url_for("billing.organisation_billing")
    return url_for("profile.profile", tab="billing")


bp.add_app_template_global(billing_home)


def money_page(page: str, *, partial: str | None = None, status: int = 200, **context: Any) -> Response:
    """Render a page whose forms may redirect to Stripe; a simulator on plain HTTP needs its own origin in the policy."""
    response = render(
        page,
        partial=partial,
        status=status,
        enabled=billing.enabled(),
        mode=_mode(),
        taxed=tax_enabled(),
        states=STATES,
        reason=reason_text,
        organisation=organisation(),
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
        message = f"Enter {format.as_entered(least)} to {format.as_entered(most)} credits."
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
