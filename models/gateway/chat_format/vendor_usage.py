"""Finds the usage object in a response of any vendor and renames its fields to OpenAI's."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from models.gateway.chat_format.reported_numbers import parse_dollars, parse_tokens
from models.gateway.lenient_json import NotJson, read

VENDOR_USAGE_KEYS = frozenset(
    {
        "x_groq",
        "usageMetadata",
        "usage_metadata",
        "token_usage",
        "tokenUsage",
        "amazon-bedrock-invocationMetrics",
    }
    | {"meta", "timings", "prompt_eval_count", "eval_count"}
)
"""Top-level keys that may hold usage instead of `usage`."""

_NAMES = {
    "promptTokens": "prompt_tokens",
    "prompt_eval_count": "prompt_tokens",
    "tokens_evaluated": "prompt_tokens",
    "completionTokens": "completion_tokens",
    "eval_count": "completion_tokens",
    "tokens_predicted": "completion_tokens",
    "inputTokens": "input_tokens",
    "inputTokenCount": "input_tokens",
    "input_token_count": "input_tokens",
    "outputTokens": "output_tokens",
    "outputTokenCount": "output_tokens",
    "output_token_count": "output_tokens",
    "generated_token_count": "output_tokens",
    "generated_tokens": "output_tokens",
    "totalTokens": "total_tokens",
    "totalTokenCount": "total_tokens",
    "total_token_count": "total_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cached_tokens",
    "cachedTokens": "cached_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
    "cacheCreationInputTokens": "cache_creation_input_tokens",
}


def find_usage(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The usage of a chunk or response: under `usage`, a vendor's key, or in a choice (Moonshot). Prefers one that is
    not all zeros."""
    found = None
    for usage in _candidates(event):
        if usage:
            if any(usage_numbers(usage)):
                return usage
            found = found or usage
    return found


def _candidates(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
    yield parse_usage(event.get("usage"))
    if not VENDOR_USAGE_KEYS.isdisjoint(event):
        for key in ("usageMetadata", "usage_metadata", "token_usage", "tokenUsage"):
            yield parse_usage(event.get(key))
        groq, cohere = event.get("x_groq"), event.get("meta")
        yield parse_usage(groq.get("usage")) if isinstance(groq, dict) else None
        yield (
            cohere if isinstance(cohere, dict) and ("billed_units" in cohere or "tokens" in cohere) else None
        )
        yield parse_usage(event.get("amazon-bedrock-invocationMetrics"))
        yield {key: event[key] for key in ("prompt_eval_count", "eval_count") if event.get(key) is not None}
        yield _llama_cpp_usage(event.get("timings"))
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and "usage" in choice:
            yield parse_usage(choice["usage"])


def parse_usage(usage: Any) -> Mapping[str, Any] | None:
    """A usage object; a list of them is summed, a string is parsed as JSON."""
    if isinstance(usage, dict):
        return usage
    if isinstance(usage, str) and usage[:1] in ("{", "["):
        try:
            usage = read(usage.encode("utf-8", "replace")).value
        except NotJson:
            return None
        return parse_usage(usage)
    if isinstance(usage, list):
        parts = [part for part in usage if isinstance(part, dict)]
        return _sum(parts) if len(parts) > 1 else next(iter(parts), None)
    return None


def usage_numbers(usage: Mapping[str, Any], depth: int = 0) -> Iterator[Any]:
    """All numbers in a usage object, nested ones included."""
    for value in usage.values():
        if isinstance(value, dict) and depth < 4:
            yield from usage_numbers(value, depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield value
        elif isinstance(value, str) and (number := parse_dollars(value)) is not None:
            yield number


def with_openai_names(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage with OpenAI's field names. OpenAI's and Anthropic's own names stay unchanged."""
    if "prompt_tokens" in usage or "input_tokens" in usage:
        return usage
    if "prompt_token_count" in usage or "candidates_token_count" in usage:
        usage = {_CAMEL.sub(lambda found: found[1].upper(), key): value for key, value in usage.items()}
    if "promptTokenCount" in usage or "candidatesTokenCount" in usage:
        return {**usage, **_gemini_usage(usage)}
    for key in ("billed_units", "tokens"):
        billed = usage.get(key)
        if isinstance(billed, dict) and ("input_tokens" in billed or "output_tokens" in billed):
            return {
                **usage,
                "input_tokens": billed.get("input_tokens"),
                "output_tokens": billed.get("output_tokens"),
            }
    if _NAMES.keys().isdisjoint(usage):
        return usage
    return {_NAMES.get(key, key): value for key, value in usage.items()}


_CAMEL = re.compile(r"_([a-z])")


def _gemini_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Gemini reports thoughts separately from the candidates, and tool prompts separately from the prompt: add them."""
    prompt, tools = usage.get("promptTokenCount"), usage.get("toolUsePromptTokenCount")
    answer, thoughts = usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount")
    if answer is None:
        answer = usage.get("responseTokenCount")
    if answer is None and parse_tokens(thoughts):
        answer = 0
    return {
        "prompt_tokens": _add(prompt, tools),
        "completion_tokens": _add(answer, thoughts),
        "total_tokens": usage.get("totalTokenCount"),
        "prompt_tokens_details": {
            "cached_tokens": usage.get("cachedContentTokenCount"),
            "cached_tokens_details": dict(_modalities(usage.get("cacheTokensDetails"))),
            **dict(_modalities(usage.get("promptTokensDetails"))),
        },
        "completion_tokens_details": {
            "reasoning_tokens": thoughts,
            **dict(_modalities(usage.get("candidatesTokensDetails"))),
        },
    }


def _add(first: Any, second: Any) -> Any:
    """The sum of two counts; an invalid first value is returned unchanged."""
    count, added = parse_tokens(first), parse_tokens(second)
    return first if count is None else count + (added or 0)


def _modalities(details: Any) -> Iterator[tuple[str, Any]]:
    for item in details if isinstance(details, list) else ():
        if isinstance(item, dict) and isinstance(item.get("modality"), str):
            yield f"{item['modality'].lower()}_tokens", item.get("tokenCount", item.get("token_count"))


def _llama_cpp_usage(timings: Any) -> dict[str, Any] | None:
    """Usage from the timings of llama.cpp. Without `cache_n` the prompt length is unknown: None."""
    if not isinstance(timings, dict):
        return None
    fresh, cached, output = (parse_tokens(timings.get(key)) for key in ("prompt_n", "cache_n", "predicted_n"))
    if fresh is None or cached is None or output is None:
        return None
    return {"prompt_tokens": fresh + cached, "completion_tokens": output, "cached_tokens": cached}


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            current = total.get(key)
            if _is_number(value) and _is_number(current):
                total[key] = current + value
            elif isinstance(value, dict) and isinstance(current, dict):
                total[key] = _sum([current, value])
            else:
                total[key] = value if value is not None else current
    return total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
