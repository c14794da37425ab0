"""Google's Gemini: its own API, and its OpenAI-compatible endpoint for what only that can say."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from models.gateway.chat_format import Call
from models.gateway.formats import gemini_request
from models.gateway.providers.provider import OPENROUTER_KEYS, STOA_KEYS, Provider, effort_of
from models.gateway.upstream import ProviderRequest

COMPATIBLE = "/openai"
"""End of the base URL: the compatible endpoint is below the native one."""
RESOURCE = "models/"
"""Prefix of model names in Google's own API."""
_SIGNS_CALLS = re.compile(r"gemini-[3-9]")
"""Models that refuse calls of tools in the history without a signature."""
_NO_SIGNATURE = "skip_thought_signature_validator"
"""Google's own mark for a call whose signature is lost, as Gemini CLI sends it."""
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
    def formats(self) -> tuple[str, ...]:
        """Another compatible server need not have Google's own API."""
        native = self.endpoint.base_url.endswith(COMPATIBLE)
        compatible = ("chat", "embeddings")
        return (gemini_request.NAME, *compatible) if native else compatible

    def format_for(self, call: Call) -> str:
        """Several answers of chat completions, and media as output, have no normal form."""
        if call.format == "chat" and "chat" in self.formats:
            plain = call.n == 1 and call.body.get("modalities") in (None, ["text"])
            return self.formats[0] if plain else "chat"
        return super().format_for(call)

    def authorization(self, call: Call, key: str) -> Mapping[str, str]:
        if call.format != gemini_request.NAME:
            return super().authorization(call, key)
        return {"x-goog-api-key": key}

    def request(self, call: Call, body: Mapping[str, Any], key: str | None = None) -> ProviderRequest:
        if call.format != gemini_request.NAME:
            return super().request(call, body, key)
        # the address names the model, and whether the answer is streamed
        verb = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        root = self.endpoint.base_url.removesuffix(COMPATIBLE)
        sent = {name: value for name, value in body.items() if name != "model"}
        url = f"{root}/models/{quote(body['model'], safe='')}:{verb}"
        return replace(super().request(call, sent, key), url=url)

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return _UNSUPPORTED

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        if call.format == gemini_request.NAME:
            body = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
            if call.original is not None and _SIGNS_CALLS.match(model):
                body["contents"] = [_signed(content) for content in body["contents"]]
            return {**body, "model": model}, [*call.left_out]
        body, dropped = super().rewrite(call, model)
        effort = effort_of(call.body.get("reasoning"))
        if effort:
            body.setdefault("reasoning_effort", effort)
            dropped.remove("reasoning")
        return body, dropped


def _signed(content: dict[str, Any]) -> dict[str, Any]:
    """A turn of the model with a mark on its first call, if the client and the memory of answers lost its signature."""
    parts = content["parts"]
    first = next((at for at, part in enumerate(parts) if "functionCall" in part), None)
    if content["role"] != "model" or first is None or "thoughtSignature" in parts[first]:
        return content
    marked = {**parts[first], "thoughtSignature": _NO_SIGNATURE}
    return {**content, "parts": [*parts[:first], marked, *parts[first + 1 :]]}
