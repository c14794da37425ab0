"""Parses token counts and dollar amounts reported by providers."""

import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_TOKENS = 2_147_483_647
"""The largest count that a database row holds. Larger values are invalid."""

MAX_COST = Decimal(10_000_000)
"""Dollars. The largest cost that the ledger holds. Larger values are invalid."""

_NUMBER = re.compile(r"\d{1,10}(\.\d{1,20})?")


def parse_tokens(value: Any) -> int | None:
    """A token count from 0 to MAX_TOKENS, fractions rounded up; None if invalid. Numeric strings are valid, booleans are
    not."""
    if type(value) is not int:
        if type(value) is str and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if type(value) is not float or not math.isfinite(value):
            return None
        value = math.ceil(value) if value >= 0 else -1
    return value if 0 <= value <= MAX_TOKENS else None


def parse_dollars(value: Any) -> Decimal | None:
    """Dollars from 0 to MAX_COST; None if invalid. Numeric strings are valid, booleans are not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() and 0 <= amount <= MAX_COST else None
