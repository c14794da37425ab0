"""What a call used, in one normal form: disjoint buckets of tokens, read from whatever shape a provider reports.

The names that vendors give one thing differ, and so does what a total contains. Where the figures leave both readings
open, the arithmetic with `total_tokens` decides, and without it the reading that costs more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from models.gateway.chat_format.reported_numbers import token_figure
from models.gateway.chat_format.vendor_usage import in_openais_names

ABSURD_TOKENS = 50_000_000
"""No call is known to use more: what is reported is charged all the same, and flagged."""

WITHIN = MappingProxyType(
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
"""Buckets that lie within another one's total, and may have prices of their own."""

MEDIA = ("audio", "image", "video")

_MEDIA_TOKENS = tuple((medium, f"{medium}_tokens") for medium in MEDIA)

UNITS = ("web_searches", "file_searches")
"""What is charged by the piece."""

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Usage:
    """What one call used.

    The totals are those a row shows: `uncached_input`, `cache_write` and `cache_read` make the input, `reasoning` lies
    within `output`. `parts` tells what lies within the totals and has a price of its own (`WITHIN`), and the units
    charged by the piece (`UNITS`). `source` says who measured: the `provider`, a real tokenizer over the text
    (`counted`), or an `estimated` figure. `cost` is the dollars the provider reported, if it did, and `least_cost` those it
    reported before the answer went on. `flags` name what an operator should see, `raw` is the provider's own object.
    """

    uncached_input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0
    reasoning: int = 0
    source: str = "provider"
    cost: Decimal | None = None
    parts: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    flags: tuple[str, ...] = ()
    raw: Any = field(default=None, repr=False, compare=False)
    least_cost: Decimal = Decimal(0)

    @property
    def input(self) -> int:
        """All input tokens, cached or not."""
        return self.uncached_input + self.cache_write + self.cache_read

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input + self.output

    def buckets(self) -> dict[str, int]:
        """The disjoint buckets that are not empty."""
        found = {
            "input": self.uncached_input,
            "cache_write": self.cache_write,
            "cache_read": self.cache_read,
            "output": self.output - self.reasoning,
            "reasoning": self.reasoning,
        }
        for name, count in self.parts.items():
            found[name] = count
            if name in WITHIN:
                found[WITHIN[name]] -= count
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


class _Unusable(Exception):
    """A figure is no count, or contradicts another."""


def read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """A `usage` object of any vendor, without its cost. None when a figure is missing, negative or contradicts another;
    what is none among the details, sound and pictures aside, is left out and flagged.

    Presence decides, not truth: a reported zero is a zero.
    """
    if plain := _plain(usage):
        return plain
    named = in_openais_names(usage)
    try:
        return _read(named, usage)
    except _Unusable:
        pass
    try:
        read = _read(_without_odd_details(named), usage)
    except _Unusable:
        return None
    return read and replace(read, flags=(*read.flags, "usage_unusable"))


_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_PLAIN_DETAILS = {"prompt_tokens_details": "cached_tokens", "completion_tokens_details": "reasoning_tokens"}


def _plain(usage: Mapping[str, Any]) -> Usage | None:
    """What most answers report, read at once: three totals that agree, of the details at most what was cached and what
    was reasoning. None for anything else. It says what `_read` would, at a fifth of the cost."""
    details = [0, 0]
    for key, value in usage.items():
        if key in _PLAIN:
            if type(value) is not int:
                return None
        elif key in _PLAIN_DETAILS and type(value) is dict:
            detail = _PLAIN_DETAILS[key]
            for name, figure in value.items():
                if figure and (name != detail or type(figure) is not int):
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


