"""Where vendors put the usage of an answer and what they call its figures: found, and told in OpenAI's names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from models.gateway.chat_format.reported_numbers import dollar_figure, token_figure
from models.gateway.lenient_json import NotJson, read

ELSEWHERE = frozenset(
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
"""Keys of a chunk or an answer that may tell usage where `usage` does not."""

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


def usage_in(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The usage of a chunk or an answer: its own, a choice's (Moonshot), or what stands in another vendor's place. One
    with figures that are not all zero comes first."""
    found = None
    for usage in _places(event):
        if usage:
            if any(figures(usage)):
                return usage
            found = found or usage
    return found


def _places(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
    yield as_object(event.get("usage"))
    if not ELSEWHERE.isdisjoint(event):
        for key in ("usageMetadata", "usage_metadata", "token_usage", "tokenUsage"):
            yield as_object(event.get(key))
        groq, cohere = event.get("x_groq"), event.get("meta")
        yield as_object(groq.get("usage")) if isinstance(groq, dict) else None
        yield (
            cohere if isinstance(cohere, dict) and ("billed_units" in cohere or "tokens" in cohere) else None
        )
        yield as_object(event.get("amazon-bedrock-invocationMetrics"))
        yield {key: event[key] for key in ("prompt_eval_count", "eval_count") if event.get(key) is not None}
        yield _of_llama(event.get("timings"))
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and "usage" in choice:
            yield as_object(choice["usage"])


def as_object(usage: Any) -> Mapping[str, Any] | None:
    """A usage object; of a list of them their sum, of one that is written as a text what that says."""
    if isinstance(usage, dict):
        return usage
    if isinstance(usage, str) and usage[:1] in ("{", "["):
        try:
            usage = read(usage.encode("utf-8", "replace")).value
        except NotJson:
            return None
        return as_object(usage)
    if isinstance(usage, list):
        parts = [part for part in usage if isinstance(part, dict)]
        return _summed(parts) if len(parts) > 1 else next(iter(parts), None)
    return None


def figures(usage: Mapping[str, Any], level: int = 0) -> Iterator[Any]:
    """The figures of a usage object, those of its details too, with false ones for zeros."""
    for value in usage.values():
        if isinstance(value, dict) and level < 4:
            yield from figures(value, level + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield value
        elif isinstance(value, str) and (figure := dollar_figure(value)) is not None:
            yield figure


def in_openais_names(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same figures in the names of OpenAI or Anthropic, which are kept as they are."""
    if "prompt_tokens" in usage or "input_tokens" in usage:
        return usage
    if "prompt_token_count" in usage or "candidates_token_count" in usage:
        usage = {_CAMEL.sub(lambda found: found[1].upper(), key): value for key, value in usage.items()}
    if "promptTokenCount" in usage or "candidatesTokenCount" in usage:
        return {**usage, **_of_gemini(usage)}
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


def _of_gemini(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Its thoughts lie beside the answer, the prompts of its tools beside the prompt."""
    put, tools = usage.get("promptTokenCount"), usage.get("toolUsePromptTokenCount")
    answer, thoughts = usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount")
    if answer is None:
        answer = usage.get("responseTokenCount")
    if answer is None and token_figure(thoughts):
        answer = 0
    return {
        "prompt_tokens": _together(put, tools),
        "completion_tokens": _together(answer, thoughts),
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


def _together(figure: Any, more: Any) -> Any:
    """Two figures that lie beside each other; what is no figure stays as it is."""
    first, second = token_figure(figure), token_figure(more)
    return figure if first is None else first + (second or 0)


def _modalities(listed: Any) -> Iterator[tuple[str, Any]]:
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and isinstance(each.get("modality"), str):
            yield f"{each['modality'].lower()}_tokens", each.get("tokenCount", each.get("token_count"))


def _of_llama(timings: Any) -> dict[str, Any] | None:
    """What llama.cpp measured. Without `cache_n` it does not tell how long the prompt was."""
    if not isinstance(timings, dict):
        return None
    fresh, cached, made = (token_figure(timings.get(key)) for key in ("prompt_n", "cache_n", "predicted_n"))
    if fresh is None or cached is None or made is None:
        return None
    return {"prompt_tokens": fresh + cached, "completion_tokens": made, "cached_tokens": cached}


def _summed(parts: list[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            known = whole.get(key)
            if _is_number(value) and _is_number(known):
                whole[key] = known + value
            elif isinstance(value, dict) and isinstance(known, dict):
                whole[key] = _summed([known, value])
            else:
                whole[key] = value if value is not None else known
    return whole


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
