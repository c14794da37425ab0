"""OpenAI, or any OpenAI-compatible server (`OPENAI_BASE_URL`)."""

import re
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.providers.provider import OPENROUTER_KEYS, Provider, effort_of

_LATEST_NAMES = re.compile(r"codex-mini|gpt-5(\.\d)?-chat")
"""OpenRouter's model names that end in `-latest` at OpenAI."""
_REASONING_MODELS = re.compile(r"o\d|gpt-5|gpt-[6-9]|codex")
_OPENROUTER_ONLY = ("usage", "provider", "transforms")


class OpenAI(Provider):
    """Reasoning models get `max_completion_tokens` and `reasoning_effort`, and no `stop`, on any server. Servers other than
    OpenAI's own get every other key of the client."""

    name = "openai"
    title = "OpenAI"
    table = "openai"
    host = "api.openai.com"
    prefixes = ("openai",)
    bare = re.compile(r"gpt-|o\d|chatgpt-|codex-|ft:")
    native_n = True

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return f"{name}-latest" if _LATEST_NAMES.fullmatch(name) else name

    @property
    def media_priced_separately(self) -> bool:  # type: ignore[override]
        """OpenAI's audio always costs more than its text; prices of other servers are in the operator's file."""
        return self.first_party

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return OPENROUTER_KEYS if self.first_party else frozenset()

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite(call, model)
        if _REASONING_MODELS.match(model):
            dropped += [key for key in ("stop", *_OPENROUTER_ONLY) if body.pop(key, None) is not None]
            limit = body.pop("max_tokens", None)
            if limit is not None:
                body.setdefault("max_completion_tokens", limit)
            body.pop("reasoning", None)
            effort = effort_of(call.body.get("reasoning"))
            if effort:
                body.setdefault("reasoning_effort", effort)
            # translated to `reasoning_effort`
            dropped = [key for key in dropped if key != "reasoning"]
        return body, dropped
