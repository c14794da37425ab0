"""What a model costs: operators' overrides, then the table shipped with the release. Never fetched, never float.

A price is set, explicitly zero, or missing; what is missing is refused by name unless the provider reports
the cost of each call itself.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from genai_prices.types import TieredPrices

from models.gateway import names
from models.gateway.wire import Usage
from models.settings import SettingsError

MILLION = Decimal(1_000_000)
MOST = Decimal(10_000)
"""Dollars per million tokens. A dearer price is a mistake."""

FRESH_SECONDS = 60
"""How long a looked-up price is kept; some prices change with the hour."""

VARIANTS = "openrouter"
"""The table whose names have variants."""
FREE = ":free"
CHEAPER = ("batch", "floor", "free")
"""Variants that OpenRouter never charges more for than for their base."""
WEB_SEARCH = Decimal("0.05")
"""Dollars. More than OpenRouter takes for the searches of one call (`:online`)."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Dollars per million tokens, from `above` input tokens on (for all tokens of the call)."""

    above: int
    input: Decimal
    cache_write: Decimal
    cache_read: Decimal
    output: Decimal
    reasoning: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of one model. `tiers` go up by `above`, the first from 0; `request` is dollars per call."""

    source: str
    tiers: tuple[Tier, ...]
    request: Decimal = Decimal(0)

    @property
    def zero(self) -> bool:
        """Explicitly free."""
        return not self.request and all(
            not (tier.input or tier.cache_write or tier.cache_read or tier.output or tier.reasoning)
            for tier in self.tiers
        )

    def tier(self, input_tokens: int) -> Tier:
        """The tier that a call with so many input tokens pays, for all its tokens."""
        return next(tier for tier in reversed(self.tiers) if input_tokens > tier.above or not tier.above)

    def cost(self, usage: Usage) -> Decimal:
        """Dollars of a call, exactly."""
        tier = self.tier(usage.input)
        reasoning = min(usage.reasoning, usage.output)
        return (
            self.request
            + (
                tier.input * usage.uncached_input
                + tier.cache_write * usage.cache_write
                + tier.cache_read * usage.cache_read
                + tier.output * (usage.output - reasoning)
                + tier.reasoning * reasoning
            )
            / MILLION
        )

    def worst(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Dollars of a call when nothing comes from a cache and every figure is as high as it can be."""
        tier = self.tier(input_tokens)
        return (
            self.request
            + (
                max(tier.input, tier.cache_write) * input_tokens
                + max(tier.output, tier.reasoning) * output_tokens
            )
            / MILLION
        )

    def snapshot(self, usage: Usage) -> dict[str, str]:
        """The figures that priced a call, dollars per million tokens as text, to be kept with it."""
        tier = self.tier(usage.input)
        figures = {
            "input": tier.input,
            "cache_write": tier.cache_write,
            "cache_read": tier.cache_read,
            "output": tier.output,
        }
        if tier.reasoning != tier.output:
            figures["reasoning"] = tier.reasoning
        if self.request:
            figures["request"] = self.request
        return {"source": self.source, **{name: f"{value:f}" for name, value in figures.items()}}


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator said of a model: its price, and where it is served (`provider`, `upstream_model`)."""

    price: Price | None
    provider: str | None = None
    upstream_model: str | None = None
    name: str = ""
    """The model as the operator spelt it."""


class Prices:
    """The price table of a process."""

    def __init__(self, overrides: Mapping[str, Override] | None = None) -> None:
        self.overrides = dict(overrides or {})
        self._kept: dict[tuple[str, str], tuple[float, Price | None]] = {}

    @classmethod
    def load(cls, path: Path | None) -> "Prices":
        """The table with the operator's file, if there is one. Raises SettingsError when it cannot be used."""
        return cls(read_overrides(path) if path else None)

    def find(self, table: str, requested: str, upstream: str, answered: str | None = None) -> Price | None:
        """The price of a call; None when it is missing.

        `table` is the provider's name in the shipped table, `requested` the name the client used, `upstream`
        the provider's own, `answered` the model that the provider says it was: it wins within a table, since a
        fallback is priced as what answered.
        """
        base, variant = names.split_variant(upstream)
        if variant and answered and (row := names.row(table, base)) and row is names.row(table, answered):
            answered = None  # the answer names the base, and the variant is what is paid for
        for name in (requested, answered, upstream):
            override = self.overrides.get(name.lower()) if name else None
            if override and override.price:
                return override.price
        for name in (answered, upstream):
            if name and (price := self._shipped(table, name)):
                return price
        return None

    def _shipped(self, table: str, name: str) -> Price | None:
        now = datetime.now(UTC)
        kept = self._kept.get((table, name))
        if kept and now.timestamp() - kept[0] < FRESH_SECONDS:
            return kept[1]
        if len(self._kept) > 4096:
            self._kept.clear()
        price = shipped_price(table, name, now) or (variant_price(name, now) if table == VARIANTS else None)
        self._kept[table, name] = (now.timestamp(), price)
        return price


def flat(input: Decimal | int | str, output: Decimal | int | str, *, source: str = "stoa") -> Price:
    """One price for all input and one for all output, dollars per million tokens."""
    put, out = Decimal(input), Decimal(output)
    return Price(source, (Tier(0, put, put, put, out, out),))


