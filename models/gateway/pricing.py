"""Model prices: operator overrides, approved imports, then the price table shipped with the release. Exact decimals; nothing is
fetched.

A price is set, explicitly zero, or missing. A model without a price is refused unless its provider reports the cost of
each call.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genai_prices.types import TieredPrices

from models.gateway import model_names
from models.gateway.chat_format import Usage
from models.gateway.chat_format.token_usage import MEDIA, UNKNOWN, is_unit

MILLION = Decimal(1_000_000)
MAX_RATE = Decimal(10_000)
"""Dollars per million tokens. A higher rate is rejected as an error."""

MAX_UNIT_PRICES = {"web_searches": Decimal("0.035"), "file_searches": Decimal("0.0025")}
"""Dollars per search at the most expensive provider."""

CACHE_SECONDS = 60
"""How long a looked-up price is cached; some prices change by the hour."""

VARIANTS = "openrouter"
"""The price table whose model names have variants."""
FREE_SUFFIX = ":free"
CHEAPER = ("batch", "floor", "free")
"""Variants that OpenRouter never charges more for than for the base model."""
SEARCH_DOLLARS = Decimal("0.05")
"""Dollars. More than OpenRouter charges for the searches of one call (`:online`)."""


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Rates of each bucket in dollars per million tokens, for calls with more than `above` input tokens. `listed` names
    the buckets with an explicit rate; the others are derived."""

    above: int
    rates: Mapping[str, Decimal]
    listed: frozenset[str]

    @property
    def input(self) -> Decimal:
        """Rate of uncached input text."""
        return self.rates["input"]

    @property
    def cache_write(self) -> Decimal:
        """Rate of cache writes."""
        return self.rates["cache_write"]

    @property
    def cache_read(self) -> Decimal:
        """Rate of cache reads."""
        return self.rates["cache_read"]

    @property
    def output(self) -> Decimal:
        """Rate of output text."""
        return self.rates["output"]


