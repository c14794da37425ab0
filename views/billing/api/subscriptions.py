"""JSON routes of subscriptions: for browsers (contract A.3) and for API keys (crafely contract 8)."""

from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models import billing
from models.accounts import scopes
from models.billing import Plan, Subscription
from models.billing.subscription_plans.plans import TIERS, plan_of_tier
from models.core.db import now
from models.core.errors import Conflict, DomainError, Forbidden, Invalid
from models.ledger import Account
from views.billing.api.plans import PlanAnswer, plan_json
from views.billing.pages.billing_blueprint import own_billing
from views.billing.pages.plan_checkout import return_urls
from views.web import error_bodies
from views.web.body import BadJson, Body, Int32, InvalidBody, Missing, read
from views.web.error_bodies import MANAGEMENT, ApiError, door
from views.web.format import iso
from views.web.guards import caller_address, key_account, limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel, path, query

bp = Blueprint("subscriptions_api", __name__)

INVALID_TIER = f"Invalid tier. Must be one of: {', '.join(map(str, TIERS))}."
STATES = {
    "trialing": "active",
    "active": "active",
    "past_due": "active",
    "unpaid": "expired",
    "paused": "expired",
    "incomplete": "none",
}
"""The `state` of a subscription by Stripe's status, except `canceled`."""
SUBSCRIPTION_ID = path("id", "The id of your subscription")


class TierBody(Body):
    tier: Int32 = Field(description="100, 200 or 500")


class SessionOpened(ResponseModel):
    sessionId: str = Field(description="Id of the Stripe Checkout Session to pay on")


class SubscriptionCancelled(ResponseModel):
    success: Literal[True]


class CheckoutBody(Body):
    plan_id: str
    org_id: Missing[str] = Field(None, description="Not supported: plans are for personal accounts")
    success_url: Missing[str] = Field(
        None,
        description="Where Stripe returns to; `{CHECKOUT_SESSION_ID}` is replaced. Default: a page of this server",
    )
    cancel_url: Missing[str] = Field(None, description="Where Stripe returns to without a payment")


class CancelBody(Body):
    at: Missing[Literal["period_end", "now"]] = Field(
        None, description="`period_end`, the default; `now` is for operators"
    )


class ChangeBody(Body):
    plan_id: str
    proration_date: Missing[int] = Field(
        None, description="From the accepted preview; without it the current price is accepted"
    )


class CheckoutAnswer(ResponseModel):
    id: str
    url: str = Field(description="Stripe's page")


class SubscriptionAnswer(ResponseModel):
    id: str
    status: str = Field(description="Stripe's status")
    state: Literal["active", "cancelled", "expired", "none"]
    plan: PlanAnswer | None
    scheduled_plan_id: str | None = Field(description="The plan that follows at the end of the period")
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    canceled_at: datetime | None
    created_at: datetime


class ChangeLine(ResponseModel):
    text: str
    amount_minor: int = Field(description="Cents; negative for a credit")


class ChangePreviewAnswer(ResponseModel):
    plan_id: str
    immediate: bool = Field(description="False: the change takes effect at the end of the period")
    at: datetime = Field(description="When it takes effect and is charged")
    due_minor: int = Field(description="Charged then, in cents")
    lines: list[ChangeLine]
    proration_date: int = Field(description="Send it with the change within one hour to accept these amounts")


def _subscribing(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error="Invalid JSON body"), 400
        case InvalidBody():
            return jsonify(error=INVALID_TIER), 400
    return error_bodies.format_error(error)


# -- browsers (contract A.3) ---------------------------------------------------------------------------------


@bp.post("/api/stripe/create-subscription")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="cookie",
    body=TierBody,
    answers={
        200: ("To be paid on Stripe's page", SessionOpened),
        400: "There is no such tier, or no plan of it is for sale",
        403: "Buying is frozen, or the key is an organisation's",
        409: "There is a subscription",
        429: "Too many purchases or declined cards; see Retry-After and `details`",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    door=door(_subscribing, body_error=ApiError),
)
def create_subscription() -> ResponseReturnValue:
    """Subscribe to the plan of a tier, on Stripe's Checkout page."""
    require_cookie_user()
    tier = read(TierBody).tier
    account = own_billing()
    if tier not in TIERS:
        raise DomainError(INVALID_TIER)
    plan = plan_of_tier(tier)
    if plan is None:
        raise DomainError(INVALID_TIER, details=f"No plan of tier {tier} is for sale on this server.")
    return jsonify(sessionId=_checkout(account, plan).id)


