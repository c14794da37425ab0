"""OpenRouter: any model, its extensions passed on, the cost of each call reported by itself."""

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
from models.gateway.providers.provider import OURS, Endpoint, Provider
from models.gateway.upstream import Upstream

OWNERS = tuple((maker.bare, maker.prefixes[0]) for maker in (OpenAI, Anthropic, Gemini))
"""Whose a model without an owner in its name is."""


class OpenRouter(Provider):
    """Takes what no other provider takes."""

    name = "openrouter"
    title = "OpenRouter"
    table = "openrouter"
    prefixes = ("openrouter",)
    reports_cost = True

    def __init__(self, endpoint: Endpoint, upstream: Upstream, *, site: str = "") -> None:
        super().__init__(endpoint, upstream)
        self.site = site

    def upstream_model(self, model: str) -> str:
        folded = model.lower()
        if folded.startswith("openrouter/") and folded.count("/") > 1:
            model = model.partition("/")[2]
        elif folded.startswith("gemini/"):
            model = f"google/{model.partition('/')[2]}"
        elif "/" not in model:
            owner = next((owner for bare, owner in OWNERS if bare.match(folded)), None)
            model = f"{owner}/{model}" if owner else model
        return self._dotted(self.spelt(model))

    def _dotted(self, model: str) -> str:
        """Versions are written with a dot here, and with a dash at Anthropic (`claude-sonnet-4-5`)."""
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
        # Names without an owner are what answers call themselves; OpenRouter takes none of them.
        return "/" in public

    def headers(self) -> Mapping[str, str]:
        return {"HTTP-Referer": self.site, "X-Title": "Stoa"} if self.site else {"X-Title": "Stoa"}

    def read_usage(self, raw: Mapping[str, Any]) -> Usage | None:
        read = super().read_usage(raw)
        if read is None:
            return None
        cost = self.read_cost(raw)
        reported = raw.get("cost") is not None or _of_a_key(raw)
        flags = (*read.flags, "cost_unusable") if cost is None and reported else read.flags
        return replace(read, cost=cost, flags=flags)

    def read_cost(self, raw: Mapping[str, Any]) -> Decimal | None:
        """`cost` is the bill. Where a key of the operator's at another provider paid (`is_byok`), it is OpenRouter's fee
        alone, and what the provider took comes on top."""
        cost = parse_dollars(raw.get("cost"))
        if not _of_a_key(raw):
            return cost
        paid = _paid(raw.get("cost_details"))
        return None if paid is None else paid + (cost or 0)

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        usage = call.body.get("usage")
        body = {key: value for key, value in call.body.items() if key not in OURS}
        body["model"] = model
        body["stream"] = call.stream
        body["usage"] = {**(usage if isinstance(usage, dict) else {}), "include": True}
        if not call.stream and body.pop("stream_options", None) is not None:
            return body, ["stream_options"]
        return body, []


def _paid(details: Any) -> Decimal | None:
    """What the provider behind OpenRouter took: in one figure, or its two sides."""
    if not isinstance(details, dict):
        return None
    paid = parse_dollars(details.get("upstream_inference_cost"))
    sides = [
        parse_dollars(details.get(f"upstream_inference_{side}_cost")) for side in ("prompt", "completions")
    ]
    if paid is None and None not in sides:
        paid = sum((side for side in sides if side is not None), Decimal(0))
    return paid


def _of_a_key(raw: Mapping[str, Any]) -> bool:
    return raw.get("is_byok") in (True, "true", "True")
