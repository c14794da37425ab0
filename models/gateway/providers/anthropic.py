"""Anthropic, through its OpenAI-compatible endpoint."""

import re
from typing import Any

from models.gateway.providers.base import Provider
from models.gateway.wire import Call


class Anthropic(Provider):
    """Names its models with dashes where OpenRouter writes dots (`claude-sonnet-4.5`)."""

    name = "anthropic"
    title = "Anthropic"
    table = "anthropic"
    prefixes = ("anthropic",)
    bare = re.compile(r"claude-")

    def upstream_model(self, model: str) -> str:
        return re.sub(r"(?<=\d)\.(?=\d)", "-", super().upstream_model(model))

    def rewrite(self, call: Call, model: str) -> dict[str, Any]:
        body = super().rewrite(call, model)
        body.pop("n", None)
        reasoning = call.body.get("reasoning")
        budget = reasoning.get("max_tokens") if isinstance(reasoning, dict) else None
        if type(budget) is int and "thinking" not in body:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        return body
