"""Normalizes the usage that providers report into disjoint token buckets.

Vendors differ in field names and in what each total includes. Where the numbers are ambiguous, `total_tokens` decides;
without it, the interpretation that costs more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from models.gateway.chat_format.reported_numbers import parse_tokens
from models.gateway.chat_format.vendor_usage import with_openai_names

ABSURD_TOKENS = 50_000_000
"""More than any known call uses. Higher usage is charged, and flagged."""

PARENT_BUCKETS = MappingProxyType(
    {
        "cache_write_30m": "cache_write",
        "cache_write_1h": "cache_write",
        "cache_write_12h": "cache_write",
        "audio_input": "input",
        "image_input": "input",
        "video_input": "input",
        "cached_audio": "cache_read",
        "cached_image": "cache_read",
        "cached_video": "cache_read",
        "reasoning": "output",
        "audio_output": "output",
        "image_output": "output",
        "video_output": "output",
    }
)
"""Sub-buckets, which may have their own prices, and the bucket whose total includes them."""

MEDIA = ("audio", "image", "video")

_MEDIA_TOKENS = tuple((medium, f"{medium}_tokens") for medium in MEDIA)

UNITS = ("web_searches", "file_searches", "images", "seconds", "characters", "search_units")
"""Units with a price each: searches, images by size and quality, seconds of audio, characters of speech, units of ranking."""
UNKNOWN = "auto"
"""A size or quality that the provider chooses."""


def is_unit(name: str) -> bool:
    """Whether a part counts units, not tokens."""
    return name.partition(":")[0] in UNITS


def image_unit(size: Any, quality: Any) -> str:
    """The unit of images of this size and quality: `images:1024x1024:hd`."""
    found = [
        each if isinstance(each, str) and _PLAIN.fullmatch(each) else UNKNOWN for each in (size, quality)
    ]
    return ":".join(("images", *found))


_PLAIN = re.compile(r"[\w.-]{1,40}", re.ASCII)

EMPTY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of one call, in tokens.

    `uncached_input`, `cache_write` and `cache_read` add up to the input; `output` includes `reasoning`. `parts` holds
    sub-buckets of these totals (`PARENT_BUCKETS`) and counts of `UNITS`. `source`: reported by the `provider`,
    `counted` with the model's tokenizer, or `estimated`. `cost`: dollars reported by the provider, if any; `least_cost`:
    dollars reported before more output followed. `flags`: warnings for the operator. `raw`: the provider's own object.
    """

    uncached_input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0
    reasoning: int = 0
    source: str = "provider"
    cost: Decimal | None = None
    parts: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    flags: tuple[str, ...] = ()
    raw: Any = field(default=None, repr=False, compare=False)
    least_cost: Decimal = Decimal(0)

    @property
    def input(self) -> int:
        """All input tokens, cached or not."""
        return self.uncached_input + self.cache_write + self.cache_read

    @property
    def tokens(self) -> int:
        """Input plus output."""
        return self.input + self.output

    def buckets(self) -> dict[str, int]:
        """The disjoint buckets that are not zero."""
        found = {
            "input": self.uncached_input,
            "cache_write": self.cache_write,
            "cache_read": self.cache_read,
            "output": self.output - self.reasoning,
            "reasoning": self.reasoning,
        }
        for name, count in self.parts.items():
            found[name] = count
            if name in PARENT_BUCKETS:
                found[PARENT_BUCKETS[name]] -= count
        return {name: count for name, count in found.items() if count}

    def __add__(self, other: "Usage") -> "Usage":
        worst = max(self.source, other.source, key=("provider", "counted", "estimated").index)
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        names = {**self.parts, **other.parts}
        return Usage(
            self.uncached_input + other.uncached_input,
            self.cache_write + other.cache_write,
            self.cache_read + other.cache_read,
            self.output + other.output,
            self.reasoning + other.reasoning,
            worst,
            cost,
            {name: self.parts.get(name, 0) + other.parts.get(name, 0) for name in names},
            (*self.flags, *(flag for flag in other.flags if flag not in self.flags)),
            [*_listed(self.raw), *_listed(other.raw)],
            self.least_cost + other.least_cost,
        )


