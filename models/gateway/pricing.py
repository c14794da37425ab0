"""What a model costs: operators' overrides, then the table shipped with the release. Never fetched, never float.

A price is set, explicitly zero, or missing; what is missing is refused by name unless the provider reports
the cost of each call itself.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genai_prices.types import TieredPrices

from models.core.settings import SettingsError
from models.gateway import model_names
from models.gateway.chat_format import Usage
from models.gateway.chat_format.token_usage import MEDIA, UNITS

MILLION = Decimal(1_000_000)
MOST = Decimal(10_000)
"""Dollars per million tokens. A dearer price is a mistake."""

DEAREST_PIECE = {"web_searches": Decimal("0.035"), "file_searches": Decimal("0.0025")}
"""Dollars for one search at whoever takes most."""

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
class PriceTier:
    """Dollars per million tokens of each bucket, from `above` input tokens on (for all tokens of the call). `own` names
    the buckets whose price was said; that of the others follows from those."""

    above: int
    figures: Mapping[str, Decimal]
    own: frozenset[str]

    @property
    def input(self) -> Decimal:
        """Of text that comes from no cache."""
        return self.figures["input"]

    @property
    def cache_write(self) -> Decimal:
        """Of what is written to a cache."""
        return self.figures["cache_write"]

    @property
    def cache_read(self) -> Decimal:
        """Of what is read from a cache."""
        return self.figures["cache_read"]

    @property
    def output(self) -> Decimal:
        """Of text that is written."""
        return self.figures["output"]


def tier_of(above: int, said: Mapping[str, Decimal]) -> PriceTier:
    """A tier with the prices that were said, and for every other bucket the dearest that it could have: a cache that
    has no price is input at full price, media are priced as text, and a cached medium as an uncached one."""
    put = said.get("input", Decimal(0))
    figures = {"input": put, "cache_write": put, "cache_read": put, "output": Decimal(0), **said}
    write = figures["cache_write"]
    # where writing costs more than reading anew, a longer life costs twice the input (Anthropic)
    lasting = max(write, 2 * put) if write > put else write
    figures.setdefault("cache_write_30m", write)
    figures.setdefault("cache_write_1h", lasting)
    figures.setdefault("cache_write_12h", max(lasting, figures["cache_write_1h"]))
    for medium in MEDIA:
        cached = figures[f"{medium}_input"] if f"{medium}_input" in said else figures["cache_read"]
        figures.setdefault(f"{medium}_input", put)
        figures.setdefault(f"cached_{medium}", cached)
        figures.setdefault(f"{medium}_output", figures["output"])
    figures.setdefault("reasoning", figures["output"])
    return PriceTier(above, figures, frozenset(said))


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model. `tiers` go up by `above`, the first from 0; `request` is dollars per call, `units` dollars
    for each of what is charged by the piece."""

    source: str
    tiers: tuple[PriceTier, ...]
    request: Decimal = Decimal(0)
    units: Mapping[str, Decimal] = field(default_factory=dict)
    longest: int | None = None
    """Tokens that input and output together cannot exceed, where that is known."""
    most_output: int | None = None
    """Tokens that no answer exceeds, where that is known."""

    @property
    def zero(self) -> bool:
        """Explicitly free."""
        figures = (figure for tier in self.tiers for figure in tier.figures.values())
        return not self.request and not any(self.units.values()) and not any(figures)

    def tier(self, input_tokens: int) -> PriceTier:
        """The tier that a call with so many input tokens pays, for all its tokens."""
        return next(tier for tier in reversed(self.tiers) if input_tokens > tier.above or not tier.above)

    def cost(self, usage: Usage) -> Decimal:
        """Dollars of a call, exactly."""
        figures = self.tier(usage.input).figures
        tokens = pieces = Decimal(0)
        for bucket, count in usage.buckets().items():
            if bucket in UNITS:
                pieces += self.piece(bucket) * count
            else:
                tokens += figures[bucket] * count
        return self.request + pieces + tokens / MILLION

    def piece(self, unit: str) -> Decimal:
        """Dollars for one of what is charged by the piece: at the dearest that is listed anywhere, when nobody said."""
        free = not any(tier.input or tier.output for tier in self.tiers)
        return self.units.get(unit, Decimal(0) if free else DEAREST_PIECE[unit])

    def worst(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        media: Mapping[str, int] = MappingProxyType({}),
        written: str = "cache_write",
        spoken: bool = False,
    ) -> Decimal:
        """Dollars of a call when nothing comes from a cache and every figure is as high as it can be.

        `media` is input beside the text, by bucket; `written` the bucket of what may be written to a cache; `spoken`
        whether the answer may be audio.
        """
        figures = self.tier(input_tokens + sum(media.values())).figures
        put = max(figures["input"], figures[written])
        out = max(figures["output"], figures["reasoning"], figures["image_output"])
        if spoken:
            out = max(out, figures["audio_output"])
        more = sum(max(put, figures[bucket]) * count for bucket, count in media.items())
        return self.request + (put * input_tokens + more + out * output_tokens) / MILLION

    def input_cost(self, input_tokens: int) -> Decimal:
        """Dollars of the input alone, as text that comes from no cache and goes to none."""
        return self.request + self.tier(input_tokens).input * input_tokens / MILLION

    def snapshot(self, usage: Usage) -> dict[str, str]:
        """The figures that priced a call, dollars per million tokens as text, to be kept with it; of `request` and
        units, dollars for each."""
        tier = self.tier(usage.input)
        used = usage.buckets()
        shown = ["input", "cache_write", "cache_read", "output"]
        shown += [name for name in used if name not in shown and name in tier.figures and name != "reasoning"]
        if tier.figures["reasoning"] != tier.output:
            shown.append("reasoning")
        figures = {name: tier.figures[name] for name in shown}
        figures |= {name: self.piece(name) for name in used if name in UNITS}
        if self.request:
            figures["request"] = self.request
        return {"source": self.source, **{name: f"{value:f}" for name, value in figures.items()}}

    def flags(self, usage: Usage) -> list[str]:
        """What the table has no price for, though the call used it."""
        if not usage.parts:
            return []
        own = self.tier(usage.input).own
        flags = []
        if any(name not in own and name.endswith(("_input", "_output")) for name in usage.parts):
            flags.append("media_priced_as_text")
        if any(name in UNITS and name not in self.units for name in usage.parts):
            flags.append("unit_without_price")
        return flags


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """What an operator said of a model: its price, and where it is served (`provider`, `upstream_model`)."""

    price: ModelPrice | None
    provider: str | None = None
    upstream_model: str | None = None
    name: str = ""
    """The model as the operator spelt it."""


