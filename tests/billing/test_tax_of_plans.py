"""Tax of plans (STOA_STRIPE_TAX): at Checkout, in previews, changes and renewals."""

import pytest

from models.billing.payments import billing_details
from models.ledger import Account
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person

REVIEW = "/profile/plan/checkout"


@pytest.fixture
def plans(desk: Desk) -> Plans:
    desk.configure(stoa_stripe_tax=True)
    return Plans(desk)


def paid(plans: Plans, who: Person) -> list[int]:
    """The amounts of the paid invoices, oldest first."""
    return [each.amount_cents for each in plans.invoices(who) if each.status == "paid"]


def live_in(desk: Desk, who: Person, country: str) -> None:
    values = {"name": "Ada", "line1": "1 Row", "city": "Town", "postal_code": "1", "country": country}
    desk.run(billing_details.save_billing_details, Account(user_id=who.id), values, [])


@pytest.mark.parametrize("known", [True, False])
def test_a_plan_is_paid_with_its_tax(plans: Plans, alice: Person, known: bool) -> None:
    if known:
        live_in(plans.desk, alice, "NO")
    plan = plans.offer(included_credits=1_000)
    plans.subscribed(alice, plan)
    (invoice,) = plans.invoices(alice)
    assert (invoice.status, invoice.amount_cents, invoice.credits) == ("paid", 2_500, 1_000)
    assert plans.desk.balance(alice) == 1_000
    plans.desk.stripe.refund(invoice.stripe_charge_id or "", 1_250)
    plans.deliver_events()
    assert plans.desk.balance(alice) == 500
    plans.pass_days(32)
    assert paid(plans, alice) == [2_500, 2_500]
    plans.desk.prove()


@pytest.mark.parametrize("before", [True, False])
def test_changes_are_charged_as_previewed(plans: Plans, alice: Person, before: bool) -> None:
    small, large = plans.offer(), plans.offer("Max", 5_000)
    plans.desk.configure(stoa_stripe_tax=before)
    plans.subscribed(alice, small)
    first = 2_500 if before else 2_000
    assert paid(plans, alice) == [first]
    plans.desk.configure(stoa_stripe_tax=True)
    plans.pass_days(10)
    preview = plans.preview(alice, large)
    net = sum(cents for text, cents in preview.lines if text != "Tax")
    (tax,) = (cents for text, cents in preview.lines if text == "Tax")
    assert abs(tax * 4 - net) < 4
    assert preview.due_cents == net + tax
    plans.change(alice, large)
    plans.deliver_events()
    assert paid(plans, alice) == [first, preview.due_cents]
    # down again: with the renewal
    preview = plans.preview(alice, small)
    assert [cents for _, cents in preview.lines] == [2_000, 500]
    assert (preview.due_cents, preview.immediate) == (2_500, False)
    plans.change(alice, small)
    plans.pass_days(30)
    assert paid(plans, alice)[2:] == [2_500]
    plans.desk.prove()


def test_a_scheduled_change_adds_the_tax_to_an_older_subscription(plans: Plans, alice: Person) -> None:
    small, large = plans.offer(), plans.offer("Max", 5_000)
    plans.desk.configure()
    plans.subscribed(alice, large)
    plans.desk.configure(stoa_stripe_tax=True)
    assert plans.preview(alice, small).due_cents == 2_500
    plans.change(alice, small)
    plans.pass_days(32)
    assert paid(plans, alice) == [5_000, 2_500]


@pytest.mark.parametrize("on", [True, False])
def test_the_review_shows_the_tax(plans: Plans, alice: Person, on: bool) -> None:
    plans.desk.configure(stoa_stripe_tax=on)
    live_in(plans.desk, alice, "DE")
    plan = plans.offer()
    page = alice.browser.get(REVIEW, query_string={"plan": plan.id}).text
    assert ("VAT 19 %" in page, "$3.80" in page, "$23.80" in page, "plus tax" in page) == (on,) * 4
    if on:
        plans.desk.stripe.fail("/v1/tax/calculations", times=20)
        page = alice.browser.get(REVIEW, query_string={"plan": plan.id}).text
        assert "Stripe’s page adds the tax." in page
        assert "Due today" not in page
    else:
        assert "<dt>Tax" not in page
        plans.subscribed(alice, plan)
        assert plans.preview(alice, plans.offer("Max", 5_000)).due_cents > 0
        assert paid(plans, alice) == [2_000]
