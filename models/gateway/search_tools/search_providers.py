"""Search services as providers of the gateway, so that a search is held, settled and recorded like any call."""

from collections.abc import Mapping
from decimal import ROUND_UP, Decimal
from typing import Any

from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.chat_format import Call, Usage, UsageMeter
from models.gateway.formats.format_meter import FormatMeter
from models.gateway.pricing import ModelPrice, flat
from models.gateway.providers.provider import Endpoint, Provider, write
from models.gateway.search_tools.searchers import Context7, Linkup, SearchUpstream, SearXng
from models.gateway.upstream import Egress, HttpUpstream, ProviderRequest, Upstream, UpstreamTimeouts

SEARCHES = WEB, DOCS = "web_search", "docs_search"
CREDITS = {"standard": 1, "deep": 5}
"""What a search of the web costs, by depth; documentation costs the smaller (contract 2.5)."""
TIMEOUTS = UpstreamTimeouts(10, 30, 30)
"""Seconds (contract 2.5)."""


class SearchNotSetUp(DomainError):
    """The operator has no service for this kind of search."""

    status = 503
    code = "search_not_set_up"

    def __init__(self, kind: str) -> None:
        setting = "LINKUP_API_KEY or STOA_SEARXNG_URL" if kind == WEB else "CONTEXT7_API_KEY"
        what = "Web search" if kind == WEB else "Documentation search"
        super().__init__(f"{what} is not set up on this server. Its operator can set {setting}.")


class SearchProvider(Provider):
    """One service, for one kind of search."""

    prefixes = ("stoa",)

    def __init__(self, name: str, title: str, kind: str, upstream: Upstream) -> None:
        super().__init__(Endpoint("", None), upstream)
        self.name, self.title, self._kind = name, title, kind

    @property
    def formats(self) -> tuple[str, ...]:
        return (self._kind,)

    @property
    def ready(self) -> bool:
        return True

    def meter(self, call: Call) -> UsageMeter:
        return SearchMeter(call.model)

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        return dict(call.body), []

    def request(self, call: Call, body: Mapping[str, Any], key: str | None = None) -> ProviderRequest:
        return ProviderRequest("", {}, write(body))


class SearchMeter(FormatMeter):
    """A search has one price, whatever it finds, and nothing at all is an answer too."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model
        self.found: str | None = None

    @property
    def finished(self) -> bool:
        return self.started

    @property
    def answer(self) -> Any:
        return self.found or ""

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        raise NotImplementedError("searches are not streamed")

    def body(self, body: Mapping[str, Any]) -> None:
        self.found = body.get("result")
        self.reported = Usage()
        self.started = self.billed = True


class SearchRouter:
    """The services that this server has, by kind."""

    def __init__(self, settings: Settings, egress: Egress) -> None:
        self._margin = settings.stoa_margin

        def provider(
            name: str, title: str, kind: str, searcher: Linkup | SearXng | Context7
        ) -> SearchProvider:
            return SearchProvider(
                name, title, kind, SearchUpstream(searcher, HttpUpstream(title, TIMEOUTS, egress), title)
            )

        self._providers: dict[str, SearchProvider] = {}
        if settings.linkup_api_key is not None:
            linkup = Linkup(settings.linkup_api_key.get_secret_value(), settings.linkup_base_url)
            self._providers[WEB] = provider("linkup", "Linkup", WEB, linkup)
        elif settings.stoa_searxng_url:
            self._providers[WEB] = provider("searxng", "SearXNG", WEB, SearXng(settings.stoa_searxng_url))
        if settings.context7_api_key is not None:
            context7 = Context7(settings.context7_api_key.get_secret_value(), settings.context7_base_url)
            self._providers[DOCS] = provider("context7", "Context7", DOCS, context7)

    def find(self, kind: str) -> SearchProvider:
        """The service for a kind of search. Raises SearchNotSetUp."""
        found = self._providers.get(kind)
        if found is None:
            raise SearchNotSetUp(kind)
        return found

    def price(self, credits: int) -> ModelPrice:
        """The price of which the margin makes exactly so many credits."""
        dollars = (Decimal(credits) / 100 / (1 + self._margin)).quantize(Decimal("1e-15"), ROUND_UP)
        free = flat(0, 0)
        return ModelPrice("stoa", free.tiers, request=dollars)
