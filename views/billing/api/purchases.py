"""JSON of money in: buying credits, Stripe's webhook, and the way to Stripe's portal (contract 2.11, A.3)."""

import logging
from typing import Annotated, Any, Literal

from flask import Blueprint, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, Field
from werkzeug.exceptions import InternalServerError

from models import billing
from models.accounts.bans import AccountSuspended
from models.billing import stripe_api
from models.billing.payments import cards, customers, stripe_events
from models.billing.payments.buying import FEWEST_CREDITS, MOST_CREDITS
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.stripe_events import WebhookClosed, WebhookForged
from models.billing.topups import auto_topup
from models.billing.topups.auto_topup import TopupSettings
from models.core.db import db
from models.core.errors import DomainError
from models.core.strict_models import issue
from views.web import error_bodies
from views.web.body import BadJson, Body, Int32, InvalidBody, Missing, read
from views.web.error_bodies import ApiError, ServerError, door
from views.web.guards import caller_address, current_account, limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel

log = logging.getLogger("stoa.billing")

bp = Blueprint("billing_api", __name__)

SUSPENDED = "Your account has been suspended. Please contact support."
PURCHASE_FAILED = "Internal server error processing purchase."
NO_CUSTOMER = "No Stripe customer ID found"
INTERNAL_ERROR = "Internal Server Error"
EVENT_BYTES = 1 << 20


def _enough(credits: int) -> int:
    if credits < FEWEST_CREDITS:
        raise issue(
            f"Minimum purchase is {FEWEST_CREDITS} credits.",
            code="too_small",
            origin="number",
            minimum=FEWEST_CREDITS,
            inclusive=True,
        )
    return credits


class BuyCreditsBody(Body):
    credits: Annotated[
        Int32,
        Field(le=MOST_CREDITS, description=f"From {FEWEST_CREDITS}; one is a US cent"),
        AfterValidator(_enough),
    ]


class AutoTopupBody(Body):
    enabled: bool
    threshold: Int32 | None = Field(description="Top up when the balance falls below so many credits")
    amount: Int32 | None = Field(description="Credits of one top-up: 500 to 10000 when enabled")


class AutoTopupAnswer(ResponseModel):
    auto_topup_enabled: bool
    auto_topup_threshold: int | None
    auto_topup_amount: int | None


class Bought(ResponseModel):
    success: Literal[True]
    credits: int


class CheckoutOpened(ResponseModel):
    sessionId: str = Field(description="Of Stripe's Checkout, where the payment goes on")


class BuyCreditsError(ApiError):
    issues: Missing[list[dict[str, Any]]] = Field(None, description="Each problem, with its path")


class PortalAnswer(ResponseModel):
    url: str = Field(description="Of Stripe's portal for cards and invoices")


class Received(ResponseModel):
    received: Literal[True]


class WebhookErrorDetail(ResponseModel):
    message: str


class WebhookError(ResponseModel):
    error: WebhookErrorDetail


def _buying(error: Exception) -> ResponseReturnValue | None:
    match error:
        case AccountSuspended():
            return jsonify(error=SUSPENDED), 403
        case BadJson():
            return jsonify(error="Invalid JSON body"), 400
        case InvalidBody():
            return jsonify(error="Invalid input", issues=error.issues), 400
        case InternalServerError():
            return jsonify(error=PURCHASE_FAILED), 500
    return error_bodies.format_error(error)


def _saving_topup(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error=INTERNAL_ERROR), 500
        case InvalidBody():
            return jsonify(error="Invalid request data", issues=error.issues), 400
        case InternalServerError():
            return jsonify(error=INTERNAL_ERROR), 500
    return error_bodies.format_error(error)


def _hook(error: Exception) -> ResponseReturnValue | None:
    match error:
        case DomainError():
            return jsonify(error={"message": f"Webhook Error: {error.message}"}), error.status
        case InternalServerError():
            return jsonify(error={"message": "Webhook handler error: see the log of the server"}), 500
    return None


