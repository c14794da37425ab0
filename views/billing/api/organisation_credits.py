"""JSON route to buy credits for an organisation (contract 2.8)."""

import logging
from typing import Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import InternalServerError

from models import billing
from models.billing import stripe_api
from models.billing.payments import cards, customers
from models.billing.payments.buying import FEWEST_ORGANISATION_CREDITS, MOST_CREDITS, price_cents
from models.billing.payments.payment_state import PaymentMismatch
from models.core.db import db
from models.core.errors import DomainError, NotFound
from models.ledger import Account
from models.orgs import can, membership, org_by_id
from views.web import error_bodies
from views.web.body import BadJson, Body, Int32, InvalidBody, Missing, read
from views.web.error_bodies import ApiError, door
from views.web.guards import caller_address, limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import check_sign_on

log = logging.getLogger("stoa.billing")

bp = Blueprint("organisation_credits_api", __name__)

TOO_FEW = f"Minimum purchase is {FEWEST_ORGANISATION_CREDITS:,} credits"
TOO_MANY = f"Maximum purchase is {MOST_CREDITS:,} credits"
NOT_OWNER = "Forbidden or Organization not found"
NO_CUSTOMER = "Organization billing not set up. Please set up billing first."
NO_SUBSCRIPTION = "Organization subscription not found. Please set up billing first."
FAILED = "Failed to create credit purchase session"


class OrganisationCreditsBody(Body):
    amount: Int32 | None = Field(
        None, description=f"Credits, from {FEWEST_ORGANISATION_CREDITS}; one is a US cent"
    )


class OrganisationBought(ResponseModel):
    success: Literal[True]
    credits: int
    direct_charge: Literal[True]


class OrganisationCheckoutOpened(ResponseModel):
    success: Literal[True]
    checkout_url: str = Field(description="URL of Stripe's Checkout to pay on")
    credits: int
    amount_cents: int = Field(description="Before tax")
    direct_charge: Literal[False]


class OrganisationCreditsError(ApiError):
    details: Missing[str] = Field(None, description="Stripe's error message, or why the purchase is limited")


def _failing(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson() | InvalidBody():
            return jsonify(error=TOO_FEW), 400
        case billing.StripeError():
            return jsonify(error=FAILED, details=error.message), 500
        case InternalServerError():
            return jsonify(error=FAILED, details="Internal server error"), 500
    return error_bodies.format_error(error)


@bp.post("/api/orgs/<org_id>/credits")
@limiter.limit("30 per minute")
@Operation(
    tag="Credits",
    caller="cookie",
    body=OrganisationCreditsBody,
    answers={
        200: ("Bought, or to be paid on Stripe's page", OrganisationBought | OrganisationCheckoutOpened),
        403: "You are not an owner of the organisation, buying is frozen, or the key is an organisation's",
        404: "The organization was deleted in the meantime",
        409: "The purchase was changed concurrently",
        429: "Too many purchases or declined cards; see Retry-After",
        500: ("Stripe refused or did not answer", OrganisationCreditsError),
        503: "This server sells nothing",
    },
    door=door(_failing, body_error=OrganisationCreditsError),
)
def buy_organisation_credits(org_id: str) -> ResponseReturnValue:
    """Buy credits for an organization, as one of its owners.

    Charges its default card, or its only card, immediately; without one, or if it is declined, returns a Stripe Checkout
    page. Paid credits are granted exactly once, even if this response is lost.
    """
    buyer = require_cookie_user().id
    wanted = read(OrganisationCreditsBody).amount or 0
    if wanted < FEWEST_ORGANISATION_CREDITS:
        raise DomainError(TOO_FEW)
    if wanted > MOST_CREDITS:
        raise DomainError(TOO_MANY)
    account = _owned(buyer, org_id)
    stripe_api.client()
    customer = customers.customer_of(account)
    assert customer is not None, "checked by _owned"
    db.session.commit()  # no transaction is open during calls to Stripe
    cards.ensure_only_card_default(customer)
    try:
        outcome = billing.buy(account, buyer, wanted, address=caller_address())
    except PaymentMismatch as error:
        log.error("a purchase does not match its payment: %s", error)
        raise DomainError(FAILED, status=500) from error
    if outcome.paid:
        return jsonify(success=True, credits=outcome.credits, direct_charge=True)
    return jsonify(
        success=True,
        checkout_url=outcome.checkout_url,
        credits=outcome.credits,
        amount_cents=price_cents(outcome.credits),
        direct_charge=False,
    )


def _owned(user_id: str, org_id: str) -> Account:
    """The account of an organisation for which the user buys and whose billing is set up. Raises DomainError with the
    contract's messages, in its order."""
    member = membership(user_id, org_id)
    if member is None or not can(member, "buy"):
        raise DomainError(NOT_OWNER, status=403)
    org = org_by_id(org_id)
    if org is None:
        raise NotFound("Organization not found")
    check_sign_on(org)
    if org.stripe_customer_id is None:
        raise DomainError(NO_CUSTOMER)
    if org.stripe_subscription_id is None and billing.seats_cost():
        raise DomainError(NO_SUBSCRIPTION)
    return Account(org_id=org.id)