def shipped_price(table: str, name: str, at: datetime) -> Price | None:
    """A model's price in `genai-prices` as it was when this release was made; None when it is not listed there."""
    model = names.row(table, name)
    if model is None:
        return None
    listed = {key: value for key, value in model.get_prices(at).__dict__.items() if value is not None}
    if "input_mtok" not in listed and "output_mtok" not in listed:
        return flat(0, 0, source=f"genai-prices:{table}/{model.id}") if model.id.endswith(FREE) else None
    starts = {0} | {
        tier.start for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    tiers = tuple(_tier(listed, start) for start in sorted(starts))
    per_thousand = listed.get("requests_kcount", Decimal(0))
    request = (per_thousand.base if isinstance(per_thousand, TieredPrices) else per_thousand) / 1000
    figures = [request, *(figure for tier in tiers for figure in _figures(tier))]
    if not all(figure.is_finite() and 0 <= figure <= MOST for figure in figures):
        return None
    return Price(f"genai-prices:{table}/{model.id}", tiers, request)


def variant_price(name: str, at: datetime) -> Price | None:
    """The price of an OpenRouter variant that has no row of its own; None when its base has none either.

    A variant that OpenRouter may send to a dearer host, or that searches the web, is priced at twice the base and a
    search: the cost that OpenRouter reports is what is charged, and this what is held until then.
    """
    base, variant = names.split_variant(name)
    price = shipped_price(VARIANTS, base, at) if variant else None
    if price is None or variant in CHEAPER:
        return price
    tiers = tuple(_twice(tier) for tier in price.tiers)
    return replace(price, source=f"{price.source} twice", tiers=tiers, request=price.request * 2 + WEB_SEARCH)


def _twice(tier: Tier) -> Tier:
    figures: dict[str, Any] = {
        key: each * 2 for key, each in asdict(tier).items() if isinstance(each, Decimal)
    }
    return replace(tier, **figures)


def _tier(listed: Mapping[str, Any], start: int) -> Tier:
    def figure(key: str) -> Decimal | None:
        value = listed.get(key)
        if isinstance(value, TieredPrices):
            reached = [tier.price for tier in value.tiers if tier.start <= start]
            return reached[-1] if start and reached else value.base
        return value

    put, out = figure("input_mtok") or Decimal(0), figure("output_mtok") or Decimal(0)
    write, read, thought = (
        figure(key) for key in ("cache_write_mtok", "cache_read_mtok", "output_reasoning_mtok")
    )
    return Tier(
        start,
        put,
        put if write is None else write,
        put if read is None else read,
        out,
        out if thought is None else thought,
    )


def _figures(tier: Tier) -> tuple[Decimal, ...]:
    return tier.input, tier.cache_write, tier.cache_read, tier.output, tier.reasoning


# -- the operator's file -------------------------------------------------------------------------------------

_KEYS = {"input", "cached_input", "cache_write", "output", "provider", "upstream_model"}


def read_overrides(path: Path) -> dict[str, Override]:
    """The operator's file: TOML or JSON, a table per model with dollars per million tokens.

    Raises SettingsError with a sentence that names the model and the key.
    """
    try:
        raw = path.read_text(encoding="utf-8")
        table = (
            tomllib.loads(raw, parse_float=Decimal)
            if path.suffix.lower() == ".toml"
            else json.loads(raw, parse_float=Decimal, parse_constant=Decimal)
        )
    except OSError as error:
        raise SettingsError(f"STOA_PRICES_FILE: {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise SettingsError(f"STOA_PRICES_FILE: {path} is neither TOML nor JSON ({error}).") from None
    if not isinstance(table, dict):
        raise SettingsError(f"STOA_PRICES_FILE: {path} must hold one table per model.")
    return {
        str(name).strip().lower(): replace(_override(name, entry), name=str(name).strip())
        for name, entry in table.items()
    }


def _override(name: str, entry: Any) -> Override:
    def wrong(key: str, words: str) -> SettingsError:
        return SettingsError(f"STOA_PRICES_FILE: {key!r} of {name!r} {words}.")

    if not isinstance(entry, dict):
        raise SettingsError(f"STOA_PRICES_FILE: {name!r} must be a table with 'input' and 'output'.")
    if unknown := set(entry) - _KEYS:
        raise wrong(min(unknown), f"is not one of {', '.join(sorted(_KEYS))}")
    for key in ("provider", "upstream_model"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise wrong(key, "must be a name")
    figures: dict[str, Decimal] = {}
    for key in ("input", "cached_input", "cache_write", "output"):
        if key not in entry:
            continue
        value = entry[key]
        try:
            if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
                raise ValueError
            figures[key] = Decimal(value)
            if not figures[key].is_finite():
                raise ValueError
        except (ValueError, ArithmeticError):
            raise wrong(key, "must be a number of dollars per million tokens") from None
        if not 0 <= figures[key] <= MOST:
            raise wrong(key, f"must be from 0 to {MOST} dollars per million tokens")
    price = None
    if figures:
        for key in ("input", "output"):
            if key not in figures:
                raise wrong(key, "is missing: give both, or neither")
        base = flat(figures["input"], figures["output"], source="operator")
        tier = replace(
            base.tiers[0],
            cache_read=figures.get("cached_input", figures["input"]),
            cache_write=figures.get("cache_write", figures["input"]),
        )
        price = replace(base, tiers=(tier,))
    return Override(price, entry.get("provider"), entry.get("upstream_model"))