def _listed(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else [raw]


class _InvalidUsage(Exception):
    """A number is invalid or contradicts another."""


def read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Parse a `usage` object of any vendor, without its cost. None if a number is missing, negative or contradicts
    another. Invalid cache and reasoning details are ignored and flagged. A reported zero counts as reported.
    """
    if parsed := _parse_common(usage):
        return parsed
    renamed = with_openai_names(usage)
    try:
        return _parse(renamed, usage)
    except _InvalidUsage:
        pass
    try:
        parsed = _parse(_without_invalid(renamed), usage)
    except _InvalidUsage:
        return None
    return parsed and replace(parsed, flags=(*parsed.flags, "usage_unusable"))


_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_COMMON_DETAILS = {"prompt_tokens_details": "cached_tokens", "completion_tokens_details": "reasoning_tokens"}


def _parse_common(usage: Mapping[str, Any]) -> Usage | None:
    """Fast path for the most common form: three consistent totals, and at most cached and reasoning tokens as details.
    None for any other form. Same result as `_parse`, at a fifth of the cost."""
    details = [0, 0]
    for key, value in usage.items():
        if key in _TOTALS:
            if type(value) is not int:
                return None
        elif key in _COMMON_DETAILS and type(value) is dict:
            detail = _COMMON_DETAILS[key]
            for name, number in value.items():
                if number and (name != detail or type(number) is not int):
                    return None
            details[detail == "reasoning_tokens"] = value.get(detail) or 0
        else:
            return None
    prompt, output, total = (
        usage.get("prompt_tokens", -1),
        usage.get("completion_tokens", -1),
        usage.get("total_tokens"),
    )
    cached, reasoning = details
    if total != prompt + output or total > ABSURD_TOKENS:
        return None
    if not (0 <= cached <= prompt and 0 <= reasoning <= output):
        return None
    return Usage(
        uncached_input=prompt - cached, cache_read=cached, output=output, reasoning=reasoning, raw=usage
    )


def _without_invalid(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage without invalid numbers whose absence can only raise the cost."""
    return {
        key: _without_invalid(value) if isinstance(value, dict) else value
        for key, value in usage.items()
        if isinstance(value, dict) or key not in _DISCOUNTS or parse_tokens(value) is not None
    }


_DISCOUNTS = frozenset(
    {"reasoning_tokens", "thinking_tokens", "cached_tokens", "cache_read_tokens", "num_cached_tokens"}
    | {"prompt_cache_hit_tokens", "cache_read_input_tokens"}
)


def _parse(usage: Mapping[str, Any], raw: Mapping[str, Any]) -> Usage | None:
    details = _prompt_details(usage)
    output_details = _details(usage, "completion_tokens_details", "output_tokens_details")
    prompt, output, total = _totals(usage)
    if prompt is None or output is None:
        return None
    reasoning = max(
        _count(output_details, "reasoning_tokens", "thinking_tokens") or 0,
        _count(usage, "reasoning_tokens") or 0,
    )
    prompt, read, write = _cache_tokens(usage, details, prompt, output, reasoning, total)

    # xAI and Gemini report reasoning in addition to the output: the total exceeds prompt and output, or
    # reasoning exceeds the output
    excess = max(total - prompt - output, 0) if total is not None else 0
    citations = _count(usage, "citation_tokens")
    audio_excess = excess if excess > reasoning and _audio_seconds(usage) else 0
    if citations is not None:
        # Perplexity: citations and reasoning are not included in prompt, output or total
        prompt += citations
        output += reasoning
    else:
        output += excess - audio_excess
        reasoning = max(reasoning, excess - audio_excess)
    if reasoning > output:
        output += reasoning
    prompt += audio_excess
    media_output = {
        f"{medium}_output": _count(output_details, name) or 0
        for medium, name in _MEDIA_TOKENS
        if name in output_details
    }
    output = max(output, sum(media_output.values()) + reasoning)

    parts = media_output | {"audio_input": audio_excess}
    if any(name in details for _, name in _MEDIA_TOKENS):
        prompt, read, media_input = _media_tokens(details, prompt, read, write)
        parts |= media_input
    if write:
        parts |= _write_lifetimes(usage, details, write)
    parts |= _units(usage)
    tokens = prompt + output
    return Usage(
        uncached_input=prompt - read - write,
        cache_write=write,
        cache_read=read,
        output=output,
        reasoning=reasoning,
        parts={name: count for name, count in parts.items() if count} or EMPTY,
        flags=("tokens_absurd",) if tokens > ABSURD_TOKENS else (),
        raw=raw,
    )


_PROMPT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")


def _prompt_details(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    return _details(usage, "prompt_tokens_details", "input_tokens_details")


def _audio_seconds(usage: Mapping[str, Any]) -> int:
    """Seconds of audio input, whose tokens are only in the total (Mistral)."""
    return parse_tokens(usage.get("prompt_audio_seconds")) or 0


def minimum_tokens(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Lower bounds of the input and output tokens from a `usage` object that `read_usage` rejects."""
    renamed = with_openai_names(usage)
    prompt, output, total, cached = (
        max(
            parse_tokens(fields.get(name)) or 0
            for fields in (renamed, _prompt_details(renamed))
            for name in names
        )
        for names in (_PROMPT, _OUTPUT, ("total_tokens",), ("cached_tokens", "cache_read_input_tokens"))
    )
    if not any(renamed.get(name) is not None for name in (*_PROMPT, *_OUTPUT)):
        output = total
    return max(prompt, cached), output


def _totals(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Input, output and total as reported. A missing input or output is derived from the total."""
    total = parse_tokens(usage.get("total_tokens"))
    prompt, output = _largest(usage, *_PROMPT), _largest(usage, *_OUTPUT)
    missed, hit = _count(usage, "prompt_cache_miss_tokens"), _count(usage, "prompt_cache_hit_tokens")
    if missed is not None:
        prompt = max(prompt or 0, missed + (hit or 0))
    if total is not None and prompt is not None and output is None and total > prompt:
        output = total - prompt
    elif total is not None and output is not None and prompt is None and total > output:
        prompt = total - output
    return prompt, output, total


def _cache_tokens(
    usage: Mapping[str, Any],
    details: Mapping[str, Any],
    prompt: int,
    output: int,
    reasoning: int,
    total: int | None,
) -> tuple[int, int, int]:
    """Total input, cache reads and cache writes.

    Anthropic's fields are in addition to the input, those of other vendors are included in it. Gateways forward both
    kinds of fields with either meaning.
    """
    read = max(
        _count(details, "cached_tokens", "cache_read_tokens") or 0,
        _count(usage, "prompt_cache_hit_tokens") or 0,
        _count(usage, "cached_tokens", "num_cached_tokens") or 0,
    )
    write = _count(details, "cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens") or 0
    read_extra = _count(usage, "cache_read_input_tokens") or 0
    write_extra = max(
        _count(usage, "cache_creation_input_tokens") or 0, sum(_by_lifetime(usage, details).values())
    )
    without_cache = {prompt + output, prompt + output + reasoning}
    if read_extra or write_extra > write:
        duplicated = read_extra == read and write_extra == write
        read, write = max(read, read_extra), max(write, write_extra)
        added = read + write
        included = added <= prompt and (duplicated or ("prompt_tokens" in usage and total in without_cache))
        if not included or total in {each + added for each in without_cache}:
            prompt += added
    elif read + write > prompt and total in {each + read + write for each in without_cache}:
        prompt += read + write
    if read + write > prompt:
        raise _InvalidUsage
    return prompt, read, write


def _media_tokens(
    details: Mapping[str, Any], prompt: int, read: int, write: int
) -> tuple[int, int, dict[str, int]]:
    """Input, cache reads, and their media sub-buckets. Cached tokens count as text where possible, since cached text
    saves less than cached audio."""
    cached = _details(details, "cached_tokens_details")
    parts: dict[str, int] = {}
    for medium in MEDIA:
        count = _count(details, f"{medium}_tokens") or 0
        parts[f"cached_{medium}"] = hit = min(_count(cached, f"{medium}_tokens") or 0, count)
        parts[f"{medium}_input"] = count - hit
    cached_media = sum(parts[f"cached_{medium}"] for medium in MEDIA)
    read = max(read, cached_media)
    free = read - cached_media
    over = sum(parts[f"{medium}_input"] for medium in MEDIA) + read + write - prompt
    for medium in MEDIA:
        moved = max(min(over, free, parts[f"{medium}_input"]), 0)
        parts[f"{medium}_input"] -= moved
        parts[f"cached_{medium}"] += moved
        over, free = over - moved, free - moved
    return prompt + max(over, 0), read, parts


_LIFETIME = re.compile(r"(?:^|_)(5m|30m|1h|12h)(?:_|$)")


def _by_lifetime(usage: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, int]:
    """Cache writes by lifetime, if reported."""
    found: dict[str, int] = {}
    for name in ("cache_creation", "cache_write_tokens_details", "cache_write_details"):
        lifetimes = usage.get(name) or details.get(name)
        if not isinstance(lifetimes, dict):
            continue
        for key in lifetimes:
            if match := _LIFETIME.search(key):
                found[match[1]] = _count(lifetimes, key) or 0
    return found


def _write_lifetimes(usage: Mapping[str, Any], details: Mapping[str, Any], write: int) -> dict[str, int]:
    parts: dict[str, int] = {}
    lifetimes = _by_lifetime(usage, details)
    for lifetime in ("12h", "1h", "30m"):
        parts[f"cache_write_{lifetime}"] = count = min(lifetimes.get(lifetime, 0), write)
        write -= count
    return parts


def _units(usage: Mapping[str, Any]) -> dict[str, int]:
    """Number of searches by unit. If several fields count the same unit, the largest counts."""
    found: dict[str, int] = {}
    for key, value in usage.items():
        if isinstance(value, dict):
            if not key.endswith("_details") or "tool" in key:
                for unit, count in _units_in(key, value).items():
                    found[unit] = max(found.get(unit, 0), count)
        elif "search" in key or "sources" in key:
            unit = _unit(key)
            found[unit] = max(found.get(unit, 0), parse_tokens(value) or 0)
    found.pop("", None)
    return found


def _units_in(path: str, fields: Mapping[str, Any], depth: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in fields.items():
        name = f"{path}.{key}"
        if isinstance(value, dict):
            inner = _units_in(name, value, depth + 1) if depth < 3 else {}
        else:
            inner = {_unit(name): parse_tokens(value) or 0}
        for unit, count in inner.items():
            found[unit] = found.get(unit, 0) + count
    found.pop("", None)
    return found


def _unit(name: str) -> str:
    """The unit that a field of this name counts; empty if it does not count searches."""
    if not _SEARCHES.search(name) or _NOT_COUNTS.search(name):
        return ""
    return "file_searches" if _FILES.search(name) else "web_searches"


_SEARCHES = re.compile(r"search|sources_used")
_NOT_COUNTS = re.compile(r"token|size|time|latency|_ms\b|second|cost|price|fee|result|byte|char|context")
_FILES = re.compile(r"file|document|collection|storage")


def _count(found: Mapping[str, Any], *names: str) -> int | None:
    """The first of these fields that is present. Raises _InvalidUsage if it is invalid."""
    for name in names:
        value = found.get(name)
        if value is None:
            continue
        count = parse_tokens(value)
        if count is None:
            raise _InvalidUsage
        return count
    return None


def _largest(found: Mapping[str, Any], *names: str) -> int | None:
    """The largest of these fields. Raises _InvalidUsage if one is invalid."""
    counts = [count for name in names if (count := _count(found, name)) is not None]
    return max(counts, default=None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        details = usage.get(name)
        if isinstance(details, dict):
            return details
    return EMPTY


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage in OpenAI's format."""
    parts = usage.parts
    audio_input = parts.get("audio_input", 0) + parts.get("cached_audio", 0)
    audio_output = parts.get("audio_output", 0)
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            **({"audio_tokens": audio_input} if audio_input else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            **({"audio_tokens": audio_output} if audio_output else {}),
        },
    }


def client_usage(usage: Usage) -> Mapping[str, Any]:
    """The usage to send to a client: the provider's own object if it was billed, completed with OpenAI's fields."""
    raw = usage.raw
    if usage.source != "provider" or not isinstance(raw, dict):
        return usage_object(usage)
    if all(type(raw.get(name)) is int and raw[name] for name in _TOTAL_KEYS):
        return raw
    standard = usage_object(usage)
    missing = {
        name: standard[name]
        for name in _TOTAL_KEYS
        if type(raw.get(name)) is not int or (raw[name] == 0 and standard[name] > 0)
    }
    return {**raw, **missing} if missing else raw


_TOTAL_KEYS = ("prompt_tokens", "completion_tokens", "total_tokens")