class PriceTable:
    """The price table of a process."""

    def __init__(self, overrides: Mapping[str, PriceOverride] | None = None) -> None:
        self.overrides = dict(overrides or {})
        self._kept: dict[tuple[str, str], tuple[float, ModelPrice | None]] = {}

    @classmethod
    def load(cls, path: Path | None) -> "PriceTable":
        """The table with the operator's file, if there is one. Raises SettingsError when it cannot be used."""
        return cls(read_overrides(path) if path else None)

    def find(
        self, table: str, requested: str, upstream: str, answered: str | None = None
    ) -> ModelPrice | None:
        """The price of a call; None when it is missing.

        `table` is the provider's name in the shipped table, `requested` the name the client used, `upstream`
        the provider's own, `answered` the model that the provider says it was: it wins within a table, since a
        fallback is priced as what answered.
        """
        base, variant = model_names.split_variant(upstream)
        if (
            variant
            and answered
            and (row := model_names.row(table, base))
            and row is model_names.row(table, answered)
        ):
            answered = None  # the answer names the base, and the variant is what is paid for
        for name in (requested, answered, upstream):
            override = self.overrides.get(name.lower()) if name else None
            if override and override.price:
                return override.price
        for name in (answered, upstream):
            if name and (price := self._shipped(table, name)):
                return price
        return None

    def _shipped(self, table: str, name: str) -> ModelPrice | None:
        now = datetime.now(UTC)
        kept = self._kept.get((table, name))
        if kept and now.timestamp() - kept[0] < FRESH_SECONDS:
            return kept[1]
        if len(self._kept) > 4096:
            self._kept.clear()
        price = shipped_price(table, name, now) or (variant_price(name, now) if table == VARIANTS else None)
        self._kept[table, name] = (now.timestamp(), price)
        return price


def flat(input: Decimal | int | str, output: Decimal | int | str, *, source: str = "stoa") -> ModelPrice:
    """One price for all input and one for all output, dollars per million tokens."""
    return ModelPrice(source, (tier_of(0, {"input": Decimal(input), "output": Decimal(output)}),))


