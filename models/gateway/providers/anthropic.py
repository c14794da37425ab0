"""Anthropic, through its OpenAI-compatible endpoint."""

import re
from typing import Any

from models.gateway.providers.base import OPENROUTERS, Provider
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

    @property
    def refuses(self) -> frozenset[str]:
        return OPENROUTERS

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite(call, model)
        if body.pop("n", None) not in (None, 1):
            dropped.append("n")
        reasoning = call.body.get("reasoning")
        budget = reasoning.get("max_tokens") if isinstance(reasoning, dict) else None
        if type(budget) is int and "thinking" not in body:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
            dropped.remove("reasoning")
        return body, dropped
