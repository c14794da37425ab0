"""The hosted pages of the Stripe simulator in Chromium: no axe violations; paying, confirming and managing cards, with and
without JavaScript."""

from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from playwright.sync_api import Page, expect

from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.fakes.stripe_simulator import StripeSim

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def seller() -> Iterator[str]:
    """The address to which the pages return: a server, because Chromium's headless shell shows an error page for a redirect
    to an unknown host."""

    def empty(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<!doctype html><title>Seller</title><link rel=icon href=data:,>"]

    with serving(empty) as address:
        yield f"{address}/"


@pytest.fixture
def client(stripe_sim: StripeSim) -> stripe.StripeClient:
    return stripe_sim.client()


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({"email": "alice@example.org"}).id


def plan(client: stripe.StripeClient) -> str:
    return client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1000,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Silver"},
        }
    ).id


def checkout(
    client: stripe.StripeClient, seller: str = "http://seller.test/", **more: Any
) -> stripe.checkout.Session:
    item: Any = {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "2,500 credits"}}
    params: Any = {
        "mode": "payment",
        "line_items": [{"quantity": 1, "price_data": item}],
        "success_url": seller + "?paid={CHECKOUT_SESSION_ID}",
        "cancel_url": f"{seller}?cancelled",
    }
    return client.v1.checkout.sessions.create(params | more)


def path(address: str | None, sim: StripeSim) -> str:
    assert address is not None
    return address.removeprefix(sim.url)


def test_axe_finds_nothing(
    stripe_sim: StripeSim,
    client: stripe.StripeClient,
    customer: str,
    open_page: OpenPage,
) -> None:
    stripe_sim.add_card(customer)
    stripe_sim.add_card(customer, "expired", default=False)
    client.v1.subscriptions.create({"customer": customer, "items": [{"price": plan(client)}]})
    paid = client.v1.invoices.list().data[0].hosted_invoice_url
    unpaid: Any = {"items": [{"price": plan(client)}], "payment_behavior": "default_incomplete"}
    client.v1.subscriptions.create({"customer": customer, **unpaid})
    waiting = client.v1.payment_intents.create(
        {
            "amount": 2500,
            "currency": "usd",
            "payment_method": "pm_card_threeDSecure2Required",
            "confirm": True,
            "return_url": f"{stripe_sim.url}/receipt/none",
        }
    )
    expired = checkout(client)
    client.v1.checkout.sessions.expire(expired.id)
    pages = [
        "/",
        path(checkout(client, customer=customer).url, stripe_sim),
        path(
            checkout(
                client,
                billing_address_collection="required",
                tax_id_collection={"enabled": True},
            ).url,
            stripe_sim,
        ),
        path(checkout(client, mode="setup", line_items=[], currency="usd").url, stripe_sim),
        f"/checkout/{expired.id}",
        f"/3ds/{waiting.id}",
        path(client.v1.billing_portal.sessions.create({"customer": customer}).url, stripe_sim),
        path(paid, stripe_sim),
        path(client.v1.invoices.list().data[0].hosted_invoice_url, stripe_sim),
        path(client.v1.charges.list().data[0].receipt_url, stripe_sim),
    ]
    with open_page(stripe_sim.url, width=390, expected=(410,)) as page:
        for each in pages:
            page.goto(each)
            expect(page.get_by_role("region", name="Play money")).to_be_visible()
            judge(page, *WIDTHS)


@pytest.mark.parametrize("script", [True, False])
def test_paying_after_a_decline_and_a_confirmation(
    stripe_sim: StripeSim,
    client: stripe.StripeClient,
    customer: str,
    seller: str,
    open_page: OpenPage,
    script: bool,
) -> None:
    session = checkout(client, seller, customer=customer)
    with open_page(stripe_sim.url, script=script, expected=(422,)) as page:
        page.goto(path(session.url, stripe_sim))
        _pay(page, "insufficient_funds")
        expect(page.get_by_role("alert")).to_contain_text("Your card has insufficient funds.")
        _pay(page, "authentication_required")
        page.get_by_role("button", name="Refuse").click()
        expect(page.get_by_role("alert")).to_contain_text("The confirmation failed.")
        _pay(page, "authentication_required")
        page.get_by_role("button", name="Confirm").click()
        page.wait_for_url(f"**paid={session.id}")
    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"


def test_cancelling_checkout(
    stripe_sim: StripeSim, client: stripe.StripeClient, seller: str, open_page: OpenPage
) -> None:
    session = checkout(client, seller)
    with open_page(stripe_sim.url) as page:
        page.goto(path(session.url, stripe_sim))
        page.get_by_role("link", name="Cancel").click()
        page.wait_for_url("**?cancelled")
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"


@pytest.mark.parametrize("script", [True, False])
def test_managing_cards_and_subscriptions_in_the_portal(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, open_page: OpenPage, script: bool
) -> None:
    first = stripe_sim.add_card(customer)["id"]
    client.v1.subscriptions.create({"customer": customer, "items": [{"price": plan(client)}]})
    portal = client.v1.billing_portal.sessions.create({"customer": customer})
    with open_page(stripe_sim.url, script=script, expected=(422,)) as page:
        page.goto(path(portal.url, stripe_sim))
        page.get_by_label("Card", exact=True).select_option("lost_card")
        page.get_by_role("button", name="Add the card").click()
        expect(page.get_by_role("alert")).to_contain_text("Your card was declined.")
        page.get_by_label("Card", exact=True).select_option("mastercard")
        page.get_by_role("button", name="Add the card").click()
        expect(page.get_by_text("Mastercard ending in 4444")).to_be_visible()
        page.get_by_role("button", name="Make default").click()
        expect(page.get_by_text("Visa ending in 4242")).not_to_contain_text("default")
        page.get_by_role("button", name="Remove").nth(1).click()
        expect(page.get_by_text("Visa ending in 4242")).to_have_count(0)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("ends with this period")).to_be_visible()
        page.get_by_role("button", name="Keep it").click()
        expect(page.get_by_text("active")).to_be_visible()
    [card] = client.v1.customers.payment_methods.list(customer).data
    shown = client.v1.customers.retrieve(customer)
    assert card.id != first
    assert shown.invoice_settings is not None
    assert shown.invoice_settings.default_payment_method == card.id


def _pay(page: Page, card: str) -> None:
    page.get_by_label("Card", exact=True).select_option(card)
    page.get_by_role("button", name="Pay").click()
