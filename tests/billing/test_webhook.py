"""POST /api/stripe/webhook: accepted and rejected requests, and events that do not match a purchase."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from models import billing
from models.accounts import User
from models.billing.payments import stripe_events
from models.core import jobs
from models.core.db import now
from models.orgs import Org
from tests.billing.stage import WEBHOOK, Desk
from tests.factories import Person


def _events(desk: Desk) -> str:
    return desk.app.test_cli_runner().invoke(args=["billing", "events"]).output


def test_an_event_is_stored_once_and_applied_by_a_job(desk: Desk, alice: Person) -> None:
    session_id = desk.buy(alice).json["sessionId"]
    desk.stripe.pay(session_id)
    (event,) = desk.events("checkout.session.completed")
    for _ in range(3):
        answer = desk.deliver(event)
        assert (answer.status_code, answer.json) == (200, {"received": True})
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(jobs.work, desk.app.app_context, wait=False).result()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("paid", 1000)
    (stored,) = stripe_events.stripe_events(troubled=False)
    assert (stored.attempts, stored.error, stored.ignored) == (1, None, None)
    assert stored.handled_at is not None
    desk.deliver(event)
    desk.work()
    assert desk.entries(alice) == [("grant", 1000)]


def test_one_webhook_twenty_times_in_parallel_grants_once(desk: Desk, alice: Person) -> None:
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    (event,) = desk.events("checkout.session.completed")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: desk.deliver(event), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    jobs_waiting = desk.session.scalar(
        text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.handle_event'")
    )
    assert jobs_waiting == 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: desk.run(stripe_events.apply_event, event["id"]), range(20)))
    assert desk.entries(alice) == [("grant", 1000)]


def test_concurrent_events_of_a_payment_grant_once(desk: Desk, alice: Person) -> None:
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    events = desk.events()
    for event in events:
        desk.deliver(event)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda event: desk.run(stripe_events.apply_event, event["id"]), events * 2))
    assert desk.entries(alice) == [("grant", 1000)]
    assert desk.purchase(alice).state == "paid"


@pytest.mark.parametrize(
    ("secret", "age", "reason"),
    [("whsec_of_somebody_else", 0, "No valid signature"), (None, 400, "The signature is too old")],
)
def test_forged_and_stale_events_change_nothing_and_are_counted(
    desk: Desk, alice: Person, secret: str | None, age: int, reason: str
) -> None:
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    (event,) = desk.events("checkout.session.completed")
    for _ in range(2):
        answer = desk.deliver(event, secret=secret, at=int(time.time()) - age)
        assert (answer.status_code, answer.json) == (400, {"error": {"message": f"Webhook Error: {reason}"}})
    desk.work()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    assert f"refused 2 times: {reason}" in _events(desk)


def test_a_changed_body_is_rejected(desk: Desk) -> None:
    good = json.dumps({"id": "evt_1", "type": "x", "created": 1, "data": {"object": {}}}).encode()
    signature = desk.stripe.signed(good)
    client = desk.app.test_client()
    for body, signed in ((good.replace(b"evt_1", b"evt_2"), signature), (good, ""), (b"\xff", signature)):
        answer = client.post(WEBHOOK, data=body, headers={"Stripe-Signature": signed})
        assert answer.status_code == 400
    for body in (b"[]", b"{}", b"no json", b'{"id":1,"type":"x","created":1,"data":{"object":{}}}'):
        assert desk.post(body).json == {"error": {"message": "Webhook Error: This is no event"}}
    assert client.post(WEBHOOK, data=good, headers={"Stripe-Signature": signature}).json == {"received": True}


def test_without_a_secret_the_route_is_closed(desk: Desk, app: Flask) -> None:
    desk.configure(stripe_webhook_secret=None)
    answer = desk.forge("ping", {})
    assert answer.status_code == 503
    assert "STRIPE_WEBHOOK_SECRET is not set" in answer.json["error"]["message"]
    assert any("webhook is closed" in warning for warning in billing.stripe_api.billing_settings().warnings())


def test_unknown_events_are_accepted_and_ignored(desk: Desk) -> None:
    assert desk.forge("customer.created", {"id": "cus_1"}).json == {"received": True}
    assert desk.forge("something.new", {}).json == {"received": True}
    desk.work()
    assert "No event is in trouble" in _events(desk)


def _session_like(desk: Desk, alice: Person, **changed: Any) -> dict[str, Any]:
    """A session that was paid at Stripe, with a field that does not match its purchase."""
    session = desk.sim.get("checkout.session", desk.buy(alice).json["sessionId"])
    desk.stripe.pay(session["id"])
    intent = desk.sim.get("payment_intent", session["payment_intent"])
    for each in (session, intent):
        each |= {name: value for name, value in changed.items() if name in each}
    return session


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"currency": "jpy"}, "its currency is usd, and Stripe says jpy"),
        ({"amount_received": 999, "amount_total": 999}, "its amount is 1000, and Stripe says 999"),
        ({"customer": "cus_of_mallory"}, "and Stripe says cus_of_mallory"),
        ({"metadata": {"grantType": "purchase"}}, "there is no such purchase"),
    ],
)
def test_a_mismatch_changes_nothing_and_is_reported(
    desk: Desk, alice: Person, changed: dict[str, Any], reason: str
) -> None:
    if "metadata" in changed:
        changed = {"metadata": {"grantType": "purchase", "operationId": "buy-nobody-1"}}
    _session_like(desk, alice, **changed)
    desk.deliver_events("checkout.session.completed", "payment_intent.succeeded")
    if "metadata" in changed:  # the event was created before
        desk.forge("payment_intent.succeeded", {"id": "pi_1", **changed})
        desk.work()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    assert any(reason in why for why in desk.ignored()), desk.ignored()
    assert "ignored: " in _events(desk)


def test_an_event_cannot_name_another_accounts_purchase(desk: Desk, alice: Person, mallory: Person) -> None:
    desk.buy(alice)
    theirs = desk.purchase(alice)
    desk.card(mallory)
    assert desk.buy(mallory).json == {"success": True, "credits": 1000}
    paid = desk.sim.get("payment_intent", desk.purchase(mallory).stripe_payment_intent_id or "")
    facts = {"operationId": theirs.id, "grantType": "purchase", "credits": "1000", "userId": alice.id}
    desk.forge("payment_intent.succeeded", {**paid, "metadata": facts})
    desk.work()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    assert len(desk.ignored()) == 1


def test_a_failed_event_is_retried_and_shown_until_handled(desk: Desk, alice: Person) -> None:
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    (event,) = desk.events("checkout.session.completed")
    desk.deliver(event)
    desk.stripe.fail("/v1/checkout/sessions/{id}", method="GET", times=3)
    with pytest.raises(billing.StripeError):
        desk.run(stripe_events.apply_event, event["id"])
    assert "failed 1 times: StripeError: Stripe did not answer" in _events(desk)
    assert desk.balance(alice) == 0
    shown = desk.app.test_cli_runner().invoke(args=["billing", "events", "--retry", event["id"]]).output
    assert "is worked again" in shown
    desk.work()
    assert desk.balance(alice) == 1000
    assert "No event is in trouble" in _events(desk)


def test_a_failed_invoice_of_a_top_up_switches_top_ups_off_for_its_own_customer_only(
    desk: Desk, alice: Person, mallory: Person
) -> None:
    for who in (alice, mallory):
        desk.customer(who)
        desk.session.get_one(User, who.id).auto_topup_enabled = True
    desk.session.commit()
    invoice = {
        "id": "in_1",
        "billing_reason": "manual",
        "customer": desk.customer(alice),
        "metadata": {"type": "auto-topup", "userId": mallory.id},
    }
    desk.forge("invoice.payment_failed", invoice)
    desk.work()
    assert len(desk.ignored()) == 1
    desk.forge("invoice.payment_failed", invoice | {"metadata": {"type": "auto-topup", "userId": alice.id}})
    desk.work()
    desk.session.rollback()
    enabled = {who.id: desk.session.get_one(User, who.id).auto_topup_enabled for who in (alice, mallory)}
    assert enabled == {alice.id: False, mallory.id: True}


def test_events_update_an_organisations_subscription(desk: Desk, acme: Org) -> None:
    client = billing.stripe_api.client()
    customer = client.v1.customers.create({"email": "acme@example.org"}).id
    acme.stripe_customer_id = customer
    desk.session.commit()
    desk.stripe.add_card(customer)
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1000,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Seat"},
        }
    )
    subscription = client.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price.id}], "metadata": {"organization_id": acme.id}}
    )
    desk.deliver_events("customer.subscription.created")
    desk.session.rollback()
    assert desk.session.get_one(Org, acme.id).stripe_subscription_id == subscription.id
    client.v1.subscriptions.cancel(subscription.id)
    desk.deliver_events()
    desk.session.rollback()
    found = desk.session.get_one(Org, acme.id)
    assert (found.stripe_subscription_id, found.auto_topup_enabled) == (None, False)


def test_an_events_body_is_erased_after_ninety_days_but_not_its_id(desk: Desk, alice: Person) -> None:
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    desk.deliver_events()
    (event,) = desk.events("checkout.session.completed")
    assert desk.run(stripe_events.forget_payloads, now=now() + timedelta(days=89)) == 0
    assert desk.run(stripe_events.forget_payloads, now=now() + timedelta(days=91)) > 1
    assert desk.run(stripe_events.forget_payloads, now=now() + timedelta(days=91)) == 0
    desk.deliver(event)
    desk.work()
    desk.session.rollback()
    assert {each.payload == {} for each in stripe_events.stripe_events(troubled=False)} == {True}
    assert desk.entries(alice) == [("grant", 1000)]
