"""Personal subscriptions: from Checkout to their end, with the credits that they include."""

import pytest

from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person


@pytest.fixture
def plans(desk: Desk) -> Plans:
    return Plans(desk)


def test_subscribing_grants_the_included_credits_of_each_paid_period(plans: Plans, alice: Person) -> None:
    pro = plans.offer(included_credits=1_000)
    found = plans.subscribed(alice, pro)
    id = found.stripe_subscription_id
    assert (found.status, found.plan_id, found.cancel_at_period_end) == ("active", pro.id, False)
    first = f"sub:{id}:{int(found.billing_period_start.timestamp())}"
    assert plans.grants(alice) == [(first, 1_000, 1_000)]
    (invoice,) = plans.invoices(alice)
    assert (invoice.amount_cents, invoice.credits, invoice.status) == (2_000, 1_000, "paid")
    plans.pass_days(32)
    again = plans.subscription(alice)
    second = f"sub:{id}:{int(again.billing_period_start.timestamp())}"
    assert [grant[0] for grant in plans.grants(alice)] == [first, second]
    assert plans.mails(alice) == ["plan_started", "plan_renewed"]
    plans.desk.prove()
