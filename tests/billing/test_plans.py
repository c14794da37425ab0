"""Plans: validation, versions, and prices at Stripe."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.billing import NewPlan, WindowLimit
from models.billing.subscription_plans.plans import terms
from models.core.errors import Conflict, Invalid, NotFound
from tests.billing.stage import Desk

PRO = NewPlan(
    "Pro",
    2_000,
    description="For daily work",
    features=("All models", "Priority"),
    models=("openai/*", "anthropic/*"),
    windows=(
        WindowLimit("month", None, 14_000),
        WindowLimit("5 hours", 5, 350),
        WindowLimit("week", 168, 3_500),
    ),
    included_credits=1_000,
    requests_per_minute=60,
    seats=1,
    tier=100,
)


def test_a_plan_stores_its_terms_with_the_shortest_window_first(session: OrmSession) -> None:
    plan = billing.create_plan(PRO)
    assert plan.id.startswith("pkg_")
    assert [window.name for window in plan.windows] == ["5 hours", "week", "month"]
    stored = terms(billing.get_plan(plan.id))
    assert replace(stored, windows=()) == replace(
        PRO, features=list(PRO.features), models=list(PRO.models or ()), windows=()
    )
    assert (plan.version, plan.active, plan.currency) == (1, True, "usd")
    with pytest.raises(NotFound):
        billing.get_plan("pkg_other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("name", "x" * 61),
        ("name", "two\nlines"),
        ("price_cents", -1),
        ("price_cents", 49),
        ("price_cents", 100_000_000),
        ("interval", "week"),
        ("description", "x" * 501),
        ("features", ["x" * 121]),
        ("features", ["x"] * 31),
        ("models", []),
        ("models", [" "]),
        ("included_credits", -1),
        ("requests_per_minute", 0),
        ("seats", -1),
        ("sort", 10_001),
        ("windows", [WindowLimit("", 5, 1)]),
        ("windows", [WindowLimit("day", 0, 1)]),
        ("windows", [WindowLimit("day", 24, 0)]),
        ("windows", [WindowLimit("day", 24, 1), WindowLimit("day", 25, 1)]),
        ("windows", [WindowLimit("day", 24, 1), WindowLimit("24 hours", 24, 1)]),
        ("windows", [WindowLimit("day", 24, 10), WindowLimit("week", 168, 9)]),
    ],
)
def test_invalid_terms_are_rejected_at_their_field(session: OrmSession, field: str, value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        billing.create_plan(replace(PRO, **{field: value}))
    assert refused.value.fields.keys() == {field}
    plan = billing.create_plan(PRO)
    with pytest.raises(Invalid):
        billing.update_plan(plan, {field: value})


def test_names_of_active_plans_are_unique(session: OrmSession) -> None:
    plan = billing.create_plan(PRO)
    other = billing.create_plan(replace(PRO, name="Team"))
    with pytest.raises(Conflict):
        billing.create_plan(PRO)
    with pytest.raises(Conflict):
        billing.update_plan(other, {"name": "Pro"})
    session.refresh(other)
    assert other.active
    billing.retire_plan(plan)
    billing.retire_plan(plan)
    assert billing.create_plan(PRO).version == 2


@pytest.mark.parametrize(
    ("changes", "makes_version"),
    [
        ({"description": "Better", "features": ["One"], "public": False, "sort": 3}, False),
        ({"price_cents": 2_500}, True),
        ({"interval": "year"}, True),
        ({"included_credits": 0}, True),
        ({"models": None}, True),
        ({"windows": ()}, True),
        ({"name": "Pro plus"}, True),
        ({}, False),
    ],
)
def test_money_and_limits_make_a_new_version(
    session: OrmSession, changes: dict[str, Any], makes_version: bool
) -> None:
    plan = billing.create_plan(PRO)
    before = terms(plan)
    now = billing.update_plan(plan, changes)
    assert (now.id != plan.id) is makes_version
    assert plan.active is not makes_version
    assert now.active
    for name, value in changes.items():
        assert getattr(terms(now), name) == value
    assert now.version == (2 if makes_version and "name" not in changes else 1)
    if makes_version:
        assert terms(plan) == before
        with pytest.raises(Conflict):
            billing.update_plan(plan, {"price_cents": 1})
    assert [each.id for each in billing.public_plans()] == (
        [] if changes.get("public") is False else [now.id]
    )
    assert {each.id for each in billing.listed_plans()} == {plan.id, now.id}


def test_a_plan_has_one_stripe_price_even_if_a_response_was_lost(desk: Desk) -> None:
    desk.stripe.fail("/v1/prices", when="after", times=3)
    plan = desk.run(billing.create_plan, PRO)
    with pytest.raises(billing.StripeError):
        desk.run(billing.stripe_price, plan)
    price = desk.run(billing.stripe_price, plan)
    assert desk.run(billing.stripe_price, plan) == price
    (found,) = desk.sim.objects["price"].values()
    assert found["id"] == price
    assert (found["unit_amount"], found["currency"], found["recurring"]["interval"]) == (
        2_000,
        "usd",
        "month",
    )
    (product,) = desk.sim.objects["product"].values()
    kept = desk.run(billing.get_plan, plan.id)
    assert (kept.stripe_price_id, kept.stripe_product_id) == (price, product["id"])
    assert product["name"] == "Pro"
