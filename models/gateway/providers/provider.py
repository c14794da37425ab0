"""The base class of provider adapters: OpenAI-compatible chat completions."""

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
from models.gateway.formats import gemini_request, messages_request, passed, responses_request
from models.gateway.formats.completion_choices import as_chat
from models.gateway.formats.embeddings_meter import EmbeddingsMeter
from models.gateway.formats.form_encoding import encode_form
from models.gateway.formats.gemini_meter import GeminiMeter
from models.gateway.formats.images_meter import ImagesMeter
from models.gateway.formats.messages_meter import MessagesMeter
from models.gateway.formats.moderations_meter import ModerationsMeter
from models.gateway.formats.passed_meter import PassedMeter
from models.gateway.formats.rerank_meter import RerankMeter
from models.gateway.formats.responses_meter import ResponsesMeter
from models.gateway.formats.speech_meter import SpeechMeter
from models.gateway.formats.transcription_meter import TranscriptionMeter
from models.gateway.pricing import ModelPrice
from models.gateway.upstream import ProviderRequest, Upstream, UpstreamTimeouts

PATHS = {
    "chat": "/chat/completions",
    "messages": "/messages",
    "responses": "/responses",
    "compaction": "/responses/compact",
    "gemini": "",
    **passed.PATHS,
}
"""Where a provider takes requests of each format, below its base URL."""

METERS: Mapping[str, type[PassedMeter]] = {
    "embeddings": EmbeddingsMeter,
    "moderations": ModerationsMeter,
    "rerank": RerankMeter,
    "images": ImagesMeter,
    "image_edits": ImagesMeter,
    "speech": SpeechMeter,
    "transcriptions": TranscriptionMeter,
    "translations": TranscriptionMeter,
}
"""The meters of answers that are passed on, by format."""

STOA_KEYS = frozenset({"codebuff_metadata"})
"""Request keys for Stoa itself, which no provider is sent."""

