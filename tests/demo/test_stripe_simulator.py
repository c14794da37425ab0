"""The Stripe simulator answers Stripe's library as Stripe does: payments, cards, Checkout, refunds, disputes, webhooks."""

import time
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.stripe_simulator import StripeSim
from tests.fakes.webhook import KeptWebhook
from tests.server import serving
from views.demo.stripe_simulator import (
    Simulator,
    create_simulator,
    simulated_clock,
    simulated_control,
    simulated_events,
    simulated_payments,
    simulated_refunds,
)
from views.demo.stripe_simulator.simulated_errors import SimulatedError
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_state import INCLUDABLE, KINDS


@pytest.fixture
def client(stripe_sim: StripeSim) -> stripe.StripeClient:  # type: ignore[override]
    return stripe_sim.client()


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({"email": "alice@example.org", "metadata": {"user_id": "u1"}}).id


def charge(client: stripe.StripeClient, customer: str, method: str, amount: int = 1000, **more: Any) -> Any:
    return client.v1.payment_intents.create(
        {
            "amount": amount,
            "currency": "usd",
            "customer": customer,
            "payment_method": method,
            "off_session": True,
            "confirm": True,
            "metadata": {"operationId": "buy-1"},
        }
        | more,  # type: ignore[arg-type]
    )


def checkout(client: stripe.StripeClient, customer: str, **more: Any) -> Any:
    return client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "customer": customer,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": 2500,
                        "product_data": {"name": "2,500 credits"},
                    },
                }
            ],
            "success_url": "http://localhost/done?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://localhost/usage",
            "metadata": {"operationId": "buy-2"},
            "payment_intent_data": {
                "metadata": {"operationId": "buy-2"},
                "setup_future_usage": "off_session",
            },
        }
        | more,  # type: ignore[arg-type]
    )


# --- the API ------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_rejected(stripe_sim: StripeSim) -> None:
    stranger = stripe.StripeClient(
        "sk_test_wrong", base_addresses={"api": stripe_sim.url}, max_network_retries=0
    )
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key provided"):
        stranger.v1.customers.list()


def test_missing_objects_and_unknown_parameters_are_errors(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        client.v1.customers.retrieve("cus_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        client.v1.customers.create({"emial": "x"})  # type: ignore[typeddict-unknown-key]
    assert (unknown.value.code, unknown.value.param) == ("parameter_unknown", "emial")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        client.v1.payouts.list()


def test_metadata_is_merged_and_removed_by_key(client: stripe.StripeClient, customer: str) -> None:
    changed = client.v1.customers.update(customer, {"metadata": {"plan": "gold", "user_id": ""}})
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"plan": "gold"}


def test_an_idempotency_key_repeats_the_first_response(client: stripe.StripeClient, customer: str) -> None:
    params: Any = {"amount": 500, "currency": "usd", "customer": customer}
    first = client.v1.payment_intents.create(params, {"idempotency_key": "op-1"})
    again = client.v1.payment_intents.create(params, {"idempotency_key": "op-1"})
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        client.v1.payment_intents.create(params | {"amount": 600}, {"idempotency_key": "op-1"})
    assert len(client.v1.payment_intents.list().data) == 1


def test_an_idempotency_key_repeats_a_decline(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    card = stripe_sim.add_card(customer, "declined")["id"]
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            client.v1.payment_intents.create(
                {
                    "amount": 500,
                    "currency": "usd",
                    "customer": customer,
                    "payment_method": card,
                    "off_session": True,
                    "confirm": True,
                },
                {"idempotency_key": "op-2"},
            )
    assert len(client.v1.charges.list().data) == 1


def test_concurrent_requests_with_one_key_create_one_object(stripe_sim: StripeSim, customer: str) -> None:
    client = stripe_sim.client()

    def create(_: int) -> str:
        made = client.v1.payment_intents.create(
            {"amount": 500, "currency": "usd"}, {"idempotency_key": "op-3"}
        )
        return made.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(24)))) == 1


