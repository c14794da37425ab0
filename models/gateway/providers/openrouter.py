"""OpenRouter: serves any model, receives all extension keys, and reports the cost of each call."""

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from models.gateway import model_names
from models.gateway.chat_format import Call, Usage
from models.gateway.chat_format.reported_numbers import parse_dollars
from models.gateway.providers.anthropic import Anthropic
from models.gateway.providers.gemini import Gemini
from models.gateway.providers.openai import OpenAI
from models.gateway.providers.provider import STOA_KEYS, Endpoint, Provider
from models.gateway.upstream import ProviderRequest, Upstream

VENDORS = tuple((maker.bare, maker.prefixes[0]) for maker in (OpenAI, Anthropic, Gemini))
"""Patterns of model names without a vendor, and the vendor's prefix."""


class OpenRouter(Provider):
    """Serves the models that no other provider serves."""

    name = "openrouter"
    title = "OpenRouter"
    table = "openrouter"
    prefixes = ("openrouter",)
    reports_cost = True

    @property
    def formats(self) -> tuple[str, ...]:
        return ("chat", "embeddings", "completions", "rerank")

    def __init__(self, endpoint: Endpoint, upstream: Upstream, *, site: str = "") -> None:
        super().__init__(endpoint, upstream)
        self.site = site

    def key_check(self, key: str) -> ProviderRequest:
        # its list of models is public
        return replace(super().key_check(key), url=f"{self.endpoint.base_url}/key")

    def upstream_model(self, model: str) -> str:
        folded = model.lower()
        if folded.startswith("openrouter/") and folded.count("/") > 1:
            model = model.partition("/")[2]
        elif folded.startswith("gemini/"):
            model = f"google/{model.partition('/')[2]}"
        elif "/" not in model:
            vendor = next((vendor for bare, vendor in VENDORS if bare.match(folded)), None)
            model = f"{vendor}/{model}" if vendor else model
        return self._dotted(self.canonical(model))

    def _dotted(self, model: str) -> str:
        """The name with a dotted version, where OpenRouter lists that and Anthropic uses a dash (`claude-sonnet-4-5`)."""
        dotted = re.sub(r"(?<=-\d)-(?=\d(?!\d))", ".", model.lower())
        base, known = (model_names.split_variant(name)[0] for name in (dotted, model))
        return (
            dotted
            if model_names.has_row(self.table, base) and not model_names.has_row(self.table, known)
            else model
        )

    def public_model(self, model: str) -> str:
        return model

    def lists(self, public: str) -> bool:
        # names without a vendor appear in responses only; OpenRouter does not accept them
        return "/" in public

    def headers(self) -> Mapping[str, str]:
        return {"HTTP-Referer": self.site, "X-Title": "Stoa"} if self.site else {"X-Title": "Stoa"}

    def read_usage(self, raw: Mapping[str, Any]) -> Usage | None:
        read = super().read_usage(raw)
        if read is None:
            return None
        cost = self.read_cost(raw)
        reported = raw.get("cost") is not None or _is_byok(raw)
        flags = (*read.flags, "cost_unusable") if cost is None and reported else read.flags
        return replace(read, cost=cost, flags=flags)

    def read_cost(self, raw: Mapping[str, Any]) -> Decimal | None:
        """`cost` is the bill. With a provider key of the operator's at OpenRouter (`is_byok`) it is only OpenRouter's fee, to
        which the provider's charge is added."""
        cost = parse_dollars(raw.get("cost"))
        if not _is_byok(raw):
            return cost
        upstream_cost = _upstream_cost(raw.get("cost_details"))
        return None if upstream_cost is None else upstream_cost + (cost or 0)

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        usage = call.body.get("usage")
        body = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
        body["model"] = model
        body["stream"] = call.stream
        body["usage"] = {**(usage if isinstance(usage, dict) else {}), "include": True}
        if not call.stream and body.pop("stream_options", None) is not None:
            return body, [*call.left_out, "stream_options"]
        return body, [*call.left_out]


def _upstream_cost(details: Any) -> Decimal | None:
    """The charge of the provider behind OpenRouter: one amount, or the sum of prompt and completions."""
    if not isinstance(details, dict):
        return None
    upstream_cost = parse_dollars(details.get("upstream_inference_cost"))
    sides = [
        parse_dollars(details.get(f"upstream_inference_{side}_cost")) for side in ("prompt", "completions")
    ]
    if upstream_cost is None and None not in sides:
        upstream_cost = sum((side for side in sides if side is not None), Decimal(0))
    return upstream_cost


def _is_byok(raw: Mapping[str, Any]) -> bool:
    return raw.get("is_byok") in (True, "true", "True")
