"""Subscriptions under random histories: whatever the changes of a plan and the order of their events, bought credits stay
unchanged, and each payment grants its included credits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import billing, ledger
from models.accounts import User
from models.billing import NewPlan, Plan, Subscription, SubscriptionInvoice
from models.billing.payments.purchase_proof import prove_purchases
from models.billing.subscription_plans.subscription_state import (
    InvoiceCharge,
    InvoiceLine,
    InvoiceState,
    SubscriptionState,
    included_credits,
)
from models.billing.subscription_plans.subscription_sync import settle_subscription
from models.ledger import Account, CreditLedger
from tests import factories

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
MONTH = timedelta(days=30)
OFFERED = ((500, 100), (1_000, 0), (2_000, 700), (2_000, 650))
"""Cents per month and included credits of the plans."""

plan_index = st.integers(0, len(OFFERED) - 1)
step = st.one_of(
    st.tuples(st.just("settle")),
    st.tuples(st.just("wait"), st.integers(1, 12)),
    st.tuples(st.just("upgrade"), plan_index),
    st.tuples(st.just("downgrade"), plan_index),
    st.tuples(st.just("renew"), st.booleans()),
    st.tuples(st.just("pay")),
    st.tuples(st.just("cancel"), st.booleans()),
    st.tuples(st.just("end")),
    st.tuples(st.just("again")),
    st.tuples(st.just("refund"), st.integers(0, 5), st.integers(1, 100)),
    st.tuples(st.just("dispute"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("buy"), st.integers(1, 900)),
    st.tuples(st.just("spend"), st.integers(1, 900)),
)


class StripeModel:
    """A model of one person's subscriptions at Stripe."""

    def __init__(self, customer: str, plans: list[Plan]) -> None:
        self.customer, self.plans, self.now, self.count = customer, plans, START, 0
        self.states: dict[str, SubscriptionState] = {}
        self.subscribe(2)

    @property
    def state(self) -> SubscriptionState:
        return list(self.states.values())[-1]

    @state.setter
    def state(self, value: SubscriptionState) -> None:
        self.states[value.id] = value

    @property
    def live(self) -> bool:
        return self.state.ended_at is None

    def price(self, index: int) -> str:
        return self.plans[index].stripe_price_id or ""

    def cents(self, price: str) -> int:
        return next(plan.price_cents for plan in self.plans if plan.stripe_price_id == price)

    def subscribe(self, index: int) -> None:
        id = factories.new_id("sub_")
        period = (self.now, self.now + MONTH)
        self.states[id] = SubscriptionState(
            id, self.customer, {}, self.price(index), "si_1", "active", period, False, None, None, self.now, None, None, None, None
        )  # fmt: skip
        self.invoice("subscription_create", [self.whole()], paid=True)

    def whole(self) -> InvoiceLine:
        price = self.state.price_id
        return InvoiceLine(price, self.cents(price), *self.state.period, False)

    def invoice(self, reason: str, lines: list[InvoiceLine], *, paid: bool) -> None:
        self.count += 1
        id = factories.new_id("in_")
        amount = max(0, sum(line.amount for line in lines))
        charge = InvoiceCharge(f"pi_{id}", f"ch_{id}", 0, 0) if paid and amount else None
        status, paid_at = ("paid", self.now) if paid else ("open", None)
        made = InvoiceState(
            id, status, None, reason, amount, None, True, self.now, paid_at, tuple(lines), charge
        )
        self.state = replace(self.state, invoices=(*self.state.invoices, made))

    def change_invoice(self, index: int, **changes: Any) -> None:
        """Change an invoice, by its index over all subscriptions."""
        all_of = [(id, each) for id, state in self.states.items() for each in state.invoices]
        id, found = all_of[index % len(all_of)]
        if found.charge is None:
            return
        cents = {name: min(value, found.amount) for name, value in changes.items()}
        changed = replace(found, charge=replace(found.charge, **cents))
        invoices = tuple(changed if each.id == found.id else each for each in self.states[id].invoices)
        self.states[id] = replace(self.states[id], invoices=invoices)

    def do(self, action: str, *values: Any) -> None:
        """Apply a step; no effect if it is impossible in the current state."""
        state = self.state
        match action:
            case "wait":
                if not self.live or self.now + timedelta(days=values[0]) < state.period[1]:
                    self.now += timedelta(days=values[0])
            case "upgrade" if self.live and state.status == "active":
                price = self.price(values[0])
                if self.cents(price) < self.cents(state.price_id) or price == state.price_id:
                    return
                left = (state.period[1] - self.now) / (state.period[1] - state.period[0])
                lines = [
                    InvoiceLine(state.price_id, -round(self.cents(state.price_id) * left), self.now, state.period[1], True),
                    InvoiceLine(price, round(self.cents(price) * left), self.now, state.period[1], True),
                ]  # fmt: skip
                self.state = replace(state, price_id=price, scheduled_price_id=None, metadata={})
                self.invoice("subscription_update", lines, paid=True)
            case "downgrade" if self.live:
                self.state = replace(state, scheduled_price_id=self.price(values[0]))
            case "renew" if self.live and state.status == "active":
                self.now = state.period[1]
                price = state.scheduled_price_id or state.price_id
                period = (self.now, self.now + MONTH)
                status = "active" if values[0] else "past_due"
                self.state = replace(
                    state, price_id=price, scheduled_price_id=None, period=period, status=status
                )
                self.invoice("subscription_cycle", [self.whole()], paid=values[0])
            case "pay" if self.live and state.status == "past_due":
                last = state.invoices[-1]
                charge = InvoiceCharge(f"pi_{last.id}", f"ch_{last.id}", 0, 0)
                paid = replace(last, status="paid", paid_at=self.now, charge=charge)
                self.state = replace(state, status="active", invoices=(*state.invoices[:-1], paid))
            case "cancel" if self.live:
                self.state = replace(state, cancel_at_period_end=values[0])
            case "end" if self.live:
                self.state = replace(state, status="canceled", ended_at=self.now)
            case "again" if not self.live:
                self.subscribe(0)
            case "refund":
                self.change_invoice(values[0], refunded=values[1] * 20)
            case "dispute":
                self.change_invoice(values[0], withdrawn=10_000 if values[1] else 0)


