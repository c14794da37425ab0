"""Conversion of a call's cost to credits."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ledger.credits import MAX_CALL_CREDITS, MICRO, credits_of, exact_cost

MARGIN = Decimal("0.055")


@pytest.mark.parametrize(
    ("dollars", "credits"),
    [("0.001", 0), ("0.0047", 0), ("0.0048", 1), ("0.0142", 1), ("0.0143", 2), ("0.05", 5), ("1", 106)],
)
def test_reference_values_of_the_contract(dollars: str, credits: int) -> None:
    assert credits_of(Decimal(dollars), MARGIN)[1] == credits


def test_half_a_credit_is_rounded_up_and_just_below_is_not() -> None:
    assert credits_of(Decimal("0.005"), Decimal(0)) == (500_000, 1)
    assert credits_of(Decimal("0.00499999999999999999"), Decimal(0)) == (499_999, 0)


def test_a_call_with_a_cost_is_at_least_one_micro_credit() -> None:
    assert credits_of(Decimal("1e-19"), MARGIN) == (1, 0)
    assert credits_of(Decimal(0), MARGIN) == (0, 0)


@pytest.mark.parametrize("wrong", ["-1", "NaN", "Infinity", "-0.0000001"])
def test_invalid_costs_are_rejected(wrong: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        credits_of(Decimal(wrong), MARGIN)


def test_huge_costs_are_clamped_to_the_columns() -> None:
    micro, credits = credits_of(Decimal("1e300"), Decimal(1000))
    assert credits == MAX_CALL_CREDITS
    assert micro == MAX_CALL_CREDITS * MICRO
    assert exact_cost(Decimal("1e300")) == 10_000_000
    assert exact_cost(Decimal("NaN")) == exact_cost(Decimal(-3)) == 0


@given(
    cost=st.decimals(min_value=0, max_value=100_000, places=20),
    margin=st.decimals(min_value=0, max_value=10, places=4),
)
def test_credits_are_the_exact_amount_rounded_half_up(cost: Decimal, margin: Decimal) -> None:
    micro, credits = credits_of(cost, margin)
    exact = int(cost.scaleb(20)) * 100 * int((1 + margin).scaleb(4))
    step = 10**24
    assert credits == (2 * exact + step) // (2 * step)
    assert credits == (micro + MICRO // 2) // MICRO
