"""What an import of prices changes: buckets in percent, and what last month's calls would have cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from models.core.db import db
from models.gateway import model_names
from models.gateway.model_catalogue import MAIN_BUCKETS
from models.gateway.price_file import parse_price
from models.gateway.price_imports import REMOVE, PriceImport
from models.gateway.pricing import MILLION, ModelPrice, PriceTable
from models.gateway.route import Route
from models.gateway.routing import Router

LARGE = Decimal("0.5")
"""A change of more than half is pointed out."""
TRIED_DAYS = 30
TRIED_NAMES = 5_000
"""Names of models in records of calls that a dry run adds up, those with most calls first."""


@dataclass(frozen=True, slots=True)
class BucketChange:
    """A bucket's price before and after: dollars per million tokens, or per unit (`request`, `web_searches`). None: no price. `only` says
    for which calls, if not for all: above so many input tokens, or served in another way."""

    bucket: str
    old: Decimal | None
    new: Decimal
    only: str = ""

    @property
    def share(self) -> Decimal | None:
        """The change as a share of the old price; None if there was none, or it was zero."""
        return (self.new - self.old) / self.old if self.old else None

    @property
    def large(self) -> bool:
        """Whether it changes by more than half, or becomes free or is no longer free."""
        return self.old is not None and abs(self.new - self.old) > self.old * LARGE


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A model whose price changes, with the route that serves it."""

    route: Route
    new: ModelPrice
    buckets: Sequence[BucketChange]

    @property
    def large(self) -> bool:
        """Whether one of its buckets changes by much."""
        return any(each.large for each in self.buckets)

    @property
    def size(self) -> Decimal:
        """The largest change of a bucket, as a share; a new price counts as one."""
        return max(abs(Decimal(1) if each.share is None else each.share) for each in self.buckets)


@dataclass(frozen=True, slots=True)
class ImportComparison:
    """What an import changes, the largest changes first. `unchanged` models have these prices already; `overridden` are set in
    STOA_PRICES_FILE, which is preferred; `elsewhere` are not served here, or not by the provider whose list it is."""

    changes: Sequence[PriceChange]
    unchanged: int
    overridden: Sequence[str]
    elsewhere: int
    unpriced: Sequence[str]
    """Models whose imported price ends, and that have no other: they would no longer be served."""


@dataclass(frozen=True, slots=True)
class TriedModel:
    """The calls of a model in the period of a dry run, and their cost in credits, margin included, by the prices in force and by the
    new ones. `reported`: its provider reports the cost of each call, so the bill stays as it was."""

    model: str
    calls: int
    before: Decimal
    after: Decimal
    reported: bool


@dataclass(frozen=True, slots=True)
class DryRun:
    """A dry run over the calls since `since`, by model, the largest difference first."""

    since: datetime
    models: Sequence[TriedModel]

    @property
    def before(self) -> Decimal:
        """Credits by the prices in force."""
        return sum((each.before for each in self.models), Decimal(0))

    @property
    def after(self) -> Decimal:
        """Credits by the new prices."""
        return sum((each.after for each in self.models), Decimal(0))

    @property
    def calls(self) -> int:
        """All calls of these models."""
        return sum(each.calls for each in self.models)


def compare(router: Router, proposal: PriceImport) -> ImportComparison:
    """What the import changes against the prices in force now."""
    changes: list[PriceChange] = []
    overridden: list[str] = []
    unpriced: list[str] = []
    unchanged = elsewhere = 0
    for name, entry in proposal.prices.items():
        override = router.prices.overrides.get(name)
        route = router.route_of_model(name)
        if override and override.price:
            overridden.append(name)
        elif route is None or proposal.table not in ("", route.provider.table):
            elsewhere += 1
        elif (new := _after(router, route, name, entry)) is None:
            unpriced.append(name)
        else:
            buckets = list(_changed(route.price, new))
            unchanged += not buckets
            if buckets:
                changes.append(PriceChange(route, new, buckets))
    changes.sort(key=lambda each: (-each.size, each.route.requested))
    return ImportComparison(changes, unchanged, sorted(overridden), elsewhere, sorted(unpriced))


def _after(router: Router, route: Route, name: str, entry: Mapping[str, Any]) -> ModelPrice | None:
    """The price that the entry leaves the model with."""
    if entry != REMOVE:
        return parse_price(name, entry)
    provider = route.provider
    own = provider.own_price(route.requested, route.model)
    return own or PriceTable(router.prices.overrides).find(provider.table, route.requested, route.model)