def shipped_price(table: str, name: str, at: datetime) -> ModelPrice | None:
    """A model's price in `genai-prices` as it was when this release was made; None when it is not listed there."""
    model = model_names.row(table, name)
    if model is None:
        return None
    listed = {key: value for key, value in model.get_prices(at).__dict__.items() if value is not None}
    if not _NOT_OF_CHATS.isdisjoint(listed):
        return None
    if "input_mtok" not in listed and "output_mtok" not in listed:
        return flat(0, 0, source=f"genai-prices:{table}/{model.id}") if model.id.endswith(FREE) else None
    starts = {0} | {
        tier.start for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    tiers = tuple(_tier(listed, start) for start in sorted(starts))
    units = {name: _base(listed[key]) / 1000 for key, name in _UNITS.items() if key in listed}
    request = units.pop("request", Decimal(0))
    if not request and _SEARCHES.search(name.lower()):
        request = DEAREST_PIECE["web_searches"]
    figures = [request, *units.values(), *(figure for tier in tiers for figure in tier.figures.values())]
    if not all(figure.is_finite() and 0 <= figure <= MOST for figure in figures):
        return None
    return ModelPrice(
        f"genai-prices:{table}/{model.id}",
        tiers,
        request,
        units,
        model.context_window,
        model_names.longest_answer(name),
    )


_SEARCHES = re.compile(r"-search-(?:preview|api)(?:-|$)")
"""OpenAI's models that search the web with each call, which is charged beside the tokens and not reported."""

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
_UNITS = {
    "requests_kcount": "request",
    "web_searches_kcount": "web_searches",
    "storage_searches_kcount": "file_searches",
}
_NOT_OF_CHATS = {"audio_hours", "input_audio_hours", "input_mchars", "input_text_messages_kcount"}
"""Prices of what no chat completion reports: who has them is not priced here."""


def variant_price(name: str, at: datetime) -> ModelPrice | None:
    """The price of an OpenRouter variant that has no row of its own; None when its base has none either.

    A variant that OpenRouter may send to a dearer host, or that searches the web, is priced at twice the base and a
    search: the cost that OpenRouter reports is what is charged, and this what is held until then.
    """
    base, variant = model_names.split_variant(name)
    price = shipped_price(VARIANTS, base, at) if variant else None
    if price is None or variant in CHEAPER:
        return price
    tiers = tuple(_twice(tier) for tier in price.tiers)
    return replace(price, source=f"{price.source} twice", tiers=tiers, request=price.request * 2 + WEB_SEARCH)


def _twice(tier: PriceTier) -> PriceTier:
    return replace(tier, figures={bucket: figure * 2 for bucket, figure in tier.figures.items()})


def _tier(listed: Mapping[str, Any], start: int) -> PriceTier:
    said: dict[str, Decimal] = {}
    for key, bucket in _BUCKETS.items():
        value = listed.get(key)
        if isinstance(value, TieredPrices):
            reached = [tier.price for tier in value.tiers if tier.start <= start]
            value = reached[-1] if start and reached else value.base
        if value is not None:
            said[bucket] = value
    return tier_of(start, said)


def _base(value: Any) -> Decimal:
    return value.base if isinstance(value, TieredPrices) else value


# -- the operator's file -------------------------------------------------------------------------------------

_FIGURES = {
    "input": "input",
    "cached_input": "cache_read",
    "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1h",
    "audio_input": "audio_input",
    "cached_audio": "cached_audio",
    "image_input": "image_input",
    "cached_image": "cached_image",
    "output": "output",
    "reasoning": "reasoning",
    "audio_output": "audio_output",
    "image_output": "image_output",
}
_PIECES = {"request": "request", "web_search": "web_searches", "file_search": "file_searches"}
"""Dollars for each, not for a million."""
_KEYS = {*_FIGURES, *_PIECES, "max_output", "provider", "upstream_model"}


def read_overrides(path: Path) -> dict[str, PriceOverride]:
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


def _override(name: str, entry: Any) -> PriceOverride:
    def wrong(key: str, words: str) -> SettingsError:
        return SettingsError(f"STOA_PRICES_FILE: {key!r} of {name!r} {words}.")

    if not isinstance(entry, dict):
        raise SettingsError(f"STOA_PRICES_FILE: {name!r} must be a table with 'input' and 'output'.")
    if unknown := set(entry) - _KEYS:
        raise wrong(min(unknown), f"is not one of {', '.join(sorted(_KEYS))}")
    for key in ("provider", "upstream_model"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise wrong(key, "must be a name")
    longest = entry.get("max_output")
    if longest is not None and not (type(longest) is int and longest > 0):
        raise wrong("max_output", "must be a whole number of tokens")
    figures: dict[str, Decimal] = {}
    for key in (*_FIGURES, *_PIECES):
        if key not in entry:
            continue
        value = entry[key]
        unit = "dollars" if key in _PIECES else "dollars per million tokens"
        try:
            if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
                raise ValueError
            figures[key] = Decimal(value)
            if not figures[key].is_finite():
                raise ValueError
        except (ValueError, ArithmeticError):
            raise wrong(key, f"must be a number of {unit}") from None
        if not 0 <= figures[key] <= MOST:
            raise wrong(key, f"must be from 0 to {MOST} {unit}")
    price = None
    if figures:
        for key in ("input", "output"):
            if key not in figures:
                raise wrong(key, "is missing: give both, or neither")
        tier = tier_of(0, {bucket: figures[key] for key, bucket in _FIGURES.items() if key in figures})
        units = {name: figures[key] for key, name in _PIECES.items() if key in figures}
        request = units.pop("request", Decimal(0))
        longest = longest or model_names.longest_answer(entry.get("upstream_model") or name)
        price = ModelPrice("operator", (tier,), request, units, most_output=longest)
    elif longest is not None:
        raise wrong("max_output", "belongs to a price: give 'input' and 'output', too")
    return PriceOverride(price, entry.get("provider"), entry.get("upstream_model"))
