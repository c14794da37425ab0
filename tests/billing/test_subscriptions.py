"""Personal subscriptions: from Checkout to their end, with the credits that they include."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from sqlalchemy import select, text, update

from models import billing, ledger
from models.accounts.account_deletion import deletion_blocks
from models.accounts.users import User
from models.billing import ConfirmationNeeded, PaymentDeclined, StripeError, account_closing, mails
from models.billing.payments import cards
from models.billing.payments.cards import saved_cards
from models.billing.payments.purchase_proof import prove_purchases
from models.core.errors import Conflict, DomainError, Forbidden, NotFound
from models.ledger import Account
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person


@pytest.fixture
def plans(desk: Desk) -> Plans:
    return Plans(desk)


def epoch(moment: Any) -> int:
    return int(moment.timestamp())


def test_each_paid_period_grants_the_included_credits(plans: Plans, alice: Person) -> None:
    pro = plans.offer(included_credits=1_000, tier=100)
    found = plans.subscribed(alice, pro)
    id = found.stripe_subscription_id
    assert (found.status, found.plan_id, found.tier, found.cancel_at_period_end) == (
        "active",
        pro.id,
        100,
        False,
    )
    first = f"sub:{id}:{epoch(found.billing_period_start)}"
    assert plans.grants(alice) == [(first, 1_000, 1_000)]
    (invoice,) = plans.invoices(alice)
    assert (invoice.amount_cents, invoice.credits, invoice.status) == (2_000, 1_000, "paid")
    assert plans.desk.balance(alice) == 1_000
    plans.pass_days(32)
    again = plans.subscription(alice)
    assert [grant[0] for grant in plans.grants(alice)] == [
        first,
        f"sub:{id}:{epoch(again.billing_period_start)}",
    ]
    plans.deliver_events()
    plans.desk.run(billing.sync_subscription, id)
    assert len(plans.grants(alice)) == 2
    assert plans.mails(alice) == ["plan_started", "plan_renewed"]
    plans.desk.prove()


def test_the_return_page_needs_no_event_and_rejects_other_users(
    plans: Plans, alice: Person, mallory: Person
) -> None:
    pro = plans.offer(included_credits=10)
    session = plans.checkout(alice, pro)
    assert plans.do(alice, billing.sync_checkout, session) is None
    plans.desk.stripe.pay(session, "visa", name="Ada", line1="1 Main St", city="Oslo", country="NO")
    with pytest.raises(NotFound):
        plans.do(mallory, billing.sync_checkout, session)
    with pytest.raises(NotFound):
        plans.do(alice, billing.sync_checkout, "cs_other")
    found = plans.do(alice, billing.sync_checkout, session)
    assert (found.status, found.user_id) == ("active", alice.id)
    assert plans.desk.balance(alice) == 10
    plans.deliver_events()
    assert plans.desk.balance(alice) == 10
    with pytest.raises(NotFound):
        plans.do(mallory, billing.subscription_of, found.stripe_subscription_id)


def test_a_trial_and_a_declined_card_grant_nothing(plans: Plans, alice: Person, bob: Person) -> None:
    pro = plans.offer(included_credits=1_000)
    plans.desk.stripe.pay(
        plans.checkout(alice, pro), "declined", name="Ada", line1="1 Main St", city="Oslo", country="NO"
    )
    plans.deliver_events()
    assert plans.subscription(alice).status == "incomplete"
    assert plans.do(alice, billing.live_subscription) is None
    plans.pass_days(2)
    assert plans.subscription(alice).status == "canceled"
    assert (plans.grants(alice), plans.mails(alice)) == ([], [])
    customer = plans.desk.customer(bob)
    plans.desk.card(bob)
    price = plans.desk.run(billing.stripe_price, pro)
    plans.desk.stripe.client().v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price}], "trial_period_days": 7}
    )
    plans.deliver_events()
    assert (plans.subscription(bob).status, plans.grants(bob)) == ("trialing", [])
    plans.pass_days(8)
    assert (plans.subscription(bob).status, len(plans.grants(bob))) == ("active", 1)
    plans.desk.prove()


def test_a_cancellation_takes_effect_at_the_period_end_and_can_be_undone(plans: Plans, alice: Person) -> None:
    plans.desk.bought(alice, 5_000)
    pro = plans.offer(included_credits=1_000)
    plans.subscribed(alice, pro)
    for _ in range(2):
        assert plans.do(alice, billing.cancel).cancel_at_period_end
    assert plans.do(alice, billing.live_subscription) is not None
    for _ in range(2):
        assert not plans.do(alice, billing.resume).cancel_at_period_end
    assert plans.do(alice, billing.cancel).cancel_at_period_end
    plans.pass_days(32)
    ended = plans.subscription(alice)
    assert (ended.status, ended.ended_at is not None) == ("canceled", True)
    for verb in (billing.cancel, billing.resume, billing.undo_scheduled_change):
        with pytest.raises(NotFound):
            plans.do(alice, verb)
    assert plans.mails(alice) == ["plan_started", "plan_canceling", "plan_canceling", "plan_ended"]
    assert plans.desk.balance(alice) == 6_000
    plans.desk.prove()
    plans.subscribed(alice, pro)
    assert plans.subscription(alice).status == "active"


def test_an_upgrade_takes_effect_immediately_with_proration(plans: Plans, alice: Person) -> None:
    pro, team = plans.offer(included_credits=1_000), plans.offer("Team", 5_000, included_credits=3_001)
    start = plans.subscribed(alice, pro)
    plans.pass_days(10)
    preview = plans.preview(alice, team)
    assert preview.immediate
    assert [cents < 0 for _, cents in preview.lines] == [True, False]
    plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    after = plans.subscription(alice)
    assert (after.plan_id, after.billing_period_end) == (team.id, start.billing_period_end)
    assert plans.desk.charges()[-1]["amount"] == preview.due_cents == sum(cents for _, cents in preview.lines)
    whole = epoch(start.billing_period_end) - epoch(start.billing_period_start)
    left = epoch(start.billing_period_end) - preview.proration_date
    operation, principal, _ = plans.grants(alice)[-1]
    assert principal == -(-2_001 * left // whole)
    assert operation == f"sub:{start.stripe_subscription_id}:{epoch(start.billing_period_start)}:{team.id}"
    plans.deliver_events()
    assert len(plans.grants(alice)) == 2
    plans.pass_days(25)
    assert plans.grants(alice)[-1][1] == 3_001
    assert plans.mails(alice) == ["plan_started", "plan_changed", "plan_renewed"]
    plans.desk.prove()


def test_switching_back_and_forth_at_the_same_price_gains_nothing(plans: Plans, alice: Person) -> None:
    offered = [
        plans.offer(name, included_credits=credits) for name, credits in (("A", 100), ("B", 300), ("C", 200))
    ]
    plans.subscribed(alice, offered[0])
    for index in (1, 0, 2, 1, 0, 1):
        plans.desk.stripe.advance(1)
        assert plans.change(alice, offered[index]).plan_id == offered[index].id
    plans.deliver_events()
    assert sum(principal for _, principal, _ in plans.grants(alice)) == 300
    plans.desk.prove()


def test_a_longer_interval_starts_immediately_and_deducts_included_credits(
    plans: Plans, alice: Person
) -> None:
    month, year = (
        plans.offer(included_credits=900),
        plans.offer("Year", 20_000, interval="year", included_credits=9_000),
    )
    plans.subscribed(alice, month)
    (paid,) = plans.invoices(alice)
    begun, ends = epoch(paid.period_start), epoch(paid.period_end)
    plans.pass_days(15)
    preview = plans.preview(alice, year)
    after = plans.change(alice, year)
    assert (epoch(after.billing_period_end) - epoch(after.billing_period_start)) // 86_400 in (365, 366)
    least = 9_000 - 900 * (ends - preview.proration_date) // (ends - begun)
    # a second may pass between the preview and the change
    assert plans.grants(alice)[-1][1] in (least, least + 1)
    # the change back is scheduled
    assert not plans.preview(alice, month).immediate
    plans.change(alice, month)
    plans.pass_days(370)
    assert plans.subscription(alice).plan_id == month.id
    plans.desk.prove()


def test_nothing_changes_if_the_proration_is_declined(plans: Plans, alice: Person) -> None:
    pro, team = plans.offer(included_credits=10), plans.offer("Team", 5_000, included_credits=20)
    before = plans.subscribed(alice, pro).version
    card = plans.at_stripe(alice)["default_payment_method"]
    plans.desk.stripe.change_card(card, "declined")
    preview = plans.preview(alice, team)
    with pytest.raises(PaymentDeclined, match="has not changed"):
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    plans.deliver_events()
    after = plans.subscription(alice)
    assert (after.plan_id, after.status) == (pro.id, "active")
    assert plans.desk.run(billing.unpaid_invoice, after) is None
    assert [each["amount"] for each in plans.desk.charges()] == [2_000]
    assert (len(plans.grants(alice)), plans.mails(alice)) == (1, ["plan_started"])
    assert after.version > before
    plans.desk.stripe.change_card(card, "visa")
    with pytest.raises(Conflict, match="again"):
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    plans.desk.stripe.advance(1)
    assert plans.change(alice, team).plan_id == team.id
    assert [each["amount"] for each in plans.desk.charges()] == [2_000, preview.due_cents]


@pytest.mark.parametrize("then", ["confirm", "refuse", "forget", "again", "other card"])
def test_an_upgrade_that_requires_confirmation_waits_for_it(plans: Plans, alice: Person, then: str) -> None:
    pro, team = plans.offer(included_credits=10), plans.offer("Team", 5_000, included_credits=20)
    plans.subscribed(alice, pro)
    card = plans.at_stripe(alice)["default_payment_method"]
    plans.desk.stripe.change_card(card, "authentication_required")
    preview = plans.preview(alice, team)
    with pytest.raises(ConfirmationNeeded) as needed:
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    plans.deliver_events()
    waiting = plans.subscription(alice)
    assert (waiting.plan_id, waiting.status, len(plans.grants(alice))) == (pro.id, "active", 1)
    assert plans.desk.run(billing.unpaid_invoice, waiting).hosted_invoice_url == needed.value.url
    changed = then in ("confirm", "again", "other card")
    if then == "again":
        plans.desk.stripe.change_card(card, "visa")
        plans.desk.stripe.advance(1)
        plans.change(alice, team)
    elif then == "forget":
        plans.desk.stripe.advance(86_400)
    else:
        answer = requests.post(
            needed.value.url,
            {"card": "visa" if then == "other card" else card},
            allow_redirects=False,
            timeout=10,
        )
        if then != "other card":
            intent = answer.headers["Location"].rpartition("/")[2]
            plans.desk.stripe.authenticate(intent, confirm=then == "confirm")
    plans.deliver_events()
    after = plans.subscription(alice)
    assert (after.plan_id, after.status) == (team.id if changed else pro.id, "active")
    assert len(plans.grants(alice)) == (2 if changed else 1)
    assert len(plans.desk.charges()) == (2 if changed else 1)
    assert ("plan_changed" in plans.mails(alice)) is changed
    plans.desk.prove()


def test_a_downgrade_is_scheduled_for_the_period_end(plans: Plans, alice: Person) -> None:
    pro, team = (
        plans.offer(included_credits=1_000, tier=100),
        plans.offer("Team", 5_000, included_credits=3_000),
    )
    plans.subscribed(alice, team)
    preview = plans.preview(alice, pro)
    assert (preview.immediate, preview.due_cents, preview.at) == (
        False,
        2_000,
        plans.subscription(alice).billing_period_end,
    )
    waiting = plans.change(alice, pro)
    assert (waiting.plan_id, waiting.scheduled_plan_id, waiting.scheduled_tier) == (team.id, pro.id, 100)
    with pytest.raises(Conflict):
        plans.change(alice, pro)
    assert plans.do(alice, billing.undo_scheduled_change).scheduled_plan_id is None
    with pytest.raises(Conflict):
        plans.do(alice, billing.undo_scheduled_change)
    plans.change(alice, pro)
    plans.pass_days(32)
    after = plans.subscription(alice)
    assert (after.plan_id, after.scheduled_plan_id, after.status) == (pro.id, None, "active")
    assert [principal for _, principal, _ in plans.grants(alice)] == [3_000, 1_000]
    assert [each["amount"] for each in plans.desk.charges()] == [5_000, 2_000]
    plans.pass_days(31)
    assert [principal for _, principal, _ in plans.grants(alice)] == [3_000, 1_000, 1_000]
    kinds = ["plan_started", "plan_change_scheduled", "plan_change_scheduled", "plan_changed", "plan_renewed"]
    assert sorted(plans.mails(alice)) == sorted([*kinds, "plan_renewed"])
    plans.desk.prove()


def test_a_scheduled_downgrade_survives_a_declined_upgrade(plans: Plans, alice: Person) -> None:
    small, middle, large = (plans.offer(str(price), price) for price in (1_000, 2_000, 3_000))
    plans.subscribed(alice, middle)
    plans.change(alice, small)
    card = plans.at_stripe(alice)["default_payment_method"]
    plans.desk.stripe.change_card(card, "declined")
    with pytest.raises(PaymentDeclined):
        plans.change(alice, large)
    plans.desk.stripe.change_card(card, "visa")
    assert plans.subscription(alice).scheduled_plan_id == small.id
    plans.pass_days(32)
    assert plans.subscription(alice).plan_id == small.id


@pytest.mark.parametrize("then", ["cancel", "upgrade"])
def test_a_scheduled_downgrade_is_released_by_a_later_request(plans: Plans, alice: Person, then: str) -> None:
    small, middle, large = (plans.offer(str(price), price) for price in (1_000, 2_000, 3_000))
    plans.subscribed(alice, middle)
    plans.change(alice, small)
    plans.desk.stripe.advance(1)
    found = plans.do(alice, billing.cancel) if then == "cancel" else plans.change(alice, large)
    assert found.scheduled_plan_id is None
    assert (found.cancel_at_period_end, found.plan_id) == (
        (True, middle.id) if then == "cancel" else (False, large.id)
    )
    plans.pass_days(32)
    after = plans.subscription(alice)
    assert (after.status, after.plan_id) == (
        ("canceled", middle.id) if then == "cancel" else ("active", large.id)
    )


def test_a_failed_renewal_is_mailed_once_and_grants_when_paid(plans: Plans, alice: Person) -> None:
    pro = plans.offer(included_credits=1_000)
    team = plans.offer("Team", 5_000)
    plans.subscribed(alice, pro)
    card = plans.at_stripe(alice)["default_payment_method"]
    plans.desk.stripe.change_card(card, "declined")
    plans.pass_days(32)
    late = plans.subscription(alice)
    assert (late.status, len(plans.grants(alice))) == ("past_due", 1)
    unpaid = plans.desk.run(billing.unpaid_invoice, late)
    assert unpaid.hosted_invoice_url
    with pytest.raises(Conflict, match="open"):
        plans.preview(alice, team)
    plans.pass_days(4)
    assert plans.mails(alice) == ["plan_started", "plan_payment_failed"]
    plans.desk.stripe.change_card(card, "visa")
    plans.pass_days(6)
    paid = plans.subscription(alice)
    assert (paid.status, len(plans.grants(alice))) == ("active", 2)
    assert plans.desk.run(billing.unpaid_invoice, paid) is None
    plans.desk.stripe.change_card(card, "declined")
    plans.pass_days(50)
    assert plans.subscription(alice).status == "canceled"
    assert len(plans.grants(alice)) == 2
    # a late event of the failed payments only reports that the plan has ended
    assert sorted(plans.mails(alice)) == [
        "plan_ended",
        "plan_payment_failed",
        "plan_renewed",
        "plan_started",
    ]
    plans.desk.prove()


REVERSALS: dict[str, tuple[list[tuple[str, int]], int]] = {
    "a part": ([("refund", 500)], 750),
    "all in parts": ([("refund", 500), ("refund", 1_500)], 0),
    "a dispute that is lost": ([("dispute", 2_000), ("lose", 0)], 0),
    "a dispute that is won": ([("dispute", 2_000), ("win", 0)], 1_000),
    "a part, then a dispute": ([("refund", 500), ("dispute", 1_500)], 0),
}


@pytest.mark.parametrize("case", REVERSALS)
def test_returned_money_takes_back_included_credits(plans: Plans, alice: Person, case: str) -> None:
    steps, left = REVERSALS[case]
    plans.desk.bought(alice, 5_000)
    plans.subscribed(alice, plans.offer(included_credits=1_000))
    charge, dispute = plans.desk.charges()[-1]["id"], ""
    for step, amount in steps:
        if step == "refund":
            plans.desk.stripe.refund(charge, amount)
        elif step == "dispute":
            dispute = plans.desk.stripe.dispute(charge, amount=amount)["id"]
        else:
            getattr(plans.desk.stripe, step)(dispute)
    events = [each for each in plans.desk.events() if each["type"].startswith(("charge", "refund"))]
    random.Random(case).shuffle(events)
    for event in [*events, *events[:2]]:
        plans.desk.deliver(event)
    plans.desk.work()
    assert plans.desk.balance(alice) == 5_000 + left
    (invoice,) = plans.invoices(alice)
    assert invoice.taken_back == 1_000 - left
    kinds = {"refund" if step == "refund" else "dispute" for step, _ in steps if left < 1_000}
    assert plans.mails(alice).count("plan_payment_reversed") == len(kinds)
    plans.desk.prove()


def test_every_order_of_events_ends_in_the_same_state(plans: Plans, alice: Person) -> None:
    """The events of a start, an upgrade, a renewal and a refund, delivered late, in any order and repeatedly."""
    pro, team = plans.offer(included_credits=100), plans.offer("Team", 5_000, included_credits=300)
    plans.desk.stripe.pay(
        plans.checkout(alice, pro), "visa", name="Ada", line1="1 Main St", city="Oslo", country="NO"
    )
    client, price = plans.desk.stripe.client(), plans.desk.run(billing.stripe_price, team)
    plans.desk.stripe.advance(86_400 * 10)
    (subscription,) = plans.desk.sim.objects["subscription"].values()
    item: Any = {"id": subscription["items"]["data"][0]["id"], "price": price}
    client.v1.subscriptions.update(
        subscription["id"], {"items": [item], "proration_behavior": "always_invoice"}
    )
    plans.desk.stripe.advance(86_400 * 25)
    plans.desk.stripe.refund(plans.desk.charges()[0]["id"], 2_000)
    events = [
        event
        for event in plans.desk.events()
        if event["type"].startswith(("customer.subscription", "invoice.pa", "charge", "checkout"))
    ]
    states = set()
    for seed in range(3):
        order = random.Random(seed).sample(events, len(events)) if seed else events
        for event in [*order, *order[::6]]:
            plans.desk.deliver(event)
            plans.desk.work()
        rows = [
            (each.id, each.status, each.operation_id, each.credits, each.taken_back)
            for each in plans.invoices(alice)
        ]
        states.add((plans.subscription(alice).plan_id, plans.desk.balance(alice), *rows))
        plans.desk.prove()
        plans.forget(alice)
    assert len(states) == 1


def test_concurrent_copies_of_an_event_grant_once(plans: Plans, alice: Person) -> None:
    pro = plans.offer(included_credits=1_000)
    plans.desk.stripe.pay(
        plans.checkout(alice, pro), "visa", name="Ada", line1="1 Main St", city="Oslo", country="NO"
    )
    (id,) = plans.desk.sim.objects["subscription"]

    def once(_: int) -> str:
        try:
            return plans.desk.run(billing.sync_subscription, id).status
        except Conflict:
            return "active"

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(once, range(24))) == {"active"}
    assert plans.desk.balance(alice) == 1_000
    plans.desk.prove()


def test_of_two_concurrent_subscriptions_one_is_kept_and_one_refunded(plans: Plans, alice: Person) -> None:
    pro = plans.offer(included_credits=1_000)
    first = plans.checkout(alice, pro)
    second = plans.checkout(alice, pro)
    assert plans.desk.sim.get("checkout.session", first)["status"] == "expired"
    plans.desk.sim.get("checkout.session", first)["status"] = "open"
    for session in (first, second):
        plans.desk.stripe.pay(session, "visa", name="Ada", line1="1 Main St", city="Oslo", country="NO")
    plans.deliver_events()
    plans.deliver_events()
    statuses = sorted(each["status"] for each in plans.desk.sim.objects["subscription"].values())
    assert statuses == ["active", "canceled"]
    assert [each["amount_refunded"] for each in plans.desk.charges()] in ([0, 2_000], [2_000, 0])
    assert plans.desk.balance(alice) == 1_000
    assert sorted(plans.mails(alice)) == ["plan_payment_reversed", "plan_started"]
    assert not plans.desk.ignored()
    plans.desk.prove()


def test_mismatched_subscriptions_change_nothing_and_are_listed(
    plans: Plans, alice: Person, mallory: Person
) -> None:
    pro = plans.offer(included_credits=1_000)
    price, client = plans.desk.run(billing.stripe_price, pro), plans.desk.stripe.client()
    other = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 100,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Other"},
        }
    ).id
    plans.desk.card(alice), plans.desk.card(mallory)
    stranger = client.v1.customers.create({"email": "stranger@example.org"}).id
    plans.desk.stripe.add_card(stranger, "visa")
    for customer, of, metadata in (
        (plans.desk.customer(alice), other, {}),
        (plans.desk.customer(mallory), price, {"userId": alice.id}),
        (stranger, price, {"userId": alice.id}),
    ):
        params: Any = {"customer": customer, "items": [{"price": of}], "metadata": metadata}
        client.v1.subscriptions.create(params)
        plans.deliver_events()
    plans.desk.forge("customer.subscription.updated", {"id": "sub_forged", "metadata": {}})
    plans.desk.work()
    assert len({reason for each in plans.desk.ignored() for reason in each.split("; ")}) == 4
    for who in (alice, mallory):
        assert plans.do(who, billing.last_subscription) is None
        assert plans.desk.balance(who) == 0


def test_refusals(plans: Plans, alice: Person, bob: Person) -> None:
    pro, team = plans.offer(), plans.offer("Team", 5_000)
    retired = plans.offer("Old", 900)
    plans.desk.run(billing.retire_plan, retired)

    def refused(expected: type[DomainError], code: str, verb: Any, *args: Any, **kw: Any) -> None:
        with pytest.raises(expected) as error:
            verb(*args, **kw)
        assert error.value.code == code

    refused(Conflict, "plan_retired", plans.checkout, alice, retired)
    refused(NotFound, "not_found", plans.preview, alice, team)
    org = Account(org_id="org")
    refused(NotFound, "not_found", plans.desk.run, billing.subscribe, org, pro, "http://a/", "http://b/")
    plans.subscribed(alice, pro)
    refused(Conflict, "already_subscribed", plans.checkout, alice, team)
    refused(Conflict, "same_plan", plans.preview, alice, pro)
    refused(Conflict, "plan_retired", plans.preview, alice, retired)
    preview = plans.preview(alice, team)
    for date in (preview.proration_date - 4_000, preview.proration_date + 4_000):
        refused(Conflict, "preview_expired", plans.do, alice, billing.change, team, date)
    plans.do(alice, billing.cancel)
    refused(Conflict, "cancelled", plans.preview, alice, team)
    purchase = plans.desk.bought(bob)
    plans.desk.dispute(purchase)
    plans.desk.deliver_events("charge.dispute.created")
    refused(Forbidden, "buying_frozen", plans.checkout, bob, pro)
    plans.desk.configure(stoa_purchase_cents_per_day=100)
    refused(billing.BuyingLimited, "buying_limited", plans.checkout, alice, pro)


def test_a_lost_response_of_a_change_is_recovered(plans: Plans, alice: Person) -> None:
    pro, team = plans.offer(included_credits=10), plans.offer("Team", 5_000, included_credits=20)
    plans.subscribed(alice, pro)
    preview = plans.preview(alice, team)
    plans.desk.stripe.fail("/v1/subscriptions/{id}", when="after", times=3)
    with pytest.raises(StripeError):
        plans.do(alice, billing.change, team, preview.proration_date, now=plans.now)
    assert plans.subscription(alice).plan_id == pro.id
    plans.deliver_events()
    assert plans.subscription(alice).plan_id == team.id
    assert len(plans.grants(alice)) == 2
    assert len(plans.desk.charges()) == 2
    plans.desk.prove()


def test_the_reconciliation_repairs_changes_without_events(plans: Plans, alice: Person, bob: Person) -> None:
    pro, team = plans.offer(included_credits=100), plans.offer("Team", 5_000, included_credits=300)
    for who in (alice, bob):
        plans.subscribed(who, pro)
    billed, client = plans.at_stripe(bob), plans.desk.stripe.client()
    stranger = client.v1.customers.create({"email": "stranger@example.org"}).id
    plans.desk.stripe.add_card(stranger, "visa")
    other: Any = {
        "unit_amount": 100,
        "currency": "usd",
        "recurring": {"interval": "month"},
        "product_data": {"name": "O"},
    }
    client.v1.subscriptions.create(
        {"customer": stranger, "items": [{"price": client.v1.prices.create(other).id}]}
    )

    def run() -> list[str]:
        output = plans.desk.app.test_cli_runner().invoke(args=["billing", "reconcile"]).output
        plans.desk.session.rollback()
        return [line.split("  ", 2)[0] for line in output.splitlines()[:-1]]

    assert run() == []
    item: Any = {"id": billed["items"]["data"][0]["id"], "price": plans.desk.run(billing.stripe_price, team)}
    client.v1.subscriptions.update(billed["id"], {"items": [item], "proration_behavior": "always_invoice"})
    client.v1.subscriptions.cancel(plans.at_stripe(alice)["id"])
    assert run() == ["repaired", "repaired"]
    assert plans.subscription(alice).status == "canceled"
    assert plans.subscription(bob).plan_id == team.id
    plans.desk.stripe.refund(plans.desk.charges()[0]["id"], 2_000)
    plans.desk.stripe.advance(40 * 86_400)
    assert sorted(run()) == ["repaired", "repaired"]
    assert (plans.desk.balance(alice), len(plans.grants(bob))) == (0, 3)
    assert run() == []
    plans.desk.run(billing.retire_plan, team)
    plans.forget(alice)
    assert run() == ["repaired", "repaired"]
    assert len(plans.grants(bob)) == 3
    plans.desk.prove()


def test_the_proof_finds_credits_without_a_payment(plans: Plans, alice: Person) -> None:
    plans.subscribed(alice, plans.offer(included_credits=100))
    account = Account(user_id=alice.id)
    plans.desk.run(ledger.grant, account, 7, "plan", operation_id="sub:other:1")
    plans.desk.session.execute(text("UPDATE subscription_invoice SET credits = 101"))
    plans.desk.session.commit()
    failed = [check.name for check in prove_purchases() if check.count]
    plans.desk.session.rollback()
    assert failed == [
        "a paid invoice of a plan has its credits, less what was taken back",
        "included credits are of a paid invoice",
    ]


def test_operators_list_create_and_retire_plans_by_command(plans: Plans, alice: Person) -> None:
    runner = plans.desk.app.test_cli_runner()

    def run(*args: str, code: int = 0) -> str:
        result = runner.invoke(args=["billing", *args])
        assert result.exit_code == code, result.output
        plans.desk.session.rollback()
        return result.output

    assert "no plan" in run("plans")
    window = ("--window", "5 hours=5:350", "--window", "month=period:14000")
    run(
        "plan-create", "Pro", "2000", *window, "--model", "openai/*", "--included", "100", "--feature", "Fast"
    )
    (pro,) = plans.desk.run(billing.public_plans)
    assert [(each.name, each.hours, each.credits) for each in pro.windows] == [
        ("5 hours", 5, 350),
        ("month", None, 14_000),
    ]
    assert (pro.models, pro.features, pro.included_credits) == (["openai/*"], ["Fast"], 100)
    plans.subscribed(alice, pro)
    listed = run("plans")
    assert "350 credits per 5 hours" in listed
    assert "1 subscriber\n" in listed
    assert "1 subscriber keeps" in run("plan-retire", pro.id)
    assert "no plan" in run("plans")
    assert "retired" in run("plans", "--all")
    run("plan-create", "Pro", "20", code=1)
    run("plan-create", "Pro", "2000", "--window", "5 hours", code=2)
    run("plan-retire", "pkg_other", code=1)
    events = plans.desk.session.scalars(text("SELECT action FROM audit_log ORDER BY id")).all()
    plans.desk.session.rollback()
    assert [each for each in events if "plan" in each] == ["billing.plan_create", "billing.plan_retire"]


def test_a_plan_is_charged_to_the_default_card(plans: Plans, alice: Person, bob: Person) -> None:
    pro = plans.offer()
    plans.subscribed(alice, pro)
    first = plans.at_stripe(alice)["default_payment_method"]
    customer = plans.desk.customer(alice)
    (kept,) = plans.desk.run(cards.saved_cards, customer)
    assert (kept.id, kept.default) == (first, True)
    other = plans.desk.stripe.add_card(customer, "mastercard", default=False)["id"]
    plans.desk.run(cards.set_default_card, customer, other)
    assert plans.at_stripe(alice)["default_payment_method"] == other
    # an existing default card stays
    saved = plans.desk.card(bob)
    plans.subscribed(bob, pro, "mastercard")
    default = [
        each.id for each in plans.desk.run(cards.saved_cards, plans.desk.customer(bob)) if each.default
    ]
    assert default == [saved]


def test_each_plan_mail_contains_its_facts(plans: Plans, alice: Person) -> None:
    pro, small = plans.offer(included_credits=1_000), plans.offer("Small", 500)
    large = plans.offer("Large", 5_000, included_credits=1)
    plans.subscribed(alice, pro)
    plans.change(alice, small)
    plans.desk.stripe.advance(1)
    plans.change(alice, large)
    plans.pass_days(32)
    plans.do(alice, billing.cancel)
    plans.do(alice, billing.resume)
    plans.desk.stripe.change_card(plans.at_stripe(alice)["default_payment_method"], "declined")
    plans.pass_days(32)
    plans.pass_days(30)
    plans.desk.stripe.refund(plans.desk.charges()[0]["id"], 1_000)
    plans.deliver_events()
    rows = plans.desk.session.scalars(select(mails.BillingMail).where(mails.BillingMail.user_id == alice.id))
    user = plans.desk.session.get_one(User, alice.id)
    sent = {}
    for row in rows.all():
        mail = mails.compose(row, user, mails.TOPIC_OF[row.kind], {})
        sent[row.kind] = mail
        for body in (mail.text, mail.html or ""):
            assert "None" not in body
            assert "/profile?tab=plan" in body
        always = ("plan_started", "plan_renewed", "plan_payment_failed", "plan_payment_reversed")
        assert ("List-Unsubscribe" in mail.headers) is (row.kind not in always)
    assert sent.keys() == {kind for kind in mails.TOPIC_OF if kind.startswith("plan_")}
    for kind, subject, words in (
        ("plan_started", "Your plan Pro has started", ["We received $20.00", "1,000 credits", "/invoice/"]),
        ("plan_renewed", "Your plan Large was renewed", ["We received $50.00", "1 credit "]),
        ("plan_changed", "Your plan is now Large", ["$50.00 a month"]),
        ("plan_change_scheduled", "Your plan changes to Small on ", ["You keep Pro until", "$5.00 a month"]),
        ("plan_canceling", "Your plan Large ends on ", ["Credits that you bought stay"]),
        ("plan_payment_failed", "The payment for your plan Large failed", ["$50.00", "/invoice/"]),
        ("plan_ended", "Your plan Large has ended", ["because its payment failed"]),
        (
            "plan_payment_reversed",
            "Refund of $10.00 for your plan",
            ["500 credits that the plan included were taken"],
        ),
    ):
        assert sent[kind].subject.startswith(subject)
        text_of = " ".join(sent[kind].text.split())
        assert all(word in text_of for word in words), (kind, text_of)


def test_a_deleted_account_ends_its_plan_and_forgets_its_cards(plans: Plans, alice: Person) -> None:
    session = plans.desk.session
    plans.subscribed(alice, plans.offer())
    customer = plans.desk.customer(alice)

    def note(**values: datetime) -> None:
        session.execute(update(User).where(User.id == alice.id).values(**values))
        session.commit()
        for job in (account_closing.end_plan_of_deleted, account_closing.forget_cards):
            plans.desk.run(job, alice.id)
        plans.deliver_events()

    note(email_verified=datetime.now(UTC))
    assert not plans.subscription(alice).cancel_at_period_end
    note(deleted_at=datetime.now(UTC))
    assert plans.subscription(alice).cancel_at_period_end
    assert plans.desk.run(saved_cards, customer)
    note(erased_at=datetime.now(UTC))
    assert plans.desk.run(saved_cards, customer) == []


def test_a_disputed_payment_keeps_the_account(plans: Plans, alice: Person) -> None:
    user = plans.desk.session.get_one(User, alice.id)
    assert deletion_blocks(user) == []
    plans.desk.dispute(plans.desk.bought(alice))
    plans.desk.deliver_events("charge.dispute.created")
    assert [block.reason[:9] for block in deletion_blocks(user)] == ["A payment"]