def _changed(old: ModelPrice | None, new: ModelPrice) -> Iterator[BucketChange]:
    """The buckets that cost something else. Those without a listed price on either side follow from the others."""
    keys = dict.fromkeys([*_priced(new), *(_priced(old) if old else ())])
    for way, above, bucket in keys:
        before = None if old is None else _rate(old, way, above, bucket)
        after = _rate(new, way, above, bucket)
        if before != after:
            only = [f"above {above:,} input tokens"] if above else []
            yield BucketChange(bucket, before, after, ", ".join([*only, *([way] if way else [])]))


def _priced(price: ModelPrice) -> Iterator[tuple[str, int, str]]:
    """What has a price of its own: the way to be served, the input tokens above which it applies, the bucket or unit."""
    for way, each in (("", price), *price.variants.items()):
        for tier in each.tiers:
            yield from (
                (way, tier.above, bucket)
                for bucket in (*MAIN_BUCKETS, *tier.rates)
                if bucket in {*MAIN_BUCKETS, *tier.listed}
            )
        yield from ((way, 0, unit) for unit in ("request", *each.units))


def _rate(price: ModelPrice, way: str, above: int, bucket: str) -> Decimal:
    """What it is charged, listed or not."""
    found = price.variants.get(way, price)
    rates = found.tier(above + 1).rates
    if bucket in rates:
        return rates[bucket]
    return found.request if bucket == "request" else found.unit_price(bucket)


def dry_run(router: Router, changes: Sequence[PriceChange], margin: Decimal, now: datetime) -> DryRun:
    """What the calls of the last `TRIED_DAYS` would have cost, as far as they were of changed models. Reads rollups: tokens of all
    calls at the first tier, without audio, images and searches."""
    first = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=TRIED_DAYS - 1)
    by_key = {key: change for change in changes for key in _keys(change.route)}
    found: dict[str, TriedModel] = {}
    for row in db.session.execute(text(_TOKENS), {"first": first, "most": TRIED_NAMES}):
        change = _change_of(router, by_key, row.provider, row.model)
        if change is None:
            continue
        reported = change.route.provider.reports_cost
        name, factor = change.route.requested, 100 * (1 + margin)
        after = _cost(change.new, row) * factor
        before = _cost(change.route.price, row) * factor if change.route.price else row.cost * factor
        if reported:
            before = after = row.cost * factor
        last = found.get(name) or TriedModel(name, 0, Decimal(0), Decimal(0), reported)
        found[name] = TriedModel(
            name, last.calls + row.calls, last.before + before, last.after + after, reported
        )
    models = sorted(found.values(), key=lambda each: (-abs(each.after - each.before), each.model))
    return DryRun(first, models)


def _keys(route: Route) -> Iterator[tuple[str, Any]]:
    provider = route.provider
    yield provider.name, route.model.lower()
    yield provider.name, route.requested.lower()
    if row := model_names.price_row(provider.table, route.model):
        yield provider.name, id(row)


def _change_of(
    router: Router, by_key: Mapping[tuple[str, Any], PriceChange], provider: str, name: str
) -> PriceChange | None:
    """The change of the model that answered with this name, or of which a call with this name was requested."""
    if (provider, name.lower()) in by_key:
        return by_key[provider, name.lower()]
    known = router.providers.get(provider)
    row = model_names.price_row(known.table, known.upstream_model(name)) if known else None
    return by_key.get((provider, id(row))) if row else None


def _cost(price: ModelPrice, row: Any) -> Decimal:
    """Dollars for the tokens of a row of sums."""
    rates = price.tiers[0].rates
    tokens = (
        rates["input"] * row.input_tokens
        + rates["cache_write"] * row.cache_write_tokens
        + rates["cache_read"] * row.cache_read_tokens
        + rates["output"] * (row.output_tokens - row.reasoning_tokens)
        + rates["reasoning"] * row.reasoning_tokens
    )
    dollars: Decimal = price.request * row.calls + tokens / MILLION
    return dollars


_TOKENS = """
SELECT provider, model, sum(calls)::bigint AS calls, sum(cost) AS cost,
    sum(input_tokens) AS input_tokens, sum(cache_write_tokens) AS cache_write_tokens, sum(cache_read_tokens) AS cache_read_tokens,
    sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens
FROM provider_rollup WHERE grain = 'day' AND bucket >= :first AND error = ''
GROUP BY provider, model ORDER BY sum(calls) DESC, provider, model LIMIT :most
"""
