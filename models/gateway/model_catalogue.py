"""The models that this server serves, with what is known of each, for people: search, filter and sort."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from models.core.errors import DomainError
from models.gateway import model_names
from models.gateway.aliases import describe
from models.gateway.model_abilities import ABILITIES, abilities_of
from models.gateway.pricing import ModelPrice, PriceTier
from models.gateway.route import Route
from models.gateway.routing import Router

MAIN_BUCKETS = ("input", "cache_read", "cache_write", "output")
BUCKETS = {
    "input": "Input",
    "cache_read": "Cached input",
    "cache_write": "Cache write",
    "output": "Output",
    "cache_write_30m": "Cache write, 30 minutes",
    "cache_write_1h": "Cache write, 1 hour",
    "cache_write_12h": "Cache write, 12 hours",
    "reasoning": "Reasoning",
    "audio_input": "Audio input",
    "cached_audio": "Cached audio",
    "audio_output": "Audio output",
    "image_input": "Image input",
    "cached_image": "Cached images",
    "image_output": "Image output",
    "video_input": "Video input",
    "cached_video": "Cached video",
    "video_output": "Video output",
}
"""Names of the buckets of tokens that have a price of their own."""
UNIT_NAMES = {
    "request": "Each call",
    "web_searches": "Each web search",
    "file_searches": "Each file search",
    "images": "Each image",
    "seconds": "Each second of audio",
    "characters": "Each character",
    "search_units": "Each search",
}
PAGE_WORDS, PAGE_TOKENS = 500, 667
"""A page of text. English has about four tokens in three words."""


@dataclass(frozen=True)
class ServedModel:
    """A model with its provider. `margin` is the operator's: prices are what a call is charged, in dollars."""

    route: Route
    margin: Decimal

    @property
    def id(self) -> str:
        """The name to call it by."""
        return self.route.name

    @property
    def alias_of(self) -> str | None:
        """The models that it stands for, in words; None if it is no alias."""
        return describe(self.route.alias) if self.route.alias else None

    @cached_property
    def title(self) -> str:
        """The name that the price table gives it; empty if it gives none, and for aliases."""
        if self.route.alias:
            return ""
        table, base = self.route.provider.table, model_names.split_variant(self.route.model)[0]
        row = model_names.price_row(table, base) if model_names.listed(table, base) else None
        return (row and row.name) or ""

    @property
    def price(self) -> ModelPrice | None:
        """The price without margin; None if the provider reports the cost of each call."""
        return self.route.price

    @property
    def context_window(self) -> int | None:
        """Limit of input and output tokens together; None if unknown."""
        return (self.price and self.price.context_window) or self.route.context_window

    @property
    def max_output(self) -> int | None:
        """Limit of output tokens; None if unknown."""
        return self.price.max_output if self.price else None

    @cached_property
    def rates(self) -> Mapping[str, Decimal]:
        """Charged dollars per million tokens of `MAIN_BUCKETS`, in the first tier; empty without a price."""
        return self._charged(self.price.tiers[0]) if self.price else {}

    @property
    def tiers(self) -> Sequence[tuple[int, Mapping[str, Decimal]]]:
        """The further tiers: the input tokens above which they apply, and their charged rates of `MAIN_BUCKETS`."""
        tiers = self.price.tiers[1:] if self.price else ()
        return [(tier.above, self._charged(tier)) for tier in tiers]

    @property
    def ways(self) -> Mapping[str, Mapping[str, Decimal]]:
        """Charged rates of `MAIN_BUCKETS` by other ways to be served, in the first tier."""
        return (
            {way: self._charged(each.tiers[0]) for way, each in self.price.variants.items()}
            if self.price
            else {}
        )

    @property
    def other_rates(self) -> Mapping[str, Decimal]:
        """Charged dollars per million tokens of the other buckets with a listed price, in the first tier."""
        tier = self.price.tiers[0] if self.price else None
        names = [name for name in BUCKETS if tier and name in tier.listed and name not in MAIN_BUCKETS]
        return {name: self._with_margin(tier.rates[name]) for name in names if tier}

    @property
    def units(self) -> Mapping[str, Decimal]:
        """Charged dollars per unit, where listed."""
        listed = {"request": self.price.request, **self.price.units} if self.price else {}
        return {name: self._with_margin(each) for name, each in listed.items() if each}

    @cached_property
    def abilities(self) -> Sequence[str]:
        """Keys of `ABILITIES`: what it is known to do."""
        return abilities_of(self.route.model, self.price)

    @property
    def chats(self) -> bool:
        """Whether it takes chat completions."""
        return self.route.kind == model_names.CHAT

    @property
    def capabilities(self) -> Sequence[str]:
        """The same, in words; of a model of another kind what it does."""
        if not self.chats:
            return [model_names.KINDS[self.route.kind]]
        return [ABILITIES[each] for each in self.abilities]

    @cached_property
    def page_cost(self) -> Decimal | None:
        """Charged dollars for a call that reads a page of text and writes one; None without a price, and of other models than chat
        models."""
        if self.price is None or not self.chats:
            return None
        return self._with_margin(self.price.minimum_cost(PAGE_TOKENS, PAGE_TOKENS))

    def _charged(self, tier: PriceTier) -> Mapping[str, Decimal]:
        return {name: self._with_margin(tier.rates[name]) for name in MAIN_BUCKETS}

    def _with_margin(self, dollars: Decimal) -> Decimal:
        return dollars * (1 + self.margin)


