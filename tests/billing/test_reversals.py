"""Refunds, disputes and fraud warnings: credits are taken back and returned, in any order of events."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from models import billing, ledger
from models.accounts import User
from models.billing.payments import stripe_events
from models.billing.payments.customers import ensure_customer
from models.billing.statements import statement
from models.ledger import Account
from models.orgs import Org
from tests.billing.stage import Desk
from tests.factories import Person


def _spend(desk: Desk, who: Person, credits: int) -> None:
    ledger.charge(who.account, credits, cause=f"spent-{ledger.compact_id()}")
    desk.session.commit()


def test_a_partial_refund_takes_back_its_part_once(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    desk.refund(purchase, 250)
    for _ in range(2):
        desk.deliver_events()
    assert (desk.purchase(alice).state, desk.purchase(alice).taken_back, desk.balance(alice)) == (
        "partly_refunded",
        250,
        750,
    )
    desk.refund(purchase, 750)
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("refunded", 0)
    assert desk.entries(alice) == [("grant", 1000), ("revocation", -250), ("revocation", -750)]
    receipt = billing.receipt_of(alice.account, purchase.id)
    assert sorted(refund.amount_cents for refund in receipt.refunds) == [250, 750]
    desk.prove()


def test_spent_credits_become_debt_that_the_next_purchase_repays(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    _spend(desk, alice, 800)
    desk.refund(purchase, 1000)
    desk.deliver_events()
    assert desk.balance(alice) == -800
    assert ledger.balance(alice.account).total_debt == 800
    assert desk.buy(alice).json == {"success": True, "credits": 1000}
    assert desk.balance(alice) == 200
    desk.prove()


def test_a_failed_refund_returns_the_credits(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    refund = desk.refund(purchase, 400)
    desk.deliver_events()
    assert desk.balance(alice) == 600
    desk.stripe.control("refunds", refund=refund["id"], status="failed")
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("paid", 1000)
    assert desk.entries(alice)[-1] == ("reinstatement", 400)
    desk.prove()
    summed = statement.statement_totals(alice.id)
    assert (summed.bought, summed.taken_back, summed.balance) == (1000, 0, 1000)


def test_a_dispute_takes_back_freezes_and_returns_when_won(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    dispute = desk.dispute(purchase)
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("disputed", 0)
    refused = desk.buy(alice)
    assert refused.status_code == 403
    assert refused.json["error"].startswith("Your bank disputes a payment of $10.00")
    desk.stripe.win(dispute["id"])
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("paid", 1000)
    assert billing.buying_freeze(alice.account) is None
    assert desk.buy(alice).json == {"success": True, "credits": 1000}
    desk.prove()


def test_a_lost_dispute_keeps_buying_frozen_until_an_operator_clears_it(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    dispute = desk.dispute(purchase)
    desk.stripe.lose(dispute["id"])
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("lost", 0)
    assert "Your bank took back a payment of $10.00" in desk.buy(alice).json["error"]
    runner = desk.app.test_cli_runner()
    assert (
        "alice@example.org may buy again"
        in runner.invoke(args=["billing", "unfreeze", "alice@example.org"]).output
    )
    assert runner.invoke(args=["billing", "unfreeze", "alice@example.org"]).exit_code == 1
    assert desk.buy(alice).json == {"success": True, "credits": 1000}
    desk.deliver_events()  # the old events again
    assert billing.buying_freeze(alice.account) is None


def test_an_inquiry_takes_back_no_credits(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    dispute = desk.dispute(purchase, inquiry=True)
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("disputed", 1000)
    desk.stripe.win(dispute["id"])
    desk.deliver_events()
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("paid", 1000)


def test_a_refund_and_a_dispute_take_back_no_more_than_all(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    desk.refund(purchase, 300)
    desk.dispute(purchase, amount=900)
    desk.deliver_events()
    found = desk.purchase(alice)
    assert (found.refunded_cents, found.disputed_cents, found.taken_back) == (300, 900, 1000)
    assert desk.balance(alice) == 0


def test_five_disputes_in_two_weeks_ban(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    purchases = []
    for _ in range(5):
        desk.buy(alice)
        purchases.append(desk.purchases(alice)[-1])
    for purchase in purchases[:4]:
        desk.dispute(purchase)
    desk.deliver_events()
    desk.session.rollback()
    assert not desk.session.get_one(User, alice.id).banned
    desk.dispute(purchases[4])
    desk.deliver_events()
    desk.session.rollback()
    user = desk.session.get_one(User, alice.id)
    assert (user.banned, user.banned_reason) == (True, "5 disputes in past 14 days (threshold: 5)")


def test_old_disputes_and_those_of_others_do_not_count(desk: Desk, alice: Person, mallory: Person) -> None:
    for who in (alice, mallory):
        desk.card(who)
        for _ in range(3):
            desk.buy(who)
        for purchase in desk.purchases(who):
            desk.dispute(purchase)
    old = list(desk.sim.objects["dispute"].values())
    for dispute in old[:2]:
        dispute["created"] -= 15 * 86_400
    desk.deliver_events()
    desk.session.rollback()
    assert not any(desk.session.get_one(User, who.id).banned for who in (alice, mallory))


@pytest.mark.parametrize(("below", "state"), [(0, "paid"), (999, "paid"), (1000, "refunded")])
def test_a_fraud_warning_is_refunded_up_to_the_operators_limit(
    desk: Desk, alice: Person, below: int, state: str
) -> None:
    desk.configure(stoa_refund_fraud_warnings_below=below)
    purchase = desk.bought(alice)
    desk.stripe.warn_of_fraud(desk.charge_of(purchase)["id"])
    for _ in range(2):
        desk.deliver_events()
    assert desk.purchase(alice).state == state
    assert desk.balance(alice) == (0 if state == "refunded" else 1000)
    assert len(desk.sim.find("refund")) == (state == "refunded")
    assert "reported as fraud" in desk.app.test_cli_runner().invoke(args=["billing", "purchases"]).output
    desk.prove()


def test_an_organisations_purchase_is_granted_and_taken_back_on_its_own_account(
    desk: Desk, alice: Person, acme: Org
) -> None:
    account = Account(org_id=acme.id)
    customer = desk.run(ensure_customer, account)
    desk.stripe.add_card(customer)
    bought = desk.run(billing.buy, account, alice.id, 5000)
    assert (bought.paid, bought.purchase_id.startswith(f"org-{acme.id}-")) == (True, True)
    desk.session.rollback()
    assert ledger.balance(account).breakdown["organization"] == 5000
    assert desk.balance(alice) == 0
    desk.refund(billing.purchase_of(account, bought.purchase_id), 2000)
    desk.deliver_events()
    desk.session.rollback()
    assert ledger.balance(account).net_balance == 3000
    desk.prove()


# --- orders of events ------------------------------------------------------------------------------------

HISTORIES: dict[str, tuple[str, int]] = {
    "checkout, then refunds": ("refunds", 650),
    "checkout, then a dispute that is won": ("won", 1000),
    "checkout, then a dispute that is lost": ("lost", 0),
    "checkout, a refund and a dispute that is won": ("refund and won", 700),
}


def _play(desk: Desk, alice: Person, what: str) -> None:
    """A paid Checkout with a refund and a dispute, all at Stripe before any event is delivered."""
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    (charge,) = desk.charges()
    if what == "refunds":
        desk.stripe.refund(charge["id"], 200)
        desk.stripe.refund(charge["id"], 150)
    if what == "refund and won":
        desk.stripe.refund(charge["id"], 300)
    if "won" in what or what == "lost":
        dispute = desk.stripe.dispute(charge["id"])
        (desk.stripe.win if "won" in what else desk.stripe.lose)(dispute["id"])


def _facts(desk: Desk, alice: Person) -> tuple[Any, ...]:
    found = desk.purchase(alice)
    return (
        found.state,
        found.refunded_cents,
        found.disputed_cents,
        found.taken_back,
        found.stripe_charge_id,
        desk.balance(alice),
    )


@pytest.mark.parametrize(("what", "left"), HISTORIES.values(), ids=HISTORIES.keys())
def test_orders_of_events_end_in_the_same_state(desk: Desk, alice: Person, what: str, left: int) -> None:
    """The first, the last and two others; the long proof tries all."""
    _play(desk, alice, what)
    relevant = [event for event in desk.events() if event["type"] in stripe_events.HANDLERS]
    for event in relevant:
        desk.deliver(event)
    orders = list(itertools.islice(itertools.permutations(relevant), 5000))
    ends = set()
    for order in [*random.Random(7).sample(orders, 2), relevant, relevant[::-1]]:
        _begin_again(desk)
        for event in order:
            desk.run(stripe_events.apply_event, event["id"])
        ends.add(_facts(desk, alice))
        desk.prove()
    assert len(ends) == 1
    assert ends.pop()[-1] == left


def _begin_again(desk: Desk) -> None:
    """Reset our side to the time when the Checkout was opened."""
    desk.session.rollback()
    for change in (
        "SET LOCAL session_replication_role = replica",
        "UPDATE purchase SET state = 'pending', version = 1, taken_back = 0, refunded_cents = 0, disputed_cents = 0,"
        " paid_at = NULL, stripe_charge_id = NULL, stripe_payment_intent_id = NULL",
        "UPDATE stripe_event SET handled_at = NULL",
        "DELETE FROM purchase_refund",
        "DELETE FROM purchase_dispute",
        "DELETE FROM credit_entry",
        "DELETE FROM credit_ledger",
    ):
        desk.session.execute(text(change))
    desk.session.commit()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_histories_match_stripe(desk: Desk, alice: Person, data: st.DataObject) -> None:
    """Refunds, disputes and spending in any order, with events late, unordered and repeated: at the end the credits taken
    back match the money returned."""
    desk.forget()
    purchase = desk.bought(alice, 1000)
    charge = purchase.stripe_charge_id or ""
    spent, disputes = 0, []
    for _ in range(data.draw(st.integers(1, 6), label="steps")):
        step = data.draw(st.sampled_from(["refund", "dispute", "win", "lose", "spend", "tell"]), label="step")
        left = 1000 - desk.sim.get("charge", charge)["amount_refunded"]
        if step == "refund" and left > 0 and not disputes:
            desk.stripe.refund(charge, data.draw(st.integers(1, left)))
        elif step == "dispute" and left > 0 and not disputes:
            disputes.append(desk.stripe.dispute(charge, amount=data.draw(st.integers(1, left)))["id"])
        elif (
            step in ("win", "lose")
            and disputes
            and desk.sim.get("dispute", disputes[0])["status"] == "needs_response"
        ):
            (desk.stripe.win if step == "win" else desk.stripe.lose)(disputes[0])
        elif step == "spend":
            _spend(desk, alice, amount := data.draw(st.integers(1, 500)))
            spent += amount
        elif step == "tell":
            _tell_some(desk, data)
    _tell_some(desk, data)
    desk.deliver_events(*stripe_events.HANDLERS)
    refunded = sum(each["amount"] for each in desk.sim.find("refund"))
    withdrawn = sum(
        -sum(moved["amount"] for moved in each["balance_transactions"]) for each in desk.sim.find("dispute")
    )
    gone = min(1000, refunded + withdrawn)
    assert desk.purchase(alice).taken_back == gone
    assert desk.balance(alice) == 1000 - gone - spent
    assert desk.ignored() == []
    desk.prove()


def _tell_some(desk: Desk, data: st.DataObject) -> None:
    events = [event for event in desk.events() if event["type"] in stripe_events.HANDLERS]
    chosen = data.draw(st.lists(st.sampled_from(range(len(events))), max_size=4), label="events")
    for index in chosen:
        desk.deliver(events[index])
    desk.work()
