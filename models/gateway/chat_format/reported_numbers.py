"""What counts as a figure in what a provider reports: tokens, and dollars."""

import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_TOKENS = 2_147_483_647
"""The largest count that a row holds; a larger one is no count."""

MAX_COST = Decimal(10_000_000)
"""Dollars. The largest cost that the ledger holds; a larger one is no cost."""

_NUMBER = re.compile(r"\d{1,10}(\.\d{1,20})?")


def token_figure(value: Any) -> int | None:
    """A count of tokens: a number from 0 to MAX_TOKENS, a part of a token being a whole one; else None. Strings of
    digits count, booleans do not."""
    if type(value) is not int:
        if type(value) is str and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if type(value) is not float or not math.isfinite(value):
            return None
        value = math.ceil(value) if value >= 0 else -1
    return value if 0 <= value <= MAX_TOKENS else None


def dollar_figure(value: Any) -> Decimal | None:
    """Dollars a provider reported: finite, from 0 to MAX_COST, else None. Strings of digits count."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() and 0 <= amount <= MAX_COST else None
