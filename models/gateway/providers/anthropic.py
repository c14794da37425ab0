"""Anthropic, through its OpenAI-compatible endpoint."""

import re
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.providers.provider import OPENROUTERS, Provider

_WHOLE = (
    (re.compile(r"claude-(opus|sonnet)-4"), "-0"),
    (re.compile(r"claude-3-(5-haiku|5-sonnet|7-sonnet|opus)"), "-latest"),
)
"""Names that OpenRouter cuts short, and how they end here."""


class Anthropic(Provider):
    """Names its models with dashes where OpenRouter writes dots (`claude-sonnet-4.5`)."""

    name = "anthropic"
    title = "Anthropic"
    table = "anthropic"
    host = "api.anthropic.com"
    prefixes = ("anthropic",)
    bare = re.compile(r"claude-")

    def upstream_model(self, model: str) -> str:
        name = self.spelt(re.sub(r"(?<=\d)\.(?=\d)", "-", super().upstream_model(model)))
        return name + next((ending for short, ending in _WHOLE if short.fullmatch(name)), "")

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