OPENROUTER_KEYS = frozenset(
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
"""Request keys of OpenRouter and of servers of open models, which OpenAI, Anthropic and Google refuse."""

_MESSAGE_KEYS = frozenset({"cache_control", "reasoning", "reasoning_content", "reasoning_details"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider's base URL, and the operator's API key for it."""

    base_url: str
    key: str | None


class Provider:
    """A provider with OpenAI's Chat Completions API. Adapters override what differs.

    `table` is its name in the shipped price table; `host` the vendor's API host; `reports_cost` whether responses contain
    their cost; `native_n` whether it supports `n` choices; `unsupported_keys` the request keys it refuses, which are left
    out; `media_priced_separately` whether media always cost more than text; `max_output` the most output tokens of an answer.
    """

    name = ""
    title = ""
    table = ""
    host = ""
    prefixes: tuple[str, ...] = ()
    bare = re.compile(r"(?!)")
    """Pattern of this provider's model names without a prefix."""
    reports_cost = False
    native_n = False
    media_priced_separately = False
    max_output = 128_000

    def __init__(self, endpoint: Endpoint, upstream: Upstream) -> None:
        self.endpoint = endpoint
        self.upstream = upstream

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of requests that it takes (`models/gateway/formats`). Calls in others are translated into the first."""
        return ("chat",)

    def format_for(self, call: Call) -> str:
        """The format in which it gets a call."""
        return call.format if call.format in self.formats else self.formats[0]

    @property
    def ready(self) -> bool:
        """Whether the operator has set a key."""
        return bool(self.endpoint.key)

    @property
    def key_setting(self) -> str:
        """The setting with the operator's key; empty if it needs none."""
        return f"{self.name.upper()}_API_KEY"

    @cached_property
    def first_party(self) -> bool:
        """Whether the endpoint is the vendor's own, not another compatible server."""
        return urlsplit(self.endpoint.base_url).hostname == self.host

    def claims(self, model: str) -> bool:
        """Whether a model name, by its prefix or else by its pattern, belongs to this provider."""
        prefix, slash, _ = model.lower().partition("/")
        return prefix in self.prefixes if slash else bool(self.bare.match(prefix))

    def upstream_model(self, model: str) -> str:
        """The provider's own name for a model."""
        prefix, _, rest = model.partition("/")
        return self.canonical(rest if rest and prefix.lower() in self.prefixes else model)

    def canonical(self, name: str) -> str:
        """The name in lower case if the price table lists it; unchanged otherwise, and for fine-tuned models."""
        folded = name.lower()
        known = model_names.price_row(self.table, folded) or model_names.price_row(
            self.table, model_names.split_variant(folded)[0]
        )
        return folded if known and not folded.startswith(model_names.FINE_TUNED) else name

    def public_model(self, model: str) -> str:
        """The name under which Stoa lists a model of this provider."""
        return f"{self.prefixes[0]}/{model}"

    def lists(self, public: str) -> bool:
        """Whether a model of the price table is listed under its public name."""
        return self.claims(public)

    def own_price(self, requested: str, upstream: str) -> ModelPrice | None:
        """The price of a model that its provider comes with; the shipped table's otherwise."""
        return None

    def kind_of(self, upstream: str) -> str:
        """The kind of a model: `model_names.CHAT`, or one of `model_names.KINDS`."""
        return model_names.kind_of(upstream)

    def timeouts_of(self, requested: str, upstream: str) -> UpstreamTimeouts | None:
        """The timeouts of a model; None for the provider's."""
        return None

    @property
    def unsupported_keys(self) -> frozenset[str]:
        """Request keys that this provider refuses."""
        return frozenset()

    def meter(self, call: Call) -> UsageMeter:
        """Create the meter for one answer to `call`, which reads usage by this provider's rules."""
        if call.format == messages_request.NAME:
            return MessagesMeter()
        if call.format in (responses_request.NAME, responses_request.COMPACTION):
            return ResponsesMeter()
        if call.format == gemini_request.NAME:
            return GeminiMeter()
        if (passed_on := METERS.get(call.format)) is not None:
            return passed_on(self.read_usage, call)
        if call.format == "completions":
            return _CompletionsMeter(call.n, self)
        return _Meter(call.n if self.native_n else 1, self)

    def speaks_in_events(self, model: str) -> bool:
        """Whether speech is requested as events, which report its tokens."""
        return False

    def read_usage(self, raw: Mapping[str, Any]) -> Usage | None:
        """Parse a `usage` object of this provider; None when it is unusable."""
        return read_usage(raw)

    def read_cost(self, raw: Mapping[str, Any]) -> Decimal | None:
        """The cost of the call in dollars from a `usage` object, if this provider reports it."""
        return None

    def request(self, call: Call, body: Mapping[str, Any], key: str | None = None) -> ProviderRequest:
        """Build the request that sends `body`; `key` replaces the operator's.

        Always serialises the parsed body, so that what was checked is what is sent. Raises BadCall when it cannot.
        """
        content, content_type = (
            encode_form(body, call.files) if call.files else (write(body), "application/json")
        )
        headers = {
            "Content-Type": content_type,
            "Accept": _accepted(call),
            "Accept-Encoding": "identity",
            "User-Agent": "stoa/0.1",
            **self.authorization(call, key or self.endpoint.key or ""),
            **self.headers(),
            **call.headers,
        }
        return ProviderRequest(self.url(PATHS[call.format], str(body.get("model"))), headers, content)

    def url(self, path: str, model: str) -> str:
        """The URL of a path below the base URL, for requests to this model."""
        return f"{self.endpoint.base_url}{path}"

    def key_check(self, key: str) -> ProviderRequest:
        """A free request that succeeds only with a valid key."""
        return ProviderRequest(
            f"{self.endpoint.base_url}/models", {"Authorization": f"Bearer {key}"}, b"", "GET"
        )

    def authorization(self, call: Call, key: str) -> Mapping[str, str]:
        """The headers with the key."""
        return {"Authorization": f"Bearer {key}"}

    def headers(self) -> Mapping[str, str]:
        """Additional headers for this provider."""
        return {}

    def rewrite_passed(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        """Like `rewrite`, for formats that are passed on."""
        body = {key: value for key, value in call.body.items() if key not in STOA_KEYS} | {"model": model}
        if call.format in ("transcriptions", "translations") and body.get("response_format") == "text":
            # JSON reports what it cost
            body["response_format"] = "json"
        if call.format == "speech" and self.speaks_in_events(model):
            body["stream_format"] = "sse"
        if call.format == "completions" and call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif call.format == "completions" and body.pop("stream_options", None) is not None:
            return body, ["stream_options"]
        return body, []

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        """The body to send to this provider, and the names of the unsupported keys left out of it."""
        unsupported = self.unsupported_keys
        body: dict[str, Any] = {}
        dropped = [*call.left_out]
        for key, value in call.body.items():
            if key in STOA_KEYS:
                continue
            if key not in unsupported:
                body[key] = value
            elif value is not None:
                dropped.append(key)
        if unsupported:
            body["messages"] = [_supported(message, dropped) for message in body["messages"]]
            if any("cache_control" in tool for tool in body.get("tools") or ()):
                body["tools"] = [_without(tool, "cache_control", dropped) for tool in body["tools"]]
        body["model"] = model
        body["stream"] = call.stream
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif body.pop("stream_options", None) is not None:
            dropped.append("stream_options")
        return body, dropped


def _accepted(call: Call) -> str:
    if call.format == "speech":
        return "*/*"
    return "text/event-stream" if call.stream else "application/json"


class _Meter(ChatMeter):
    def __init__(self, n: int, provider: Provider) -> None:
        super().__init__(n)
        self._provider = provider

    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        return self._provider.read_usage(usage)

    @property
    def cost(self) -> Decimal | None:
        return self._provider.read_cost(self.raw_usage) if self.raw_usage and self.billed else None


class _CompletionsMeter(_Meter):
    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        return super().event(as_chat(event, "delta"), is_error=is_error)

    def body(self, body: Mapping[str, Any]) -> None:
        super().body(as_chat(body, "message"))


def write(body: Mapping[str, Any]) -> bytes:
    """Serialise a body as JSON. Raises BadCall when it cannot."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadCall(f"The request cannot be passed on: {error}.") from None


def remove_keys(body: dict[str, Any], names: frozenset[str], dropped: list[str]) -> None:
    """Remove keys from a body, and from the messages in it those that messages have. `dropped` gets the names of those with a value."""
    for name in sorted(names.intersection(body)):
        if body.pop(name) is not None and name not in dropped:
            dropped.append(name)
    messages = body.get("messages")
    if isinstance(messages, list) and not _MESSAGE_KEYS.isdisjoint(names):
        body["messages"] = [
            _supported(message, dropped, names) if isinstance(message, dict) else message
            for message in messages
        ]


def _supported(
    message: dict[str, Any], dropped: list[str], names: frozenset[str] = _MESSAGE_KEYS
) -> dict[str, Any]:
    """The message without those of its keys that are unsupported; not copied if unchanged."""
    for name in names & _MESSAGE_KEYS.intersection(message):
        message = _without(message, name, dropped)
    content = message.get("content")
    if (
        "cache_control" in names
        and isinstance(content, list)
        and any("cache_control" in part for part in content)
    ):
        message = {**message, "content": [_without(part, "cache_control", dropped) for part in content]}
    return message


def _without(value: dict[str, Any], name: str, dropped: list[str]) -> dict[str, Any]:
    if value.get(name) is not None and name not in dropped:
        dropped.append(name)
    return {key: inner for key, inner in value.items() if key != name}


def effort_of(reasoning: Any) -> str | None:
    """Convert OpenRouter's `reasoning` object to OpenAI's `reasoning_effort`; None when absent or disabled."""
    if not isinstance(reasoning, dict) or reasoning.get("enabled") is False:
        return None
    effort = reasoning.get("effort")
    return effort if isinstance(effort, str) else "medium"
