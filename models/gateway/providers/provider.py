"""What every provider's adapter has in common: one small protocol, and the OpenAI-compatible way of speaking."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import orjson

from models.gateway import model_names
from models.gateway.chat_format import BadCall, Call, ChatMeter, Usage, UsageMeter, read_usage
from models.gateway.upstream import ProviderRequest, Upstream

OURS = frozenset({"codebuff_metadata"})
"""Keys that only the compatible API's own server understands; no provider is sent them."""

OPENROUTERS = frozenset(
    {
        "transforms",
        "provider",
        "usage",
        "reasoning",
        "include_reasoning",
        "models",
        "route",
        "plugins",
        "cache_control",
        "preset",
        "top_a",
        "top_k",
        "min_p",
        "repetition_penalty",
    }
)
"""Keys of OpenRouter's and of open models' servers, which OpenAI, Anthropic and Google refuse."""

_OF_MESSAGES = frozenset({"cache_control", "reasoning", "reasoning_content", "reasoning_details"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is, and the operator's key for it."""

    base_url: str
    key: str | None


class Provider:
    """A provider that speaks OpenAI's chat completions. Adapters override what differs.

    `table` is its name in the shipped price table; `host` the vendor's own; `reports_cost` whether each answer says what it cost;
    `native_n` whether it answers `n` choices itself; `refuses` the keys that it is known to refuse, which it is not
    sent; `media_priced_separately` whether its media always cost more than text; `max_output` tokens no answer of its exceeds.
    """

    name = ""
    title = ""
    table = ""
    host = ""
    prefixes: tuple[str, ...] = ()
    bare = re.compile(r"(?!)")
    """Model names without a prefix that are this provider's."""
    reports_cost = False
    native_n = False
    media_priced_separately = False
    max_output = 128_000

    def __init__(self, endpoint: Endpoint, upstream: Upstream) -> None:
        self.endpoint = endpoint
        self.upstream = upstream

    @property
    def ready(self) -> bool:
        """Whether the operator gave a key."""
        return bool(self.endpoint.key)

    @cached_property
    def genuine(self) -> bool:
        """Whether it is the vendor itself, and no other server that speaks as it does."""
        return urlsplit(self.endpoint.base_url).hostname == self.host

    def claims(self, model: str) -> bool:
        """Whether a name, by its prefix or without one by its look, is one of this provider's."""
        prefix, slash, _ = model.lower().partition("/")
        return prefix in self.prefixes if slash else bool(self.bare.match(prefix))

    def upstream_model(self, model: str) -> str:
        """The provider's own name for a model."""
        prefix, _, rest = model.partition("/")
        return self.spelt(rest if rest and prefix.lower() in self.prefixes else model)

    def spelt(self, name: str) -> str:
        """A name in lower case if the price table knows it; any other, and a fine-tuned model's, as it was written."""
        folded = name.lower()
        known = model_names.price_row(self.table, folded) or model_names.price_row(
            self.table, model_names.split_variant(folded)[0]
        )
        return folded if known and not folded.startswith(model_names.FINE_TUNED) else name

    def public_model(self, model: str) -> str:
        """The name under which a model of this provider is listed here."""
        return f"{self.prefixes[0]}/{model}"

    def lists(self, public: str) -> bool:
        """Whether a model of the price table is shown under its public name."""
        return self.claims(public)

    @property
    def refuses(self) -> frozenset[str]:
        """Keys of a body that are left out."""
        return frozenset()

    def meter(self, call: Call) -> UsageMeter:
        """A meter for one answer to `call`, which reads the usage by this provider's rules."""
        return _Meter(call.n if self.native_n else 1, self)

    def read_usage(self, raw: Mapping[str, Any]) -> Usage | None:
        """A `usage` object of this provider's; None when it cannot be."""
        return read_usage(raw)

    def read_cost(self, raw: Mapping[str, Any]) -> Decimal | None:
        """The dollars that a `usage` object says the call cost, if this provider reports them."""
        return None

    def request(self, call: Call, body: Mapping[str, Any], key: str | None = None) -> ProviderRequest:
        """The request that sends `body`; `key` replaces the operator's.

        The body is always written anew, so that what was checked is what is sent. Raises BadCall when it
        cannot be written.
        """
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if call.stream else "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "stoa/0.1",
            "Authorization": f"Bearer {key or self.endpoint.key or ''}",
            **self.headers(),
        }
        return ProviderRequest(f"{self.endpoint.base_url}/chat/completions", headers, write(body))

    def headers(self) -> Mapping[str, str]:
        """Headers of this provider alone."""
        return {}

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        """The body this provider is sent, and the names of what was left out of it because it would refuse that."""
        refuses = self.refuses
        body: dict[str, Any] = {}
        dropped: list[str] = []
        for key, value in call.body.items():
            if key in OURS:
                continue
            if key not in refuses:
                body[key] = value
            elif value is not None:
                dropped.append(key)
        if refuses:
            body["messages"] = [_plain(message, dropped) for message in body["messages"]]
            if any("cache_control" in tool for tool in body.get("tools") or ()):
                body["tools"] = [_without(tool, "cache_control", dropped) for tool in body["tools"]]
        body["model"] = model
        body["stream"] = call.stream
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif body.pop("stream_options", None) is not None:
            dropped.append("stream_options")
        return body, dropped


class _Meter(ChatMeter):
    def __init__(self, n: int, provider: Provider) -> None:
        super().__init__(n)
        self._provider = provider

    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        return self._provider.read_usage(usage)

    @property
    def cost(self) -> Decimal | None:
        return self._provider.read_cost(self.raw_usage) if self.raw_usage and self.billed else None


def write(body: Mapping[str, Any]) -> bytes:
    """A body as JSON. Raises BadCall for what cannot be written."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadCall(f"The request cannot be passed on: {error}.") from None


def _plain(message: dict[str, Any], dropped: list[str]) -> dict[str, Any]:
    """A message without the keys that are refused; what needs no change is not copied."""
    for name in _OF_MESSAGES.intersection(message):
        message = _without(message, name, dropped)
    content = message.get("content")
    if isinstance(content, list) and any("cache_control" in part for part in content):
        message = {**message, "content": [_without(part, "cache_control", dropped) for part in content]}
    return message


def _without(value: dict[str, Any], name: str, dropped: list[str]) -> dict[str, Any]:
    if value.get(name) is not None and name not in dropped:
        dropped.append(name)
    return {key: inner for key, inner in value.items() if key != name}


def effort_of(reasoning: Any) -> str | None:
    """OpenRouter's `reasoning` object as OpenAI's `reasoning_effort`; None when it is absent or switched off."""
    if not isinstance(reasoning, dict) or reasoning.get("enabled") is False:
        return None
    effort = reasoning.get("effort")
    return effort if isinstance(effort, str) else "medium"
