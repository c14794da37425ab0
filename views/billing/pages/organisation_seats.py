"""The seats of an organisation: what they cost, subscribing, and the end of the subscription."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account
from views.billing.api.organisation_seats import setup_urls
from views.billing.pages.billing_blueprint import billing_home, bp, money_page, organisation, own_billing
from views.web.guards import limiter, login_required
from views.web.htmx import render, see_other, toast


@bp.get("/orgs/<slug>/billing/seats")
@login_required
def seats() -> ResponseReturnValue:
    """The subscription of the organisation. Loaded into the billing page by htmx; a page of its own without JavaScript."""
    account, _ = _account()
    count = billing.seats_of(account.id)
    db.session.commit()  # no transaction is open during calls to Stripe
    problem, price, subscription = None, None, None
    try:
        price, subscription = billing.seat_price(), billing.seat_subscription(account)
    except billing.StripeError as error:
        problem = error.message
    return money_page(
        "billing/seats.html",
        partial="billing/_seats.html",
        count=count,
        price=price,
        subscription=subscription,
        problem=problem,
    )


@bp.post("/orgs/<slug>/billing/seats")
@login_required
@limiter.limit("20 per minute")
def subscribe_seats() -> ResponseReturnValue:
    """Redirect to Stripe's page to subscribe."""
    account, slug = _account()
    db.session.commit()
    return see_other(billing.set_up_billing(account, *setup_urls(slug))[1])


@bp.get("/orgs/<slug>/billing/seats/end")
@login_required
def ask_end() -> ResponseReturnValue:
    """The dialog that confirms the end of the subscription; a page without JavaScript."""
    _account()
    return render("billing/seats_end.html", partial="billing/_seats_end.html")


@bp.post("/orgs/<slug>/billing/seats/end")
@login_required
@limiter.limit("20 per minute")
def end_seats() -> ResponseReturnValue:
    """End the subscription at once."""
    account, _ = _account()
    db.session.commit()
    billing.cancel_seats(account)
    toast("The subscription has ended. Bought credits stay.")
    return see_other(billing_home())


@bp.get("/orgs/<slug>/billing/setup")
@login_required
def seat_setup() -> ResponseReturnValue:
    """The contract's address of the page on which billing is set up (6.4)."""
    own_billing()
    return see_other(url_for("billing.seats" if billing.seats_cost() else "billing.card_list"))


def _account() -> tuple[Account, str]:
    """The organisation's account and slug, on a server whose seats cost. Raises NotFound, Forbidden, BillingDisabled."""
    account, org = own_billing(), organisation()
    if org is None or not billing.seats_cost():
        raise NotFound("There are no seats to pay for.")
    return account, org.slug
