"""OpenAI itself, or any server that speaks as it does (`OPENAI_BASE_URL`)."""

import re
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.providers.provider import OPENROUTERS, Provider, effort_of

_LATEST = re.compile(r"codex-mini|gpt-5(\.\d)?-chat")
"""What OpenRouter calls by these names, OpenAI knows with `-latest`."""
_REASONS = re.compile(r"o\d|gpt-5|gpt-[6-9]|codex")
_OF_OPENROUTER = ("usage", "provider", "transforms")


class OpenAI(Provider):
    """Its reasoning models take `max_completion_tokens` and `reasoning_effort`, and no `stop`, wherever they are served.
    Any other server than OpenAI's own is sent all that the client sent."""

    name = "openai"
    title = "OpenAI"
    table = "openai"
    host = "api.openai.com"
    prefixes = ("openai",)
    bare = re.compile(r"gpt-|o\d|chatgpt-|codex-|ft:")
    native_n = True

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return f"{name}-latest" if _LATEST.fullmatch(name) else name

    @property
    def media_priced_separately(self) -> bool:  # type: ignore[override]
        """OpenAI's audio always costs more than its text; what others charge is in the operator's file."""
        return self.genuine

    @property
    def refuses(self) -> frozenset[str]:
        return OPENROUTERS if self.genuine else frozenset()

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body, dropped = super().rewrite(call, model)
        if _REASONS.match(model):
            dropped += [key for key in ("stop", *_OF_OPENROUTER) if body.pop(key, None) is not None]
            limit = body.pop("max_tokens", None)
            if limit is not None:
                body.setdefault("max_completion_tokens", limit)
            body.pop("reasoning", None)
            effort = effort_of(call.body.get("reasoning"))
            if effort:
                body.setdefault("reasoning_effort", effort)
            # it was translated
            dropped = [key for key in dropped if key != "reasoning"]
        return body, dropped