def test_lists_are_paginated_and_filtered_by_time(stripe_sim: StripeSim, client: stripe.StripeClient) -> None:
    made = []
    for number in range(5):
        made.append(client.v1.customers.create({"name": str(number)}))
        stripe_sim.advance(100)
    page = client.v1.customers.list({"limit": 2})
    assert ([each.name for each in page.data], page.has_more) == (["4", "3"], True)
    after = client.v1.customers.list({"limit": 3, "starting_after": page.data[-1].id})
    assert ([each.name for each in after.data], after.has_more) == (["2", "1", "0"], False)
    before = client.v1.customers.list({"limit": 1, "ending_before": page.data[-1].id})
    assert [each.name for each in before.data] == ["4"]
    assert [each.name for each in client.v1.customers.list({"limit": 2}).auto_paging_iter()] == [*"43210"]
    late = client.v1.customers.list({"created": {"gte": made[3].created}})
    assert [each.name for each in late.data] == ["4", "3"]


def test_every_object_has_the_fields_of_the_library(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    """They have no unknown fields, and all required ones."""
    product = client.v1.products.create({"name": "Gold"})
    price = client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 1000, "recurring": {"interval": "month"}}
    )
    card = stripe_sim.add_card(customer, "fraud_warning")["id"]
    paid = charge(client, customer, card)
    client.v1.refunds.create({"payment_intent": paid.id, "amount": 100})
    stripe_sim.dispute(paid.latest_charge)
    client.v1.setup_intents.create({"customer": customer})
    client.v1.customers.tax_ids.create(customer, {"type": "eu_vat", "value": "DE123456789"})
    plan = client.v1.subscriptions.create({"customer": customer, "items": [{"price": price.id}]})
    client.v1.subscription_schedules.create({"from_subscription": plan.id})
    client.v1.invoice_items.create({"customer": customer, "amount": 100, "currency": "usd"})
    client.v1.billing_portal.sessions.create({"customer": customer})
    checkout(client, customer)
    wrong: list[str] = []
    for kind, (_, shape) in KINDS.items():
        if shape is None or kind in ("item", "line_item", "subscription_item"):
            continue
        found = next(iter(stripe_sim.simulator.objects[kind].values()), None)
        assert found is not None, kind
        shown = stripe_sim.simulator.render(found)
        wrong += _differences(kind, shown, shape)
        if kind == "subscription":
            wrong += _differences("subscription_item", shown["items"]["data"][0], stripe.SubscriptionItem)
        if kind == "invoice":
            wrong += _differences("line_item", shown["lines"]["data"][0], stripe.InvoiceLineItem)
    assert wrong == []


def _differences(kind: str, shown: dict[str, Any], shape: type) -> list[str]:
    known = {name: hint for name, hint in shape.__annotations__.items() if name != "OBJECT_NAME"}
    optional = {name for name, hint in known.items() if type(None) in typing.get_args(hint)}
    required = known.keys() - optional - set(INCLUDABLE.get(kind, ()))
    more = [f"{kind}: {name} is unknown" for name in shown.keys() - known.keys()]
    return more + [f"{kind}: {name} is missing" for name in required - shown.keys()]


# --- payments -----------------------------------------------------------------------------------------------------------


def test_a_saved_card_pays_off_session(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    method = client.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    client.v1.payment_methods.attach(method.id, {"customer": customer})
    client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method.id}})
    intent = charge(
        client, customer, method.id, expand=["latest_charge.balance_transaction", "payment_method"]
    )
    assert (intent.status, intent.amount_received) == ("succeeded", 1000)
    assert intent.latest_charge.payment_method_details.card.last4 == "4242"
    assert intent.latest_charge.metadata.to_dict() == {"operationId": "buy-1"}
    assert intent.latest_charge.balance_transaction.net == 1000 - 59
    assert (
        intent.payment_method.card.fingerprint == intent.latest_charge.payment_method_details.card.fingerprint
    )
    types = [event["type"] for event in stripe_sim.events()][-3:]
    assert types == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


