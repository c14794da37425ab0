"""All orders of the events of a subscription: renewals, failed payments, refunds and disputes; see event_orders."""

from typing import Any

from flask import current_app

from models import billing
from models.billing import NewPlan
from models.billing.payments import stripe_events
from models.core.settings import Settings
from tests.proof.event_orders import Facts, History, Step, Walk, dispute, lose, refund
from tests.proof.payments import Payments
from views.demo.stripe_simulator.simulated_items import period_of
from views.demo.stripe_simulator.simulated_subscriptions import renew

PRICE_CENTS, INCLUDED = 2000, 1000
OF_SUBSCRIPTIONS = [
    type
    for type in stripe_events.HANDLERS
    if type.startswith(("customer.subscription.", "invoice.", "charge.", "refund."))
]


def renewal_histories(payments: Payments) -> list[History]:
    """Histories of subscribers. Creates their plan."""
    subscribe = _subscribe(_offer(payments))

    def subscribed(walk: Walk) -> None:
        """A subscription whose events are all handled."""
        _with_card(walk)
        subscribe(walk)
        walk.collect_events()
        for choice in list(walk.waiting):
            walk.take(choice)
        walk.handled.clear()

    def history(name: str, steps: list[Step], left: int) -> History:
        return History(name, steps, left, subscribed, _facts, OF_SUBSCRIPTIONS)

    both = 2 * INCLUDED
    return [
        History(
            "a subscription and its renewal", [subscribe, _renew], both, _with_card, _facts, OF_SUBSCRIPTIONS
        ),
        history("a renewal that is refunded in part", [_renew, refund(500)], both - 250),
        history("a renewal that fails and is paid later", [_fail, _pay_invoice], both),
        history("a renewal that is disputed and lost", [_renew, dispute, lose], INCLUDED),
        history("a renewal and an end", [_renew, _end], both),
    ]


def _offer(payments: Payments) -> str:
    """Create a plan. Returns the id of its Stripe price."""
    loaded: Any = payments.stripe.settings
    with payments.stage.session() as session:
        current_app.extensions["stripe"] = billing.connect(Settings(_env_file=None, **loaded))
        plan = billing.create_plan(NewPlan("Pro", PRICE_CENTS, included_credits=INCLUDED))
        session.commit()
        return billing.stripe_price(plan)


def _with_card(walk: Walk) -> None:
    """A person with a saved card, without a subscription."""
    walk.method = walk.payments.add_card(walk.person, "visa")
    walk.customer = walk.payments.customer(walk.person) or ""


def _subscribe(price: str) -> Step:
    def step(walk: Walk) -> None:
        made = walk.payments.stripe.client().v1.subscriptions.create(
            {"customer": walk.customer, "items": [{"price": price}], "metadata": {"userId": walk.person.id}}
        )
        assert made.status == "active"
        walk.subscription = made.id

    return step


def _renew(walk: Walk) -> None:
    """End the period of this subscription only."""
    sim = walk.payments.sim
    with sim.lock:
        subscription = sim.get("subscription", walk.subscription)
        with sim.at(period_of(subscription)[1]):
            renew(sim, subscription)


def _fail(walk: Walk) -> None:
    """End the period; the card declines."""
    walk.payments.stripe.change_card(walk.method, "insufficient_funds")
    _renew(walk)


def _pay_invoice(walk: Walk) -> None:
    """Pay the open invoice with a working card."""
    walk.payments.stripe.change_card(walk.method, "visa")
    with walk.payments.sim.lock:
        (invoice,) = walk.payments.sim.find("invoice", customer=walk.customer, status="open")
    walk.payments.stripe.client().v1.invoices.pay(invoice["id"])


def _end(walk: Walk) -> None:
    """Cancel immediately."""
    walk.payments.stripe.client().v1.subscriptions.cancel(walk.subscription)


def _facts(walk: Walk) -> Facts:
    rows = walk.payments.stage.rows(
        "SELECT s.status::text, (SELECT coalesce(sum(amount), 0)::int FROM credit_entry WHERE account_id = s.user_id),"
        " s.cancel_at_period_end, s.ended_at IS NULL,"
        " (SELECT string_agg(concat_ws(' ', i.status, i.amount_cents, i.credits, i.refunded_cents, i.disputed_cents,"
        "  i.taken_back, i.stripe_charge_id IS NULL, i.period_start = s.billing_period_start), ',' ORDER BY i.period_start)"
        "  FROM subscription_invoice i WHERE i.stripe_subscription_id = s.stripe_subscription_id),"
        " (SELECT string_agg(concat_ws(' ', d.amount_cents, d.withdrawn_cents, d.status), ',' ORDER BY d.id)"
        "  FROM subscription_dispute d JOIN subscription_invoice i ON i.id = d.invoice_id"
        "  WHERE i.stripe_subscription_id = s.stripe_subscription_id)"
        " FROM subscription s WHERE s.user_id = :id",
        id=walk.person.id,
    )
    return tuple(rows[0]) if rows else ("none", 0)
