"""Disputes and fraud warnings of plans' payments: buying is frozen, and small payments are refunded."""

import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from models import billing
from models.billing import Plan
from models.billing.payments.billing_details import save_billing_details
from models.billing.topups import auto_topup
from models.core import jobs
from models.core.errors import DomainError
from tests import factories
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.billing.topups import enable, mails, top_up
from tests.factories import Person

FROZEN = "buying_frozen"


@pytest.fixture
def plans(desk: Desk) -> Plans:
    return Plans(desk)


def refusal(verb: Any, *args: Any, **kw: Any) -> str | None:
    """The code with which something is refused."""
    try:
        verb(*args, **kw)
    except DomainError as error:
        return error.code
    return None


def refusals(plans: Plans, who: Person, smaller: Plan, larger: Plan) -> set[str | None]:
    """What a subscriber hears who buys credits, subscribes, and changes to a larger plan."""
    moment = plans.now
    agreed = int(moment.timestamp())
    answer = plans.desk.buy(who)
    return {
        FROZEN if answer.status_code == 403 and "cannot buy" in answer.json["error"] else None,
        refusal(plans.checkout, who, smaller),
        refusal(plans.preview, who, larger),
        refusal(plans.do, who, billing.change, larger, agreed, now=moment),
    }


OPEN = "Your bank disputes a payment of $20.00 for your plan"
LOST = "Your bank took back a payment of $20.00 for your plan"
DISPUTES: dict[str, tuple[tuple[str, ...], int, str | None]] = {
    "open": (("dispute",), 0, OPEN),
    "open in part": (("part",), 750, "Your bank disputes a payment of $5.00 for your plan"),
    "lost": (("dispute", "lose"), 0, LOST),
    "won": (("dispute", "win"), 1_000, None),
    "an inquiry": (("inquiry",), 1_000, OPEN),
    "an inquiry that is withdrawn": (("inquiry", "win"), 1_000, None),
    "an inquiry that becomes a dispute and is lost": (("inquiry", "escalate", "lose"), 0, LOST),
}


@pytest.mark.parametrize("case", DISPUTES)
def test_a_dispute_of_a_plans_payment_freezes_buying_until_it_ends_well(
    plans: Plans, alice: Person, case: str
) -> None:
    steps, left, message = DISPUTES[case]
    desk, stripe = plans.desk, plans.desk.stripe
    small, pro = plans.offer("Small", 1_000), plans.offer(included_credits=1_000)
    large = plans.offer("Large", 5_000)
    stripe.pay(plans.checkout(alice, pro), "visa", name="Ada", line1="1 Main St", city="Oslo", country="NO")
    charge, dispute = desk.charges()[-1]["id"], ""
    for step in steps:
        if step == "escalate":
            stripe.control("disputes", dispute=dispute, do="escalate")
        elif step in ("win", "lose"):
            getattr(stripe, step)(dispute)
        else:
            amount = 500 if step == "part" else None
            dispute = stripe.dispute(charge, amount=amount, inquiry=step == "inquiry")["id"]
    events = desk.events()
    random.Random(case).shuffle(events)
    for event in [*events, *events[:4]]:
        desk.deliver(event)
    desk.work()
    assert (desk.balance(alice), desk.ignored()) == (left, [])
    freeze = billing.buying_freeze(alice.account)
    assert (freeze is not None, auto_topup.view(alice.account).freeze) == (message is not None, freeze)
    enable(desk, alice, threshold=5_000, amount=500)
    runner = desk.app.test_cli_runner()
    listed = runner.invoke(args=["billing", "frozen"]).output
    (invoice,) = plans.invoices(alice)
    if message is None:
        assert "alice@example.org" not in listed
        assert refusals(plans, alice, small, large) == {None, "already_subscribed"}
        assert top_up(desk, alice)
        return
    assert freeze is not None
    assert (freeze.of_plan, freeze.payment_id) == (True, invoice.id)
    assert refusals(plans, alice, small, large) == {FROZEN}
    assert desk.buy(alice).json["error"].startswith(message)
    assert f"{'lost' if steps[-1] == 'lose' else 'open'}: $" in listed
    assert invoice.id in listed
    assert not top_up(desk, alice)
    assert plans.preview(alice, small).immediate is False
    assert plans.change(alice, small).scheduled_plan_id == small.id
    told = [each for each in mails(desk) if "dispute" in each["subject"] or "asks about" in each["subject"]]
    assert all("Manage your plan" in each["text"] and "None" not in each["text"] for each in told)
    assert any("closed" in each["subject"] for each in told) is (steps[-1] == "lose")
    assert any("asks about" in each["subject"] for each in told) is (case == "an inquiry")
    (mail,) = [each for each in mails(desk) if each["subject"] == "Your account cannot buy credits"]
    for words in (
        "a payment of $20.00 for your plan",
        "Plan:      Pro, $20.00 a month",
        "View the invoice",
        "Manage your plan",
    ):
        assert words in mail["text"], words
    assert "None" not in mail["text"] + mail["html"]
    # an operator's word outlasts the events
    assert "may buy again" in runner.invoke(args=["billing", "unfreeze", "alice@example.org"]).output
    desk.session.execute(text("UPDATE stripe_event SET handled_at = NULL"))
    desk.session.commit()
    desk.work()
    assert refusals(plans, alice, small, large) == {None, "already_subscribed"}
    assert runner.invoke(args=["billing", "unfreeze", "alice@example.org"]).exit_code == 1
    desk.prove()