@bp.post("/api/stripe/buy-credits")
@limiter.limit("30 per minute")
@Operation(
    tag="Credits",
    caller="cookie",
    body=BuyCreditsBody,
    answers={
        200: ("Bought, or to be paid on Stripe's page", Bought | CheckoutOpened),
        403: "Buying is frozen while a bank disputes a payment, or the key is an organisation's",
        409: "The purchase was changed by others just now",
        429: "Too many purchases or declined cards; see Retry-After and `details`",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    door=door(_buying, body_error=BuyCreditsError, suspended=True),
)
def buy_credits() -> ResponseReturnValue:
    """Buy credits.

    With the default card where one is saved and not expired, at once; otherwise, and when it is declined, on Stripe's
    Checkout page. Credits that were paid arrive also if this answer is lost, once.
    """
    user = require_cookie_user()
    wanted = read(BuyCreditsBody).credits
    account, buyer = current_account(), user.id
    stripe_api.client()
    try:
        customers.ensure_customer(account)
    except billing.StripeError as error:
        raise DomainError("Stripe customer not found.", details=error.message) from error
    try:
        outcome = billing.buy(account, buyer, wanted, address=caller_address())
    except PaymentMismatch as error:
        log.error("a purchase does not fit its payment: %s", error)
        raise DomainError(PURCHASE_FAILED, status=500) from error
    if outcome.paid:
        return jsonify(success=True, credits=outcome.credits)
    return jsonify(sessionId=outcome.session_id)


@bp.post("/api/user/auto-topup")
@limiter.limit("60 per minute")
@Operation(
    tag="Credits",
    caller="cookie",
    body=AutoTopupBody,
    answers={
        200: ("Stored", AutoTopupAnswer),
        403: "The key is an organisation's",
        500: "The body is not JSON",
    },
    door=door(_saving_topup, body_error=BuyCreditsError),
)
def save_auto_topup() -> ResponseReturnValue:
    """Set automatic top-up.

    Stored as sent. Whether the account has a payment method is checked by `GET /api/user/profile` and before each charge.
    """
    user = require_cookie_user()
    body = read(AutoTopupBody)
    account = current_account()
    cap = auto_topup.settings_of(account).monthly_cap_cents
    chosen = TopupSettings(body.enabled, body.threshold, body.amount, cap)
    auto_topup.save(account, user.id, chosen, source="api")
    db.session.commit()
    return jsonify(
        auto_topup_enabled=body.enabled, auto_topup_threshold=body.threshold, auto_topup_amount=body.amount
    )


@bp.post("/api/user/billing-portal")
@limiter.limit("30 per minute")
@Operation(
    tag="Credits",
    caller="cookie",
    answers={
        200: ("Where to go", PortalAnswer),
        400: "Nothing was bought yet",
        403: "The key is an organisation's",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    door=door(),
)
def billing_portal() -> ResponseReturnValue:
    """Open Stripe's portal, for cards and invoices."""
    require_cookie_user()
    account = current_account()
    base = stripe_api.billing_settings().base_url
    customer = customers.customer_of(account)
    db.session.commit()  # Stripe is asked without a transaction
    if customer is None:
        raise DomainError(NO_CUSTOMER)
    return jsonify(url=cards.portal_address(customer, base + url_for("profile.profile", tab="billing")))


@bp.post("/api/stripe/webhook")
@Operation(
    tag="Credits",
    answers={
        200: ("It is stored", Received),
        400: ("The signature is missing, wrong or too old", WebhookError),
        413: ("The event is larger than 1 MiB", ServerError),
        500: ("It could not be stored", WebhookError),
        503: ("No signing secret is set, or this server sells nothing", WebhookError),
    },
    max_bytes=EVENT_BYTES,
    anonymous_bytes=EVENT_BYTES,
    door=door(_hook, error=WebhookError),
)
def webhook() -> ResponseReturnValue:
    """Take an event of Stripe's.

    Signed with the endpoint's secret over the raw body, not older than five minutes. It is stored once by its id and
    worked afterwards; repeated, late and reordered ones do no harm.
    """
    try:
        stripe_events.receive(request.get_data(), request.headers.get("Stripe-Signature"))
    except (WebhookForged, WebhookClosed) as error:
        log.warning("a webhook from %s is refused: %s", request.remote_addr, error.message)
        db.session.rollback()
        stripe_events.note_refusal(error.message)
        db.session.commit()
        raise
    db.session.commit()
    return jsonify(received=True)