@pytest.mark.parametrize(
    ("kind", "code", "decline_code"),
    [
        ("declined", "card_declined", "generic_decline"),
        ("insufficient_funds", "card_declined", "insufficient_funds"),
        ("stolen_card", "card_declined", "stolen_card"),
        ("expired_card", "expired_card", None),
        ("expired", "expired_card", None),
        ("processing_error", "processing_error", None),
        ("authentication_required", "authentication_required", "authentication_required"),
        ("blocked", "card_declined", "fraudulent"),
    ],
)
def test_a_decline_has_its_code_and_message(
    stripe_sim: StripeSim,
    client: stripe.StripeClient,
    customer: str,
    kind: str,
    code: str,
    decline_code: str | None,
) -> None:
    card = stripe_sim.add_card(customer, kind)["id"]
    with pytest.raises(stripe.CardError) as refused:
        charge(client, customer, card)
    error = refused.value.error
    assert error is not None
    assert (error.code, error.decline_code) == (code, decline_code)
    assert error.payment_intent is not None
    intent = client.v1.payment_intents.retrieve(error.payment_intent.id, {"expand": ["latest_charge"]})
    assert intent.status == "requires_payment_method"
    assert intent.amount_received == 0
    assert isinstance(intent.latest_charge, stripe.Charge)
    assert (intent.latest_charge.status, intent.latest_charge.failure_code) == ("failed", code)
    assert stripe_sim.events("payment_intent.payment_failed")


def test_a_declined_intent_is_paid_with_another_card(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    bad, good = (stripe_sim.add_card(customer, kind)["id"] for kind in ("declined", "visa"))
    with pytest.raises(stripe.CardError) as refused:
        charge(client, customer, bad)
    assert refused.value.error is not None
    assert refused.value.error.payment_intent is not None
    id = refused.value.error.payment_intent.id
    paid = client.v1.payment_intents.confirm(id, {"payment_method": good, "return_url": "http://localhost/"})
    assert paid.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError) as again:
        client.v1.payment_intents.confirm(id, {"return_url": "http://localhost/"})
    assert again.value.code == "payment_intent_unexpected_state"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.cancel(id)


def test_a_card_that_declines_cannot_be_saved(client: stripe.StripeClient, customer: str) -> None:
    with pytest.raises(stripe.CardError) as refused:
        client.v1.payment_methods.attach("pm_card_chargeDeclined", {"customer": customer})
    assert refused.value.code == "card_declined"
    assert client.v1.payment_methods.list({"customer": customer, "type": "card"}).data == []


def test_a_removed_card_is_not_the_default_and_cannot_pay(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    client.v1.payment_methods.detach(card)
    shown = client.v1.customers.retrieve(customer)
    assert shown.invoice_settings is not None
    assert shown.invoice_settings.default_payment_method is None
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        charge(client, customer, card)


def test_another_customers_card_is_rejected(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    other = client.v1.customers.create({}).id
    card = stripe_sim.add_card(other)["id"]
    with pytest.raises(stripe.InvalidRequestError, match="does not belong to the Customer"):
        charge(client, customer, card)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"amount": 49, "currency": "usd"}, "amount_too_small"),
        ({"amount": 100_000_000, "currency": "usd"}, "amount_too_large"),
        ({"amount": 500, "currency": "xxx"}, None),
        ({"currency": "usd"}, "parameter_missing"),
        ({"amount": 500, "currency": "usd", "customer": "cus_none"}, "resource_missing"),
        ({"amount": 500, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}, None),
    ],
)
def test_an_impossible_payment_is_a_400(client: stripe.StripeClient, params: Any, code: str | None) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.create(params)
    assert (refused.value.http_status, refused.value.code) == (400, code)
    assert client.v1.payment_intents.list().data == []


@pytest.mark.parametrize("confirm", [True, False])
def test_the_cardholder_confirms_or_declines_on_a_page(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, confirm: bool
) -> None:
    card = stripe_sim.add_card(customer, "authentication_required")["id"]
    with pytest.raises(stripe.CardError) as refused:
        charge(client, customer, card)
    assert refused.value.error is not None
    assert refused.value.error.payment_intent is not None
    id = refused.value.error.payment_intent.id
    waiting = client.v1.payment_intents.confirm(
        id, {"payment_method": card, "return_url": "http://localhost/confirmed?op=1"}
    )
    assert waiting.status == "requires_action"
    assert waiting.next_action is not None
    assert waiting.next_action.redirect_to_url is not None
    assert waiting.next_action.redirect_to_url.url == f"{stripe_sim.url}/3ds/{id}"
    back = stripe_sim.authenticate(id, confirm=confirm)
    assert back.startswith(f"http://localhost/confirmed?op=1&payment_intent={id}&")
    assert back.endswith("redirect_status=succeeded" if confirm else "redirect_status=failed")
    after = client.v1.payment_intents.retrieve(id)
    assert after.status == ("succeeded" if confirm else "requires_payment_method")
    if not confirm:
        assert after.last_payment_error is not None
        assert after.last_payment_error.code == "payment_intent_authentication_failure"


