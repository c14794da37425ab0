"""Google's Gemini, through its OpenAI-compatible endpoint."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway.providers.base import Provider, effort_of
from models.gateway.wire import Call, ChatMeter, Meter, Usage
from models.gateway.wire.call import token_figure

RESOURCE = "models/"
"""Google's own API writes this before the names of its models."""
_UNKNOWN = ("store", "metadata", "prompt_cache_key", "safety_identifier", "logit_bias")


class Gemini(Provider):
    """Refuses keys it does not know; counts thoughts in the total but not in the completion."""

    name = "gemini"
    title = "Gemini"
    table = "google"
    prefixes = ("google", "gemini")
    bare = re.compile(r"gemini-|gemma-|learnlm-")
    native_n = True

    def claims(self, model: str) -> bool:
        # The price table also has Claude, which Google serves elsewhere.
        return super().claims(model) and "claude" not in model.lower()

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return self.spelt(name[len(RESOURCE) :]) if name.lower().startswith(RESOURCE) else name

    def meter(self, call: Call) -> Meter:
        return _GeminiMeter(call.n)

    def rewrite(self, call: Call, model: str) -> dict[str, Any]:
        body = super().rewrite(call, model)
        for key in _UNKNOWN:
            body.pop(key, None)
        effort = effort_of(call.body.get("reasoning"))
        if effort:
            body.setdefault("reasoning_effort", effort)
        return body


class _GeminiMeter(ChatMeter):
    def read_usage(self, usage: Mapping[str, Any]) -> Usage | None:
        read = super().read_usage(usage)
        total = token_figure(usage.get("total_tokens"))
        if read is None or total is None or total <= read.tokens:
            return read
        thoughts = total - read.tokens
        return replace(read, output=read.output + thoughts, reasoning=read.reasoning + thoughts)
