"""OpenRouter: any model, its extensions passed on, the cost of each call reported by itself."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from models.gateway.providers.base import OURS, Endpoint, Provider
from models.gateway.upstream import Upstream
from models.gateway.wire import Call, Usage
from models.gateway.wire.usage import dollar_figure

OWNERS = (
    (("gpt-", "o1", "o3", "o4", "chatgpt-"), "openai"),
    (("claude-",), "anthropic"),
    (("gemini-", "gemma-"), "google"),
)


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
        if model.startswith("openrouter/") and model.count("/") > 1:
            return model.removeprefix("openrouter/")
        if "/" in model:
            return model
        owner = next((owner for starts, owner in OWNERS if model.startswith(starts)), None)
        return f"{owner}/{model}" if owner else model

    def public_model(self, model: str) -> str:
        return model

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
        cost = dollar_figure(raw.get("cost"))
        if not _of_a_key(raw):
            return cost
        details = raw.get("cost_details")
        paid = dollar_figure(details.get("upstream_inference_cost") if isinstance(details, dict) else None)
        return None if paid is None else paid + (cost or 0)

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        usage = call.body.get("usage")
        body = {key: value for key, value in call.body.items() if key not in OURS}
        body["model"] = model
        body["stream"] = call.stream
        body["usage"] = {**(usage if isinstance(usage, dict) else {}), "include": True}
        if not call.stream:
            body.pop("stream_options", None)
        return body, []


def _of_a_key(raw: Mapping[str, Any]) -> bool:
    return raw.get("is_byok") in (True, "true", "True")
