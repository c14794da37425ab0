"""The Stripe simulator's subscriptions: created by Checkout or by the API, renewed by the clock, changed with exact proration, cancelled
and resumed."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.fakes.stripe_simulator import StripeSim

DAY = 86_400


@pytest.fixture
def client(stripe_sim: StripeSim) -> stripe.StripeClient:
    return stripe_sim.client()


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({"email": "alice@example.org"}).id


@pytest.fixture
def prices(client: stripe.StripeClient) -> dict[str, str]:
    """Silver for $10 and Gold for $25 a month, Gold for $240 a year."""

    def price(name: str, amount: int, interval: str) -> str:
        recurring: Any = {"interval": interval}
        data: Any = {"name": name}
        return client.v1.prices.create(
            {"currency": "usd", "unit_amount": amount, "recurring": recurring, "product_data": data}
        ).id

    return {
        "silver": price("Silver", 1000, "month"),
        "gold": price("Gold", 2500, "month"),
        "yearly": price("Gold, yearly", 24_000, "year"),
    }


def subscribe(client: stripe.StripeClient, customer: str, price: str, **more: Any) -> stripe.Subscription:
    params: Any = {"customer": customer, "items": [{"price": price}], "metadata": {"account": "a1"}} | more
    return client.v1.subscriptions.create(params)


def only_item(subscription: stripe.Subscription) -> stripe.SubscriptionItem:
    [item] = subscription["items"].data
    assert isinstance(item, stripe.SubscriptionItem)
    return item


def lines(invoice: stripe.Invoice) -> list[tuple[str, int]]:
    return [(str(line.description).split(" after ")[0], line.amount) for line in invoice.lines.data]


def newest_invoice(client: stripe.StripeClient, subscription: stripe.Subscription) -> stripe.Invoice:
    return client.v1.invoices.list({"subscription": subscription.id, "limit": 1}).data[0]


def halfway(stripe_sim: StripeSim, subscription: stripe.Subscription) -> int:
    """Advance to exactly the middle of the period; returns that time."""
    item = only_item(subscription)
    middle = (item.current_period_start + item.current_period_end) // 2
    stripe_sim.advance(middle - stripe_sim.simulator.now())
    return middle


# --- creation -----------------------------------------------------------------------------------------------------------


def test_checkout_begins_a_subscription(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    session = client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer,
            "line_items": [{"price": prices["silver"], "quantity": 1}],
            "success_url": "http://localhost/plans?session={CHECKOUT_SESSION_ID}",
            "subscription_data": {"metadata": {"account": "a1"}},
        }
    )
    assert stripe_sim.pay(session.id, "lost_card") == ""
    assert stripe_sim.pay(session.id) == f"http://localhost/plans?session={session.id}"
    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "invoice.payments"]})
    assert (done.status, done.payment_status) == ("complete", "paid")
    subscription, invoice = done.subscription, done.invoice
    assert isinstance(subscription, stripe.Subscription)
    assert isinstance(invoice, stripe.Invoice)
    assert (subscription.status, subscription.metadata.to_dict()) == ("active", {"account": "a1"})
    assert subscription.latest_invoice == invoice.id
    assert (invoice.status, invoice.amount_paid, invoice.billing_reason) == (
        "paid",
        1000,
        "subscription_create",
    )
    assert invoice.parent is not None
    assert invoice.parent.subscription_details is not None
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert invoice.payments is not None
    intent = client.v1.payment_intents.retrieve(str(invoice.payments.data[0].payment.payment_intent))
    assert (intent.status, intent.amount) == ("succeeded", 1000)
    found = client.v1.invoice_payments.list(
        {"payment": {"type": "payment_intent", "payment_intent": intent.id}}
    ).data
    assert [each.invoice for each in found] == [invoice.id]
    types = [event["type"] for event in stripe_sim.events()]
    assert types[-6:] == [
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]


def test_checkout_of_a_subscription_waits_for_3d_secure(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    session = client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer,
            "line_items": [{"price": prices["silver"]}],
            "success_url": "http://localhost/plans",
        }
    )
    assert stripe_sim.pay(session.id, "three_d_secure") == "http://localhost/plans"
    assert [each.status for each in client.v1.subscriptions.list({"customer": customer}).data] == ["active"]
    assert client.v1.checkout.sessions.retrieve(session.id).status == "complete"


def test_a_trial_is_free_until_it_ends(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"], trial_period_days=7)
    assert subscription.status == "trialing"
    assert newest_invoice(client, subscription).total == 0
    stripe_sim.advance(7 * DAY)
    assert client.v1.subscriptions.retrieve(subscription.id).status == "active"
    assert newest_invoice(client, subscription).amount_paid == 1000


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("allow_incomplete", "incomplete"), ("default_incomplete", "incomplete"), ("error_if_incomplete", None)],
)
def test_a_first_payment_that_fails(
    stripe_sim: StripeSim,
    client: stripe.StripeClient,
    customer: str,
    prices: dict[str, str],
    behaviour: str,
    status: str | None,
) -> None:
    stripe_sim.add_card(customer, "declined")
    if status is None:
        with pytest.raises(stripe.CardError):
            subscribe(client, customer, prices["silver"], payment_behavior=behaviour)
        assert client.v1.subscriptions.list({"status": "all"}).data == []
        return
    subscription = subscribe(client, customer, prices["silver"], payment_behavior=behaviour)
    assert subscription.status == status
    stripe_sim.advance(DAY)
    assert client.v1.subscriptions.retrieve(subscription.id).status == "incomplete_expired"
    assert newest_invoice(client, subscription).status == "void"


def test_an_incomplete_subscription_is_completed_by_its_client_secret(
    client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    subscription = subscribe(
        client,
        customer,
        prices["silver"],
        payment_behavior="default_incomplete",
        expand=["latest_invoice.confirmation_secret"],
    )
    assert isinstance(subscription.latest_invoice, stripe.Invoice)
    assert subscription.latest_invoice.confirmation_secret is not None
    intent = subscription.latest_invoice.confirmation_secret.client_secret.partition("_secret_")[0]
    client.v1.payment_intents.confirm(
        intent, {"payment_method": "pm_card_visa", "return_url": "http://localhost/"}
    )
    assert client.v1.subscriptions.retrieve(subscription.id).status == "active"


# --- renewal ------------------------------------------------------------------------------------------------------------


def test_the_clock_renews_and_keeps_the_day_of_the_month(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.advance(int(datetime(2031, 1, 31, 12, tzinfo=UTC).timestamp()) - stripe_sim.simulator.now())
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"])
    stripe_sim.advance(61 * DAY)
    invoices = client.v1.invoices.list({"subscription": subscription.id}).data
    assert [(each.billing_reason, each.amount_paid) for each in invoices] == [
        ("subscription_cycle", 1000),
        ("subscription_cycle", 1000),
        ("subscription_create", 1000),
    ]
    begins = [datetime.fromtimestamp(each.lines.data[0].period.start, UTC) for each in invoices]
    assert [(each.month, each.day) for each in begins] == [(3, 31), (2, 28), (1, 31)]
    assert [datetime.fromtimestamp(each.created, UTC).date() for each in invoices] == [
        each.date() for each in begins
    ]
    assert only_item(client.v1.subscriptions.retrieve(subscription.id)).current_period_start == int(
        begins[0].timestamp()
    )


def test_a_failed_renewal_is_retried_and_then_cancels_the_subscription(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    subscription = subscribe(client, customer, prices["silver"])
    stripe_sim.change_card(card, "insufficient_funds")
    stripe_sim.advance(32 * DAY)
    failed = newest_invoice(client, subscription)
    assert client.v1.subscriptions.retrieve(subscription.id).status == "past_due"
    assert (failed.status, failed.attempt_count) == ("open", 1)
    assert failed.next_payment_attempt is not None
    stripe_sim.advance(15 * DAY)
    ended = client.v1.subscriptions.retrieve(subscription.id)
    assert ended.status == "canceled"
    assert ended.cancellation_details is not None
    assert ended.cancellation_details.reason == "payment_failed"
    assert client.v1.invoices.retrieve(failed.id).attempt_count == 4
    assert len(stripe_sim.events("invoice.payment_failed")) == 4
    assert len(stripe_sim.events("customer.subscription.deleted")) == 1


def test_a_renewal_that_failed_is_paid_with_another_card(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    subscription = subscribe(client, customer, prices["silver"])
    stripe_sim.change_card(card, "declined")
    stripe_sim.advance(32 * DAY)
    invoice = newest_invoice(client, subscription)
    with pytest.raises(stripe.CardError):
        client.v1.invoices.pay(invoice.id)
    good = stripe_sim.add_card(customer)["id"]
    paid = client.v1.invoices.pay(invoice.id, {"payment_method": good})
    assert paid.status == "paid"
    assert client.v1.subscriptions.retrieve(subscription.id).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        client.v1.invoices.pay(invoice.id)


# --- changes ------------------------------------------------------------------------------------------------------------


def test_the_preview_of_a_change_is_what_the_change_costs(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"])
    at = halfway(stripe_sim, subscription)
    item = only_item(subscription).id
    change: Any = {
        "items": [{"id": item, "price": prices["gold"]}],
        "proration_behavior": "always_invoice",
        "proration_date": at,
    }
    preview = client.v1.invoices.create_preview(
        {"customer": customer, "subscription": subscription.id, "subscription_details": change}
    )
    assert lines(preview) == [("Unused time on Silver", -500), ("Remaining time on Gold", 1250)]
    assert (preview.amount_due, preview.status) == (750, "draft")
    parents = [line.parent.subscription_item_details for line in preview.lines.data if line.parent]
    assert [(each.proration, each.subscription_item) for each in parents if each] == [
        (True, item),
        (True, item),
    ]
    assert only_item(client.v1.subscriptions.retrieve(subscription.id)).price.id == prices["silver"]
    changed = client.v1.subscriptions.update(subscription.id, change)
    assert only_item(changed).price.id == prices["gold"]
    invoice = newest_invoice(client, subscription)
    assert lines(invoice) == lines(preview)
    assert (invoice.amount_paid, invoice.billing_reason) == (750, "subscription_update")
    updated = stripe_sim.events("customer.subscription.updated")[-1]
    before = updated["data"]["previous_attributes"]["items"]["data"][0]["price"]["id"]
    assert before == prices["silver"]


def test_prorations_wait_for_the_next_invoice_by_default(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"])
    at = halfway(stripe_sim, subscription)
    item = only_item(subscription).id
    details: Any = {"items": [{"id": item, "price": prices["gold"]}], "proration_date": at}
    preview = client.v1.invoices.create_preview(
        {"subscription": subscription.id, "subscription_details": details}
    )
    expected = [
        ("Unused time on Silver", -500),
        ("Remaining time on Gold", 1250),
        ("1 × Gold (at $25.00 / month)", 2500),
    ]
    assert lines(preview) == expected
    client.v1.subscriptions.update(subscription.id, details)
    assert newest_invoice(client, subscription).billing_reason == "subscription_create"
    assert lines(client.v1.invoices.create_preview({"subscription": subscription.id})) == expected
    stripe_sim.advance(20 * DAY)
    assert lines(newest_invoice(client, subscription)) == expected
    assert newest_invoice(client, subscription).amount_paid == 3250


def test_a_downgrade_is_credited_to_later_invoices(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["gold"])
    at = halfway(stripe_sim, subscription)
    client.v1.subscriptions.update(
        subscription.id,
        {
            "items": [{"id": only_item(subscription).id, "price": prices["silver"]}],
            "proration_behavior": "always_invoice",
            "proration_date": at,
        },
    )
    invoice = newest_invoice(client, subscription)
    assert (invoice.total, invoice.amount_due, invoice.status, invoice.ending_balance) == (
        -750,
        0,
        "paid",
        -750,
    )
    assert client.v1.customers.retrieve(customer).balance == -750
    preview = client.v1.invoices.create_preview({"subscription": subscription.id})
    assert (preview.total, preview.starting_balance, preview.amount_due) == (1000, -750, 250)
    stripe_sim.advance(20 * DAY)
    assert newest_invoice(client, subscription).amount_paid == 250
    assert client.v1.customers.retrieve(customer).balance == 0


def test_another_interval_begins_a_new_period_at_once(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["gold"])
    at = halfway(stripe_sim, subscription)
    change: Any = {
        "items": [{"id": only_item(subscription).id, "price": prices["yearly"]}],
        "proration_date": at,
    }
    preview = client.v1.invoices.create_preview(
        {"subscription": subscription.id, "subscription_details": change}
    )
    changed = client.v1.subscriptions.update(subscription.id, change)
    assert lines(preview) == [
        ("Unused time on Gold", -1250),
        ("1 × Gold, yearly (at $240.00 / year)", 24_000),
    ]
    assert lines(newest_invoice(client, subscription)) == lines(preview)
    item = only_item(changed)
    assert 0 <= item.current_period_start - at <= 5
    assert item.current_period_end - item.current_period_start in (365 * DAY, 366 * DAY)


def test_without_proration_nothing_is_charged_now(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"])
    halfway(stripe_sim, subscription)
    item = only_item(subscription).id
    client.v1.subscriptions.update(
        subscription.id, {"items": [{"id": item, "price": prices["gold"]}], "proration_behavior": "none"}
    )
    stripe_sim.advance(20 * DAY)
    assert [each.total for each in client.v1.invoices.list({"subscription": subscription.id}).data] == [
        2500,
        1000,
    ]


def test_a_change_that_cannot_be_paid_is_not_made(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    card = stripe_sim.add_card(customer)["id"]
    subscription = subscribe(client, customer, prices["silver"])
    stripe_sim.change_card(card, "declined")
    halfway(stripe_sim, subscription)
    change: Any = {
        "items": [{"id": only_item(subscription).id, "price": prices["gold"]}],
        "proration_behavior": "always_invoice",
    }
    with pytest.raises(stripe.CardError):
        client.v1.subscriptions.update(subscription.id, change | {"payment_behavior": "error_if_incomplete"})
    assert only_item(client.v1.subscriptions.retrieve(subscription.id)).price.id == prices["silver"]
    assert len(client.v1.invoices.list({"subscription": subscription.id}).data) == 1
    assert client.v1.subscriptions.update(subscription.id, change).status == "past_due"


def test_items_are_checked(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    once = client.v1.prices.create(
        {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Once"}}
    ).id
    with pytest.raises(stripe.InvalidRequestError, match="type=one_time"):
        subscribe(client, customer, once)
    with pytest.raises(stripe.InvalidRequestError, match="interval fields must match"):
        subscribe(client, customer, "", items=[{"price": prices["silver"]}, {"price": prices["yearly"]}])
    subscription = subscribe(client, customer, prices["silver"])
    with pytest.raises(stripe.InvalidRequestError, match="same price"):
        client.v1.subscriptions.update(subscription.id, {"items": [{"price": prices["silver"]}]})
    with pytest.raises(stripe.InvalidRequestError, match="at least one active plan"):
        client.v1.subscriptions.update(
            subscription.id, {"items": [{"id": only_item(subscription).id, "deleted": True}]}
        )
    assert only_item(client.v1.subscriptions.retrieve(subscription.id)).price.id == prices["silver"]


def test_a_schedule_changes_the_price_with_the_next_period(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["gold"])
    schedule = client.v1.subscription_schedules.create({"from_subscription": subscription.id})
    with pytest.raises(stripe.InvalidRequestError, match="already attached to a schedule"):
        client.v1.subscription_schedules.create({"from_subscription": subscription.id})
    now = schedule.phases[0]
    client.v1.subscription_schedules.update(
        schedule.id,
        {
            "end_behavior": "release",
            "phases": [
                {
                    "start_date": now.start_date,
                    "end_date": now.end_date,
                    "items": [{"price": prices["gold"], "quantity": 1}],
                },
                {"items": [{"price": prices["silver"], "quantity": 1}], "metadata": {"tier": "silver"}},
            ],
        },
    )
    with pytest.raises(stripe.InvalidRequestError, match="managed by the subscription schedule"):
        client.v1.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    before = client.v1.subscriptions.retrieve(subscription.id)
    assert (only_item(before).price.id, before.schedule) == (prices["gold"], schedule.id)
    preview = client.v1.invoices.create_preview({"subscription": subscription.id})
    assert lines(preview) == [("1 × Silver (at $10.00 / month)", 1000)]
    stripe_sim.advance(32 * DAY)
    changed = client.v1.subscriptions.retrieve(subscription.id)
    assert (only_item(changed).price.id, changed.metadata["tier"]) == (prices["silver"], "silver")
    assert lines(newest_invoice(client, subscription)) == lines(preview)
    assert newest_invoice(client, subscription).amount_paid == 1000
    stripe_sim.advance(31 * DAY)
    released = client.v1.subscription_schedules.retrieve(schedule.id)
    assert (released.status, released.released_subscription) == ("released", subscription.id)
    after = client.v1.subscriptions.retrieve(subscription.id)
    assert (after.status, after.schedule, only_item(after).price.id) == ("active", None, prices["silver"])


def test_a_schedule_is_released_or_ends_with_its_subscription(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    kept, ended = (subscribe(client, customer, prices["silver"]) for _ in range(2))
    free, gone = (
        client.v1.subscription_schedules.create({"from_subscription": each.id}).id for each in (kept, ended)
    )
    assert client.v1.subscription_schedules.release(free).status == "released"
    client.v1.subscriptions.cancel(ended.id)
    assert client.v1.subscription_schedules.retrieve(gone).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="`canceled` status"):
        client.v1.subscription_schedules.update(gone, {"end_behavior": "cancel"})
    assert client.v1.subscriptions.retrieve(kept.id).status == "active"


# --- cancelling ---------------------------------------------------------------------------------------------------------


def test_cancelling_at_the_end_of_the_period_can_be_undone(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    kept, ended = (subscribe(client, customer, prices["silver"]) for _ in range(2))
    for each in (kept, ended):
        cancelling = client.v1.subscriptions.update(each.id, {"cancel_at_period_end": True})
        assert (cancelling.status, cancelling.cancel_at_period_end) == ("active", True)
        assert cancelling.cancel_at == only_item(each).current_period_end
        with pytest.raises(stripe.InvalidRequestError) as nothing:
            client.v1.invoices.create_preview({"subscription": each.id})
        assert nothing.value.code == "invoice_upcoming_none"
    resumed = client.v1.subscriptions.update(kept.id, {"cancel_at_period_end": False})
    assert (resumed.cancel_at, resumed.canceled_at) == (None, None)
    stripe_sim.advance(32 * DAY)
    assert client.v1.subscriptions.retrieve(kept.id).status == "active"
    over = client.v1.subscriptions.retrieve(ended.id)
    assert (over.status, over.ended_at) == ("canceled", only_item(ended).current_period_end)
    assert [each.id for each in client.v1.subscriptions.list({"customer": customer}).data] == [kept.id]
    assert len(client.v1.subscriptions.list({"customer": customer, "status": "all"}).data) == 2
    [gone] = stripe_sim.events("customer.subscription.deleted")
    assert gone["data"]["object"]["id"] == ended.id


def test_cancelling_at_once_credits_the_unused_time(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str, prices: dict[str, str]
) -> None:
    stripe_sim.add_card(customer)
    subscription = subscribe(client, customer, prices["silver"])
    halfway(stripe_sim, subscription)
    over = client.v1.subscriptions.cancel(subscription.id, {"prorate": True, "invoice_now": True})
    assert over.status == "canceled"
    assert -505 <= (client.v1.customers.retrieve(customer).balance or 0) <= -495
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.subscriptions.update(subscription.id, {"cancel_at_period_end": False})


def test_invoices_without_a_subscription_are_paid_or_voided(
    stripe_sim: StripeSim, client: stripe.StripeClient, customer: str
) -> None:
    stripe_sim.add_card(customer)
    client.v1.invoice_items.create(
        {"customer": customer, "amount": 700, "currency": "usd", "description": "Extra"}
    )
    invoice = client.v1.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"})
    assert lines(invoice) == [("Extra", 700)]
    assert client.v1.invoices.pay(invoice.id).amount_paid == 700
    other = client.v1.invoices.create({"customer": customer})
    client.v1.invoice_items.create(
        {"customer": customer, "invoice": other.id, "amount": 900, "currency": "usd"}
    )
    client.v1.invoices.finalize_invoice(other.id)
    assert client.v1.invoices.void_invoice(other.id).status == "void"
