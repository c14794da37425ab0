"""Exact conversion of a call's provider cost (dollars) to micro-credits and whole credits."""

from decimal import Context, Decimal, localcontext

MICRO = 1_000_000
"""Micro-credits in a credit. A credit is one US cent."""

MAX_CALL_CREDITS = 2_147_483_647
"""Maximum credits charged for one call: the range of `message.credits`."""

MAX_COST = Decimal(10_000_000)
"""Maximum cost of one call, in dollars. A higher reported cost is treated as an error and clamped."""

_EXACT = Context(prec=80)
_COST_STEP = Decimal(1).scaleb(-20)


def credits_of(cost: Decimal, margin: Decimal) -> tuple[int, int]:
    """Convert `cost` provider dollars with `margin` (0.055 is 5.5 %) to (micro-credits, credits). Contract 3.1.

    Credits are `cost x 100 x (1 + margin)` rounded half up. Micro-credits are the same amount rounded down to a
    micro-credit, but at least 1 if the call cost anything, so calls that round to zero credits still add to the
    carry. Raises ValueError for a negative or non-finite cost or margin.
    """
    if not (cost.is_finite() and margin.is_finite()) or cost < 0 or margin < 0:
        raise ValueError("cost and margin must be finite and not negative")
    with localcontext(_EXACT):
        exact = min(cost, MAX_COST) * MICRO * 100 * (1 + margin)
        micro = max(int(exact), 1) if exact else 0
    micro = min(micro, MAX_CALL_CREDITS * MICRO)
    return micro, (micro + MICRO // 2) // MICRO


def exact_cost(cost: Decimal) -> Decimal:
    """The cost as stored: clamped to 0..MAX_COST with 20 decimal places; NaN and infinity become zero."""
    if not cost.is_finite() or cost <= 0:
        return Decimal(0)
    with localcontext(_EXACT):
        return min(cost, MAX_COST).quantize(_COST_STEP)
