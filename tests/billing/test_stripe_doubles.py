"""Requests to Stripe through its library, sent to our simulator and to localstripe: both respond alike."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe

from tests.fakes.localstripe import Localstripe
from tests.fakes.stripe_simulator import StripeSim
from tests.fakes.webhook import KeptWebhook
from views.demo.stripe_simulator import simulated_events

VISA = "4242424242424242"
DECLINES_LATER = "4000000000000341"


class Double:
    """A double, its client, and a webhook that records requests."""

    def __init__(
        self, url: str, key: str, secret: str, webhook: KeptWebhook, deliver: Callable[[], object]
    ) -> None:
        self.secret, self.webhook, self.deliver = secret, webhook, deliver
        self.session = requests.Session()
        self.session.trust_env = False
        http = stripe.RequestsClient(session=self.session, timeout=10)
        self.client = stripe.StripeClient(key, http_client=http, base_addresses={"api": url})

    def wait_for(self, *types: str) -> dict[str, Any]:
        """Wait for signed events of these types; returns their objects. Raises for a wrong signature."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.deliver()
            taken = [
                self.client.construct_event(body, signature, self.secret)
                for body, signature in list(self.webhook.received)
            ]
            found = {event.type: event.data.object for event in taken}
            if found.keys() >= set(types):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{types} did not come")


@pytest.fixture(params=["simulator", "localstripe"])
def double(request: pytest.FixtureRequest, webhook: KeptWebhook) -> Iterator[Double]:
    """One of the two doubles."""
    if request.param == "simulator":
        sim: StripeSim = request.getfixturevalue("stripe_sim")
        made = Double(sim.url, sim.key, sim.webhook_secret, webhook, lambda: sim.deliver(to=webhook.address))
    else:
        other: Localstripe = request.getfixturevalue("localstripe")
        other.deliver_to(webhook.address)
        made = Double(other.url, other.key, other.webhook_secret, webhook, lambda: None)
    with made.session:
        yield made


def saved_card(double: Double, number: str) -> tuple[str, str]:
    client = double.client
    customer = client.v1.customers.create({"email": "alice@example.org", "metadata": {"user_id": "u1"}})
    card = client.v1.payment_methods.create(
        {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}}
    )
    client.v1.payment_methods.attach(card.id, {"customer": customer.id})
    client.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})
    return customer.id, card.id


def pay(double: Double, customer: str, card: str) -> stripe.PaymentIntent:
    return double.client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer,
            "payment_method": card,
            "off_session": True,
            "confirm": True,
            "metadata": {"operationId": "buy-1"},
        }
    )


def test_a_saved_card_pays_and_the_webhook_reports_it(double: Double) -> None:
    customer, card = saved_card(double, VISA)
    shown = double.client.v1.customers.retrieve(customer)
    assert shown.invoice_settings is not None
    assert shown.invoice_settings.default_payment_method == card
    cards = double.client.v1.payment_methods.list({"customer": customer, "type": "card"}).data
    assert [(each.id, each.card.last4 if each.card else "") for each in cards] == [(card, "4242")]
    intent = pay(double, customer, card)
    assert (intent.status, intent.amount, intent.currency, intent.customer) == (
        "succeeded",
        1000,
        "usd",
        customer,
    )
    paid = double.wait_for("payment_intent.succeeded")["payment_intent.succeeded"]
    assert (paid["id"], paid["metadata"]["operationId"]) == (intent.id, "buy-1")


def test_a_declined_card_is_an_error_without_a_payment(double: Double) -> None:
    customer, card = saved_card(double, DECLINES_LATER)
    with pytest.raises(stripe.CardError) as refused:
        pay(double, customer, card)
    assert refused.value.code == "card_declined"
    assert refused.value.http_status == 402
    [intent] = double.client.v1.payment_intents.list().data
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.code == "card_declined"
    assert (
        double.wait_for("payment_intent.payment_failed")["payment_intent.payment_failed"]["id"] == intent.id
    )


def test_a_payment_is_refunded_in_parts(double: Double) -> None:
    customer, card = saved_card(double, VISA)
    intent = pay(double, customer, card)
    first = double.client.v1.refunds.create({"payment_intent": intent.id, "amount": 400})
    second = double.client.v1.refunds.create({"payment_intent": intent.id, "amount": 600})
    assert [(each.status, each.amount) for each in (first, second)] == [
        ("succeeded", 400),
        ("succeeded", 600),
    ]
    charge = double.client.v1.charges.retrieve(str(first.charge))
    assert (charge.amount, charge.amount_refunded, charge.refunded) == (1000, 1000, True)
    assert charge.payment_intent == intent.id


def test_a_forged_event_is_rejected(double: Double) -> None:
    saved_card(double, VISA)
    double.wait_for("customer.created")
    # localstripe delivers a second later, so events of an earlier test may arrive first
    body, signature = next(each for each in double.webhook.received if b"alice" in each[0])
    with pytest.raises(stripe.SignatureVerificationError):
        double.client.construct_event(body.replace(b"alice", b"mallory"), signature, double.secret)
    stale = simulated_events.signature(body, double.secret, int(time.time()) - 301)
    with pytest.raises(stripe.SignatureVerificationError, match="outside the tolerance zone"):
        double.client.construct_event(body, stale, double.secret)
