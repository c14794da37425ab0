"""Which provider serves a model, at what price; and the refusals when none does."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil

from models.core.errors import DomainError
from models.core.settings import Settings, SettingsError
from models.gateway import model_names
from models.gateway.chat_format import Call, Usage
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN, MAX_MODEL
from models.gateway.demo_model import DemoModel
from models.gateway.price_factors import KEYS, FactorReader, PriceFactors, terms_of
from models.gateway.pricing import ModelPrice, PriceTable, flat
from models.gateway.providers.anthropic import Anthropic
from models.gateway.providers.demo import MODEL as DEMO
from models.gateway.providers.demo import DemoProvider
from models.gateway.providers.gemini import RESOURCE, Gemini
from models.gateway.providers.openai import OpenAI
from models.gateway.providers.openrouter import OpenRouter
from models.gateway.providers.provider import Endpoint, Provider
from models.gateway.upstream import Egress, HttpUpstream, ProviderRequest, UpstreamTimeouts

DEFAULT_OUTPUT = 8_192
"""Tokens of output that a stream without a bound is begun with; its hold grows as it does."""
MOST_OUTPUT = 1_048_576
"""Tokens no model exceeds in one answer; a larger `max_tokens` holds no more."""
FAR_ABOVE, FAR_DOLLARS = 10, 1
"""A reported cost above so many times the listed price and so many dollars is charged, and flagged."""

MOST_KEPT = 4096
"""Routes that are kept for a minute, since some prices change with the hour."""

FALLBACK = flat(3, 15, source="fallback")
"""The price of a call whose provider reports costs and did not, for a model that no table lists."""
UNLISTED = flat(30, 180, source="unlisted")
"""What is held for a model that no table lists: all listed ones but one are cheaper."""


class NoRoute(DomainError):
    """No configured provider serves the model."""

    status = 404
    code = "model_not_found"


class NotAChatModel(DomainError):
    """The model is known, and does something else than chat."""

    status = 400
    code = "model_not_chat"


class NoPrice(DomainError):
    """The model could be reached, but nobody knows what it costs; the operator sees it listed."""

    status = 400
    code = "model_price_missing"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes. `price` is None only where the provider reports the cost itself."""

    provider: Provider
    requested: str
    model: str
    price: ModelPrice | None
    byok: str | None = None
    """The caller's own key, which then pays."""
    terms: PriceFactors = field(default_factory=PriceFactors)
    """What the request asks for beyond text."""
    dropped: tuple[str, ...] = ()
    """Keys of the request that the provider is not sent, because it would refuse them."""

    @property
    def context_window(self) -> int | None:
        """Tokens that the model reads at most; None when the price table does not say."""
        row = model_names.row(self.provider.table, model_names.split_variant(self.model)[0])
        return row.context_window if row else None

    def worst_cost(self, call: Call, answers: int) -> Decimal:
        """Dollars that the call can come to, `answers` being how many are made of one input."""
        return self.cost_up_to(call, self.expected_output(call, answers), answers)

    def expected_output(self, call: Call, answers: int) -> int:
        """Tokens of output that `worst_cost` is for. A stream is looked at as it grows; a whole answer without a bound
        may be as long as the model can make it."""
        if call.max_output is not None:
            bound = max(call.max_output, self.terms.bound)
        else:
            longest = max(self._longest(price) for price in (self.price or UNLISTED, *self.terms.prices))
            bound = min(DEFAULT_OUTPUT, longest) if call.stream else longest
        return (min(bound, MOST_OUTPUT) + self.terms.output) * answers

    def _longest(self, price: ModelPrice) -> int:
        """Tokens that no answer at this price exceeds."""
        most = price.most_output or self.provider.longest
        return min(most, price.longest or most)

    def cost_up_to(self, call: Call, output_tokens: int, answers: int) -> Decimal:
        """Dollars of the call with so much output, at the most: its text as odd as can be, a token for each byte, but
        no more of them than the model reads."""
        inputs = 1 if self.provider.native_n else answers
        terms = self.terms
        media = {bucket: count * inputs for bucket, count in terms.media.items()}
        worst = max(
            price.worst(
                _most_tokens(call.text_bytes, price.longest) * inputs,
                output_tokens,
                media=media,
                written=terms.written,
                spoken=terms.spoken,
            )
            for price in (self.price or UNLISTED, *terms.prices)
        )
        return worst * terms.factor + terms.dollars * answers

    def input_cost(self, text_tokens: int, answers: int) -> Decimal:
        """Dollars of the call's input alone, as far as that is likely."""
        inputs = 1 if self.provider.native_n else answers
        return (self.price or FALLBACK).input_cost((text_tokens + self.terms.likely) * inputs)


