"""Anthropic: its Messages API."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway import model_names
from models.gateway.chat_format import Call
from models.gateway.formats import messages_request
from models.gateway.providers.provider import STOA_KEYS, Provider
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
        return (messages_request.NAME,)

    def upstream_model(self, model: str) -> str:
        name = self.canonical(re.sub(r"(?<=\d)\.(?=\d)", "-", super().upstream_model(model)))
        return name + next((ending for short, ending in _SUFFIXES if short.fullmatch(name)), "")

    def key_check(self, key: str) -> ProviderRequest:
        return replace(super().key_check(key), headers={"x-api-key": key, "anthropic-version": VERSION})

    def authorization(self, call: Call, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": VERSION}

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        body = {key: value for key, value in call.body.items() if key not in STOA_KEYS}
        if call.original is not None and call.max_output is None:
            # the API requires a limit, and the client gave none
            body["max_tokens"] = model_names.max_output(model) or body["max_tokens"]
        return {**body, "model": model, "stream": call.stream}, [*call.left_out]
