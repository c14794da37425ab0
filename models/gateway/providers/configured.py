"""OpenAI-compatible servers that the operator describes in STOA_PROVIDERS_FILE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from models.gateway import model_names
from models.gateway.chat_format import Call
from models.gateway.formats import messages_request, passed, responses_request
from models.gateway.pricing import ModelPrice
from models.gateway.providers.anthropic import VERSION
from models.gateway.providers.openai import OpenAI, rewrite_responses
from models.gateway.providers.provider import STOA_KEYS, Endpoint, remove_keys
from models.gateway.upstream import Upstream, UpstreamTimeouts

MODEL_IN_URL = "{model}"
"""In a base URL: the server's name of the model (Azure's deployments)."""
BEARER, NO_KEY = "bearer", "none"
"""Ways to send the key; any other is the name of a header."""


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """A model of a configured server. `kind`, `reasoning_model`: None if its name tells; `timeouts`: None for the server's."""

    name: str
    """As written, without the server's prefix."""
    upstream: str
    price: ModelPrice | None = None
    kind: str | None = None
    reasoning_model: bool | None = None
    unsupported: frozenset[str] = frozenset()
    timeouts: UpstreamTimeouts | None = None


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A server as described. `models` by their name in lower case; `price` is that of any other model, which is not served if
    None; `table` is the shipped price table of its vendor."""

    name: str
    title: str
    base_url: str
    timeouts: UpstreamTimeouts
    key_env: str = ""
    auth: str = BEARER
    formats: tuple[str, ...] = ("chat",)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    unsupported: frozenset[str] = frozenset()
    price: ModelPrice | None = None
    table: str = ""
    models: Mapping[str, ConfiguredModel] = field(default_factory=dict)


class ConfiguredProvider(OpenAI):
    """Serves `<name>/<model>`. Gets every key of the client that is not listed as unsupported."""

    def __init__(self, config: ProviderConfig, key: str, upstream: Upstream) -> None:
        super().__init__(Endpoint(config.base_url, key or None), upstream)
        self.config = config
        self.name = config.name
        self.title = config.title
        self.table = config.table
        self.host = ""
        self.prefixes = (config.name,)
        self.native_n = "n" not in config.unsupported
        self._by_upstream = {model.upstream.lower(): model for model in config.models.values()}
        self._query = urlencode(config.query)
        described = {model.kind or model_names.kind_of(model.upstream) for model in config.models.values()}
        kinds = {*passed.KINDS.values()} if config.price is not None or config.table else described
        tasks = (name for name, kind in passed.KINDS.items() if kind in kinds)
        self._formats = tuple(dict.fromkeys((*config.formats, *tasks)))

    @property
    def formats(self) -> tuple[str, ...]:
        """Those of its description, and those of the kinds of models described, or of all kinds if it may have any."""
        return self._formats

    @property
    def ready(self) -> bool:
        """Whether the key that its description names is set; servers without keys always are."""
        return bool(self.endpoint.key) or not self.config.key_env

    @property
    def key_setting(self) -> str:
        return self.config.key_env

    def claims(self, model: str) -> bool:
        prefix, _, rest = model.lower().partition("/")
        if prefix != self.name or not rest:
            return False
        priced = bool(self.table) and model_names.price_row(self.table, rest) is not None
        return rest in self.config.models or self.config.price is not None or priced

    def listed(self) -> list[str]:
        """The public names of its models: those described, and those of its price table."""
        described = [f"{self.name}/{model.name}" for model in self.config.models.values()]
        shipped = model_names.callable_names(self.table) if self.table else ()
        return [*described, *(f"{self.name}/{name}" for name in shipped)]

    def model(self, name: str) -> ConfiguredModel | None:
        """The description of a model by its public name or the server's; None if it has none."""
        prefix, _, rest = name.lower().partition("/")
        found = self.config.models.get(rest) if prefix == self.name else None
        return found or self._by_upstream.get(name.lower())

    def upstream_model(self, model: str) -> str:
        found = self.model(model)
        return found.upstream if found else super(OpenAI, self).upstream_model(model)

    def public_model(self, model: str) -> str:
        found = self._by_upstream.get(model.lower())
        return f"{self.name}/{found.name if found else model}"

    def own_price(self, requested: str, upstream: str) -> ModelPrice | None:
        found = self.model(requested) or self.model(upstream)
        return (found and found.price) or self.config.price

    def kind_of(self, upstream: str) -> str:
        found = self.model(upstream)
        return (found and found.kind) or super().kind_of(upstream)

    def timeouts_of(self, requested: str, upstream: str) -> UpstreamTimeouts | None:
        found = self.model(requested) or self.model(upstream)
        return found.timeouts if found else None

    def reasons(self, model: str) -> bool:
        found = self.model(model)
        return (
            super().reasons(model)
            if found is None or found.reasoning_model is None
            else found.reasoning_model
        )

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return frozenset()

    def url(self, path: str, model: str) -> str:
        address = super().url(path, model).replace(MODEL_IN_URL, quote(model, safe=""))
        return f"{address}?{self._query}" if self._query else address

    def authorization(self, call: Call, key: str) -> Mapping[str, str]:
        version = {"anthropic-version": VERSION} if call.format == messages_request.NAME else {}
        return {**version, **self.key_header(key)}

    def key_header(self, key: str) -> Mapping[str, str]:
        """The header with the key; none without one."""
        auth = self.config.auth
        if not key or auth == NO_KEY:
            return {}
        return {"Authorization": f"Bearer {key}"} if auth == BEARER else {auth: key}

    def headers(self) -> Mapping[str, str]:
        return self.config.headers

    def rewrite_passed(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite_passed(call, model)
        self._remove_unsupported(body, model, dropped)
        return body, dropped

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        if call.format == "chat":
            body, dropped = super().rewrite(call, model)
        elif call.format == responses_request.NAME:
            body, dropped = rewrite_responses(call, model)
        else:
            kept = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
            body, dropped = {**kept, "model": model, "stream": call.stream}, [*call.left_out]
        self._remove_unsupported(body, model, dropped)
        return body, dropped

    def _remove_unsupported(self, body: dict[str, Any], model: str, dropped: list[str]) -> None:
        found = self.model(model)
        remove_keys(body, self.config.unsupported | (found.unsupported if found else frozenset()), dropped)