def _without_odd_details(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A usage object without the figures that are none and that leave the dearer reading when they are missing."""
    return {
        key: _without_odd_details(value) if isinstance(value, dict) else value
        for key, value in usage.items()
        if isinstance(value, dict) or key not in _DISCOUNTS or token_figure(value) is not None
    }


_DISCOUNTS = frozenset(
    {"reasoning_tokens", "thinking_tokens", "cached_tokens", "cache_read_tokens", "num_cached_tokens"}
    | {"prompt_cache_hit_tokens", "cache_read_input_tokens"}
)


def _read(usage: Mapping[str, Any], raw: Mapping[str, Any]) -> Usage | None:
    inside = _inside(usage)
    outside = _details(usage, "completion_tokens_details", "output_tokens_details")
    prompt, output, total = _sides(usage)
    if prompt is None or output is None:
        return None
    reasoning = max(
        _count(outside, "reasoning_tokens", "thinking_tokens") or 0, _count(usage, "reasoning_tokens") or 0
    )
    prompt, read, write = _cached(usage, inside, prompt, output, reasoning, total)

    # beside the output, as xAI and Gemini count reasoning: the total has room for it, or the output has not
    beside = max(total - prompt - output, 0) if total is not None else 0
    cited = _count(usage, "citation_tokens")
    listened = beside if beside > reasoning and _seconds(usage) else 0
    if cited is not None:
        # Perplexity: what it read and what it thought lie beside, also of the total
        prompt += cited
        output += reasoning
    else:
        output += beside - listened
        reasoning = max(reasoning, beside - listened)
    if reasoning > output:
        output += reasoning
    prompt += listened
    made = {
        f"{medium}_output": _count(outside, name) or 0 for medium, name in _MEDIA_TOKENS if name in outside
    }
    output = max(output, sum(made.values()) + reasoning)

    parts = made | {"audio_input": listened}
    if any(name in inside for _, name in _MEDIA_TOKENS):
        prompt, read, heard = _media(inside, prompt, read, write)
        parts |= heard
    if write:
        parts |= _lasting(usage, inside, write)
    parts |= _units(usage)
    tokens = prompt + output
    return Usage(
        uncached_input=prompt - read - write,
        cache_write=write,
        cache_read=read,
        output=output,
        reasoning=reasoning,
        parts={name: count for name, count in parts.items() if count} or NOTHING,
        flags=("tokens_absurd",) if tokens > ABSURD_TOKENS else (),
        raw=raw,
    )


_PROMPT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")


def _inside(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    return _details(usage, "prompt_tokens_details", "input_tokens_details")


def _seconds(usage: Mapping[str, Any]) -> int:
    """Of sound that was heard and whose tokens only the total has (Mistral)."""
    return token_figure(usage.get("prompt_audio_seconds")) or 0


def at_least(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of input and output that a `usage` object which cannot be used as a whole tells all the same."""
    named = in_openais_names(usage)
    prompt, output, total, cached = (
        max(token_figure(place.get(name)) or 0 for place in (named, _inside(named)) for name in names)
        for names in (_PROMPT, _OUTPUT, ("total_tokens",), ("cached_tokens", "cache_read_input_tokens"))
    )
    if not any(named.get(name) is not None for name in (*_PROMPT, *_OUTPUT)):
        output = total
    return max(prompt, cached), output


def _sides(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Input, output and total as they are called; a side that is missing is what the total leaves for it."""
    total = token_figure(usage.get("total_tokens"))
    prompt, output = _most(usage, *_PROMPT), _most(usage, *_OUTPUT)
    missed, hit = _count(usage, "prompt_cache_miss_tokens"), _count(usage, "prompt_cache_hit_tokens")
    if missed is not None:
        prompt = max(prompt or 0, missed + (hit or 0))
    if total is not None and prompt is not None and output is None and total > prompt:
        output = total - prompt
    elif total is not None and output is not None and prompt is None and total > output:
        prompt = total - output
    return prompt, output, total


def _cached(
    usage: Mapping[str, Any],
    inside: Mapping[str, Any],
    prompt: int,
    output: int,
    reasoning: int,
    total: int | None,
) -> tuple[int, int, int]:
    """All input, what was read from a cache and what was written to one.

    Anthropic's names tell what lies beside the input, all others what lies within; gateways pass on both kinds of
    names with either meaning.
    """
    read = max(
        _count(inside, "cached_tokens", "cache_read_tokens") or 0,
        _count(usage, "prompt_cache_hit_tokens") or 0,
        _count(usage, "cached_tokens", "num_cached_tokens") or 0,
    )
    write = _count(inside, "cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens") or 0
    read_beside = _count(usage, "cache_read_input_tokens") or 0
    write_beside = max(
        _count(usage, "cache_creation_input_tokens") or 0, sum(_by_lifetime(usage, inside).values())
    )
    without = {prompt + output, prompt + output + reasoning}
    if read_beside or write_beside > write:
        twice = read_beside == read and write_beside == write
        read, write = max(read, read_beside), max(write, write_beside)
        added = read + write
        within = added <= prompt and (twice or ("prompt_tokens" in usage and total in without))
        if not within or total in {each + added for each in without}:
            prompt += added
    elif read + write > prompt and total in {each + read + write for each in without}:
        prompt += read + write
    if read + write > prompt:
        raise _Unusable
    return prompt, read, write


def _media(inside: Mapping[str, Any], prompt: int, read: int, write: int) -> tuple[int, int, dict[str, int]]:
    """Input and cache reads, with the parts of them that are no text. Cached tokens count as text unless that cannot
    be, since a cached text saves less than a cached sound."""
    cached = _details(inside, "cached_tokens_details")
    parts: dict[str, int] = {}
    for medium in MEDIA:
        count = _count(inside, f"{medium}_tokens") or 0
        parts[f"cached_{medium}"] = kept = min(_count(cached, f"{medium}_tokens") or 0, count)
        parts[f"{medium}_input"] = count - kept
    kept = sum(parts[f"cached_{medium}"] for medium in MEDIA)
    read = max(read, kept)
    free = read - kept
    over = sum(parts[f"{medium}_input"] for medium in MEDIA) + read + write - prompt
    for medium in MEDIA:
        moved = max(min(over, free, parts[f"{medium}_input"]), 0)
        parts[f"{medium}_input"] -= moved
        parts[f"cached_{medium}"] += moved
        over, free = over - moved, free - moved
    return prompt + max(over, 0), read, parts


_LIFETIME = re.compile(r"(?:^|_)(5m|30m|1h|12h)(?:_|$)")


def _by_lifetime(usage: Mapping[str, Any], inside: Mapping[str, Any]) -> dict[str, int]:
    """Tokens written to a cache by how long they stay there, where a provider tells."""
    found: dict[str, int] = {}
    for name in ("cache_creation", "cache_write_tokens_details", "cache_write_details"):
        details = usage.get(name) or inside.get(name)
        if not isinstance(details, dict):
            continue
        for key in details:
            if match := _LIFETIME.search(key):
                found[match[1]] = _count(details, key) or 0
    return found


def _lasting(usage: Mapping[str, Any], inside: Mapping[str, Any], write: int) -> dict[str, int]:
    parts: dict[str, int] = {}
    lifetimes = _by_lifetime(usage, inside)
    for lifetime in ("12h", "1h", "30m"):
        parts[f"cache_write_{lifetime}"] = kept = min(lifetimes.get(lifetime, 0), write)
        write -= kept
    return parts


def _units(usage: Mapping[str, Any]) -> dict[str, int]:
    """What was charged by the piece: whatever counts searches. Of places that tell the same the largest counts."""
    found: dict[str, int] = {}
    for key, value in usage.items():
        if isinstance(value, dict):
            if not key.endswith("_details") or "tool" in key:
                for unit, count in _units_in(key, value).items():
                    found[unit] = max(found.get(unit, 0), count)
        elif "search" in key or "sources" in key:
            unit = _unit(key)
            found[unit] = max(found.get(unit, 0), token_figure(value) or 0)
    found.pop("", None)
    return found


def _units_in(path: str, place: Mapping[str, Any], level: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in place.items():
        name = f"{path}.{key}"
        if isinstance(value, dict):
            inner = _units_in(name, value, level + 1) if level < 3 else {}
        else:
            inner = {_unit(name): token_figure(value) or 0}
        for unit, count in inner.items():
            found[unit] = found.get(unit, 0) + count
    found.pop("", None)
    return found


def _unit(name: str) -> str:
    """What a figure of this name counts; nothing when it counts no searches."""
    if not _SEARCHES.search(name) or _NO_SEARCHES.search(name):
        return ""
    return "file_searches" if _OF_FILES.search(name) else "web_searches"


_SEARCHES = re.compile(r"search|sources_used")
_NO_SEARCHES = re.compile(r"token|size|time|latency|_ms\b|second|cost|price|fee|result|byte|char|context")
_OF_FILES = re.compile(r"file|document|collection|storage")


def _count(found: Mapping[str, Any], *names: str) -> int | None:
    """The first of these figures that is there. Raises _Unusable when it is no count."""
    for name in names:
        value = found.get(name)
        if value is None:
            continue
        count = token_figure(value)
        if count is None:
            raise _Unusable
        return count
    return None


def _most(found: Mapping[str, Any], *names: str) -> int | None:
    """The largest of these figures. Raises _Unusable when one is no count."""
    counts = [count for name in names if (count := _count(found, name)) is not None]
    return max(counts, default=None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        details = usage.get(name)
        if isinstance(details, dict):
            return details
    return NOTHING


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as OpenAI's clients read it."""
    parts = usage.parts
    heard = parts.get("audio_input", 0) + parts.get("cached_audio", 0)
    spoken = parts.get("audio_output", 0)
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            **({"audio_tokens": heard} if heard else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            **({"audio_tokens": spoken} if spoken else {}),
        },
    }


def told_usage(usage: Usage) -> Mapping[str, Any]:
    """The usage as a client is told it: the provider's own object when that was billed, with OpenAI's names for what it
    calls otherwise."""
    raw = usage.raw
    if usage.source != "provider" or not isinstance(raw, dict):
        return usage_object(usage)
    if all(type(raw.get(name)) is int and raw[name] for name in _SUMS):
        return raw
    shown = usage_object(usage)
    missing = {
        name: shown[name]
        for name in _SUMS
        if type(raw.get(name)) is not int or (raw[name] == 0 and shown[name] > 0)
    }
    return {**raw, **missing} if missing else raw


_SUMS = ("prompt_tokens", "completion_tokens", "total_tokens")