def bought(session: OrmSession, who: str) -> dict[str, tuple[int, int]]:
    """Principal and balance of the bought grants."""
    query = select(CreditLedger.operation_id, CreditLedger.principal, CreditLedger.balance)
    rows = session.execute(query.where(CreditLedger.user_id == who, CreditLedger.type == "purchase"))
    return {operation: (principal, balance) for operation, principal, balance in rows}


def settle_all(session: OrmSession, stripe: StripeModel) -> None:
    """Settle Stripe's state of each subscription twice, oldest first."""
    for state in stripe.states.values():
        for _ in range(2):
            row = session.get(Subscription, state.id, populate_existing=True)
            assert settle_subscription(state, row.version if row else None, now=stripe.now)
        row = session.get(Subscription, state.id, populate_existing=True)
        assert row is not None
        # a state older than the stored version has no effect
        assert not settle_subscription(state, row.version - 1, now=stripe.now)
    session.commit()


@pytest.fixture
def offered(session: OrmSession) -> list[Plan]:
    plans = []
    for number, (cents, credits) in enumerate(OFFERED):
        plan = billing.create_plan(NewPlan(f"Plan {number}", cents, included_credits=credits))
        plan.stripe_price_id = f"price_{number}"
        plans.append(plan)
    session.commit()
    return plans


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(step, min_size=5, max_size=25))
def test_bought_credits_stay_whatever_happens_to_a_plan(
    app: Flask, session: OrmSession, offered: list[Plan], history: list[Any]
) -> None:
    customer = factories.new_id("cus_")
    user: User = factories.user("p", email=f"{factories.new_id()}@example.org", stripe_customer_id=customer)
    who, account = user.id, Account(user_id=user.id)
    ledger.grant(account, 1_000, "purchase", operation_id=f"buy-{who}-0", now=START)
    session.commit()
    stripe = StripeModel(customer, offered)
    for number, (action, *values) in enumerate([*history, ("settle",)]):
        match action:
            case "buy":
                ledger.grant(
                    account, values[0], "purchase", operation_id=f"buy-{who}-{number + 1}", now=stripe.now
                )
            case "spend":
                ledger.charge(account, values[0], cause=f"spend-{who}-{number}", now=stripe.now)
            case "settle":
                before = bought(session, who)
                settle_all(session, stripe)
                for operation, (principal, balance) in bought(session, who).items():
                    assert principal == before[operation][0]
                    # included credits may repay debt; nothing is taken back
                    assert balance == before[operation][1] or before[operation][1] < balance <= 0
            case _:
                stripe.do(action, *values)
        session.commit()
    expected: dict[str, int] = {}
    by_price = {plan.stripe_price_id or "": plan for plan in offered}
    for state in stripe.states.values():
        for invoice in state.invoices:
            included = included_credits(state, invoice, by_price)
            if invoice.status == "paid" and included is not None:
                expected.setdefault(included.operation_id, included.credits)
    rows = session.scalars(
        select(SubscriptionInvoice).where(
            SubscriptionInvoice.operation_id.is_not(None),
            SubscriptionInvoice.stripe_subscription_id.in_(stripe.states),
        )
    )
    assert {str(row.operation_id): row.credits for row in rows} == expected
    checks = [*ledger.prove().checks, *prove_purchases()]
    assert not any(check.count for check in checks), [check for check in checks if check.count]


@pytest.mark.parametrize(
    ("prices", "days", "granted"),
    [
        (("small",), (), [100]),
        (("small", "large"), (15,), [100, 300]),
        (("small", "large"), (10,), [100, 400]),
        (("large", "small", "large"), (10, 20), [700, None, None]),
        (("small", "large", "largest"), (10, 20), [100, 400, ceil(300 / 3)]),
        (("none", "none"), (1,), [None, None]),
    ],
)
def test_an_upgrade_includes_the_difference_for_the_rest(
    prices: tuple[str, ...], days: tuple[int, ...], granted: list[int | None]
) -> None:
    credits = {"none": 0, "small": 100, "large": 700, "largest": 1_000}
    plans = {name: Plan(id=f"pkg_{name}", included_credits=amount) for name, amount in credits.items()}
    end = START + MONTH
    invoices = [_paid("in_0", InvoiceLine(prices[0], 10, START, end, False))]
    for number, (old, new, day) in enumerate(zip(prices[:-1], prices[1:], days, strict=True)):
        at = START + timedelta(days=day)
        lines = InvoiceLine(old, -5, at, end, True), InvoiceLine(new, 5, at, end, True)
        invoices.append(_paid(f"in_{number + 1}", *lines))
    state = SubscriptionState(
        "sub_1", "cus_1", {}, prices[-1], "si_1", "active", (START, end), False, None, None, START, None, None, None, None,
        tuple(invoices),
    )  # fmt: skip
    found = [included_credits(state, invoice, plans) for invoice in invoices]
    assert [each.credits if each else None for each in found] == granted
    names = [each.operation_id for each in found if each]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"sub:sub_1:{int(START.timestamp())}") for name in names)


def _paid(id: str, *lines: InvoiceLine) -> InvoiceState:
    amount = sum(line.amount for line in lines)
    return InvoiceState(id, "paid", None, "x", amount, None, True, START, START, lines, None)
