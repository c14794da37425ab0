"""Saved cards: list, add, set the default, remove; and the redirect to Stripe's billing portal."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing import stripe_api
from models.billing.payments import cards
from models.billing.payments.cards import SavedCard
from models.billing.payments.customers import customer_of, ensure_customer
from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account
from views.billing.pages.billing_blueprint import absolute, billing_home, bp, money_page, own_billing
from views.web.guards import limiter, login_required
from views.web.htmx import render, see_other, toast


@bp.get("/profile/billing/cards")
@bp.get("/orgs/<slug>/billing/cards")
@login_required
def card_list() -> ResponseReturnValue:
    """List the saved cards. Loaded into the billing page by htmx; a page of its own without JavaScript."""
    if request.args.get("saved"):
        toast("Stripe saved your card. It appears here within a few seconds.")
    problem, saved = None, []
    customer = _customer(own_billing())
    try:
        saved = cards.saved_cards(customer) if customer else []
    except billing.StripeError as error:
        problem = error.message
    return money_page("billing/cards.html", partial="billing/_cards.html", cards=saved, problem=problem)


@bp.post("/profile/billing/cards")
@bp.post("/orgs/<slug>/billing/cards")
@login_required
@limiter.limit("20 per minute")
def add_card() -> ResponseReturnValue:
    """Redirect to Stripe's page to save a card."""
    account = own_billing()
    db.session.commit()
    back = absolute("billing.card_list")
    return see_other(cards.card_page(ensure_customer(account), f"{back}?saved=1", back))


@bp.post("/profile/billing/cards/<method>/default")
@bp.post("/orgs/<slug>/billing/cards/<method>/default")
@login_required
@limiter.limit("30 per minute")
def set_default(method: str) -> ResponseReturnValue:
    """Make a card the default."""
    cards.set_default_card(_needed(own_billing()), method)
    toast("Default card changed.")
    return see_other(url_for("billing.card_list"))


@bp.get("/profile/billing/cards/<method>/removal")
@bp.get("/orgs/<slug>/billing/cards/<method>/removal")
@login_required
def ask_removal(method: str) -> ResponseReturnValue:
    """The dialog that confirms the removal of a card; a page without JavaScript."""
    return render(
        "billing/remove_card.html", partial="billing/_remove_card.html", card=_card(own_billing(), method)
    )


@bp.post("/profile/billing/cards/<method>/removal")
@bp.post("/orgs/<slug>/billing/cards/<method>/removal")
@login_required
@limiter.limit("30 per minute")
def remove(method: str) -> ResponseReturnValue:
    """Remove a card."""
    cards.remove_card(_needed(own_billing()), method)
    toast("Card removed.")
    return see_other(url_for("billing.card_list"))


@bp.post("/profile/billing/portal")
@bp.post("/orgs/<slug>/billing/portal")
@login_required
@limiter.limit("20 per minute")
def portal() -> ResponseReturnValue:
    """Redirect to Stripe's billing portal."""
    customer = _needed(own_billing())
    return see_other(cards.portal_address(customer, stripe_api.billing_settings().base_url + billing_home()))


def _customer(account: Account) -> str | None:
    found = customer_of(account)
    db.session.commit()  # no transaction during the call to Stripe
    return found


def _needed(account: Account) -> str:
    """The account's Stripe customer. Raises NotFound if it has none, and so no cards."""
    customer = _customer(account)
    if customer is None:
        raise NotFound("There is no such card.")
    return customer


def _card(account: Account, method: str) -> SavedCard:
    for card in cards.saved_cards(_needed(account)):
        if card.id == method:
            return card
    raise NotFound("There is no such card.")