def test_both_kinds_of_disputes_freeze_as_one(plans: Plans, alice: Person, bob: Person) -> None:
    """The end of one dispute leaves the other; the oldest is named; pages and JSON say why."""
    desk, best = plans.desk, plans.offer("Max", 9_000)
    plans.subscribed(alice, plans.offer())
    charge = desk.charges()[-1]["id"]
    bought = desk.bought(alice)
    of_purchase = desk.dispute(bought)
    desk.sim.objects["dispute"][of_purchase["id"]]["created"] -= 60
    of_plan = desk.stripe.dispute(charge)
    plans.subscribed(bob, best)
    desk.deliver_events()
    (buyer,) = billing.frozen_buyers()
    assert (buyer.name, buyer.disputes, buyer.freeze.payment_id) == ("alice@example.org", 2, bought.id)
    desk.stripe.win(of_purchase["id"])
    desk.deliver_events()
    (invoice,) = plans.invoices(alice)
    freeze = billing.buying_freeze(alice.account)
    assert freeze is not None
    assert (freeze.payment_id, billing.buying_freeze(bob.account)) == (invoice.id, None)
    assert len([each for each in mails(desk) if each["subject"] == "Your account cannot buy credits"]) == 1

    page = alice.browser.get(f"/profile/plan/change?plan={best.id}")
    assert (page.status_code, "Your bank disputes a payment of $20.00 for your plan" in page.text) == (
        403,
        True,
    )
    route = f"/api/v1/subscriptions/{invoice.stripe_subscription_id}/change"
    client = desk.app.test_client()
    for answer in (
        client.get(f"{route}?plan_id={best.id}", headers=alice.headers),
        client.post(route, json={"plan_id": best.id}, headers=alice.headers),
    ):
        assert (answer.status_code, answer.json["error"]["code"]) == (403, FROZEN)
    root = factories.person(desk.app, "root")
    shown = root.browser.get("/admin/billing").text
    assert "dispute open, plan invoice" in shown
    assert invoice.id in shown
    assert desk.run(billing.clear_freeze, bob.account) == 0
    assert desk.run(billing.clear_freeze, alice.account) == 1
    assert billing.frozen_buyers() == []
    desk.stripe.lose(of_plan["id"])
    desk.deliver_events()
    assert billing.frozen_buyers() == []


def test_the_page_before_checkout_says_why_it_offers_none(plans: Plans, alice: Person) -> None:
    pro = plans.offer()
    address = {"name": "Ada", "line1": "1 Main St", "city": "Oslo", "country": "NO"}
    plans.desk.run(save_billing_details, alice.account, address, [])
    dispute = plans.desk.dispute(plans.desk.bought(alice))["id"]
    for frozen in (True, False):
        plans.desk.deliver_events()
        page = alice.browser.get(f"/profile/plan/checkout?plan={pro.id}")
        assert page.status_code == (403 if frozen else 200)
        assert ("Your bank disputes a payment of $10.00, so" in page.text) is frozen
        assert ("Continue to payment" in page.text) is not frozen
        if frozen:
            plans.desk.stripe.win(dispute)


