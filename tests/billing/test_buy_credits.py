"""POST /api/stripe/buy-credits: the contract's order of checks, saved cards, and Checkout."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models import billing, ledger
from models.accounts import User, bans
from models.billing import stripe_api
from models.billing.payments import cards, customers
from models.billing.payments import purchase as purchase_tables
from models.billing.payments.buying import begin, operation_id
from models.core import jobs
from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from tests.billing.stage import BUY, Desk
from tests.factories import Person
from views.demo.stripe_simulator.simulated_cards import CARDS


def test_authentication_is_checked_first(desk: Desk, anonymous: Person, alice: Person) -> None:
    answer = anonymous.browser.post(BUY, data="{")
    assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
    answer = anonymous.browser.post(BUY, json={"credits": 1000}, headers=alice.headers)
    assert answer.status_code == 401  # a key does not buy


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("{", "Invalid JSON body", None),
        ("{}", "Invalid input", "Invalid input: expected number, received undefined"),
        ('{"credits": "500"}', "Invalid input", "Invalid input: expected number, received string"),
        ('{"credits": 500.5}', "Invalid input", "Invalid input: expected int, received number"),
        ('{"credits": 499}', "Invalid input", "Minimum purchase is 500 credits."),
        ('{"credits": -1}', "Invalid input", "Minimum purchase is 500 credits."),
        ('{"credits": 100000000}', "Invalid input", "Too big: expected number to be <=99999999"),
    ],
)
def test_an_invalid_body_is_rejected(
    desk: Desk, alice: Person, body: str, error: str, message: str | None
) -> None:
    answer = alice.browser.post(BUY, data=body)
    assert answer.status_code == 400
    assert answer.json["error"] == error
    assert [each["message"] for each in answer.json.get("issues", [])] == ([message] if message else [])
    assert desk.purchases(alice) == []


def test_a_banned_user_gets_the_contracts_message(desk: Desk, alice: Person, session: OrmSession) -> None:
    desk.card(alice)
    bans.ban(session.get_one(User, alice.id), "five disputes", now())
    session.commit()
    answer = desk.buy(alice)
    assert answer.status_code == 403
    assert answer.json == {"error": "Your account has been suspended. Please contact support."}
    assert desk.charges() == []


def test_the_routes_without_a_stripe_key(app: Flask, alice: Person) -> None:
    assert not billing.enabled()
    for path in (BUY, "/api/user/billing-portal"):
        answer = alice.browser.post(path, json={"credits": 1000})
        assert answer.status_code == 503
        assert answer.json == {"error": "This server takes no payments. Ask its operator for credits."}


def test_a_saved_card_is_charged_at_once(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice, 1234)
    assert (purchase.state, purchase.kind, purchase.amount_cents) == ("paid", "direct", 1234)
    assert purchase.id.startswith(f"buy-{alice.id}-")
    assert (purchase.card_brand, purchase.card_last4) == ("visa", "4242")
    (charge,) = desk.charges()
    intent = desk.sim.get("payment_intent", charge["payment_intent"])
    assert (charge["amount"], charge["currency"], charge["customer"]) == (1234, "usd", desk.customer(alice))
    assert intent["metadata"] == {
        "userId": alice.id,
        "credits": "1234",
        "operationId": purchase.id,
        "grantType": "purchase",
    }
    (grant,) = ledger.grants_of(alice.account)
    assert (grant.operation_id, grant.type, grant.principal, grant.expires_at) == (
        purchase.id,
        "purchase",
        1234,
        None,
    )
    assert grant.description == "Direct purchase of 1234 credits"


def test_without_a_card_checkout_is_opened_and_pays(desk: Desk, alice: Person) -> None:
    answer = desk.buy(alice)
    assert answer.json.keys() == {"sessionId"}
    session = desk.sim.get("checkout.session", answer.json["sessionId"])
    assert session["success_url"] == (
        "http://localhost:8000/payment-success?session_id={CHECKOUT_SESSION_ID}&purchase=credits&amt=1000"
    )
    assert session["cancel_url"] == "http://localhost:8000/usage?purchase_canceled=true"
    assert (desk.purchase(alice).state, desk.purchase(alice).kind, desk.balance(alice)) == (
        "pending",
        "checkout",
        0,
    )
    assert "/payment-success" in desk.stripe.pay(session["id"])
    desk.deliver_events()
    purchase = desk.purchase(alice)
    assert (purchase.state, purchase.card_last4, desk.balance(alice)) == ("paid", "4242", 1000)
    assert desk.entries(alice) == [("grant", 1000)]
    # the card of the payment becomes the default
    assert desk.buy(alice, 500).json == {"success": True, "credits": 500}


def test_a_declined_card_grants_nothing_and_opens_checkout(desk: Desk, alice: Person) -> None:
    desk.card(alice, "declined")
    answer = desk.buy(alice)
    assert answer.json.keys() == {"sessionId"}
    purchase = desk.purchase(alice)
    assert (purchase.state, purchase.failure_code) == ("pending", "generic_decline")
    assert (desk.charges(), desk.balance(alice)) == ([], 0)
    (intent,) = desk.sim.find("payment_intent")
    assert intent["status"] == "canceled"  # it cannot be confirmed later, beside the Checkout
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    desk.stripe.pay(answer.json["sessionId"])
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice), len(desk.charges())) == ("paid", 1000, 1)


def test_an_abandoned_checkout_is_cancelled(desk: Desk, alice: Person) -> None:
    desk.buy(alice)
    desk.stripe.advance(90_000)
    desk.deliver_events("checkout.session.expired")
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("cancelled", 0)


def test_a_card_is_valid_until_the_end_of_its_month(desk: Desk, alice: Person) -> None:
    card = desk.sim.get("payment_method", desk.card(alice))["card"]
    today = datetime.now(UTC)
    card["exp_year"], card["exp_month"] = today.year, today.month
    assert desk.buy(alice).json == {"success": True, "credits": 1000}
    card["exp_year"], card["exp_month"] = today.year - 1, 12
    assert desk.buy(alice).json.keys() == {"sessionId"}


def test_a_lost_response_charges_once_and_grants_the_credits(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    # executed at Stripe, but every attempt loses the response
    desk.stripe.fail("/v1/payment_intents", when="after", status=500, times=3)
    answer = desk.buy(alice)
    assert answer.status_code == 500
    assert answer.json["error"].startswith("Stripe did not answer. If your card was charged")
    assert (desk.purchase(alice).state, desk.balance(alice), len(desk.charges())) == ("created", 0, 1)
    desk.run(billing.resolve, desk.purchase(alice).id)
    assert (desk.purchase(alice).state, desk.balance(alice), len(desk.charges())) == ("paid", 1000, 1)


def test_a_failed_customer_has_the_contracts_error_and_is_repaired_by_a_job(
    desk: Desk, alice: Person
) -> None:
    desk.stripe.fail("/v1/customers", when="before", status=500, times=3)
    answer = desk.buy(alice)
    assert answer.status_code == 400
    assert answer.json["error"] == "Stripe customer not found."
    (failure,) = customers.sync_failures()
    assert (failure.id, failure.provider, failure.retry_count) == (f"customer-{alice.id}", "stripe", 1)
    assert desk.run(customers.repair_customers) == 0  # not due yet
    later = now() + timedelta(minutes=6)
    assert desk.run(customers.repair_customers, now=later) == 1
    desk.session.rollback()
    assert customers.sync_failures() == []
    assert customers.customer_of(alice.account) is not None
    assert len(desk.sim.find("customer")) == 1


def test_a_customer_is_tried_five_times_and_then_shown_to_the_operator(desk: Desk, alice: Person) -> None:
    desk.stripe.fail("/v1/customers", when="before", status=400, times=100)
    desk.buy(alice)
    for hours in range(1, 9):
        desk.run(customers.repair_customers, now=now() + timedelta(hours=hours))
    desk.session.rollback()
    (failure,) = customers.sync_failures()
    assert failure.retry_count == 5
    listed = desk.app.test_cli_runner().invoke(args=["billing", "failures"]).output
    assert f"customer-{alice.id}" in listed
    assert "tried 5 times" in listed
    desk.sim.faults.clear()
    desk.app.test_cli_runner().invoke(args=["billing", "failures", "--retry", failure.id])
    assert desk.run(customers.repair_customers, now=now() + timedelta(hours=1)) == 1


def test_a_customer_deleted_at_stripe_is_replaced(desk: Desk, alice: Person) -> None:
    desk.bought(alice)
    lost = desk.customer(alice)
    stripe_api.client().v1.customers.delete(lost)
    answer = desk.buy(alice)
    assert answer.json.keys() == {"sessionId"}
    assert desk.customer(alice) != lost


def test_a_repeated_form_is_one_purchase(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    first = desk.run(billing.buy, alice.account, alice.id, 1000, nonce="n1")
    again = desk.run(billing.buy, alice.account, alice.id, 1000, nonce="n1")
    assert first == again
    assert (len(desk.charges()), desk.balance(alice)) == (1, 1000)
    with pytest.raises(Conflict, match="another purchase"):
        desk.run(billing.buy, alice.account, alice.id, 2000, nonce="n1")


def test_a_form_submitted_concurrently_is_one_purchase(desk: Desk, alice: Person) -> None:
    desk.card(alice)

    def buy(_: int) -> object:
        try:
            return desk.run(billing.buy, alice.account, alice.id, 1000, nonce="n1").paid
        except Conflict as error:
            return error.message

    with ThreadPoolExecutor(6) as pool:
        outcomes = set(pool.map(buy, range(6)))
    assert outcomes <= {True, "This purchase is being made just now. Wait a moment."}
    assert True in outcomes
    assert (len(desk.charges()), desk.balance(alice), len(desk.purchases(alice))) == (1, 1000, 1)


def test_the_portal_opens_for_customers_only(desk: Desk, alice: Person, anonymous: Person) -> None:
    path = "/api/user/billing-portal"
    assert anonymous.browser.post(path).status_code == 401
    answer = alice.browser.post(path)
    assert (answer.status_code, answer.json) == (400, {"error": "No Stripe customer ID found"})
    desk.customer(alice)
    assert alice.browser.post(path).json["url"].startswith(desk.stripe.url)


def test_only_the_owner_lists_and_changes_cards(desk: Desk, alice: Person, mallory: Person) -> None:
    old, new = desk.card(alice), desk.card(alice, "mastercard")
    customer = desk.customer(alice)
    assert [(card.id, card.default) for card in cards.saved_cards(customer)] == [(new, True), (old, False)]
    for verb in (cards.set_default_card, cards.remove_card):
        with pytest.raises(NotFound):
            verb(desk.customer(mallory), old)
    cards.set_default_card(customer, old)
    cards.remove_card(customer, new)
    assert [(card.id, card.default) for card in cards.saved_cards(customer)] == [(old, True)]
    db.session.rollback()


def test_another_accounts_purchase_is_not_found(desk: Desk, alice: Person, mallory: Person) -> None:
    purchase = desk.bought(alice)
    assert billing.purchase_of(alice.account, purchase.id).id == purchase.id
    assert billing.receipt_of(alice.account, purchase.id).buyer.id == alice.id
    assert [each.id for each in billing.purchases_of(alice.account)[0]] == [purchase.id]
    for verb in (billing.purchase_of, billing.receipt_of):
        with pytest.raises(NotFound):
            verb(mallory.account, purchase.id)
    assert billing.purchases_of(mallory.account) == ([], None)


def test_a_card_saved_on_stripes_page_becomes_the_default_if_there_is_none(desk: Desk, alice: Person) -> None:
    customer = desk.customer(alice)
    address = cards.card_page(customer, "https://example.org/saved", "https://example.org/left")
    assert desk.stripe.pay(address.rpartition("/")[2]) == "https://example.org/saved"
    desk.deliver_events()
    (card,) = cards.saved_cards(customer)
    assert (card.default, card.usable, card.last4) == (True, True, "4242")
    assert desk.buy(alice).json == {"success": True, "credits": 1000}


def test_a_card_that_needs_3d_secure_opens_checkout_and_is_charged_once(desk: Desk, alice: Person) -> None:
    kind = next(card.kind for card in CARDS if card.authentication == "always")
    desk.card(alice, kind)
    answer = desk.buy(alice)
    assert answer.json.keys() == {"sessionId"}
    assert (desk.purchase(alice).failure_code, desk.charges()) == ("authentication_required", [])
    assert desk.stripe.pay(answer.json["sessionId"], kind, confirm=False) == "" or desk.charges() == []
    assert "/payment-success" in desk.stripe.pay(answer.json["sessionId"], kind)
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice), len(desk.charges())) == ("paid", 1000, 1)


def test_other_sites_cannot_buy(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    for path in (BUY, "/api/user/billing-portal"):
        answer = alice.browser.post(path, json={"credits": 1000}, headers={"Origin": "https://evil.example"})
        assert (answer.status_code, answer.json) == (403, {"error": "Forbidden - not same origin"})
    assert desk.charges() == []


def test_no_transaction_is_open_during_a_request_to_stripe(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[str] = []
    request = stripe.RequestsClient.request

    def watched(self: Any, method: str, url: str, *args: Any, **kw: Any) -> Any:
        assert not db.session.registry().in_transaction(), url
        requested.append(url)
        return request(self, method, url, *args, **kw)

    monkeypatch.setattr(stripe.RequestsClient, "request", watched)
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    desk.deliver_events()
    assert desk.buy(alice).json == {"success": True, "credits": 1000}
    dispute = desk.dispute(desk.purchases(alice)[1])
    desk.stripe.warn_of_fraud(desk.charge_of(desk.purchases(alice)[0])["id"])
    desk.deliver_events()
    desk.stripe.win(dispute["id"])
    assert alice.browser.post("/api/user/billing-portal").status_code == 200
    desk.run(billing.reconcile, now=now() + timedelta(minutes=5))
    assert len(requested) > 30
    assert desk.ignored() == []


def test_the_job_of_a_purchase_cancels_it_without_a_payment(desk: Desk, alice: Person) -> None:
    customer = desk.customer(alice)
    operation = operation_id(alice.account, alice.id)
    begin(operation, alice.account, alice.id, "direct", 1000, customer)
    desk.session.commit()
    task, due = desk.session.execute(
        text(
            "SELECT args->>'purchase_id', scheduled_at FROM procrastinate_jobs WHERE task_name = 'billing.resolve_purchase'"
        )
    ).one()
    assert (task, timedelta(minutes=1) < due - now() <= timedelta(minutes=2)) == (operation, True)
    desk.session.rollback()
    desk.run(jobs.resolve_purchase, purchase_id=operation)
    assert desk.purchase(alice).state == "cancelled"
    listed = desk.app.test_cli_runner().invoke(args=["billing", "purchases", "alice@example.org"]).output
    assert f"{operation}  alice@example.org  cancelled  direct  1,000 credits  $10.00" in listed


def test_a_long_list_of_purchases_is_paginated(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase_tables, "PAGE_OF_PURCHASES", 3)
    customer = desk.customer(alice)
    moment = now()
    for number in range(7):
        begin(f"buy-{number}", alice.account, alice.id, "direct", 1000, customer).created_at = moment
    desk.session.commit()
    seen: list[str] = []
    before = None
    for _ in range(3):
        page, before = billing.purchases_of(alice.account, before=before)
        seen += [each.id for each in page]
    assert (seen, before) == ([f"buy-{number}" for number in range(6, -1, -1)], None)