class Router:
    """The providers of a process, in the order in which they are asked."""

    def __init__(self, settings: Settings, prices: PriceTable) -> None:
        self.prices = prices
        self._minute, self._found = 0, dict[str, Route]()
        self._listed: tuple[int, tuple[Route, ...]] = (0, ())
        patience = UpstreamTimeouts(
            settings.stoa_connect_timeout, settings.stoa_first_byte_timeout, settings.stoa_idle_timeout
        )
        egress = Egress(
            http_proxy=settings.http_proxy.get_secret_value() if settings.http_proxy else "",
            https_proxy=settings.https_proxy.get_secret_value() if settings.https_proxy else "",
            no_proxy=settings.no_proxy,
            ca_bundle=settings.stoa_ca_bundle,
        )

        def endpoint(name: str) -> Endpoint:
            key = getattr(settings, f"{name}_api_key")
            return Endpoint(getattr(settings, f"{name}_base_url"), key.get_secret_value() if key else None)

        def made(kind: type[Provider]) -> Provider:
            return kind(endpoint(kind.name), HttpUpstream(kind.title, patience, egress))

        self.openrouter = OpenRouter(
            endpoint("openrouter"), HttpUpstream("OpenRouter", patience, egress), site=settings.base_url
        )
        self.demo = DemoProvider(Endpoint("", None), DemoModel(settings.stoa_demo_delay_ms / 1000))
        self.direct = [made(OpenAI), made(Anthropic), made(Gemini)]
        self.providers = {provider.name: provider for provider in (self.demo, *self.direct, self.openrouter)}
        for name, override in prices.overrides.items():
            if override.provider and override.provider not in self.providers:
                known = ", ".join(self.providers)
                raise SettingsError(f"STOA_PRICES_FILE: 'provider' of {name!r} must be one of {known}.")

    def find(self, model: str, *, byok: str | None = None, direct_openai: bool = False) -> Route:
        """The route of a model's name, written in any case. `byok` is the caller's own OpenRouter key, which sends the
        call there; with `direct_openai` OpenAI comes first all the same (contract 5.3).

        Raises NoRoute, NotChat or NoPrice.
        """
        if byok or direct_openai:
            return self._find(model, byok, direct_openai)
        minute = int(time.time() // 60)
        if self._minute != minute or len(self._found) > MOST_KEPT:
            self._minute, self._found = minute, {}
        route = self._found.get(model)
        if route is None:
            route = self._found[model] = self._find(model, None, False)
        return route

    def _find(self, model: str, byok: str | None, direct_openai: bool) -> Route:
        name = model.strip().rstrip(": ")
        if name.lower().startswith(RESOURCE):
            name = name[len(RESOURCE) :]
        if not name or len(name) > MAX_MODEL or not name.isprintable():
            raise NoRoute("That is not the name of a model.")
        override = self.prices.overrides.get(name.lower())
        if override and override.provider:
            provider = self.providers[override.provider]
            if not provider.ready:
                raise NoRoute(self._nobody(name))
            upstream = override.upstream_model or provider.upstream_model(override.name or name)
            return self._route(provider, name, upstream)
        found = self._serves(name, byok, direct_openai)
        upstream = found.upstream_model(name) if found else name
        if (kind := model_names.kind_of(upstream)) != model_names.CHAT:
            raise NotAChatModel(
                f"The model '{name}' {model_names.KINDS[kind]}; it cannot be called for chat completions. "
                "GET /v1/models lists the models that can."
            )
        if found is None:
            raise NoRoute(self._nobody(name))
        return self._route(found, name, upstream, byok if found is self.openrouter else None)

    def _route(self, provider: Provider, name: str, upstream: str, byok: str | None = None) -> Route:
        price = self.price(provider, name, upstream)
        if price is None and not provider.reports_cost:
            raise NoPrice(
                f"The model '{name}' has no price on this server, so it is not served. "
                "The operator can give it one (STOA_PRICES_FILE)."
            )
        return Route(provider, name, upstream, price, byok)

    def after(self, route: Route) -> Iterator[Route]:
        """Where else the same model is served at a known price, in the order in which it is tried. Nowhere where the caller's
        key pays, the operator named the provider, or it is a server that only speaks as the vendor does."""
        name, openrouter = route.requested, self.openrouter
        override = self.prices.overrides.get(name.lower())
        chosen = route.byok or (override and override.provider) or route.provider not in self.direct
        upstream = openrouter.upstream_model(name)
        if chosen or not route.provider.first_party or not openrouter.ready:
            return
        if model_names.has_row(openrouter.table, upstream):
            found = self._route(openrouter, name, upstream)
            if found.price is not None:
                yield found

    def price(
        self, provider: Provider, requested: str, upstream: str, answered: str | None = None
    ) -> ModelPrice | None:
        """The price of a model at a provider; None when it is missing."""
        found = self.prices.find(provider.table, requested, upstream, answered)
        return found or (flat(3, 15) if provider is self.demo else None)

    def prepare(self, route: Route, call: Call) -> tuple[Route, ProviderRequest]:
        """The request that is sent, and the route with what it asks for. Raises BadCall for what cannot be sent, and for
        a key whose price nobody knows."""
        provider = route.provider
        body, dropped = provider.rewrite(call, route.model)
        terms = PriceFactors()
        if route.byok is None:
            reading = FactorReader(
                call,
                route.price,
                lambda name: self.price(provider, name, provider.upstream_model(name)),
                reports_cost=provider.reports_cost,
                apart=provider.media_priced_separately,
            )
            terms = terms_of(KEYS[provider.name], body, reading)
        prepared = Route(
            provider, route.requested, route.model, route.price, route.byok, terms, tuple(dropped)
        )
        return prepared, provider.request(call, body, route.byok)

    def cost(self, route: Route, usage: Usage, answered: str | None) -> tuple[Decimal, dict[str, str]]:
        """Dollars of a call and the figures they were made with: the provider's own where it reports them, else tokens
        at the price of the model that answered. `flags` among the figures names what an operator should see."""
        price = route.price
        if answered not in (None, route.model) or price is None:
            price = self.price(route.provider, route.requested, route.model, answered) or price
        listed = price.cost(usage) if price else None
        if route.provider.reports_cost and usage.cost is not None:
            figures = (
                {"source": "provider"} if listed is None else {"source": "provider", "listed": f"{listed:f}"}
            )
            known = UNLISTED.cost(usage) if listed is None else listed
            cost = max(usage.cost, usage.least_cost)
            far = cost > FAR_ABOVE * known + FAR_DOLLARS
            return cost, _flagged(figures, [*usage.flags, *(["cost_far_above_list"] if far else [])])
        flags = [*usage.flags]
        if price is None or listed is None:
            price, flags = FALLBACK, [*flags, "price_guessed"]
            listed = price.cost(usage)
        cost = max(listed, usage.least_cost)
        return cost, _flagged(price.snapshot(usage), [*flags, *price.flags(usage)])

    def models(self) -> tuple[Route, ...]:
        """The route of every model that can be asked for by its listed name, at a known price: sorted, no name twice.

        Kept for a minute, as routes are.
        """
        minute = int(time.time() // 60)
        if self._listed[0] != minute:
            self._listed = minute, tuple(self._list())
        return self._listed[1]

    def _list(self) -> Iterator[Route]:
        found = {DEMO: DEMO}
        for provider in (*self.direct, self.openrouter):
            for name in model_names.callable_names(provider.table) if provider.ready else ():
                public = provider.public_model(name)
                if provider.lists(public):
                    found[public] = public
        for folded, override in self.prices.overrides.items():
            found[folded] = override.name or folded
        for folded, name in sorted(found.items(), key=lambda item: (item[0] != DEMO, item[0])):
            with suppress(DomainError):
                route = self.find(name)
                if route.price is not None or folded in self.prices.overrides:
                    yield route

    def _serves(self, name: str, byok: str | None, direct_openai: bool) -> Provider | None:
        if name.lower() == DEMO:
            return self.demo
        openrouter = self.openrouter if self.openrouter.ready or byok else None
        if byok and not direct_openai:
            return openrouter
        variant = model_names.split_variant(name)[1]
        direct = (provider for provider in self.direct if provider.ready and provider.claims(name))
        found = None if variant else next(direct, None)
        if found is None or openrouter is None:
            return found or openrouter
        return openrouter if self._alone(openrouter, found, name) else found

    def _alone(self, openrouter: Provider, direct: Provider, name: str) -> bool:
        """Whether OpenRouter has a model of this very name, and the provider that the name points to has not: it may
        have one whose names begin alike, or one that does something else."""
        if name.lower() in self.prices.overrides:
            return False
        theirs = direct.upstream_model(name)
        direct_has = (
            model_names.listed(direct.table, theirs)
            and model_names.kind_of(theirs) == model_names.CHAT
            and self.price(direct, name, theirs) is not None
        )
        return not direct_has and model_names.has_row(openrouter.table, openrouter.upstream_model(name))

    def _nobody(self, model: str) -> str:
        keys = [provider for provider in (*self.direct, self.openrouter) if provider.ready]
        if not keys:
            return (
                f"The model '{model}' is not served here: this server has no provider key yet. "
                f"It serves '{DEMO}', which works without one."
            )
        base, variant = model_names.split_variant(model)
        if variant:
            return (
                f"The model '{model}' is not served here: ':{variant}' is a variant that OpenRouter serves, and this "
                f"server has no key for OpenRouter. Without it the name is '{base}'."
            )
        titles = ", ".join(provider.title for provider in keys)
        return f"The model '{model}' is not served here. Keys are set for: {titles}."


def _most_tokens(text_bytes: int, window: int | None) -> int:
    """Of a text: one for each byte, but no more than the model reads, unless there are more by any reckoning."""
    return text_bytes if window is None else min(text_bytes, max(window, text_bytes // BYTES_PER_TOKEN))


def _flagged(figures: dict[str, str], flags: list[str]) -> dict[str, str]:
    return {**figures, "flags": " ".join(flags)} if flags else figures


def held_credits(cost: Decimal, margin: Decimal) -> int:
    """Credits to hold for a cost in dollars, rounded up."""
    return ceil(cost * 100 * (1 + margin))
