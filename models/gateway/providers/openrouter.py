"""OpenRouter: any model, its extensions passed on, the cost of each call reported by itself."""

from collections.abc import Mapping
from typing import Any

from models.gateway.providers.base import Endpoint, Provider
from models.gateway.upstream import Upstream
from models.gateway.wire import Call

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

    def rewrite(self, call: Call, model: str) -> dict[str, Any]:
        usage = call.body.get("usage")
        body = {key: value for key, value in call.body.items() if key != "codebuff_metadata"}
        body["model"] = model
        body["stream"] = call.stream
        body["usage"] = {**(usage if isinstance(usage, dict) else {}), "include": True}
        if not call.stream:
            body.pop("stream_options", None)
        return body
