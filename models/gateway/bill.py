"""What a call is charged: the usage its provider reported, or what is counted of it, and the dollars for that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import reduce
from operator import add

from models.gateway import tokens
from models.gateway.chat_format import Usage, UsageMeter
from models.gateway.chat_format.token_usage import at_least
from models.gateway.routing import Route, Router

CountedInput = Callable[[], tuple[int, dict[str, int]]]
"""Counts the tokens of a request, and how many of them are sound and pictures, by bucket."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A call's usage, its cost in dollars, the figures that priced it, and the operator's margin on top."""

    usage: Usage
    cost: Decimal
    price: dict[str, str]
    margin: Decimal


class Biller:
    """Makes the bill of one call."""

    def __init__(self, routes: Router, margin: Decimal, count_input: CountedInput) -> None:
        self._routes = routes
        self._margin = margin
        self._count_input = count_input

    def bill(self, route: Route, meters: Sequence[UsageMeter], *, complete: bool = True) -> Bill:
        """The bill of a call that was answered by one request or by several. Each of them is priced by itself: it has its
        own price tier, price of a request, and reported cost. What an answer that is not `complete` reported counts as
        no more than a lower bound."""
        usages = [(meter.usage() if complete else None) or self._counted(meter, route) for meter in meters]
        costs = [
            self._routes.cost(route, usage, meter.model) for usage, meter in zip(usages, meters, strict=True)
        ]
        if len(usages) == 1:
            return Bill(usages[0], *costs[0], self._margin)
        cost = sum((dollars for dollars, _ in costs), Decimal(0))
        return Bill(reduce(add, usages), cost, _priced(costs), self._margin)

    def _counted(self, meter: UsageMeter, route: Route) -> Usage:
        """Usage by counting the request and what was delivered, for a provider that gave no credible figures, or none
        for all of its answer: then it is no less than any figure it gave."""
        source = "counted" if tokens.knows(meter.model or route.model) else "estimated"
        if meter.empty:
            return Usage(source=source)
        raw = meter.raw_usage
        told_input, told_output = at_least(raw or {})
        input, media = self._count_input()
        output, reasoning = tokens.count_output(meter.output)
        made = {"audio_output": meter.output.audio_tokens, "image_output": meter.output.picture_tokens}
        counted = Usage(
            uncached_input=max(input, told_input),
            output=max(output, told_output, reasoning + sum(made.values())),
            reasoning=reasoning,
            source=source,
            cost=meter.cost,
            parts=media | {name: count for name, count in made.items() if count},
            flags=("usage_unusable",) if raw and not (meter.usage() or meter.reported) else (),
            raw=raw,
        )
        return counted if meter.reported is None else _at_least(meter.reported, counted)


def _priced(costs: list[tuple[Decimal, dict[str, str]]]) -> dict[str, str]:
    """The figures that priced several requests: those of the first, with what was odd about any."""
    figures = dict(costs[0][1])
    flags = dict.fromkeys(flag for _, price in costs for flag in price.get("flags", "").split())
    return figures | ({"flags": " ".join(flags)} if flags else {})


def _at_least(reported: Usage, counted: Usage) -> Usage:
    """What a provider reported of an answer that went on, raised to what was counted of it."""
    more_input = max(counted.input - reported.input, 0)
    more_output = max(counted.output - reported.output, 0)
    parts = dict(reported.parts)
    for name, count in counted.parts.items():
        if (more_input and name.endswith("_input")) or (more_output and name.endswith("_output")):
            parts[name] = max(count, parts.get(name, 0))
    put, made = (
        sum(count for name, count in parts.items() if name.endswith(end)) for end in ("_input", "_output")
    )
    output = max(reported.output + more_output, reported.reasoning + made)
    return replace(
        reported,
        uncached_input=max(reported.uncached_input + more_input, put),
        output=output,
        reasoning=min(max(reported.reasoning, counted.reasoning), output - made),
        parts=parts,
        source=counted.source,
        cost=None if more_input or more_output else reported.cost,
        least_cost=reported.cost or Decimal(0),
    )
