"""Formatting of numbers."""

from decimal import Decimal

import pytest

from views.web.format import price


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (None, "–"),
        (Decimal(0), "$0"),
        (Decimal("1234.5"), "$1,234.50"),
        (Decimal("3.694"), "$3.69"),
        (Decimal("0.74"), "$0.74"),
        (Decimal("0.1284"), "$0.13"),
        (Decimal("0.0999"), "$0.10"),
        (Decimal("0.0732"), "$0.073"),
        (Decimal("0.03"), "$0.03"),
        (Decimal("0.0096"), "$0.0096"),
        (11.16 / 100, "$0.11"),
        (0.000123, "$0.00012"),
    ],
)
def test_store_prices_have_cents_and_small_ones_two_digits(
    dollars: Decimal | float | None, text: str
) -> None:
    assert price(dollars) == text