@bp.post("/api/stripe/cancel-subscription")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="cookie",
    answers={
        200: ("Ends with its period", SubscriptionCancelled),
        403: "The key is an organisation's",
        404: "There is no subscription",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    door=door(),
)
def cancel_subscription() -> ResponseReturnValue:
    """Cancel your subscription at the end of its period."""
    require_cookie_user()
    billing.cancel(own_billing())
    return jsonify(success=True)


# -- keys (crafely contract 8) -------------------------------------------------------------------------------


@bp.post("/api/v1/subscriptions/checkout")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.ORG_ADMIN,
    body=CheckoutBody,
    answers={
        200: ("To be paid on Stripe's page", CheckoutAnswer),
        403: "Buying is frozen, or the key is an organisation's",
        404: "No such plan",
        409: "There is a subscription, or the plan is retired",
        422: "A field is missing or wrong",
        429: "Too many purchases or declined cards; see Retry-After",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    door=MANAGEMENT,
)
def checkout() -> ResponseReturnValue:
    """Subscribe to a plan, on Stripe's Checkout page.

    The subscription starts when it is paid, even if the buyer does not return from that page.
    """
    account, body = _key_account(), read(CheckoutBody)
    _refuse_organisation(body.org_id)
    for name in ("success_url", "cancel_url"):
        _refuse_other_schemes(name, getattr(body, name))
    opened = _checkout(account, billing.get_plan(body.plan_id), body.success_url, body.cancel_url)
    return jsonify(id=opened.id, url=opened.url)


@bp.get("/api/v1/subscriptions/me")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.USAGE_READ,
    answers={
        200: ("The live subscription, else the last one, else null", SubscriptionAnswer | None),
        403: "The key is an organisation's",
        422: "`org_id` is not supported",
    },
    parameters=[query("org_id", "Not supported: plans are for personal accounts")],
    door=MANAGEMENT,
)
def own() -> ResponseReturnValue:
    """Return your subscription with its plan."""
    account = _key_account()
    _refuse_organisation(request.args.get("org_id"))
    found = billing.last_subscription(account)
    return jsonify(_subscription_json(found) if found else None)


@bp.post("/api/v1/subscriptions/<id>/cancel")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.ORG_ADMIN,
    body=CancelBody,
    answers={
        200: ("Ends with its period", SubscriptionAnswer),
        403: "Only operators can end a subscription immediately, or the key is an organisation's",
        404: "You have no such subscription",
        409: "It has ended",
        422: "A field is wrong",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    parameters=[SUBSCRIPTION_ID],
    door=MANAGEMENT,
)
def cancel(id: str) -> ResponseReturnValue:
    """Cancel your subscription at the end of its period. It can be resumed until then."""
    account = _owner(id)
    if read(CancelBody).at == "now":
        raise Forbidden("Only operators of this server can end a subscription immediately.")
    return jsonify(_subscription_json(billing.cancel(account)))


@bp.post("/api/v1/subscriptions/<id>/resume")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.ORG_ADMIN,
    answers={
        200: ("It renews again", SubscriptionAnswer),
        403: "The key is an organisation's, or buying is frozen",
        404: "You have no such subscription",
        409: "It has ended",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    parameters=[SUBSCRIPTION_ID],
    door=MANAGEMENT,
)
def resume(id: str) -> ResponseReturnValue:
    """Undo a cancellation before the period ends."""
    return jsonify(_subscription_json(billing.resume(_owner(id))))


