"""Anthropic: its own Messages API for calls in that format, its OpenAI-compatible endpoint for chat completions."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.formats import messages_request
from models.gateway.providers.provider import OPENROUTER_KEYS, STOA_KEYS, Provider
from models.gateway.upstream import ProviderRequest

VERSION = "2023-06-01"
"""Version of the API for clients that name none."""

_SUFFIXES = (
    (re.compile(r"claude-(opus|sonnet)-4"), "-0"),
    (re.compile(r"claude-3-(5-haiku|5-sonnet|7-sonnet|opus)"), "-latest"),
)
"""Model names that OpenRouter abbreviates, and the suffix they have at Anthropic."""


class Anthropic(Provider):
    """Its model names have dashes where OpenRouter's have dots (`claude-sonnet-4.5`)."""

    name = "anthropic"
    title = "Anthropic"
    table = "anthropic"
    host = "api.anthropic.com"
    prefixes = ("anthropic",)
    bare = re.compile(r"claude-")

    @property
    def formats(self) -> tuple[str, ...]:
        return ("messages", "chat")

    def upstream_model(self, model: str) -> str:
        name = self.canonical(re.sub(r"(?<=\d)\.(?=\d)", "-", super().upstream_model(model)))
        return name + next((ending for short, ending in _SUFFIXES if short.fullmatch(name)), "")

    @property
    def unsupported_keys(self) -> frozenset[str]:
        return OPENROUTER_KEYS

    def key_check(self, key: str) -> ProviderRequest:
        return replace(super().key_check(key), headers={"x-api-key": key, "anthropic-version": VERSION})

    def authorization(self, call: Call, key: str) -> Mapping[str, str]:
        if call.format != messages_request.NAME:
            return super().authorization(call, key)
        return {"x-api-key": key, "anthropic-version": VERSION}

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        if call.format == messages_request.NAME:
            body = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
            return {**body, "model": model, "stream": call.stream}, []
        body, dropped = super().rewrite(call, model)
        if body.pop("n", None) not in (None, 1):
            dropped.append("n")
        reasoning = call.body.get("reasoning")
        budget = reasoning.get("max_tokens") if isinstance(reasoning, dict) else None
        if type(budget) is int and "thinking" not in body:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
            dropped.remove("reasoning")
        return body, dropped
