"""OpenAI itself, or any server that speaks as it does (`OPENAI_BASE_URL`)."""

import re
from typing import Any

from models.gateway.providers.base import Provider, effort_of
from models.gateway.wire import Call

_LATEST = re.compile(r"codex-mini|gpt-5(\.\d)?-chat")
"""What OpenRouter calls by these names, OpenAI knows with `-latest`."""
_REASONS = re.compile(r"o\d|gpt-5|gpt-[6-9]|codex")


class OpenAI(Provider):
    """Reasoning models take `max_completion_tokens` and `reasoning_effort`, and no `stop`."""

    name = "openai"
    title = "OpenAI"
    table = "openai"
    prefixes = ("openai",)
    bare = re.compile(r"gpt-|o\d|chatgpt-|codex-|ft:")
    native_n = True

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return f"{name}-latest" if _LATEST.fullmatch(name) else name

    def rewrite(self, call: Call, model: str) -> dict[str, Any]:
        body = super().rewrite(call, model)
        # other tiers have other prices than the listed ones
        body.pop("service_tier", None)
        if _REASONS.match(model):
            body.pop("stop", None)
            limit = body.pop("max_tokens", None)
            if limit is not None:
                body.setdefault("max_completion_tokens", limit)
            effort = effort_of(call.body.get("reasoning"))
            if effort:
                body.setdefault("reasoning_effort", effort)
        return body
