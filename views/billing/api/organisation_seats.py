"""JSON routes of an organisation's billing: setting it up, its seats, the end of its subscription (contract 2.8)."""

from typing import Any, Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models import billing
from models.billing.payments import cards
from models.billing.payments.customers import customer_of
from models.core.db import db
from models.core.errors import DomainError
from models.ledger import Account
from views.billing.pages.billing_blueprint import absolute
from views.web.error_bodies import door
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import current_org, org_route

bp = Blueprint("organisation_seats_api", __name__)

NO_SESSION = "Could not create Stripe checkout session"
REFUSED: dict[int | Literal["default"], str | tuple[str, Any]] = {
    403: "Your role does not see billing",
    404: "There is no such organization, or you are not a member",
    503: "This server sells nothing",
}


class OrganisationName(ResponseModel):
    id: str
    name: str


class BillingSetup(ResponseModel):
    is_setup: bool = Field(description="Whether a card or Link is saved")
    organization: OrganisationName


class SetupSession(ResponseModel):
    sessionId: str = Field(description="Id of Stripe's Checkout session")
    url: str = Field(description="URL of its page")


class SeatDetails(ResponseModel):
    status: str = Field(description="Stripe's status")
    current_period_start: int = Field(description="Unix time in seconds")
    current_period_end: int
    cancel_at_period_end: bool


class OrganisationSlug(OrganisationName):
    slug: str


class SeatStatus(ResponseModel):
    seatCount: int = Field(description="People who are members")
    pricePerSeat: float = Field(description="US dollars a month; 0 if seats cost nothing")
    totalMonthlyCost: float
    hasActiveSubscription: bool
    subscriptionDetails: SeatDetails | None
    billingPortalUrl: str | None = Field(description="Stripe's page to manage cards and invoices")
    organization: OrganisationSlug


class SeatsEnded(ResponseModel):
    success: Literal[True]


@bp.get("/api/orgs/<org_id>/billing/setup")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("Whether it can pay", BillingSetup), **REFUSED},
    door=door(),
)
@org_route("see_billing")
def setup() -> ResponseReturnValue:
    """Whether the organization has a saved payment method."""
    org = current_org()
    organization = {"id": org.id, "name": org.name}
    db.session.commit()  # no transaction is open during calls to Stripe
    ready = billing.billing_is_set_up(Account(org_id=organization["id"]))
    return jsonify(is_setup=ready, organization=organization)


@bp.post("/api/orgs/<org_id>/billing/setup")
@limiter.limit("20 per minute")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={
        200: ("Open the session's page", SetupSession),
        409: "There is a subscription already",
        500: "Stripe refused or did not answer",
        **REFUSED,
    },
    door=door(),
)
@org_route("manage_billing")
def start_setup() -> ResponseReturnValue:
    """Open Stripe's Checkout page: a subscription with one seat a member, or a card where seats cost nothing."""
    org = current_org()
    account, slug = Account(org_id=org.id), org.slug
    db.session.commit()
    try:
        id, url = billing.set_up_billing(account, *setup_urls(slug))
    except billing.StripeError as error:
        raise DomainError(NO_SESSION, status=500) from error
    return jsonify(sessionId=id, url=url)


@bp.get("/api/orgs/<org_id>/billing/status")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("Seats and subscription", SeatStatus), **REFUSED},
    door=door(),
)
@org_route("see_billing")
def status() -> ResponseReturnValue:
    """The organization's seats, their price and the subscription. What Stripe does not answer is null."""
    org = current_org()
    account, seats = Account(org_id=org.id), billing.seats_of(org.id)
    organization = {"id": org.id, "name": org.name, "slug": org.slug}
    subscribed, customer = org.stripe_subscription_id is not None, customer_of(account)
    db.session.commit()
    cents, subscription, portal = 1_000 if billing.seats_cost() else 0, None, None
    try:
        price = billing.seat_price()
        cents = price.cents if price else 0
        subscription = billing.seat_subscription(account) if subscribed else None
        subscribed = subscription is not None
        home = absolute("billing.organisation_billing", slug=organization["slug"])
        portal = cards.portal_address(customer, home) if customer else None
    except billing.StripeError:
        pass  # contract 2.8: failures leave the optional values null
    return jsonify(
        seatCount=seats,
        pricePerSeat=cents / 100,
        totalMonthlyCost=seats * cents / 100,
        hasActiveSubscription=subscribed,
        subscriptionDetails=_details(subscription) if subscription else None,
        billingPortalUrl=portal,
        organization=organization,
    )


@bp.delete("/api/orgs/<org_id>/billing/subscription")
@limiter.limit("20 per minute")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("Ended", SeatsEnded), 500: "Stripe refused or did not answer", **REFUSED},
    door=door(),
)
@org_route("manage_billing")
def end_subscription() -> ResponseReturnValue:
    """End the subscription at once and switch automatic top-up off. Bought credits stay."""
    account = Account(org_id=current_org().id)
    db.session.commit()
    billing.cancel_seats(account)
    return jsonify(success=True)


def setup_urls(slug: str) -> tuple[str, str]:
    """Where Stripe's page leads to after success and after cancelling."""
    paid = absolute("billing.review", slug=slug)
    return (
        f"{paid}?subscription_success=true",
        f"{absolute('orgs.overview', slug=slug)}?subscription_canceled=true",
    )


def _details(found: billing.SeatSubscription) -> dict[str, object]:
    start, end = found.period
    return {
        "status": found.status,
        "current_period_start": int(start.timestamp()),
        "current_period_end": int(end.timestamp()),
        "cancel_at_period_end": found.cancel_at_period_end,
    }
