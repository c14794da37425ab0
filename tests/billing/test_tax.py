"""Tax of purchases (STOA_STRIPE_TAX): shown before paying, charged with the price, matched to the cent, and on receipts."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from models import billing
from models.billing import Purchase, receipt_of
from models.billing.payments import billing_details, tax_records
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import refunded_tax
from models.billing.payments.purchase_proof import prove_purchases
from models.billing.payments.reconciliation import reconcile
from models.billing.payments.transitions import sync
from models.billing.stripe_api import StripeError
from models.core.db import db, now
from models.ledger import Account
from tests import factories
from tests.billing.stage import Desk
from tests.billing.topups import enable, mails, post, top_up
from tests.factories import Person

REVIEW = "/profile/billing/checkout"


@pytest.fixture(autouse=True)
def taxed(desk: Desk) -> None:
    desk.configure(stoa_stripe_tax=True)


def live_in(desk: Desk, who: Person, country: str) -> None:
    """Save billing details, and send them to Stripe as the job does."""
    values = {"name": "Ada", "line1": "1 Row", "city": "Town", "postal_code": "1", "country": country}
    account = Account(user_id=who.id)
    desk.run(billing_details.save_billing_details, account, values, [])


def facts(found: Purchase) -> tuple[str, int, int, list[tuple[str, int]]]:
    return found.state, found.amount_cents, found.tax_cents, found.taxes


@pytest.mark.parametrize("way", ["card", "checkout"])
@pytest.mark.parametrize(
    ("country", "credits", "tax", "name"),
    [
        ("GB", 1000, 200, "VAT 20 %"),
        ("DE", 999, 190, "VAT 19 %"),
        ("NO", 502, 126, "VAT 25 %"),
        ("US", 1000, 0, "Tax"),
    ],
)
def test_tax_is_added_to_the_price_and_returned_with_it(
    desk: Desk, alice: Person, country: str, credits: int, tax: int, name: str, way: str
) -> None:
    live_in(desk, alice, country)
    total = credits + tax
    if way == "card":
        desk.card(alice)
        assert desk.buy(alice, credits).json == {"success": True, "credits": credits}
    else:
        session = desk.sim.get("checkout.session", desk.buy(alice, credits).json["sessionId"])
        assert session["amount_total"] == total
        desk.stripe.pay(session["id"])
        desk.deliver_events()
    bought = desk.purchase(alice)
    assert facts(bought) == ("paid", total, tax, [(name, tax)])
    (charge,) = desk.charges()
    assert (charge["amount"], desk.balance(alice)) == (total, credits)
    # a part of the total takes back its part of the credits, the rest all
    part = total // 3
    desk.refund(bought, part)
    desk.deliver_events()
    taken = (2 * credits * part + total) // (2 * total)
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("partly_refunded", credits - taken)
    desk.refund(bought, total - part)
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("refunded", 0)
    desk.prove()
    assert desk.run(reconcile).findings == []
    assert desk.ignored() == []
    # the documents: their sums are exact
    page = alice.browser.get(f"/profile/billing/purchases/{bought.id}").text
    assert name in page
    assert f"${total / 100:.2f}" in page
    for refund in desk.sim.find("refund"):
        answer = alice.browser.get(
            f"/profile/billing/purchases/{bought.id}/refunds/{refund['id']}/credit-note.pdf"
        )
        assert answer.status_code == 200
    assert alice.browser.get(f"/profile/billing/purchases/{bought.id}/receipt.pdf").status_code == 200
    refunds = desk.run(receipt_of, alice.account, bought.id).refunds
    assert sum(refunded_tax(bought, refunds).values()) == tax


def test_an_address_entered_on_checkout_decides_the_tax(desk: Desk, alice: Person) -> None:
    desk.card(alice)  # without billing details a saved card is not charged
    session = desk.buy(alice).json["sessionId"]
    assert desk.purchase(alice).amount_cents == 1000
    assert desk.stripe.pay(session, country="DE")
    desk.sim.get("checkout.session", session)["payment_intent"] = None  # not named yet
    desk.deliver_events("payment_intent.succeeded")
    assert facts(desk.purchase(alice)) == ("paid", 1190, 190, [("VAT 19 %", 190)])
    assert (desk.purchase(alice).billing or {})["country"] == "DE"
    desk.prove()


def test_a_wrong_amount_is_a_mismatch(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    session = desk.sim.get("checkout.session", desk.buy(alice).json["sessionId"])
    desk.stripe.pay(session["id"])
    (intent,) = desk.sim.find("payment_intent")
    for wrong in (1000, 1199, 1201):
        intent["amount_received"] = wrong
        desk.deliver_events()
        assert (desk.purchase(alice).state, desk.balance(alice)) == ("pending", 0)
    assert any("amount is 1200" in each for each in desk.ignored())
    intent["amount_received"] = 1200
    (finding,) = desk.run(reconcile).findings
    assert finding["repaired"]
    assert facts(desk.purchase(alice))[:3] == ("paid", 1200, 200)
    # a tax that does not fit the amount, or was never added
    session["total_details"]["amount_tax"] = 199
    with pytest.raises(PaymentMismatch, match="amount is 1199"):
        desk.run(sync, desk.purchase(alice).id)
    session["total_details"]["amount_tax"] = 200
    session["automatic_tax"]["enabled"] = False
    with pytest.raises(PaymentMismatch, match="200 cents of tax"):
        desk.run(sync, desk.purchase(alice).id)
    desk.prove()


@pytest.mark.parametrize("way", ["card", "checkout"])
def test_a_lost_purchase_is_recovered_with_its_tax(desk: Desk, alice: Person, way: str) -> None:
    live_in(desk, alice, "GB")
    if way == "card":
        desk.card(alice)
        desk.buy(alice)
    else:
        desk.stripe.pay(desk.buy(alice).json["sessionId"])
    lost = desk.purchase(alice)
    desk.session.delete(desk.session.get_one(Purchase, lost.id))
    desk.session.commit()
    (finding,) = desk.run(reconcile).findings
    assert finding["repaired"], finding
    found = desk.purchase(alice)
    assert (found.amount_cents, found.tax_cents, desk.balance(alice)) == (1200, 200, 1000)
    assert bool(found.tax_calculation_id) == (way == "card")
    desk.prove()


def test_the_review_shows_the_total_that_is_charged(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    desk.card(alice)
    page = alice.browser.get(REVIEW, query_string={"amount": "1000"}).text
    for shown in ("VAT 20 %", "$10.00", "$2.00", "$12.00", "Pay $12.00"):
        assert shown in page
    live_in(desk, alice, "DE")  # in another window
    form = {"credits": "1000", "operation": "a" * 12, "total": "1200"}
    answer = post(alice.browser, REVIEW, form)
    # not the total that was seen: Stripe's page shows the new one
    assert answer.location.startswith(f"{desk.stripe.url}/checkout/")
    assert desk.charges() == []
    (session,) = desk.sim.find("checkout.session")
    assert session["amount_total"] == 1190
    desk.stripe.pay(session["id"])
    desk.deliver_events()
    assert facts(desk.purchase(alice))[:3] == ("paid", 1190, 190)
    assert any("VAT 19 %" in str(each) for each in mails(desk))
    desk.prove()


def test_prices_say_that_tax_is_added(desk: Desk, alice: Person) -> None:
    for on in (True, False):
        desk.configure(stoa_stripe_tax=on)
        assert ("Tax is added by" in alice.browser.get("/profile?tab=billing").text) == on
        assert ("Prices are before tax" in alice.browser.get("/pricing").text) == on


def test_without_an_answer_no_card_is_charged(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    desk.card(alice)
    desk.stripe.fail("/v1/tax/calculations", times=20)
    page = alice.browser.get(REVIEW, query_string={"amount": "1000"}).text
    assert "The tax is not known yet." in page
    assert "Pay $" not in page
    session = desk.buy(alice).json["sessionId"]  # Checkout calculates by itself
    assert desk.charges() == []
    desk.stripe.pay(session)
    desk.deliver_events()
    assert facts(desk.purchase(alice))[:3] == ("paid", 1200, 200)


def test_a_top_up_adds_the_tax_that_the_consent_names(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "NO")
    desk.card(alice)
    desk.configure()
    enable(desk, alice, amount=2000, cap=2000)
    desk.configure(stoa_stripe_tax=True)
    assert not top_up(desk, alice)
    failed = desk.purchase(alice)
    assert (failed.state, failed.failure_code) == ("failed", "tax")
    assert desk.charges() == []
    _forget_attempt(desk)
    enable(desk, alice, amount=2000, cap=2000)
    assert top_up(desk, alice)
    assert facts(desk.purchase(alice)) == ("paid", 2500, 500, [("VAT 25 %", 500)])
    assert desk.balance(alice) == 2000
    desk.prove()


def _forget_attempt(desk: Desk) -> None:
    def forget() -> None:
        for table in ("purchase", "auto_topup"):
            db.session.execute(text(f"DELETE FROM {table}"))

    desk.run(forget)


def test_without_the_setting_there_is_no_tax(desk: Desk, alice: Person) -> None:
    desk.configure()
    live_in(desk, alice, "GB")
    bought = desk.bought(alice)
    assert (facts(bought), bought.tax_lines) == (("paid", 1000, 0, []), None)
    for path in (f"{REVIEW}?amount=1000", f"/profile/billing/purchases/{bought.id}"):
        page: Any = alice.browser.get(path).text
        assert "VAT" not in page
        assert "<dt>Tax" not in page
    assert not desk.sim.find("tax.calculation")


@pytest.mark.parametrize(
    ("parts", "reversed_tax"), [((1200,), [-200]), ((100, 500, 600), [-17, -83, -100]), ((7,), [-1])]
)
def test_tax_is_recorded_once_and_reversed_with_refunds(
    desk: Desk, alice: Person, parts: tuple[int, ...], reversed_tax: list[int]
) -> None:
    live_in(desk, alice, "GB")
    bought = desk.bought(alice)
    desk.stripe.fail("/v1/tax/transactions/create_from_calculation", when="after", times=3)
    with pytest.raises(StripeError):  # the answer is lost
        desk.run(tax_records.record_tax, bought.id)
    assert _queued(desk) == 1
    for _ in range(2):
        desk.run(tax_records.record_tax, bought.id)
    (recorded,) = desk.sim.find("tax.transaction")
    assert (recorded["reference"], desk.purchase(alice).tax_transaction_id) == (bought.id, recorded["id"])
    for part in parts:
        desk.refund(bought, part)
        desk.deliver_events()
    assert _queued(desk) == 1 + len(parts)
    soon = now() + timedelta(minutes=5)
    desk.stripe.fail("/v1/tax/transactions/create_reversal", status=400)
    (finding,) = desk.run(reconcile, now=soon).findings
    assert (finding["purchase_id"], finding["repaired"]) == (bought.id, False)
    (finding,) = desk.run(reconcile, now=soon).findings
    assert finding["repaired"]
    assert desk.run(reconcile, now=soon).findings == []
    desk.run(tax_records.record_tax, bought.id)
    reversals = [each for each in desk.sim.find("tax.transaction") if each["type"] == "reversal"]
    assert sorted(each["_amount"] for each in reversals) == sorted(-part for part in parts)
    assert sorted(each["_tax"] for each in reversals) == sorted(reversed_tax)
    desk.prove()


def test_checkout_records_its_tax_itself(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    desk.deliver_events()
    desk.refund(desk.purchase(alice), 600)
    desk.deliver_events()
    assert _queued(desk) == 0
    assert desk.run(reconcile, now=now() + timedelta(minutes=5)).findings == []
    assert not desk.sim.find("tax.transaction")


def _queued(desk: Desk) -> int:
    desk.session.rollback()
    query = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.record_tax'"
    return int(desk.session.scalars(text(query)).one())


def test_operators_see_the_tax_and_the_proof_checks_it(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    bought, root = desk.bought(alice), factories.person(desk.app, "root")
    assert "Price, with $2.00 tax" in root.browser.get(f"/admin/billing/purchases/{bought.id}").text
    for wrong in ("tax_cents = 300", "tax_lines = NULL"):
        desk.session.execute(text(f"UPDATE purchase SET {wrong}"))
        desk.session.commit()
    failed = [check.name for check in prove_purchases() if check.count]
    assert failed == ["the price before tax pays for the credits", "tax was calculated"]


@pytest.mark.parametrize(
    ("rule", "when", "state"),
    [
        ("/v1/tax/calculations", "after", "failed"),
        ("/v1/payment_intents", "before", "cancelled"),
        ("/v1/payment_intents", "after", "paid"),
    ],
)
def test_a_top_up_whose_answer_is_lost_ends_as_stripe_says(
    desk: Desk, alice: Person, rule: str, when: str, state: str
) -> None:
    live_in(desk, alice, "GB")
    desk.card(alice)
    enable(desk, alice)
    desk.stripe.fail(rule, when=when, times=3)
    assert not top_up(desk, alice)
    desk.run(billing.resolve, desk.purchase(alice).id)
    found = desk.purchase(alice)
    assert (found.state, len(desk.charges())) == (state, int(state == "paid"))
    assert desk.balance(alice) == (2000 if state == "paid" else 0)
    assert {charge["amount"] for charge in desk.charges()} <= {2400}
    desk.prove()


def test_checkout_after_a_declined_card_adds_the_tax_anew(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    desk.card(alice, "declined")
    session = desk.buy(alice).json["sessionId"]
    assert desk.purchase(alice).tax_calculation_id
    desk.deliver_events()
    desk.stripe.pay(session)
    desk.deliver_events()
    found = desk.purchase(alice)
    assert (facts(found)[:3], found.tax_calculation_id) == (("paid", 1200, 200), None)
    assert [charge["amount"] for charge in desk.charges()] == [1200]
    assert (desk.balance(alice), desk.ignored(), _queued(desk)) == (1000, [], 0)
    desk.prove()


def test_a_dispute_takes_the_credits_back_by_its_share_of_the_total(desk: Desk, alice: Person) -> None:
    live_in(desk, alice, "GB")
    bought = desk.bought(alice)
    dispute = desk.dispute(bought, amount=600)
    desk.deliver_events()
    assert desk.balance(alice) == 500
    desk.stripe.win(dispute["id"])
    desk.deliver_events()
    assert desk.balance(alice) == 1000
    desk.dispute(bought)
    desk.deliver_events()
    assert desk.balance(alice) == 0
    desk.prove()