def tier_of(above: int, given: Mapping[str, Decimal]) -> PriceTier:
    """A tier with the given rates. Every other bucket gets its highest possible rate: cache tokens cost as much as
    input, media as much as text, and cached media as much as uncached media."""
    base = given.get("input", Decimal(0))
    rates = {
        "input": base,
        "cache_write": base,
        "cache_read": base,
        "output": Decimal(0),
        **given,
    }
    write = rates["cache_write"]
    # where a cache write costs more than input, a longer lifetime costs twice the input rate (Anthropic)
    long_write = max(write, 2 * base) if write > base else write
    rates.setdefault("cache_write_30m", write)
    rates.setdefault("cache_write_1h", long_write)
    rates.setdefault("cache_write_12h", max(long_write, rates["cache_write_1h"]))
    for medium in MEDIA:
        cached = rates[f"{medium}_input"] if f"{medium}_input" in given else rates["cache_read"]
        rates.setdefault(f"{medium}_input", base)
        rates.setdefault(f"cached_{medium}", cached)
        rates.setdefault(f"{medium}_output", rates["output"])
    rates.setdefault("reasoning", rates["output"])
    return PriceTier(above, rates, frozenset(given))


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model. `tiers` are sorted by `above`, the first is 0; `request` is dollars per call, `units`
    dollars per unit."""

    source: str
    tiers: tuple[PriceTier, ...]
    request: Decimal = Decimal(0)
    units: Mapping[str, Decimal] = field(default_factory=dict)
    context_window: int | None = None
    """Limit of input plus output tokens, if known."""
    max_output: int | None = None
    """Limit of output tokens, if known."""
    variants: Mapping[str, "ModelPrice"] = field(default_factory=dict)
    """Prices of other ways to be served (`served_ways.py`): `service_tier:flex`, `speed:fast`, `region:us`, `batch`."""

    @property
    def is_free(self) -> bool:
        """Explicitly free."""
        rates = (rate for tier in self.tiers for rate in tier.rates.values())
        return not self.request and not any(self.units.values()) and not any(rates)

    def of_way(self, ways: Sequence[str], usage: Usage) -> "ModelPrice":
        """The price of the way in which a call was served: of several ways with a price the one that costs most."""
        found = [self.variants[way] for way in ways if way in self.variants] if self.variants else []
        return max(found, key=lambda price: price.cost(usage)) if found else self

    @property
    def by_tokens(self) -> bool:
        """Whether tokens have a price, not only units."""
        return bool(self.tiers[0].listed)

    def tier(self, input_tokens: int) -> PriceTier:
        """The tier for all tokens of a call with this many input tokens."""
        return next(tier for tier in reversed(self.tiers) if input_tokens > tier.above or not tier.above)

    def cost(self, usage: Usage) -> Decimal:
        """Exact cost of a call, in dollars."""
        rates = self.tier(usage.input).rates
        tokens = unit_cost = Decimal(0)
        for bucket, count in usage.buckets().items():
            if is_unit(bucket):
                unit_cost += self.unit_price(bucket) * count
            else:
                tokens += rates[bucket] * count
        return self.request + unit_cost + tokens / MILLION

    def unit_price(self, unit: str) -> Decimal:
        """Dollars per unit. Without a listed price: for searches the highest of any provider, or zero for a free model; zero
        for other units, of models that are priced by tokens."""
        listed = self.listed_unit(unit)
        if listed is None:
            free = not any(tier.input or tier.output for tier in self.tiers)
            listed = Decimal(0) if free else MAX_UNIT_PRICES.get(unit, Decimal(0))
        return listed

    def listed_unit(self, unit: str) -> Decimal | None:
        """Dollars per unit, if listed. Of images the most specific price for the size and quality, or the highest if one of
        these is unknown."""
        if unit in self.units:
            return self.units[unit]
        base, *given = unit.split(":")
        found = [
            (0 if UNKNOWN in given else len(parts), price)
            for name, price in self.units.items()
            for own, *parts in [name.split(":")]
            if own == base and (UNKNOWN in given or set(parts) <= set(given))
        ]
        return max(found)[1] if found else None

    def max_cost(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        media: Mapping[str, int] = MappingProxyType({}),
        write_bucket: str = "cache_write",
        audio: bool = False,
    ) -> Decimal:
        """Upper bound of the cost of a call, in dollars: no cache reads, and the highest rate that can apply.

        `media`: media input tokens by bucket. `write_bucket`: the bucket of cache writes. `audio`: the answer may be
        audio.
        """
        rates = self.tier(input_tokens + sum(media.values())).rates
        input = max(rates["input"], rates[write_bucket])
        output = max(rates["output"], rates["reasoning"], rates["image_output"])
        if audio:
            output = max(output, rates["audio_output"])
        media_cost = sum(max(input, rates[bucket]) * count for bucket, count in media.items())
        return self.request + (input * input_tokens + media_cost + output * output_tokens) / MILLION

    def minimum_cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Cost of uncached input and of output, both as text, in dollars."""
        tier = self.tier(input_tokens)
        return self.request + (tier.input * input_tokens + tier.output * output_tokens) / MILLION

    def snapshot(self, usage: Usage) -> dict[str, str]:
        """The prices applied to a call, to store with it, as strings: dollars per million tokens, or per request and
        unit."""
        tier = self.tier(usage.input)
        used = usage.buckets()
        names = ["input", "cache_write", "cache_read", "output"]
        names += [name for name in used if name not in names and name in tier.rates and name != "reasoning"]
        if tier.rates["reasoning"] != tier.output:
            names.append("reasoning")
        rates = {name: tier.rates[name] for name in names}
        units = {name: self.unit_price(name) for name in used if is_unit(name)}
        rates |= {name: each for name, each in units.items() if each or self.listed_unit(name) is not None}
        if self.request:
            rates["request"] = self.request
        return {"source": self.source, **{name: f"{value:f}" for name, value in rates.items()}}

    def flags(self, usage: Usage) -> list[str]:
        """Flags for buckets and units that the call used and that have no listed price."""
        if not usage.parts:
            return []
        listed = self.tier(usage.input).listed
        flags = []
        if any(name not in listed and name.endswith(("_input", "_output")) for name in usage.parts):
            flags.append("media_priced_as_text")
        if any(name in MAX_UNIT_PRICES and name not in self.units for name in usage.parts):
            flags.append("unit_without_price")
        return flags


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """An operator's entry for a model: its price, where it is served (`provider`, `upstream_model`), and its kind
    (`model_names`) if the name does not tell."""

    price: ModelPrice | None
    provider: str | None = None
    upstream_model: str | None = None
    name: str = ""
    """The model name as the operator spelled it."""
    kind: str | None = None