def test_a_card_that_was_confirmed_when_saved_pays_off_session(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    setup = client.v1.setup_intents.create(
        {
            "customer": customer,
            "payment_method": "pm_card_authenticationRequiredOnSetup",
            "confirm": True,
            "return_url": "http://localhost/cards",
        }
    )
    assert setup.status == "requires_action"
    assert "setup_intent=" in stripe_sim.authenticate(setup.id)
    saved = client.v1.customers.payment_methods.list(customer).data
    assert [each.id for each in saved] == [setup.payment_method]
    assert charge(client, customer, saved[0].id).status == "succeeded"


# --- Checkout -----------------------------------------------------------------------------------------------------------


def test_checkout_pays_and_saves_the_card(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    session = checkout(client, customer)
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    assert session.url == f"{stripe_sim.url}/checkout/{session.id}"
    assert stripe_sim.pay(session.id) == f"http://localhost/done?session_id={session.id}"
    done = client.v1.checkout.sessions.retrieve(
        session.id, {"expand": ["payment_intent.latest_charge", "line_items"]}
    )
    assert (done.status, done.payment_status, done.amount_total, done.url) == ("complete", "paid", 2500, None)
    assert isinstance(done.payment_intent, stripe.PaymentIntent)
    assert done.payment_intent.metadata.to_dict() == {"operationId": "buy-2"}
    assert isinstance(done.payment_intent.latest_charge, stripe.Charge)
    assert done.payment_intent.latest_charge.amount == 2500
    assert done.line_items is not None
    assert done.line_items.data[0].description == "2,500 credits"
    assert [each.type for each in client.v1.customers.payment_methods.list(customer).data] == ["card"]
    assert [event["type"] for event in stripe_sim.events()][-4:] == [
        "payment_method.attached",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    found = client.v1.checkout.sessions.list({"payment_intent": done.payment_intent.id}).data
    assert [each.id for each in found] == [session.id]


def test_checkout_stays_open_after_a_decline(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    session = checkout(client, customer)
    assert stripe_sim.pay(session.id, "insufficient_funds") == ""
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"
    assert stripe_sim.pay(session.id, "visa").startswith("http://localhost/done")
    intents = client.v1.payment_intents.list({"customer": customer}).data
    assert [each.status for each in intents] == ["succeeded"]
    assert [each.status for each in client.v1.charges.list({"payment_intent": intents[0].id}).data] == [
        "succeeded",
        "failed",
    ]


def test_checkout_requires_3d_secure_if_the_card_does(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    session = checkout(client, customer)
    assert stripe_sim.pay(session.id, "three_d_secure", confirm=False) == ""
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"
    assert stripe_sim.pay(session.id, "three_d_secure").startswith("http://localhost/done")
    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"


def test_a_page_submitted_twice_concurrently_pays_once(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    session = checkout(client, customer)
    with ThreadPoolExecutor(8) as pool:
        went = set(pool.map(lambda _: stripe_sim.pay(session.id), range(16)))
    assert went == {f"http://localhost/done?session_id={session.id}"}
    assert len(client.v1.charges.list().data) == 1
    assert len(stripe_sim.events("checkout.session.completed")) == 1


def test_checkout_without_a_customer_can_create_one(
    stripe_sim: StripeSim, client: stripe.StripeClient
) -> None:
    session = client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "currency": "usd",
            "customer_creation": "always",
            "success_url": "http://localhost/done",
        }
    )
    assert stripe_sim.pay(session.id, email="new@example.org") == "http://localhost/done"
    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["customer", "setup_intent"]})
    assert isinstance(done.customer, stripe.Customer)
    assert done.customer.email == "new@example.org"
    assert isinstance(done.setup_intent, stripe.SetupIntent)
    assert done.setup_intent.status == "succeeded"
    assert len(client.v1.customers.payment_methods.list(done.customer.id).data) == 1


def test_checkout_collects_and_stores_billing_details(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    more: Any = {
        "billing_address_collection": "required",
        "tax_id_collection": {"enabled": True},
        "customer_update": {"address": "auto", "name": "auto"},
    }
    session = checkout(client, customer, **more)
    assert requests.get(session.url, timeout=10).status_code == 200
    assert stripe_sim.pay(session.id, name="") == ""
    details = {
        "name": "Alice GmbH",
        "line1": "Hauptstr. 1",
        "city": "Berlin",
        "postal_code": "10115",
        "country": "DE",
    }
    assert stripe_sim.pay(session.id, **details, tax_id_type="eu_vat", tax_id="DE123456789")
    done = client.v1.checkout.sessions.retrieve(session.id)
    assert done.customer_details is not None
    assert done.customer_details.address is not None
    assert (done.customer_details.name, done.customer_details.address.city) == ("Alice GmbH", "Berlin")
    shown = client.v1.customers.retrieve(customer, {"expand": ["tax_ids"]})
    assert shown.address is not None
    assert shown.tax_ids is not None
    assert (shown.name, shown.address.country) == ("Alice GmbH", "DE")
    assert [(each.type, each.value) for each in shown.tax_ids.data] == [("eu_vat", "DE123456789")]
    with pytest.raises(stripe.InvalidRequestError, match="customer_update"):
        checkout(client, customer, tax_id_collection={"enabled": True})


def test_a_session_expires_by_time_or_by_request(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    found, left = checkout(client, customer), checkout(client, customer)
    client.v1.checkout.sessions.expire(found.id)
    with pytest.raises(stripe.InvalidRequestError, match="can be expired"):
        client.v1.checkout.sessions.expire(found.id)
    stripe_sim.advance(86_400)
    assert client.v1.checkout.sessions.retrieve(left.id).status == "expired"
    assert len(stripe_sim.events("checkout.session.expired")) == 2


def test_a_bank_debit_succeeds_days_later(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    worked, failed = checkout(client, customer), checkout(client, customer)
    for session in (worked, failed):
        assert stripe_sim.pay(session.id, "bank").startswith("http://localhost/done")
        shown = client.v1.checkout.sessions.retrieve(session.id)
        assert (shown.status, shown.payment_status) == ("complete", "unpaid")
    late = client.v1.checkout.sessions.retrieve(failed.id).payment_intent
    stripe_sim.control("payments", payment_intent=late, failed=True)
    stripe_sim.advance(4 * 86_400)
    assert client.v1.checkout.sessions.retrieve(worked.id).payment_status == "paid"
    assert client.v1.checkout.sessions.retrieve(failed.id).payment_status == "unpaid"
    assert len(stripe_sim.events("checkout.session.async_payment_succeeded")) == 1
    assert len(stripe_sim.events("checkout.session.async_payment_failed")) == 1


# --- refunds and disputes -----------------------------------------------------------------------------------------------


def test_a_charge_is_refunded_in_parts_and_not_beyond(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    intent = charge(client, customer, stripe_sim.add_card(customer)["id"])
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 300})
    with pytest.raises(
        stripe.InvalidRequestError, match=r"greater than unrefunded amount on charge \(\$7.00\)"
    ):
        client.v1.refunds.create({"charge": intent.latest_charge, "amount": 701})
    client.v1.refunds.create({"charge": intent.latest_charge})
    shown = client.v1.charges.retrieve(intent.latest_charge, {"expand": ["refunds"]})
    assert (shown.amount_refunded, shown.refunded) == (1000, True)
    assert shown.refunds is not None
    assert [each.amount for each in shown.refunds.data] == [700, 300]
    with pytest.raises(stripe.InvalidRequestError) as over:
        client.v1.refunds.create({"charge": intent.latest_charge})
    assert over.value.code == "charge_already_refunded"
    assert [event["data"]["object"]["amount_refunded"] for event in stripe_sim.events("charge.refunded")] == [
        300,
        1000,
    ]


def test_a_refund_that_fails_later_is_not_counted(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    intent = charge(client, customer, stripe_sim.add_card(customer, "refund_fails")["id"])
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert client.v1.charges.retrieve(intent.latest_charge).refunded
    stripe_sim.advance(120)
    assert client.v1.refunds.retrieve(refund.id).status == "failed"
    assert client.v1.charges.retrieve(intent.latest_charge).amount_refunded == 0
    assert stripe_sim.events("refund.failed")


def test_a_dispute_withdraws_money_and_winning_reinstates_it(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    intent = charge(client, customer, stripe_sim.add_card(customer)["id"])
    dispute = stripe_sim.dispute(intent.latest_charge, amount=600)
    assert client.v1.charges.retrieve(intent.latest_charge).disputed
    assert [each.amount for each in client.v1.disputes.retrieve(dispute["id"]).balance_transactions] == [-600]
    with pytest.raises(stripe.InvalidRequestError) as charged_back:
        client.v1.refunds.create({"charge": intent.latest_charge})
    assert charged_back.value.code == "charge_disputed"
    stripe_sim.win(dispute["id"])
    won = client.v1.disputes.list({"charge": intent.latest_charge}).data[0]
    assert (won.status, sum(each.amount for each in won.balance_transactions)) == ("won", 0)
    assert [event["type"] for event in stripe_sim.events() if "dispute" in event["type"]] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


def test_a_lost_dispute_and_an_inquiry(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    lost = stripe_sim.dispute(charge(client, customer, card).latest_charge)
    stripe_sim.lose(lost["id"])
    inquiry = stripe_sim.dispute(charge(client, customer, card).latest_charge, inquiry=True)
    assert inquiry["balance_transactions"] == []
    assert client.v1.refunds.create({"charge": inquiry["charge"]}).status == "succeeded"
    assert client.v1.disputes.retrieve(lost["id"]).status == "lost"
    assert stripe_sim.win(inquiry["id"])["status"] == "warning_closed"


def test_cards_that_cause_disputes_and_fraud_warnings(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    charge(client, customer, stripe_sim.add_card(customer, "dispute")["id"])
    intent = charge(client, customer, stripe_sim.add_card(customer, "fraud_warning")["id"])
    assert len(client.v1.disputes.list().data) == 1
    warning = client.v1.radar.early_fraud_warnings.list({"payment_intent": intent.id}).data[0]
    assert (warning.charge, warning.actionable) == (intent.latest_charge, True)
    client.v1.refunds.create({"payment_intent": intent.id})
    assert not client.v1.radar.early_fraud_warnings.retrieve(warning.id).actionable
    assert stripe_sim.events("radar.early_fraud_warning.updated")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["refund", "fail", "dispute", "win", "lose", "escalate"]), st.integers(1, 1200)
        ),
        max_size=12,
    )
)
def test_the_balance_is_the_sum_of_all_movements(stripe_sim: StripeSim, steps: list[tuple[str, int]]) -> None:
    sim = stripe_sim.simulator
    with sim.lock:
        sim.reset()
        owner = sim.add("customer", metadata={}, invoice_settings={"default_payment_method": None})
        card = simulated_control.add_card(sim, owner["id"], "visa")
        intent = simulated_payments.new_intent(sim, 1000, "usd", owner["id"], method=card, metadata={})
        simulated_payments.confirm_intent(sim, intent, Params(off_session="true"))
        paid = sim.get("charge", intent["latest_charge"])
        for what, amount in steps:
            with suppress(SimulatedError):
                _happen(sim, paid, what, amount)
        refunds = [each for each in sim.find("refund") if each["status"] == "succeeded"]
        refunded = sum(each["amount"] for each in refunds)
        withdrawn = -sum(
            each["amount"] for dispute in sim.find("dispute") for each in dispute["balance_transactions"]
        )
        assert paid["amount_refunded"] == refunded <= 1000
        assert paid["refunded"] == (refunded == 1000)
        assert withdrawn >= 0
        assert sum(each["amount"] for each in sim.find("balance_transaction")) == 1000 - refunded - withdrawn
        found = [each["data"]["object"]["amount_refunded"] for each in stripe_sim.events("charge.refunded")]
        assert len(found) == len(sim.find("refund"))


def _happen(sim: Simulator, paid: dict[str, Any], what: str, amount: int) -> None:
    disputes = [each for each in sim.find("dispute") if each["status"] not in simulated_refunds.CLOSED]
    if what == "refund":
        simulated_refunds.create_refund(sim, Params(charge=paid["id"], amount=str(amount)))
    elif what == "fail":
        for refund in [each for each in sim.find("refund") if each["status"] == "succeeded"][:1]:
            simulated_refunds.end_refund(sim, refund, "failed")
    elif what == "dispute" and not paid["disputed"]:
        left = paid["amount"] - paid["amount_refunded"]
        simulated_refunds.open_dispute(sim, paid, amount=min(amount, left), withdraw=amount % 2 == 0)
    elif what == "escalate":
        for dispute in disputes:
            if dispute["status"] in simulated_refunds.INQUIRY:
                simulated_refunds.escalate(sim, dispute)
    elif what in ("win", "lose"):
        for dispute in disputes:
            simulated_refunds.close_dispute(sim, dispute, won=what == "win")


# --- events and webhooks ------------------------------------------------------------------------------------------------


def test_events_have_the_request_that_caused_them(client: stripe.StripeClient, customer: str) -> None:
    client.v1.customers.update(customer, {"name": "Alice"}, {"idempotency_key": "rename"})
    event = client.v1.events.list({"type": "customer.updated"}).data[0]
    assert event.request is not None
    assert event.request.idempotency_key == "rename"
    assert event.api_version == stripe.api_version
    assert event.data.previous_attributes is not None
    assert event.data.previous_attributes.to_dict() == {"name": None}
    assert client.v1.events.retrieve(event.id).data.object["name"] == "Alice"


def test_webhooks_are_signed_as_stripe_does(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, webhook: Any
) -> None:
    assert stripe_sim.deliver(to=webhook.address) == [200]
    body, signature = webhook.received[0]
    event = client.construct_event(body, signature, stripe_sim.webhook_secret)
    assert (event.type, event.data.object["id"]) == ("customer.created", customer)
    with pytest.raises(stripe.SignatureVerificationError):
        client.construct_event(body, signature, "whsec_other")
    assert stripe_sim.deliver(to=webhook.address) == []
    assert stripe_sim.deliver("customer.created", to=webhook.address) == [200]


def test_a_rejected_event_is_delivered_again(stripe_sim: StripeSim, customer: str, webhook: Any) -> None:
    webhook.status = 500
    assert stripe_sim.deliver(to=webhook.address) == [500]
    webhook.status = 200
    assert stripe_sim.deliver(to=webhook.address) == [200]
    assert stripe_sim.deliver(to="http://127.0.0.1:9/") == []


def test_faults_lose_a_response_or_fail_a_request(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    stripe_sim.fail("/v1/payment_intents", when="after")
    patient = stripe_sim.client(max_network_retries=2)
    assert charge(patient, customer, card).status == "succeeded"
    stripe_sim.fail("/v1/payment_intents", when="before")
    with pytest.raises(stripe.APIError):
        charge(client, customer, card)
    assert len(client.v1.payment_intents.list().data) == 1


# --- as a process of the demo -------------------------------------------------------------------------------------------


def test_state_survives_a_restart(stripe_sim: StripeSim, tmp_path: Path) -> None:
    file = tmp_path / "stripe.json"
    first = Simulator(stripe_sim.key, "whsec_1", webhook_url="http://127.0.0.1:9/", file=file)
    with serving(create_simulator(first)) as address:
        client = stripe_sim.client(base_addresses={"api": address})
        customer = client.v1.customers.create({"email": "alice@example.org"}, {"idempotency_key": "one"})
    again = Simulator(stripe_sim.key, "whsec_2", webhook_url="http://127.0.0.1:9/", file=file)
    with serving(create_simulator(again)) as address:
        client = stripe_sim.client(base_addresses={"api": address})
        assert client.v1.customers.retrieve(customer.id).email == "alice@example.org"
        replayed = client.v1.customers.create({"email": "alice@example.org"}, {"idempotency_key": "one"})
        assert replayed.id == customer.id
        assert [event["type"] for event in simulated_events.pending(again)] == ["customer.created"]
        simulated_clock.advance(again, 31 * 86_400)
        later = client.v1.customers.create({"email": "alice@example.org"}, {"idempotency_key": "one"})
        assert later.id != customer.id
        assert [event.type for event in client.v1.events.list().data] == ["customer.created"]


def test_events_are_delivered_and_retried_automatically(webhook: KeptWebhook) -> None:
    sim = Simulator("sk_test_stoa_demo_1", "whsec_1", webhook_url=webhook.address)
    webhook.status = 503
    thread = simulated_events.DeliveryThread(sim, simulated_clock.tick)
    thread.start()
    try:
        with sim.lock:
            sim.emit("customer.created", sim.add("customer", metadata={}))
        _eventually(lambda: len(webhook.received) == 1)
        webhook.status = 200
        _eventually(lambda: len(webhook.received) == 2)
        _eventually(lambda: simulated_events.pending(sim) == [])
        sim.held = True
        with sim.lock:
            sim.emit("customer.updated", sim.objects["customer"].popitem()[1])
        time.sleep(1.2)
        assert len(webhook.received) == 2
    finally:
        thread.stop()
    assert {stripe.Webhook.construct_event(*each, "whsec_1").type for each in webhook.received} == {
        "customer.created"
    }


def test_the_control_api_requires_the_key(stripe_sim: StripeSim) -> None:
    for headers in ({}, {"Authorization": "Bearer sk_test_wrong"}):
        answer = requests.post(f"{stripe_sim.url}/_control/reset", headers=headers, timeout=10)
        assert answer.status_code == 401
        answer.close()


def test_another_process_controls_events_and_the_clock(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, webhook: KeptWebhook
) -> None:
    client.v1.customers.update(customer, {"name": "Alice"})
    created, updated = (each["id"] for each in stripe_sim.control("events")["data"])
    assert stripe_sim.control("webhook", url=webhook.address, held=True) == {
        "url": webhook.address,
        "held": True,
    }
    assert stripe_sim.control("deliveries", events=[updated, created, updated])["statuses"] == [200, 200, 200]
    assert stripe_sim.control("deliveries")["statuses"] == []
    taken = [stripe.Webhook.construct_event(*each, stripe_sim.webhook_secret).id for each in webhook.received]
    assert taken == [updated, created, updated]
    before = stripe_sim.simulator.now()
    assert stripe_sim.control("clock", advance=3600)["now"] >= before + 3600
    stripe_sim.control("reset")
    assert client.v1.customers.list().data == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nothing", {}),
        ("cards", {}),
        ("disputes", {"dispute": "du_none", "do": "win"}),
        ("faults", {"rule": "/", "when": "now"}),
    ],
)
def test_an_invalid_control_request_is_a_4xx(stripe_sim: StripeSim, name: str, body: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {stripe_sim.key}"}
    answer = requests.post(f"{stripe_sim.url}/_control/{name}", json=body, headers=headers, timeout=10)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"]
    answer.close()


def test_the_dashboard_refunds_disputes_and_delivers(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    refunded, disputed = (charge(client, customer, card).latest_charge for _ in range(2))
    page = requests.get(f"{stripe_sim.url}/", timeout=10)
    assert refunded in page.text

    def press(origin: str | None = None, **form: str) -> int:
        headers = {"Origin": origin} if origin else {}
        answer = requests.post(f"{stripe_sim.url}/", form, headers=headers, timeout=10, allow_redirects=False)
        answer.close()
        return answer.status_code

    assert press(origin="http://evil.example", do="refund", id=refunded) == 422
    assert client.v1.refunds.list().data == []
    assert press(do="refund_half", id=refunded) == 303
    assert press(do="refund", id=refunded, origin=stripe_sim.url) == 303
    assert press(do="refund", id=refunded) == 422
    assert client.v1.charges.retrieve(refunded).refunded
    assert press(do="dispute", id=disputed) == 303
    assert press(do="refund", id=disputed) == 422
    [dispute] = client.v1.disputes.list({"charge": disputed}).data
    assert press(do="win", id=dispute.id) == 303
    assert press(do="lose", id=dispute.id) == 422
    assert client.v1.disputes.retrieve(dispute.id).status == "won"
    before = stripe_sim.simulator.now()
    assert press(do="advance", by="day") == 303
    assert stripe_sim.simulator.now() >= before + 86_400
    assert press(do="advance", by="year") == 422
    event = stripe_sim.events()[0]["id"]
    assert press(do="deliver", id=event) == 303
    assert press(do="deliver", id="evt_none") == 422
    assert press(do="nothing", id=refunded) == 422


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