SORTS: dict[str, Callable[[ServedModel], Any]] = {
    "name": lambda each: 0,
    "input": lambda each: each.rates.get("input", Decimal("Infinity")),
    "output": lambda each: each.rates.get("output", Decimal("Infinity")),
    "page": lambda each: Decimal("Infinity") if each.page_cost is None else each.page_cost,
    "context": lambda each: -(each.context_window or 0),
}
"""Keys of the orders. Models that are equal, or whose value is unknown, follow by name."""


@dataclass(frozen=True)
class ModelFilter:
    """Which models to list: `text` in the name, the provider's name, a key of `ABILITIES` or a kind, the fewest tokens of context, and the
    most that a million output tokens may cost, in charged dollars. Models of which it is unknown are left out."""

    text: str = ""
    provider: str = ""
    max_output_price: Decimal | None = None
    sort: str = "name"
    ability: str = ""
    context: int = 0

    def accepts(self, model: ServedModel) -> bool:
        """Whether the model is listed."""
        name = f"{model.id} {model.title}".lower()
        if not all(word in name for word in self.text.lower().split()):
            return False
        if self.provider and model.route.provider.name != self.provider:
            return False
        if self.ability and self.ability not in (*model.abilities, model.route.kind):
            return False
        if self.context and (model.context_window or 0) < self.context:
            return False
        limit = self.max_output_price
        return limit is None or model.rates.get("output", Decimal("Infinity")) <= limit


def unit_title(unit: str) -> str:
    """The name of a unit: `images:1024x1024:hd` is `Each image, 1024x1024 hd`."""
    base, _, size = unit.partition(":")
    return UNIT_NAMES[base] + (f", {size.replace(':', ' ')}" if size else "")


def served_models(router: Router, margin: Decimal) -> list[ServedModel]:
    """All listed models, by name; the demo model first."""
    return [ServedModel(route, margin) for route in router.all_models()]


def find_models(models: Sequence[ServedModel], filter: ModelFilter) -> list[ServedModel]:
    """The models that the filter accepts, in its order."""
    return sorted((each for each in models if filter.accepts(each)), key=SORTS[filter.sort])


def find_model(models: Sequence[ServedModel], name: str) -> ServedModel | None:
    """The listed model with this id, ignoring case."""
    return next((each for each in models if each.id.lower() == name.lower()), None)


def aliases(router: Router, model: ServedModel) -> list[str]:
    """Other names that this server routes to the same model of the same provider, by name."""
    route, provider = model.route, model.route.provider
    base = model_names.split_variant(route.model)[0]
    names = {route.model, *(f"{prefix}/{route.model}" for prefix in provider.prefixes)}
    names |= set(model_names.exact_names(provider.table, base))
    names |= {
        override.name or name for name, override in router.prices.overrides.items() if override.upstream_model
    }
    names |= {alias.name for alias in router.aliases.values() if len(alias.models) == 1}
    found = set()
    for name in names - {model.id}:
        with suppress(DomainError):
            other = router.find(name)
            if (other.provider, other.model) == (provider, route.model):
                found.add(name)
    return sorted(found)