class PriceTable:
    """Price lookup of one process, with a cache."""

    def __init__(
        self,
        overrides: Mapping[str, PriceOverride] | None = None,
        approved: Callable[[str, str], ModelPrice | None] | None = None,
    ) -> None:
        self.overrides = dict(overrides or {})
        self._approved = approved
        self._cache: dict[tuple[str, str], tuple[float, ModelPrice | None]] = {}

    @classmethod
    def load(
        cls, path: Path | None, approved: Callable[[str, str], ModelPrice | None] | None = None
    ) -> "PriceTable":
        """The table with the overrides in the operator's file, if set, and the prices of approved imports by table and name. Raises
        SettingsError if the file is invalid."""
        from models.gateway.price_file import read_overrides  # which builds on this module

        return cls(read_overrides(path) if path else None, approved)

    def find(
        self, table: str, requested: str, upstream: str, answered: str | None = None
    ) -> ModelPrice | None:
        """The price of a call; None if missing.

        `table`: the provider's name in the shipped table. `requested`: the model name that the client sent.
        `upstream`: the provider's name for it. `answered`: the model in the response; preferred in the shipped table,
        because a fallback is priced as the model that answered.
        """
        base, variant = model_names.split_variant(upstream)
        if (
            variant
            and answered
            and (row := model_names.price_row(table, base))
            and row is model_names.price_row(table, answered)
        ):
            answered = None  # the response names the base model, but the variant is charged
        return self.operator_price(requested, answered, upstream, table=table) or next(
            (price for name in (answered, upstream) if name and (price := self._shipped(table, name))), None
        )

    def operator_price(self, *names: str | None, table: str = "") -> ModelPrice | None:
        """The operator's price of the first of these names that has one: in the file, or else in an approved import, which may be
        for one provider's `table` only."""
        for name in names:
            override = self.overrides.get(name.lower()) if name else None
            if override and override.price:
                return override.price
        for name in names if self._approved else ():
            if name and self._approved and (price := self._approved(table, name)):
                return price
        return None

    def _shipped(self, table: str, name: str) -> ModelPrice | None:
        now = datetime.now(UTC)
        cached = self._cache.get((table, name))
        if cached and now.timestamp() - cached[0] < CACHE_SECONDS:
            return cached[1]
        if len(self._cache) > 4096:
            self._cache.clear()
        price = shipped_price(table, name, now) or (variant_price(name, now) if table == VARIANTS else None)
        self._cache[table, name] = (now.timestamp(), price)
        return price


def flat(input: Decimal | int | str, output: Decimal | int | str, *, source: str = "stoa") -> ModelPrice:
    """A price with one rate for all input and one for all output, in dollars per million tokens."""
    return ModelPrice(source, (tier_of(0, {"input": Decimal(input), "output": Decimal(output)}),))


