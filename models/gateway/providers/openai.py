"""OpenAI, or any OpenAI-compatible server (`OPENAI_BASE_URL`)."""

import re
from typing import Any

from models.gateway import model_names
from models.gateway.chat_format import Call
from models.gateway.formats import passed, responses_request
from models.gateway.pricing import ModelPrice, flat
from models.gateway.providers.provider import OPENROUTER_KEYS, STOA_KEYS, Provider, effort_of

_LATEST_NAMES = re.compile(r"codex-mini|gpt-5(\.\d)?-chat")
"""OpenRouter's model names that end in `-latest` at OpenAI."""
_REASONING_MODELS = re.compile(r"o\d|gpt-5|gpt-[6-9]|codex")
_COMPLETION_MODELS = re.compile(r"(?:davinci|babbage)-002")
"""Names that only OpenAI has: OpenRouter serves its completion models for chats."""
_FREE = flat(0, 0, source="vendor")
_OPENROUTER_ONLY = ("usage", "provider", "transforms")


class OpenAI(Provider):
    """Reasoning models get `max_completion_tokens` and `reasoning_effort`, and no `stop`, on any server. Servers other than
    OpenAI's own get every other key of the client."""

    name = "openai"
    title = "OpenAI"
    table = "openai"
    host = "api.openai.com"
    prefixes = ("openai",)
    bare = re.compile(
        r"gpt-|o\d|chatgpt-|codex-|ft:|text-embedding-|dall-e|tts-1|whisper-1|(?:omni|text)-moderation"
    )
    native_n = True

    @property
    def formats(self) -> tuple[str, ...]:
        """Other servers may not have the Responses API. OpenAI has no ranking."""
        if not self.first_party:
            return ("chat", *passed.PASSED)
        own = ("responses", "compaction", "chat")
        return (*own, *(each for each in passed.PASSED if each != "rerank"))

    def speaks_in_events(self, model: str) -> bool:
        """OpenAI's older models of speech have no events, and are priced by characters."""
        return self.first_party and not model.startswith("tts-1")

    def claims(self, model: str) -> bool:
        return super().claims(model) or bool(_COMPLETION_MODELS.fullmatch(model.lower()))

    def upstream_model(self, model: str) -> str:
        name = super().upstream_model(model)
        return f"{name}-latest" if _LATEST_NAMES.fullmatch(name) else name

    def reasons(self, model: str) -> bool:
        """Whether a model is one of OpenAI's reasoning models, whose keys differ."""
        return bool(_REASONING_MODELS.match(model))

    def own_price(self, requested: str, upstream: str) -> ModelPrice | None:
        """OpenAI's moderation is free."""
        return _FREE if self.first_party and model_names.kind_of(upstream) == "moderation" else None

    @property
    def media_priced_separately(self) -> bool:  # type: ignore[override]
        """OpenAI's audio always costs more than its text; prices of other servers are in the operator's file."""
        return self.first_party

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return OPENROUTER_KEYS if self.first_party else frozenset()

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        if call.format in (responses_request.NAME, responses_request.COMPACTION):
            return rewrite_responses(call, model)
        body, dropped = super().rewrite(call, model)
        if self.reasons(model):
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


def rewrite_responses(call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
    """A request that OpenAI does not keep, and what was left out of it: its ids would be readable by every user of the operator's key.
    Reasoning comes encrypted instead, for the next turn."""
    items, left_out = responses_request.own_items(call.body.get("input"))
    if call.format == responses_request.COMPACTION:
        kept = {key: value for key, value in call.body.items() if key not in _NOT_COMPACTED}
        return {**kept, "input": items, "model": model}, [*call.left_out, *left_out]
    body = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
    include = body.get("include")
    included = [*include] if isinstance(include, list) else []
    if _REASONING_MODELS.match(model) and _ENCRYPTED not in included:
        included.append(_ENCRYPTED)
    if included:
        body["include"] = included
    body = {**body, "input": items, "model": model, "stream": call.stream, "store": False}
    return body, [*call.left_out, *left_out]


_NOT_COMPACTED = (*STOA_KEYS, "stream", "store", "background")
_ENCRYPTED = "reasoning.encrypted_content"
