"""Google's Gemini, through its OpenAI-compatible endpoint."""

import re
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.providers.provider import OPENROUTER_KEYS, Provider, effort_of

RESOURCE = "models/"
"""Prefix of model names in Google's own API."""
_UNSUPPORTED = OPENROUTER_KEYS | {"store", "metadata", "prompt_cache_key", "safety_identifier", "logit_bias"}


class Gemini(Provider):
    """Refuses unknown keys; counts reasoning in the total but not in the completion."""

    name = "gemini"
    title = "Gemini"
    table = "google"
    host = "generativelanguage.googleapis.com"
    prefixes = ("google", "gemini")
    bare = re.compile(r"gemini-|gemma-|learnlm-")
    native_n = True

    def claims(self, model: str) -> bool:
        # Google's price table lists Claude, which another Google API serves
        return super().claims(model) and "claude" not in model.lower()

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return self.canonical(name[len(RESOURCE) :]) if name.lower().startswith(RESOURCE) else name

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return _UNSUPPORTED

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite(call, model)
        effort = effort_of(call.body.get("reasoning"))
        if effort:
            body.setdefault("reasoning_effort", effort)
            dropped.remove("reasoning")
        return body, dropped