def shipped_price(table: str, name: str, at: datetime) -> ModelPrice | None:
    """A model's price in the `genai-prices` version of this release; None if it is not listed."""
    model = model_names.price_row(table, name)
    if model is None:
        return None
    listed = {key: value for key, value in model.get_prices(at).__dict__.items() if value is not None}
    if not _NON_CHAT_PRICES.isdisjoint(listed) and model_names.kind_of(name) == model_names.CHAT:
        return None
    units = {
        name: _base(listed[key]) * share
        for key, (name, share) in _UNITS.items()
        if listed.get(key) is not None
    }
    if "input_mtok" not in listed and "output_mtok" not in listed and not units:
        return (
            flat(0, 0, source=f"genai-prices:{table}/{model.id}") if model.id.endswith(FREE_SUFFIX) else None
        )
    starts = {0} | {
        tier.start for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    own = _OUTPUT_OF_KIND.get(model_names.kind_of(name))
    if own and listed.get("output_mtok") is not None:
        # such a model has no other output, or lists it apart
        listed.setdefault(own, listed["output_mtok"])
    tiers = tuple(_tier(listed, start) for start in sorted(starts))
    request = units.pop("request", Decimal(0))
    if not request and _SEARCHES.search(name.lower()):
        request = MAX_UNIT_PRICES["web_searches"]
    rates = [request, *units.values(), *(rate for tier in tiers for rate in tier.rates.values())]
    if not all(rate.is_finite() and 0 <= rate <= MAX_RATE for rate in rates):
        return None
    return ModelPrice(
        f"genai-prices:{table}/{model.id}",
        tiers,
        request,
        units,
        model.context_window,
        model_names.max_output(name),
    )


_SEARCHES = re.compile(r"-search-(?:preview|api)(?:-|$)")
"""OpenAI models that search the web on every call, which is charged in addition to tokens and not reported."""

_BUCKETS = {
    "input_mtok": "input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "cache_read_mtok": "cache_read",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "input_video_mtok": "video_input",
    "cache_audio_read_mtok": "cached_audio",
    "cache_image_read_mtok": "cached_image",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
    "output_video_mtok": "video_output",
}
_OUTPUT_OF_KIND = {"image": "output_image_mtok", "speech": "output_audio_mtok"}
_THOUSANDTH = Decimal("0.001")
_UNITS = {
    "requests_kcount": ("request", _THOUSANDTH),
    "web_searches_kcount": ("web_searches", _THOUSANDTH),
    "storage_searches_kcount": ("file_searches", _THOUSANDTH),
    "input_mchars": ("characters", 1 / MILLION),
    "input_audio_hours": ("seconds", 1 / Decimal(3600)),
}
"""Prices per unit in the shipped table: our unit, and its share of theirs."""
_NON_CHAT_PRICES = {"audio_hours", "input_audio_hours", "input_mchars", "input_text_messages_kcount"}
"""Prices for units that chat completions do not report. Chat models with one are treated as unpriced."""


def variant_price(name: str, at: datetime) -> ModelPrice | None:
    """The price of an OpenRouter variant without a row of its own; None if the base model has none either.

    A variant that may use a more expensive host, or searches the web, is priced at twice the base model plus a search.
    This price is only for the hold: the charge is the cost that OpenRouter reports.
    """
    base, variant = model_names.split_variant(name)
    price = shipped_price(VARIANTS, base, at) if variant else None
    if price is None or variant in CHEAPER:
        return price
    tiers = tuple(_doubled(tier) for tier in price.tiers)
    return replace(
        price, source=f"{price.source} twice", tiers=tiers, request=price.request * 2 + SEARCH_DOLLARS
    )


def _doubled(tier: PriceTier) -> PriceTier:
    return replace(tier, rates={bucket: rate * 2 for bucket, rate in tier.rates.items()})


def _tier(listed: Mapping[str, Any], start: int) -> PriceTier:
    given: dict[str, Decimal] = {}
    for key, bucket in _BUCKETS.items():
        value = listed.get(key)
        if isinstance(value, TieredPrices):
            reached = [tier.price for tier in value.tiers if tier.start <= start]
            value = reached[-1] if start and reached else value.base
        if value is not None:
            given[bucket] = value
    return tier_of(start, given)


def _base(value: Any) -> Decimal:
    return value.base if isinstance(value, TieredPrices) else value
