"""Saved payment methods at Stripe (cards and Link): the default, and which can be charged.

Every function calls Stripe: call it with no transaction open.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

from models.billing import stripe_api
from models.billing.payments.purchase import CURRENCY
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.core.db import now as utc_now
from models.core.errors import NotFound

CHARGEABLE = ("card", "link")


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A saved payment method. `usable`: it has not expired."""

    id: str
    type: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None
    default: bool
    usable: bool


def saved_cards(customer_id: str) -> list[SavedCard]:
    """The customer's saved payment methods, the default first. Raises StripeError."""
    with stripe_api.api_client() as client:
        customer = plain(client.v1.customers.retrieve(customer_id))
        default = id_of((customer.get("invoice_settings") or {}).get("default_payment_method"))
        found = [
            plain(method)
            for kind in CHARGEABLE
            for method in client.v1.payment_methods.list({"customer": customer_id, "type": kind, "limit": 100})
            .auto_paging_iter()
        ]  # fmt: skip
    today = utc_now().date()
    cards = [_card(method, method["id"] == default, today) for method in found]
    return sorted(cards, key=lambda card: not card.default)


def default_card(customer_id: str) -> SavedCard | None:
    """The customer's default, if it can be charged; None also for a customer that was deleted. Raises StripeError."""
    try:
        with stripe_api.api_client() as client:
            # unexpanded: Stripe rejects the expansion for a deleted customer
            customer = plain(client.v1.customers.retrieve(customer_id))
            id = id_of((customer.get("invoice_settings") or {}).get("default_payment_method"))
            method = plain(client.v1.payment_methods.retrieve(id)) if id else None
    except StripeError as error:
        if missing(error):
            return None
        raise
    card = _card(method, True, utc_now().date()) if method else None
    return card if card and card.usable else None


def customer_exists(customer_id: str) -> bool:
    """Whether the customer exists and was not deleted. Raises StripeError."""
    try:
        with stripe_api.api_client() as client:
            return not plain(client.v1.customers.retrieve(customer_id)).get("deleted")
    except StripeError as error:
        if missing(error):
            return False
        raise


def set_default_card(customer_id: str, method_id: str) -> None:
    """Make it the customer's default, for subscriptions too. Raises NotFound for another customer's, StripeError."""
    _own(customer_id, method_id)
    with stripe_api.api_client() as client:
        client.v1.customers.update(customer_id, {"invoice_settings": {"default_payment_method": method_id}})
        # a subscription keeps the card of its Checkout until it is told otherwise
        for each in client.v1.subscriptions.list({"customer": customer_id, "limit": 100}).auto_paging_iter():
            if each.default_payment_method and id_of(plain(each)["default_payment_method"]) != method_id:
                client.v1.subscriptions.update(each.id, {"default_payment_method": method_id})


def ensure_default_card(customer_id: str, method_id: str) -> None:
    """Make it the default if no other can be charged. Raises StripeError."""
    if default_card(customer_id) is None:
        set_default_card(customer_id, method_id)


def ensure_only_card_default(customer_id: str) -> None:
    """Where no default can be charged and exactly one saved card can, make it the default (contract 2.8). Raises StripeError."""
    if default_card(customer_id) is None:
        usable = [card for card in saved_cards(customer_id) if card.type == "card" and card.usable]
        if len(usable) == 1:
            set_default_card(customer_id, usable[0].id)


def remove_card(customer_id: str, method_id: str) -> None:
    """Detach it from the customer. Raises NotFound for another customer's, StripeError."""
    _own(customer_id, method_id)
    with stripe_api.api_client() as client:
        client.v1.payment_methods.detach(method_id)


def card_page(customer_id: str, success_url: str, cancel_url: str) -> str:
    """The URL of Stripe's page on which the customer saves another card. The event of the saved card makes it the default
    if no other can be charged. Raises StripeError."""
    with stripe_api.api_client() as client:
        session = client.v1.checkout.sessions.create(
            {
                "mode": "setup",
                "customer": customer_id,
                "currency": CURRENCY,
                "success_url": success_url,
                "cancel_url": cancel_url,
            }
        )
    if session.url is None:
        raise StripeError("Stripe returned no page for the card.", unknown=False)
    return session.url


def portal_address(customer_id: str, return_url: str) -> str:
    """The URL of Stripe's customer portal. Raises StripeError."""
    with stripe_api.api_client() as client:
        return client.v1.billing_portal.sessions.create(
            {"customer": customer_id, "return_url": return_url}
        ).url


def _own(customer_id: str, method_id: str) -> None:
    try:
        with stripe_api.api_client() as client:
            method = plain(client.v1.payment_methods.retrieve(method_id))
    except StripeError as error:
        if missing(error):
            raise NotFound("There is no such card.") from None
        raise
    if id_of(method.get("customer")) != customer_id:
        raise NotFound("There is no such card.")


def _card(method: dict[str, Any], default: bool, today: date) -> SavedCard:
    card = method.get("card") or {}
    month, year = card.get("exp_month"), card.get("exp_year")
    # a card is valid until the end of its month
    usable = method["type"] == "link" or (
        method["type"] == "card" and (year or 0, month or 0) >= (today.year, today.month)
    )
    return SavedCard(
        method["id"],
        method["type"],
        card.get("brand"),
        card.get("last4"),
        month,
        year,
        card.get("fingerprint"),
        default,
        usable,
    )
