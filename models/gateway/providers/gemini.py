"""Google's Gemini, through its OpenAI-compatible endpoint."""

import re
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.providers.provider import OPENROUTERS, Provider, effort_of

RESOURCE = "models/"
"""Google's own API writes this before the names of its models."""
_UNKNOWN = OPENROUTERS | {"store", "metadata", "prompt_cache_key", "safety_identifier", "logit_bias"}


class Gemini(Provider):
    """Refuses keys it does not know; counts thoughts in the total but not in the completion."""

    name = "gemini"
    title = "Gemini"
    table = "google"
    host = "generativelanguage.googleapis.com"
    prefixes = ("google", "gemini")
    bare = re.compile(r"gemini-|gemma-|learnlm-")
    native_n = True

    def claims(self, model: str) -> bool:
        # The price table also has Claude, which Google serves elsewhere.
        return super().claims(model) and "claude" not in model.lower()

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return self.spelt(name[len(RESOURCE) :]) if name.lower().startswith(RESOURCE) else name

    @property
    def refuses(self) -> frozenset[str]:
        return _UNKNOWN

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite(call, model)
        effort = effort_of(call.body.get("reasoning"))
        if effort:
            body.setdefault("reasoning_effort", effort)
            dropped.remove("reasoning")
        return body, dropped
