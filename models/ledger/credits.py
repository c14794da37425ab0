"""The arithmetic of a call's price: provider dollars to micro-credits to whole credits, exact."""

from decimal import Context, Decimal, localcontext

MICRO = 1_000_000
"""Micro-credits in a credit. A credit is one US cent."""

MAX_CALL_CREDITS = 2_147_483_647
"""The most one call can be charged: what `message.credits` holds."""

MAX_COST = Decimal(10_000_000)
"""The most one call can cost, in dollars. More than this is a broken report, not a price."""

_EXACT = Context(prec=80)
_COST_STEP = Decimal(1).scaleb(-20)


def credits_of(cost: Decimal, margin: Decimal) -> tuple[int, int]:
    """Price a call: `cost` provider dollars with `margin` (0.055 is 5.5 %) as (micro-credits, credits).

    Credits are `cost x 100 x (1 + margin)` rounded half up. Micro-credits are the same amount before rounding,
    rounded down, though never to nothing for a call that cost something: so a half stays a half, and what is
    added up for calls that round to zero credits is never zero. Contract 3.1.
    Raises ValueError for a negative or non-finite cost or margin.
    """
    if not (cost.is_finite() and margin.is_finite()) or cost < 0 or margin < 0:
        raise ValueError("a price is made from a finite cost and margin of zero or more")
    with localcontext(_EXACT):
        exact = min(cost, MAX_COST) * MICRO * 100 * (1 + margin)
        micro = max(int(exact), 1) if exact else 0
    micro = min(micro, MAX_CALL_CREDITS * MICRO)
    return micro, (micro + MICRO // 2) // MICRO


def exact_cost(cost: Decimal) -> Decimal:
    """The cost as the database keeps it: between zero and MAX_COST, 20 decimal places; what is no number is zero."""
    if not cost.is_finite() or cost <= 0:
        return Decimal(0)
    with localcontext(_EXACT):
        return min(cost, MAX_COST).quantize(_COST_STEP)
