"""The billing pages: their content in each state, and access."""

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from werkzeug.test import TestResponse

from models.billing import TopupSettings
from models.billing.payments import customers
from models.billing.payments.billing_details import billing_address, billing_snapshot
from models.billing.payments.buying import begin
from models.billing.topups import auto_topup
from models.core.db import db
from models.ledger import Account
from tests.billing.stage import Desk
from tests.billing.topups import enable
from tests.factories import Person

PAGE = "/profile?tab=billing"
CHECKOUT = "/profile/billing/checkout"
DETAILS = "/profile/billing/details"
ADDRESS = {
    "name": "Ada & Co",
    "line1": "1 Analytical Row",
    "line2": "",
    "postal_code": "N1",
    "city": "London",
    "state": "",
    "country": "GB",
    "tax_id_type_0": "gb_vat",
    "tax_id_value_0": "GB123456789",
    "tax_id_type_2": "us_ein",
    "tax_id_value_2": "12-3456789",
}


def page(who: Person, path: str = PAGE) -> str:
    answer = who.browser.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def post(who: Person, path: str, data: dict[str, Any] | None = None) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    return who.browser.post(path, data={"csrf_token": token} | (data or {}))


def pay(who: Person, credits: int = 2500, nonce: str = "nonce-0001") -> TestResponse:
    return post(who, CHECKOUT, {"credits": credits, "operation": nonce})


@pytest.fixture
def buyer(desk: Desk, alice: Person) -> Person:
    """Alice with billing details."""
    assert post(alice, DETAILS, ADDRESS).status_code == 303
    return alice