def test_the_reconciler_hears_of_the_end_of_an_old_dispute(plans: Plans, alice: Person) -> None:
    desk = plans.desk
    plans.subscribed(alice, plans.offer(included_credits=1_000))
    dispute = desk.stripe.dispute(desk.charges()[-1]["id"], inquiry=True)["id"]
    desk.deliver_events()
    assert billing.buying_freeze(alice.account) is not None
    desk.stripe.win(dispute)
    later = plans.now + timedelta(days=20)
    for told in (["dispute warning_needs_response → warning_closed"], []):
        found = desk.run(billing.reconcile, 2, now=later)
        assert [each["what"] for each in found.findings] == told
        assert billing.buying_freeze(alice.account) is None
        desk.session.rollback()


@pytest.mark.parametrize(
    ("below", "before", "refunds"),
    [(0, None, 0), (1_999, None, 0), (2_000, None, 1), (2_000, "dispute", 0), (2_000, "refund", 1)],
)
def test_a_fraud_warning_of_a_plans_payment_refunds_it_up_to_the_operators_limit(
    plans: Plans, alice: Person, below: int, before: str | None, refunds: int
) -> None:
    desk = plans.desk
    desk.configure(stoa_refund_fraud_warnings_below=below)
    plans.subscribed(alice, plans.offer(included_credits=1_000))
    charge = desk.charges()[-1]["id"]
    if before == "dispute":
        desk.stripe.dispute(charge, inquiry=True)
    elif before == "refund":
        desk.stripe.refund(charge, 500)
    warning = desk.stripe.warn_of_fraud(charge)
    for _ in range(2):
        desk.deliver_events()
    refunded = 0 if not refunds else 500 if before else 2_000
    (invoice,) = plans.invoices(alice)
    assert (invoice.fraud_warning_id, invoice.refunded_cents) == (warning["id"], refunded)
    assert desk.balance(alice) == 1_000 - refunded // 2
    assert (len(desk.sim.find("refund")), desk.ignored()) == (refunds, [])
    desk.prove()


def test_a_frozen_subscriber_neither_resumes_nor_completes_an_upgrade(plans: Plans, alice: Person) -> None:
    desk, pro, team = plans.desk, plans.offer(), plans.offer("Team", 5_000)
    plans.subscribed(alice, pro)
    charge = desk.charges()[-1]["id"]
    desk.stripe.change_card(plans.at_stripe(alice)["default_payment_method"], "authentication_required")
    preview = plans.preview(alice, team)
    with pytest.raises(billing.ConfirmationNeeded):
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    waiting = plans.at_stripe(alice)["latest_invoice"]
    dispute = desk.stripe.dispute(charge)["id"]
    desk.deliver_events()
    assert desk.sim.objects["invoice"][waiting]["status"] == "void"
    assert plans.subscription(alice).plan_id == pro.id
    plans.do(alice, billing.cancel)
    assert refusal(plans.do, alice, billing.resume) == FROZEN
    route = f"/api/v1/subscriptions/{plans.subscription(alice).stripe_subscription_id}/resume"
    answer = desk.app.test_client().post(route, headers=alice.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (403, FROZEN)
    assert plans.subscription(alice).cancel_at_period_end
    desk.stripe.win(dispute)
    desk.deliver_events()
    assert not plans.do(alice, billing.resume).cancel_at_period_end


def test_a_dispute_of_a_purchase_withdraws_a_waiting_upgrade_at_once(plans: Plans, alice: Person) -> None:
    desk, pro, team = plans.desk, plans.offer(), plans.offer("Team", 5_000)
    plans.subscribed(alice, pro)
    desk.card(alice)
    purchase = desk.bought(alice)
    desk.stripe.change_card(plans.at_stripe(alice)["default_payment_method"], "authentication_required")
    preview = plans.preview(alice, team)
    with pytest.raises(billing.ConfirmationNeeded):
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    waiting = plans.at_stripe(alice)["latest_invoice"]
    assert desk.sim.objects["invoice"][waiting]["status"] == "open"
    desk.dispute(purchase)
    desk.deliver_events("charge.dispute.created")
    queued = text("SELECT args FROM procrastinate_jobs WHERE task_name = 'billing.withdraw_upgrade'")
    arguments = desk.session.execute(queued).scalars().first()
    assert arguments == {"user_id": alice.id}
    desk.session.rollback()
    desk.run(jobs.withdraw_upgrade, **arguments)
    assert desk.sim.objects["invoice"][waiting]["status"] == "void"
    assert plans.subscription(alice).plan_id == pro.id
