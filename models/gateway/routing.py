"""Routing: picks the provider and price for a model, or raises why none serves it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

from models.core.errors import DomainError
from models.core.settings import Settings, SettingsError, environment_value
from models.gateway import model_names
from models.gateway.aliases import Alias
from models.gateway.chat_format import Call, Usage
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.circuit_breaker import CircuitBreakers
from models.gateway.demo_model import DemoModel
from models.gateway.formats import passed
from models.gateway.model_names import ROUTES
from models.gateway.price_factors import FactorReader, PriceFactors, read_factors
from models.gateway.price_keys import FORMATS, KEYS
from models.gateway.pricing import ModelPrice, PriceTable, flat
from models.gateway.providers.anthropic import Anthropic
from models.gateway.providers.configured import ConfiguredProvider
from models.gateway.providers.demo import EMBEDDINGS as DEMO_EMBEDDINGS
from models.gateway.providers.demo import MODEL as DEMO
from models.gateway.providers.demo import MODELS as DEMO_MODELS
from models.gateway.providers.demo import DemoProvider
from models.gateway.providers.gemini import RESOURCE, Gemini
from models.gateway.providers.openai import OpenAI
from models.gateway.providers.openrouter import OpenRouter
from models.gateway.providers.provider import Endpoint, Provider
from models.gateway.providers_file import SETTING, load_providers
from models.gateway.route import FALLBACK_PRICE, FALLBACKS, Route
from models.gateway.search_tools.search_providers import SEARCHES, SearchRouter
from models.gateway.served_ways import UNPRICED
from models.gateway.upstream import Egress, HttpUpstream, ProviderRequest, UpstreamTimeouts

COST_FLAG_FACTOR, COST_FLAG_DOLLARS = 10, 1
"""A reported cost is flagged, and charged, above this multiple of the listed price plus this many dollars."""

MAX_CACHED_ROUTES = 4096
"""Size of the route cache. Routes are cached for a minute, since some prices change by the hour."""

TEST_PRICE = flat(0, 0, source="test")
"""The price of all calls with test keys."""


class NoRoute(DomainError):
    """No configured provider serves the model."""

    status = 404
    code = "model_not_found"


class OtherModelKind(DomainError):
    """The model is known but is of another kind than the route serves."""

    status = 400
    code = "model_wrong_route"


class NotAChatModel(OtherModelKind):
    """The model is known but is not a chat model."""

    code = "model_not_chat"


class NoPrice(DomainError):
    """A configured provider serves the model, but it has no price."""

    status = 400
    code = "model_price_missing"


class Router:
    """The providers of a process, in order of preference."""

    def __init__(self, settings: Settings, prices: PriceTable) -> None:
        self.prices = prices
        self._minute, self._routes = 0, dict[str | tuple[str, str], Route]()
        self._targets = dict[tuple[str, str | None], Route | None]()
        self._listed: tuple[int, tuple[Route, ...], tuple[Route, ...]] = (0, (), ())
        timeouts = UpstreamTimeouts(
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

        def build(kind: type[Provider]) -> Provider:
            return kind(endpoint(kind.name), HttpUpstream(kind.title, timeouts, egress))

        self.openrouter = OpenRouter(
            endpoint("openrouter"), HttpUpstream("OpenRouter", timeouts, egress), site=settings.base_url
        )
        self.demo = DemoProvider(Endpoint("", None), DemoModel(settings.stoa_demo_delay_ms / 1000))
        self.direct = [build(OpenAI), build(Anthropic), build(Gemini)]
        self.searches = SearchRouter(settings, egress)
        file = load_providers(settings.stoa_providers_file, timeouts)
        self.configured = {
            config.name: ConfiguredProvider(
                config,
                environment_value(config.key_env) if config.key_env else "",
                HttpUpstream(config.title, config.timeouts, egress),
            )
            for config in file.providers
        }
        self.aliases = file.aliases
        self.retry = file.retry
        self.breakers = CircuitBreakers()
        self.timeouts = file.timeouts
        """Of single models, by the requested name in lower case."""
        built_in = (self.demo, *self.direct, self.openrouter)
        self.providers: dict[str, Provider] = {
            **{provider.name: provider for provider in built_in},
            **self.configured,
        }
        for name, override in prices.overrides.items():
            if override.provider and override.provider not in self.providers:
                known = ", ".join(self.providers)
                raise SettingsError(f"STOA_PRICES_FILE: 'provider' of {name!r} must be one of {known}.")

    @property
    def upstreams(self) -> list[Provider]:
        """All providers but the built-in demo."""
        return [*self.direct, self.openrouter, *self.configured.values()]

    def problems(self) -> list[str]:
        """What of the operator's file does not work as the server is set up, for the operator."""
        found = [
            f"{SETTING}: {each.title} serves nothing, because {each.key_setting} is not set"
            for each in self.configured.values()
            if not each.ready
        ]
        for alias in self.aliases.values():
            for name in alias.models:
                try:
                    self._find(name, None, False, self._task_of(name))
                except DomainError as error:
                    found.append(f"{SETTING}: alias {alias.name}: {error.message}")
        return found

    def find(
        self, model: str, *, byok: str | None = None, direct_openai: bool = False, task: str | None = None
    ) -> Route:
        """The route of a model name (case-insensitive). `byok`: the caller's own OpenRouter key, which routes the call
        there, except that `direct_openai` still prefers OpenAI (contract 5.3). `task`: the format of a request that is no
        conversation (`formats/passed.py`).

        Of an alias, the route of its first model that is served. Raises NoRoute, OtherModelKind or NoPrice.
        """
        if byok or direct_openai:
            alias = self._alias(model)
            return self._find(alias.models[0] if alias else model, byok, direct_openai, task)
        self._turn()
        key = model if task is None else (task, model)
        route = self._routes.get(key)
        if route is None:
            alias = self._alias(model)
            found = self._first(alias, task) if alias else self._find(model, None, False, task)
            route = self._routes[key] = found
        return route

    def choose(self, route: Route, session: str | None, task: str | None) -> Route:
        """The route of an alias for one call, with the others to fall back on: the order is by the session, or by weight; upstreams
        that fail at present come last. `task` as of `find`."""
        alias = route.alias
        if alias is None or len(alias.models) == 1:
            return route
        routes = [
            each for name in alias.order(session) if (each := self.route_of_model(name, task)) is not None
        ]
        if not routes:
            return route
        routes.sort(key=lambda each: self.breakers.of(each.provider.name, each.model).avoided)
        return replace(routes[0], alias=alias, others=tuple(routes[1:]))

    def _alias(self, model: str) -> Alias | None:
        return self.aliases.get(model.strip().lower().removeprefix(RESOURCE)) if self.aliases else None

    def _turn(self) -> None:
        """Forget cached routes each minute."""
        minute = int(time.time() // 60)
        if self._minute != minute or len(self._routes) > MAX_CACHED_ROUTES:
            self._minute, self._routes, self._targets = minute, {}, {}

    def _first(self, alias: Alias, task: str | None) -> Route:
        """The first model of an alias that is served. Raises the error of its first model if none is."""
        for name in alias.models:
            if (route := self.route_of_model(name, task)) is not None:
                return replace(route, alias=alias)
        return self._find(alias.models[0], None, False, task)

    def route_of_model(self, name: str, task: str | None = None) -> Route | None:
        """The route of a model itself, also if an alias has its name; None if it is not served."""
        self._turn()
        if (name, task) not in self._targets:
            try:
                self._targets[name, task] = self._find(name, None, False, task)
            except DomainError:
                self._targets[name, task] = None
        return self._targets[name, task]

    def find_any(self, model: str) -> Route:
        """The route of a model of any kind. Raises NoRoute, OtherModelKind or NoPrice."""
        alias = self._alias(model)
        return self.find(model, task=self._task_of(alias.models[0] if alias else model))

    def _task_of(self, model: str) -> str | None:
        """The `task` of `find` for the kind of a model; None for chat models."""
        name = model.strip()
        override = self.prices.overrides.get(name.lower())
        kind = (override and override.kind) or None
        if kind is None and not (override and override.provider):
            configured = self.configured.get(name.partition("/")[0].lower())
            kind = configured.kind_of(name) if configured else model_names.kind_of(name)
        return passed.FORMAT_OF_KIND.get(kind or model_names.CHAT)

    def _find(self, model: str, byok: str | None, direct_openai: bool, task: str | None) -> Route:
        name = model.strip().rstrip(": ")
        if name.lower().startswith(RESOURCE):
            name = name[len(RESOURCE) :]
        if not name or len(name) > MAX_MODEL or not name.isprintable():
            raise NoRoute("This is not a valid model name.")
        override = self.prices.overrides.get(name.lower())
        kind = override.kind if override else None
        if override and override.provider:
            provider = self.providers[override.provider]
            upstream = override.upstream_model or provider.upstream_model(override.name or name)
            # who sets the provider of a model without a kind says that it chats
            self._check_kind(
                name, kind or (task and provider.kind_of(upstream)) or model_names.CHAT, task, provider
            )
            if not provider.ready:
                raise NoRoute(self._not_served(name))
            return self._route(provider, name, upstream, task=task)
        found = self._provider_for(name, byok, direct_openai, task)
        upstream = found.upstream_model(name) if found else name
        kind = kind or (found.kind_of(upstream) if found else model_names.kind_of(upstream))
        self._check_kind(name, kind, task, found)
        if found is None:
            raise NoRoute(self._not_served(name))
        return self._route(found, name, upstream, byok if found is self.openrouter else None, task)

    def _check_kind(self, name: str, kind: str, task: str | None, provider: Provider | None) -> None:
        """Refuse a model of another kind than the task's, and a provider that does not serve the task. Raises OtherModelKind,
        NoRoute."""
        wanted = passed.KINDS[task] if task else model_names.CHAT
        if kind != wanted and not (
            task == "completions" and kind == model_names.CHAT and _completes(provider)
        ):
            where = (
                f"Send it to POST {ROUTES[kind]}."
                if kind in ROUTES
                else "GET /v1/models lists the models that can."
            )
            if task is None:
                does = model_names.KINDS[kind]
                raise NotAChatModel(
                    f"The model '{name}' {does}; it does not support chat completions. {where}"
                )
            does = model_names.KINDS.get(kind, "is a chat model")
            raise OtherModelKind(
                f"The model '{name}' {does}; POST {ROUTES[wanted]} does not serve it. {where}"
            )
        if task and provider is not None and task not in provider.formats:
            raise NoRoute(
                f"{provider.title}, which serves the model '{name}', has no {passed.PATHS[task][1:]}."
            )

    def _route(
        self, provider: Provider, name: str, upstream: str, byok: str | None = None, task: str | None = None
    ) -> Route:
        price = self.price(provider, name, upstream)
        if price is None and not provider.reports_cost:
            raise NoPrice(
                f"The model '{name}' has no price on this server, so it is not served. "
                "The operator can set one (STOA_PRICES_FILE)."
            )
        timeouts = provider.timeouts_of(name, upstream)
        if self.timeouts:
            names = (name.lower(), provider.public_model(upstream).lower())
            timeouts = next((self.timeouts[each] for each in names if each in self.timeouts), timeouts)
        kind = passed.KINDS[task] if task else model_names.CHAT
        return Route(provider, name, upstream, price, byok, timeouts=timeouts, kind=kind)

    def own_route(self, provider_name: str, model: str, task: str | None) -> Route | None:
        """The route of a model at a provider where the caller has a key, whether or not this server has one. None if the provider
        does not serve it, or the operator says who does. `task` as of `find`."""
        name = model.strip().rstrip(": ")
        override = self.prices.overrides.get(name.lower())
        provider = self.providers.get(provider_name)
        fixed = (override and override.provider) or name.partition("/")[0].lower() in self.configured
        if provider is None or fixed or self._alias(model) or name.lower() in DEMO_MODELS:
            return None
        if provider in self.direct and (not provider.claims(name) or model_names.split_variant(name)[1]):
            return None
        try:
            upstream = provider.upstream_model(name)
            kind = (override and override.kind) or provider.kind_of(upstream)
            self._check_kind(name, kind, task, provider)
            return self._route(provider, name, upstream, task=task)
        except DomainError:
            return None

    def for_test(self, call: Call) -> Route:
        """The route of a call with a test key: a demo model answers for every model, and nothing is charged. Raises NoRoute for
        what no demo model does."""
        if call.format not in (*passed.PATHS, *SEARCHES):
            return Route(self.demo, call.model, DEMO, TEST_PRICE)
        if call.format not in self.demo.formats:
            raise NoRoute("Test keys reach only the demo models, and none of these serves this route.")
        return Route(self.demo, call.model, DEMO_EMBEDDINGS, TEST_PRICE, kind=passed.KINDS[call.format])

    def fallbacks(self, route: Route) -> Iterator[Route]:
        """Fallback routes in order: of an alias its other models, else the same model at OpenRouter at a known price. None if
        the caller's key pays; of a model also if the operator set the provider, or its server is not the vendor's own."""
        if route.alias is not None:
            yield from () if route.byok else route.others
            return
        name, openrouter = route.requested, self.openrouter
        override = self.prices.overrides.get(name.lower())
        fixed = route.byok or (override and override.provider) or route.provider not in self.direct
        upstream = openrouter.upstream_model(name)
        if fixed or not route.provider.first_party or not openrouter.ready:
            return
        task = passed.FORMAT_OF_KIND.get(route.kind)
        if task is not None and task not in openrouter.formats:
            return
        if model_names.has_row(openrouter.table, upstream):
            found = self._route(openrouter, name, upstream, task=task)
            if found.price is not None:
                yield found

    def price(
        self, provider: Provider, requested: str, upstream: str, answered: str | None = None
    ) -> ModelPrice | None:
        """The price of a model at a provider; None if missing."""
        own = provider.own_price(requested, upstream)
        if own is not None:
            return self.prices.operator_price(requested, answered, upstream) or own
        return self.prices.find(provider.table, requested, upstream, answered)

    def prepare(self, route: Route, call: Call) -> tuple[Route, ProviderRequest]:
        """The request to send, and the route with its price factors. Raises BadCall for an unsupported request or a key
        whose price is unknown."""
        provider = route.provider
        rewrite = provider.rewrite_passed if call.format in passed.PATHS else provider.rewrite
        body, dropped = rewrite(call, route.model)
        factors = PriceFactors()
        if route.byok is None:
            reader = FactorReader(
                call,
                route.price if route.kind == model_names.CHAT else route.held_price,
                lambda name: self.price(provider, name, provider.upstream_model(name)),
                reports_cost=provider.reports_cost,
                separate_media_prices=provider.media_priced_separately,
            )
            keys = FORMATS.get(call.format) or KEYS.get(provider.name) or KEYS["openai"]
            factors = read_factors(keys, body, reader)
        prepared = replace(route, factors=factors, dropped=tuple(dropped))
        request = provider.request(call, body, route.byok)
        return prepared, request if route.timeouts is None else replace(request, timeouts=route.timeouts)

    def cost(
        self, route: Route, usage: Usage, answered: str | None, ways: Sequence[str] = ()
    ) -> tuple[Decimal, dict[str, str]]:
        """Cost of a call in dollars, and the prices applied, with `flags` for the operator. Uses the cost that the
        provider reported, else the price of the model that answered, in the way that it was served (`served_ways.py`)."""
        price = route.price
        if price is not None and price.source == "free":
            return Decimal(0), price.snapshot(usage)
        if answered not in (None, route.model) or price is None:
            price = self.price(route.provider, route.requested, route.model, answered) or price
        unpriced = [way for way in ways if way in UNPRICED and not (price and way in price.variants)]
        price = price and price.of_way(ways, usage)
        listed = price.cost(usage) if price else None
        if route.provider.reports_cost and usage.cost is not None:
            prices = (
                {"source": "provider"} if listed is None else {"source": "provider", "listed": f"{listed:f}"}
            )
            expected = route.held_price.cost(usage) if listed is None else listed
            cost = max(usage.cost, usage.least_cost)
            exceeds_list = cost > COST_FLAG_FACTOR * expected + COST_FLAG_DOLLARS
            return cost, _flagged(prices, [*usage.flags, *(["cost_far_above_list"] if exceeds_list else [])])
        flags = [*usage.flags, *(["tier_without_price"] if unpriced else [])]
        if price is None or listed is None:
            price, flags = FALLBACKS.get(route.kind, FALLBACK_PRICE), [*flags, "price_guessed"]
            listed = price.cost(usage)
        cost = max(listed, usage.least_cost)
        return cost, _flagged(price.snapshot(usage), [*flags, *price.flags(usage)])

    def models(self) -> tuple[Route, ...]:
        """The routes of all listed chat models with a known price: sorted, no duplicates, cached for a minute."""
        return self._fresh_list()[1]

    def all_models(self) -> tuple[Route, ...]:
        """The same of every kind that is served."""
        return self._fresh_list()[2]

    def _fresh_list(self) -> tuple[int, tuple[Route, ...], tuple[Route, ...]]:
        minute = int(time.time() // 60)
        if self._listed[0] != minute:
            found = tuple(self._list())
            self._listed = minute, tuple(each for each in found if each.kind == model_names.CHAT), found
        return self._listed

    def _list(self) -> Iterator[Route]:
        found = {name: name for name in DEMO_MODELS}
        for provider in (*self.direct, self.openrouter):
            for name in model_names.callable_names(provider.table) if provider.ready else ():
                public = provider.public_model(name)
                if provider.lists(public):
                    found[public] = public
        for configured in self.configured.values():
            for name in configured.listed() if configured.ready else ():
                found[name.lower()] = name
        for lower, override in self.prices.overrides.items():
            found[lower] = override.name or lower
        found.update((lower, alias.name) for lower, alias in self.aliases.items())
        for lower, name in sorted(found.items(), key=lambda item: (item[0] not in DEMO_MODELS, item[0])):
            with suppress(DomainError):
                route = self.find_any(name)
                if route.price is not None or lower in self.prices.overrides or route.alias is not None:
                    yield route

    def _provider_for(
        self, name: str, byok: str | None, direct_openai: bool, task: str | None
    ) -> Provider | None:
        if name.lower() in DEMO_MODELS:
            return self.demo

        def serves(provider: Provider) -> bool:
            return task is None or task in provider.formats

        openrouter = self.openrouter if (self.openrouter.ready or byok) and serves(self.openrouter) else None
        if byok and not direct_openai:
            return openrouter
        configured = self.configured.get(name.partition("/")[0].lower()) if self.configured else None
        if configured is not None:
            # its names never go to another provider, which may have another price
            return configured if configured.ready and configured.claims(name) else None
        variant = model_names.split_variant(name)[1]
        direct = (each for each in self.direct if each.ready and each.claims(name) and serves(each))
        found = None if variant else next(direct, None)
        if found is None or openrouter is None:
            return found or openrouter
        return openrouter if self._only_on_openrouter(openrouter, found, name, task) else found

    def _only_on_openrouter(
        self, openrouter: Provider, direct: Provider, name: str, task: str | None
    ) -> bool:
        """Whether only OpenRouter has a model with exactly this name. The direct provider may have one with a similar
        name, or one of another kind."""
        if name.lower() in self.prices.overrides:
            return False
        upstream = direct.upstream_model(name)
        direct_has = (
            model_names.listed(direct.table, upstream)
            and model_names.kind_of(upstream) == (passed.KINDS[task] if task else model_names.CHAT)
            and self.price(direct, name, upstream) is not None
        )
        return not direct_has and model_names.has_row(openrouter.table, openrouter.upstream_model(name))

    def _not_served(self, model: str) -> str:
        prefix, slash, _ = model.partition("/")
        if slash and (configured := self.configured.get(prefix.lower())) and not configured.ready:
            return f"The model '{model}' is not served here: the key of {configured.title} is not set on this server."
        keys = [provider for provider in self.upstreams if provider.ready]
        if not keys:
            return (
                f"The model '{model}' is not served here: this server has no provider key yet. "
                f"'{DEMO}' works without one."
            )
        base, variant = model_names.split_variant(model)
        if variant:
            return (
                f"The model '{model}' is not served here: ':{variant}' is a variant that OpenRouter serves, and this "
                f"server has no key for OpenRouter. Without the variant, the name is '{base}'."
            )
        titles = ", ".join(provider.title for provider in keys)
        if slash and prefix.lower() in self.configured:
            return f"The model '{model}' is not served here: it is not one of the models of {prefix.lower()}."
        return f"The model '{model}' is not served here. Keys are set for: {titles}."


def _completes(provider: Provider | None) -> bool:
    """Whether the provider's chat models complete plain text, too, as on servers of open models."""
    return provider is not None and not provider.first_party


def _flagged(prices: dict[str, str], flags: list[str]) -> dict[str, str]:
    return {**prices, "flags": " ".join(flags)} if flags else prices
