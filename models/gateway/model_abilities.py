"""What models can do: as far as their own prices tell, and as their vendors document for families of names."""

import re
from collections.abc import Mapping
from functools import lru_cache

from models.gateway import model_names
from models.gateway.pricing import ModelPrice

ABILITIES: Mapping[str, str] = {
    "tools": "tools",
    "reasoning": "reasoning",
    "image_input": "image input",
    "pdf_input": "PDF input",
    "audio_input": "audio input",
    "video_input": "video input",
    "structured_output": "structured output",
    "prompt_caching": "prompt caching",
    "image_output": "image output",
    "audio_output": "audio output",
    "web_search": "web search",
    "file_search": "file search",
}
"""Names of the abilities, by their key in `GET /v1/models` and in filters."""

_OF_PRICES = {
    "cache_read": "prompt_caching",
    "reasoning": "reasoning",
    "audio_input": "audio_input",
    "audio_output": "audio_output",
    "image_input": "image_input",
    "image_output": "image_output",
    "video_input": "video_input",
    "web_searches": "web_search",
    "file_searches": "file_search",
}
"""A price of its own for these tokens or units says that the model has them."""

_CALLS_TOOLS = ("tools", "structured_output")
_SEES = (*_CALLS_TOOLS, "image_input")
_READS = (*_SEES, "pdf_input")
# The first family that matches a name without its owner, its variant and its date.
_FAMILIES = (
    (re.compile(r"claude-3-(?:opus|sonnet|haiku)"), ("tools", "image_input")),
    (re.compile(r"claude-3[.-]5-"), ("tools", "image_input", "pdf_input")),
    (re.compile(r"claude-3[.-]7-"), ("tools", "image_input", "pdf_input", "reasoning")),
    (re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-\d"), (*_READS, "reasoning")),
    (re.compile(r"gpt-(?:4o|5(?:\.\d)?-chat)|chatgpt-4o|gpt-4\.1"), _READS),
    (re.compile(r"gpt-[5-9]|o[134]$|o1-pro|o3-pro|o4-mini"), (*_READS, "reasoning")),
    (re.compile(r"o3-mini"), (*_CALLS_TOOLS, "reasoning")),
    (re.compile(r"o1-mini|o1-preview"), ("reasoning",)),
    (re.compile(r"gpt-oss"), (*_CALLS_TOOLS, "reasoning")),
    (re.compile(r"gpt-4-turbo"), ("tools", "image_input")),
    (re.compile(r"gpt-4|gpt-3\.5-turbo"), ("tools",)),
    (re.compile(r"gemini-(?:2\.5|[3-9])"), (*_READS, "audio_input", "video_input", "reasoning")),
    (re.compile(r"gemini-(?:1\.5|2)"), (*_READS, "audio_input", "video_input")),
    (re.compile(r"demo$"), _CALLS_TOOLS),
)


def abilities_of(name: str, price: ModelPrice | None) -> tuple[str, ...]:
    """The keys of what a model is known to do, in the order of `ABILITIES`. What is missing is unknown, not impossible."""
    listed = {*price.tiers[0].listed, *price.units} if price else set()
    found = {ability for bucket, ability in _OF_PRICES.items() if bucket in listed} | _of_family(name)
    return tuple(each for each in ABILITIES if each in found)


@lru_cache(4096)
def _of_family(name: str) -> frozenset[str]:
    if model_names.kind_of(name) != model_names.CHAT:
        return frozenset()
    base = model_names.split_variant(name.lower())[0].rpartition("/")[2]
    return frozenset(next((abilities for pattern, abilities in _FAMILIES if pattern.match(base)), ()))