def test_details_are_required_first_and_copied_to_the_purchase(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    answer = alice.browser.get(f"{CHECKOUT}?amount=2500")
    assert answer.headers["Location"] == f"{DETAILS}?credits=2500"
    assert pay(alice).headers["Location"] == f"{DETAILS}?credits=2500"
    assert desk.purchases(alice) == []

    answer = post(alice, DETAILS, ADDRESS | {"credits": 2500})
    assert answer.headers["Location"] == f"{CHECKOUT}?credits=2500"
    review = page(alice, answer.headers["Location"])
    for phrase in ("Ada &amp; Co", "London", "No fee and no tax", "$25.00", "Test mode", "4242"):
        assert phrase in review
    [nonce] = re.findall(r'name="operation" value="([^"]+)"', review)

    answers = [pay(alice, nonce=nonce) for _ in range(2)]
    bought = desk.purchase(alice)
    for answer in answers:
        assert answer.status_code == 303
        assert f"operation={bought.id}" in answer.headers["Location"]
    assert (bought.state, desk.balance(alice), len(desk.charges())) == ("paid", 2500, 1)
    assert bought.billing is not None
    assert bought.billing["tax_ids"] == [
        {"type": "gb_vat", "value": "GB123456789"},
        {"type": "us_ein", "value": "12-3456789"},
    ]
    assert "2,500 credits bought" in page(alice, answers[0].headers["Location"])

    post(alice, DETAILS, ADDRESS | {"name": "Later Ltd"})
    receipt = page(alice, f"/profile/billing/purchases/{bought.id}")
    assert "Ada &amp; Co" in receipt
    assert "Later Ltd" not in receipt
    desk.prove()


def test_checkout_collects_missing_details(desk: Desk, alice: Person) -> None:
    session = desk.buy(alice).json["sessionId"]  # type: ignore[index]
    desk.stripe.pay(session, tax_id_type="gb_vat", tax_id="GB123456789")
    assert "1,000 credits bought" in page(alice, f"/payment-success?session_id={session}")
    receipt = page(alice, f"/profile/billing/purchases/{desk.purchase(alice).id}")
    for phrase in ("1 Analytical Row", "London", "United Kingdom VAT: GB123456789"):
        assert phrase in receipt
    assert "United Kingdom VAT: GB123456789" in page(
        alice, f"{CHECKOUT}?amount=1000"
    )  # stored for the next purchase


def test_the_number_of_queries_does_not_grow_with_purchases(desk: Desk, buyer: Person) -> None:
    desk.card(buyer)
    queries: list[str] = []
    counts = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        queries.append(statement)

    with desk.app.app_context():
        engine = db.engine
    for number in range(3):
        pay(buyer, 1000, nonce=f"nonce-000{number}")
        event.listen(engine, "before_cursor_execute", note)
        queries.clear()
        page(buyer)
        counts.append(len(queries))
        event.remove(engine, "before_cursor_execute", note)
    assert counts[0] == counts[2] <= 25


def test_wrong_details_keep_the_input(desk: Desk, alice: Person) -> None:
    wrong = {"name": "", "country": "XX", "tax_id_type_2": "", "tax_id_value_2": "a?"}
    answer = post(alice, DETAILS, ADDRESS | wrong)
    assert answer.status_code == 422
    for phrase in (
        "4 fields",
        "Enter the name",
        "from the list",
        "Choose the type.",
        "5 to 40 letters",
        'value="a?"',
    ):
        assert phrase in answer.text
    assert desk.run(billing_snapshot, alice.id) is None


def test_details_and_their_changes_are_sent_to_stripe(desk: Desk, buyer: Person) -> None:
    customer = desk.customer(buyer)
    for changes, expected in (
        ({}, [("gb_vat", "GB123456789"), ("us_ein", "12-3456789")]),
        ({"tax_id_value_0": "", "city": "York"}, [("us_ein", "12-3456789")]),
    ):
        post(buyer, DETAILS, ADDRESS | changes)
        for _ in range(2):
            desk.run(customers.send_billing_details, buyer.id)
        stored = desk.sim.get("customer", customer)
        assert (stored["name"], stored["address"]["city"]) == ("Ada & Co", changes.get("city", "London"))
        ids = desk.sim.find("tax_id", customer=customer)
        assert sorted((each["type"], each["value"]) for each in ids) == expected
    queued = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.send_details'"
    assert desk.session.scalar(text(queued)) == 3


def test_a_changed_address_is_sent_to_the_customers_that_exist(
    desk: Desk, buyer: Person, alice: Person
) -> None:
    customer = desk.customer(buyer)
    buyer.user.email = "new@example.org"
    desk.session.commit()
    for person in (buyer, buyer, alice):
        desk.run(customers.send_email, person.id)
    assert desk.sim.get("customer", customer)["email"] == "new@example.org"
    assert len(desk.sim.find("customer")) == 1


@pytest.mark.parametrize("credits", ["499", "100001", "", "1e3", "-500"])
def test_amounts_out_of_bounds_keep_the_input(desk: Desk, buyer: Person, credits: str) -> None:
    answer = buyer.browser.get(CHECKOUT, query_string={"amount": "custom", "credits": credits})
    assert answer.status_code == 422
    assert "Enter 500 to 100,000 credits." in answer.text
    assert f'value="{credits}"' in answer.text


def test_a_payment_suggests_automatic_top_up_while_it_is_off(desk: Desk, alice: Person) -> None:
    suggestion = "Automatic top-up charges Visa ending in 4242"
    bought = desk.bought(alice)
    path = f"/payment-success?operation={bought.id}"
    assert suggestion in page(alice, path)
    enable(desk, alice)
    assert suggestion not in page(alice, path)
    desk.run(auto_topup.save, alice.account, alice.id, TopupSettings(False, 500, 2000), source="page")
    other = desk.bought(alice)
    desk.dispute(other)
    desk.deliver_events()
    assert suggestion not in page(alice, path)  # buying is frozen
    assert suggestion not in page(alice, f"/payment-success?operation={other.id}")


def test_without_a_card_the_payment_page_waits_for_the_payment(desk: Desk, buyer: Person) -> None:
    hosted = pay(buyer, 1000).headers["Location"]
    assert hosted.startswith(desk.stripe.url)
    bought = desk.purchase(buyer)
    session = bought.stripe_checkout_session_id
    assert session
    path = f"/payment-success?session_id={session}&purchase=credits&amt=1000"
    waiting = page(buyer, path)
    assert "Waiting for Stripe" in waiting
    assert "credits bought" not in waiting
    assert 'hx-trigger="every 2s"' in waiting
    assert pay(buyer, 1000).headers["Location"] == hosted  # the same form again opens the same Checkout page

    desk.stripe.pay(session)
    fragment = buyer.browser.get(f"{path}&poll=5", headers={"HX-Request": "true"})
    assert "1,000 credits bought" in fragment.text
    assert "hx-get" not in fragment.text
    assert "<html" not in fragment.text
    assert desk.balance(buyer) == 1000


def test_the_payment_page_does_not_touch_a_charge_in_flight(desk: Desk, buyer: Person) -> None:
    customer = desk.customer(buyer)
    desk.run(begin, "buy-in-flight", Account(user_id=buyer.id), buyer.id, "direct", 1000, customer)
    path = "/payment-success?operation=buy-in-flight"
    assert "Waiting for Stripe" in page(buyer, path)
    assert desk.purchase(buyer).state == "created"
    desk.session.execute(text("UPDATE purchase SET created_at = created_at - interval '3 minutes'"))
    desk.session.commit()
    assert "nothing was charged" in page(buyer, path)  # no payment at Stripe
    assert desk.purchase(buyer).state == "cancelled"


def test_a_cancelled_payment_page_says_that_nothing_was_charged(desk: Desk, buyer: Person) -> None:
    pay(buyer)
    answer = buyer.browser.get("/usage?purchase_canceled=true", follow_redirects=True)
    assert "You were not charged." in answer.text


def test_refunds_and_disputes_are_shown_with_their_reasons(desk: Desk, buyer: Person) -> None:
    desk.card(buyer)
    pay(buyer, 1000)
    bought = desk.purchase(buyer)
    refund = desk.refund(bought, 400)
    desk.deliver_events()
    text = page(buyer)
    assert "$4.00 refunded" in text
    assert "400 credits taken back" in text
    note = buyer.browser.get(f"/profile/billing/purchases/{bought.id}/refunds/{refund['id']}/credit-note.pdf")
    assert note.data.startswith(b"%PDF-")

    desk.dispute(bought, amount=600)
    desk.deliver_events()
    text = page(buyer)
    assert "Buying is frozen" in text
    assert "Your bank disputes" in text
    assert "Review and pay" not in text
    assert pay(buyer, nonce="nonce-0002").status_code == 403
    receipt = page(buyer, f"/profile/billing/purchases/{bought.id}")
    assert "Dispute by your bank: fraudulent" in receipt
    assert "$0.00" in receipt


def test_cards_can_be_added_chosen_and_removed(desk: Desk, buyer: Person) -> None:
    first, second = desk.card(buyer), desk.card(buyer, "mastercard", default=False)
    listed = page(buyer, "/profile/billing/cards")
    assert listed.index("4242") < listed.index("4444")
    assert "4242" not in page(buyer)  # the billing page does not wait for Stripe
    assert post(buyer, f"/profile/billing/cards/{second}/default").status_code == 303
    assert "Make default: Visa ending in 4242" in page(buyer, "/profile/billing/cards")
    assert "the card ending in 4242?" in page(buyer, f"/profile/billing/cards/{first}/removal")
    assert post(buyer, f"/profile/billing/cards/{first}/removal").status_code == 303
    assert "4242" not in page(buyer, "/profile/billing/cards")
    for path in ("/profile/billing/cards", "/profile/billing/portal"):
        assert post(buyer, path).headers["Location"].startswith(desk.stripe.url)


def test_the_receipt_is_a_pdf_of_paid_purchases_only(desk: Desk, buyer: Person) -> None:
    desk.card(buyer)
    pay(buyer)
    paid = desk.purchase(buyer)
    answer = buyer.browser.get(f"/profile/billing/purchases/{paid.id}/receipt.pdf")
    assert (answer.mimetype, answer.data[:5]) == ("application/pdf", b"%PDF-")
    assert paid.id in answer.headers["Content-Disposition"]
    for card in desk.run(lambda: list(desk.sim.objects["payment_method"])):
        post(buyer, f"/profile/billing/cards/{card}/removal")
    pay(buyer, nonce="nonce-0002")
    waiting = desk.purchases(buyer)[-1]
    assert waiting.state == "pending"
    answer = buyer.browser.get(f"/profile/billing/purchases/{waiting.id}/receipt.pdf")
    assert answer.status_code == 404


def test_strangers_and_the_anonymous_see_nothing(
    desk: Desk, buyer: Person, mallory: Person, anonymous: Person
) -> None:
    card = desk.card(buyer)
    pay(buyer)
    bought = desk.purchase(buyer)
    mine = f"/profile/billing/purchases/{bought.id}"
    for path in (mine, f"{mine}/receipt.pdf", f"/profile/billing/cards/{card}/removal"):
        assert mallory.browser.get(path).status_code == 404
        assert "/login" in anonymous.browser.get(path).headers["Location"]
    desk.customer(mallory)
    for path in (f"/profile/billing/cards/{card}/removal", f"/profile/billing/cards/{card}/default"):
        assert post(mallory, path).status_code == 404
    assert bought.id not in page(mallory)
    assert "No such purchase" in page(mallory, f"/payment-success?operation={bought.id}")
    for path in (CHECKOUT, DETAILS, "/profile/billing/cards", "/profile/billing/portal"):
        assert "/login" in post(anonymous, path).headers["Location"]
    post(mallory, DETAILS, ADDRESS | {"name": "Mallory"})
    saved = billing_address(desk.run(billing_snapshot, buyer.id))
    assert saved is not None
    assert saved.name == "Ada & Co"


def test_without_a_key_no_page_mentions_cards(app: Flask, alice: Person) -> None:
    text = page(alice)
    assert "This server does not sell credits" in text
    assert not re.search(
        r"\bcards?\b|stripe", re.sub(r'class="[^"]*"|#card|href="[^"]*"', "", text), re.IGNORECASE
    )
    for path in (CHECKOUT, DETAILS, "/profile/billing/cards"):
        assert alice.browser.get(path).status_code == 503
    assert pay(alice).status_code == 503


def test_purchases_are_paginated(desk: Desk, buyer: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.billing.payments.purchase.PAGE_OF_PURCHASES", 1)
    desk.card(buyer)
    for number in range(2):
        pay(buyer, 1000 + 500 * number, nonce=f"nonce-000{number}")
    first = page(buyer)
    assert "1,500 credits" in first
    [more] = re.findall(r'href="(/profile/billing/purchases\?before=[^"]+)"', first)
    assert "1,000 credits</a>" in page(buyer, more)
    assert buyer.browser.get("/profile/billing/purchases?before=x").status_code == 422