@bp.get("/api/v1/subscriptions/<id>/change")
@limiter.limit("60 per minute")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.ORG_ADMIN,
    answers={
        200: ("What the change costs", ChangePreviewAnswer),
        403: "Buying is frozen, so no upgrade is possible, or the key is an organisation's",
        404: "You have no such subscription, or there is no such plan",
        409: "No change is possible now",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    parameters=[SUBSCRIPTION_ID, query("plan_id", "The plan to change to", required=True)],
    door=MANAGEMENT,
)
def preview(id: str) -> ResponseReturnValue:
    """Preview a change of plan: its lines, what is due, and when."""
    account, plan = _owner(id), billing.get_plan(request.args.get("plan_id", ""))
    plan_id = plan.id
    found = billing.preview_change(account, plan)
    return jsonify(
        plan_id=plan_id,
        immediate=found.immediate,
        at=iso(found.at),
        due_minor=found.due_cents,
        lines=[{"text": text, "amount_minor": cents} for text, cents in found.lines],
        proration_date=found.proration_date,
    )


@bp.post("/api/v1/subscriptions/<id>/change")
@limiter.limit("20 per minute")
@Operation(
    tag="Plans",
    caller="key",
    scope=scopes.ORG_ADMIN,
    body=ChangeBody,
    answers={
        200: ("Changed immediately, or scheduled for the end of the period", SubscriptionAnswer),
        402: "The card was declined and nothing changed, or `confirmation_needed`: pay at the URL in `details`",
        403: "Buying is frozen, so no upgrade is possible, or the key is an organisation's",
        404: "You have no such subscription, or there is no such plan",
        409: "No change is possible now, or the preview is too old",
        422: "A field is missing or wrong",
        500: "Stripe refused or did not answer",
        503: "This server sells nothing",
    },
    parameters=[SUBSCRIPTION_ID],
    door=MANAGEMENT,
)
def change(id: str) -> ResponseReturnValue:
    """Change to another plan.

    A more expensive plan starts immediately and the proration is charged to your card; a cheaper plan starts when the
    period ends. If the payment fails, nothing changes.
    """
    account, body = _owner(id), read(ChangeBody)
    plan = billing.get_plan(body.plan_id)
    agreed = body.proration_date
    if agreed is None:
        agreed = billing.preview_change(account, plan).proration_date
        plan = billing.get_plan(body.plan_id)
    return jsonify(_subscription_json(billing.change(account, plan, agreed)))


def _key_account() -> Account:
    account = key_account()
    if account is None:
        raise DomainError("Send a valid API key.", code="invalid_api_key", status=401)
    if account.user_id is None:
        raise Forbidden("Plans are for personal accounts. Use a personal key.")
    return account


def _owner(id: str) -> Account:
    """The account of the key, which must own this live subscription. Raises NotFound for another account's, Conflict if
    it has ended."""
    account = _key_account()
    if billing.subscription_of(account, id).status not in billing.LIVE_STATUSES:
        raise Conflict("This subscription has ended.")
    return account


def _checkout(
    account: Account, plan: Plan, success_url: str | None = None, cancel_url: str | None = None
) -> billing.PlanCheckout:
    started, not_started = return_urls()
    address = caller_address()
    return billing.subscribe(
        account, plan, success_url or started, cancel_url or not_started, address=address
    )


def _refuse_organisation(org_id: str | None) -> None:
    if org_id:
        message = "Plans are for personal accounts."
        raise Invalid(message, fields={"org_id": message})


def _refuse_other_schemes(name: str, address: str | None) -> None:
    try:
        parts = urlsplit(address or "https://example.org")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or len(address or "") > 2000:
        raise Invalid("Invalid URL.", fields={name: "Enter a URL that starts with https:// or http://."})


def _state(found: Subscription) -> str:
    if found.status != "canceled":
        return STATES.get(found.status, "none")
    over = max(now(), found.ended_at or found.billing_period_end) >= found.billing_period_end
    return "expired" if over else "cancelled"


def _subscription_json(found: Subscription) -> dict[str, Any]:
    plan = billing.get_plan(found.plan_id) if found.plan_id else None
    return {
        "id": found.stripe_subscription_id,
        "status": found.status,
        "state": _state(found),
        "plan": plan_json(plan) if plan else None,
        "scheduled_plan_id": found.scheduled_plan_id,
        "current_period_start": iso(found.billing_period_start),
        "current_period_end": iso(found.billing_period_end),
        "cancel_at_period_end": found.cancel_at_period_end,
        "canceled_at": iso(found.canceled_at),
        "created_at": iso(found.created_at),
    }
