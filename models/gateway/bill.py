"""Billing of one call: the reported or counted usage, and its cost in dollars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import reduce
from operator import add

from models.gateway import tokens
from models.gateway.chat_format import Usage, UsageMeter
from models.gateway.chat_format.token_usage import minimum_tokens
from models.gateway.route import Route
from models.gateway.routing import Router

CountedInput = Callable[[], tuple[int, dict[str, int]]]
"""Counts the input tokens of a request, and those of them that are audio and images, by bucket."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A call's usage, its cost in dollars without margin, the prices applied, and the operator's margin."""

    usage: Usage
    cost: Decimal
    price: dict[str, str]
    margin: Decimal


class Biller:
    """Computes the bill of one call."""

    def __init__(self, routes: Router, margin: Decimal, count_input: CountedInput) -> None:
        self._routes = routes
        self._margin = margin
        self._count_input = count_input

    def bill(self, route: Route, meters: Sequence[UsageMeter], *, complete: bool = True) -> Bill:
        """The bill of a call, over one or several provider requests. Each request is priced separately, with its own price
        tier, request fee and reported cost. If not `complete`, the reported usage is only a lower bound."""
        usages = [(meter.usage() if complete else None) or self._counted(meter, route) for meter in meters]
        costs = [
            self._routes.cost(route, usage, meter.model, meter.served)
            for usage, meter in zip(usages, meters, strict=True)
        ]
        if len(usages) == 1:
            return Bill(usages[0], *costs[0], self._margin)
        cost = sum((dollars for dollars, _ in costs), Decimal(0))
        return Bill(reduce(add, usages), cost, _merged_prices(costs), self._margin)

    def _counted(self, meter: UsageMeter, route: Route) -> Usage:
        """Usage counted from the request and its output, if the provider reported none or none for the whole answer.
        Never lower than any number that it reported."""
        source = "counted" if tokens.has_vocabulary(meter.model or route.model) else "estimated"
        if meter.empty:
            return Usage(source=source)
        raw = meter.raw_usage
        reported_input, reported_output = minimum_tokens(raw or {})
        input, media = self._count_input()
        output, reasoning = tokens.count_output(meter.output)
        output_media = {"audio_output": meter.output.audio_tokens, "image_output": meter.output.media_tokens}
        counted = Usage(
            uncached_input=max(input, reported_input),
            output=max(output, reported_output, reasoning + sum(output_media.values())),
            reasoning=reasoning,
            source=source,
            cost=meter.cost,
            parts=media | {name: count for name, count in output_media.items() if count},
            flags=("usage_unusable",) if raw and not (meter.usage() or meter.reported) else (),
            raw=raw,
        )
        return counted if meter.reported is None else _raised(meter.reported, counted)


def _merged_prices(costs: list[tuple[Decimal, dict[str, str]]]) -> dict[str, str]:
    """The prices applied to several requests: those of the first, with the flags of all."""
    prices = dict(costs[0][1])
    flags = dict.fromkeys(flag for _, price in costs for flag in price.get("flags", "").split())
    return prices | ({"flags": " ".join(flags)} if flags else {})


def _raised(reported: Usage, counted: Usage) -> Usage:
    """Usage that was reported before more output followed, raised to the counted usage."""
    more_input = max(counted.input - reported.input, 0)
    more_output = max(counted.output - reported.output, 0)
    parts = dict(reported.parts)
    for name, count in counted.parts.items():
        if (more_input and name.endswith("_input")) or (more_output and name.endswith("_output")):
            parts[name] = max(count, parts.get(name, 0))
    input_media, output_media = (
        sum(count for name, count in parts.items() if name.endswith(end)) for end in ("_input", "_output")
    )
    output = max(reported.output + more_output, reported.reasoning + output_media)
    return replace(
        reported,
        uncached_input=max(reported.uncached_input + more_input, input_media),
        output=output,
        reasoning=min(max(reported.reasoning, counted.reasoning), output - output_media),
        parts=parts,
        source=counted.source,
        cost=None if more_input or more_output else reported.cost,
        least_cost=reported.cost or Decimal(0),
    )
