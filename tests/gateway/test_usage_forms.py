"""Usage objects of all vendors, and the disjoint buckets and cost computed from them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.core.settings import Settings
from models.gateway.chat_format import Usage, read_usage
from models.gateway.chat_format import token_usage as usages
from models.gateway.pricing import MILLION, ModelPrice, PriceTable, flat, shipped_price, tier_of
from models.gateway.providers.anthropic import Anthropic
from models.gateway.providers.gemini import Gemini
from models.gateway.providers.openai import OpenAI
from models.gateway.providers.openrouter import OpenRouter
from models.gateway.providers.provider import Endpoint, Provider
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import HttpUpstream, UpstreamTimeouts
from tests.gateway.test_pricing import NOW

UPSTREAM = HttpUpstream("Nobody", UpstreamTimeouts(1, 1, 1))


def provider_of(kind: type[Provider], base_url: str = "http://somewhere/v1") -> Provider:
    return kind(Endpoint(base_url, "sk-test"), UPSTREAM)


PROVIDERS = {kind.name: provider_of(kind) for kind in (OpenAI, Anthropic, Gemini, OpenRouter)}


def openai(prompt: Any, completion: Any, total: Any = "sum", **more: Any) -> dict[str, Any]:
    use = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    if total == "sum":
        use["total_tokens"] = prompt + completion
    elif total is not None:
        use["total_tokens"] = total
    return use


def prompt_details(**details: Any) -> dict[str, Any]:
    return {"prompt_tokens_details": details}


def output_details(**details: Any) -> dict[str, Any]:
    return {"completion_tokens_details": details}


FORMS: list[tuple[str, str, dict[str, Any], dict[str, int] | None]] = [
    # -- reasoning, included in the completion or in addition to it
    ("openai", "inside", openai(10, 305, **output_details(reasoning_tokens=300)), {"input": 10, "output": 5, "reasoning": 300}),
    ("openai", "xai", openai(10, 5, 315, **output_details(reasoning_tokens=300)), {"input": 10, "output": 5, "reasoning": 300}),
    (
        "openai",
        "xai, fewer thoughts than words",
        openai(10, 50, 80, **output_details(reasoning_tokens=20)),
        {"input": 10, "output": 50, "reasoning": 20},
    ),
    (
        "openai",
        "more thoughts than words, no total",
        openai(10, 5, None, **output_details(reasoning_tokens=300)),
        {"input": 10, "output": 5, "reasoning": 300},
    ),
    (
        "openai",
        "more thoughts than words, a total without them",
        openai(10, 5, 15, **output_details(reasoning_tokens=300)),
        {"input": 10, "output": 5, "reasoning": 300},
    ),
    ("openai", "top level", openai(10, 5, 315, reasoning_tokens=300), {"input": 10, "output": 5, "reasoning": 300}),
    ("openai", "zero total", openai(10, 5, 0), {"input": 10, "output": 5}),
    ("openai", "bad total", openai(10, 5, "many"), {"input": 10, "output": 5}),
    ("openai", "null details", openai(10, 5, **{**prompt_details(cached_tokens=None), **output_details(reasoning_tokens=None)}),
     {"input": 10, "output": 5}),
    ("openai", "details that are none", openai(10, 5, prompt_tokens_details=None, completion_tokens_details=[]),
     {"input": 10, "output": 5}),
    ("gemini", "compatible", openai(10, 5, 115), {"input": 10, "output": 5, "reasoning": 100}),
    (
        "gemini",
        "its own names",
        {
            "promptTokenCount": 100,
            "toolUsePromptTokenCount": 7,
            "cachedContentTokenCount": 40,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "totalTokenCount": 157,
        },
        {"input": 67, "cache_read": 40, "output": 20, "reasoning": 30},
    ),
    (
        "gemini",
        "modalities",
        {
            "promptTokenCount": 1000,
            "candidatesTokenCount": 1300,
            "totalTokenCount": 2300,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 200},
                {"modality": "AUDIO", "tokenCount": 500},
                {"modality": "IMAGE", "tokenCount": 258},
                {"modality": "VIDEO", "tokenCount": 42},
            ],
            "cachedContentTokenCount": 100,
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 100}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        },
        {
            "input": 200,
            "audio_input": 400,
            "cached_audio": 100,
            "image_input": 258,
            "video_input": 42,
            "image_output": 1290,
            "output": 10,
        },
    ),
    ("gemini", "nothing but thoughts", {"promptTokenCount": 5, "thoughtsTokenCount": 9, "totalTokenCount": 14},
     {"input": 5, "reasoning": 9}),
    ("gemini", "no answer but thoughts", {"promptTokenCount": 5, "candidatesTokenCount": 0, "thoughtsTokenCount": 9},
     {"input": 5, "reasoning": 9}),
    # -- cached input
    ("openai", "openai", openai(100, 5, **prompt_details(cached_tokens=60)), {"input": 40, "cache_read": 60, "output": 5}),
    ("openai", "written", openai(100, 5, **prompt_details(cached_tokens=60, cache_write_tokens=30)),
     {"input": 10, "cache_read": 60, "cache_write": 30, "output": 5}),
    ("openai", "deepseek", openai(100, 5, prompt_cache_hit_tokens=60, prompt_cache_miss_tokens=40),
     {"input": 40, "cache_read": 60, "output": 5}),
    ("openai", "deepseek without a sum", {"prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40,
                                          "completion_tokens": 5}, {"input": 40, "cache_read": 60, "output": 5}),
    ("openai", "moonshot", openai(100, 5, cached_tokens=60), {"input": 40, "cache_read": 60, "output": 5}),
    ("openai", "mistral", openai(100, 5, num_cached_tokens=60), {"input": 40, "cache_read": 60, "output": 5}),
    (
        "openai",
        "responses",
        {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, "input_tokens_details": {"cached_tokens": 60},
         "output_tokens_details": {"reasoning_tokens": 20}},
        {"input": 40, "cache_read": 60, "output": 30, "reasoning": 20},
    ),
    (
        "anthropic",
        "its own names",
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 50,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
        },
        {"input": 10, "cache_read": 100, "cache_write": 20, "cache_write_1h": 30, "output": 5},
    ),
    (
        "anthropic",
        "lifetimes alone",
        {"input_tokens": 10, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 30}},
        {"input": 10, "cache_write_1h": 30, "output": 5},
    ),
    (
        "openai",
        "a gateway that says everything twice, within",
        openai(
            160, 5, 165, cache_read_input_tokens=100, cache_creation_input_tokens=50,
            **prompt_details(cached_tokens=100, cache_creation_tokens=50),
        ),
        {"input": 10, "cache_read": 100, "cache_write": 50, "output": 5},
    ),
    (
        "openai",
        "a gateway with Anthropic's names, within by the total",
        openai(160, 5, 165, cache_read_input_tokens=100, cache_creation_input_tokens=50),
        {"input": 10, "cache_read": 100, "cache_write": 50, "output": 5},
    ),
    (
        "openai",
        "a gateway with Anthropic's names, beside by the total",
        openai(160, 5, 315, cache_read_input_tokens=100, cache_creation_input_tokens=50),
        {"input": 160, "cache_read": 100, "cache_write": 50, "output": 5},
    ),
    (
        "openai",
        "a gateway with Anthropic's names, in doubt",
        openai(160, 5, None, cache_read_input_tokens=100),
        {"input": 160, "cache_read": 100, "output": 5},
    ),
    (
        "openai",
        "cached beside, by the total",
        openai(10, 5, 115, **prompt_details(cached_tokens=100)),
        {"input": 10, "cache_read": 100, "output": 5},
    ),
    ("openrouter", "openrouter", openai(100, 5, **prompt_details(cached_tokens=60, cache_write_tokens=20, audio_tokens=0)),
     {"input": 20, "cache_read": 60, "cache_write": 20, "output": 5}),
    # -- audio and images
    (
        "openai",
        "spoken",
        openai(1000, 500, **prompt_details(audio_tokens=800, cached_tokens=0), **output_details(audio_tokens=400)),
        {"input": 200, "audio_input": 800, "output": 100, "audio_output": 400},
    ),
    (
        "openai",
        "cached speech",
        openai(1000, 10, **prompt_details(audio_tokens=800, cached_tokens=500, cached_tokens_details={"audio_tokens": 450})),
        {"input": 150, "cache_read": 50, "audio_input": 350, "cached_audio": 450, "output": 10},
    ),
    (
        "openai",
        "cached, and speech must be among it",
        openai(1000, 10, **prompt_details(audio_tokens=800, cached_tokens=500)),
        {"cache_read": 200, "audio_input": 500, "cached_audio": 300, "output": 10},
    ),
    (
        "openai",
        "pictures both ways",
        openai(500, 1100, **prompt_details(image_tokens=400), **output_details(image_tokens=1056)),
        {"input": 100, "image_input": 400, "output": 44, "image_output": 1056},
    ),
    (
        "openai",
        "sound beside the sums",
        openai(10, 5, None, **prompt_details(audio_tokens=800), **output_details(audio_tokens=400)),
        {"audio_input": 800, "audio_output": 400},
    ),
    ("openai", "mistral's voices", openai(5, 74, 458, prompt_audio_seconds=32),
     {"input": 5, "audio_input": 379, "output": 74}),
    ("openai", "mistral without voices", openai(5, 74, 79, prompt_audio_seconds=0), {"input": 5, "output": 74}),
    ("openai", "mistral, an object for no voices", openai(5, 74, 79, prompt_audio_seconds={}), {"input": 5, "output": 74}),
    # -- field names of other vendors
    ("anthropic", "anthropic's, from another gateway", {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 0,
     "cache_creation_input_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 0}, "service_tier": "standard",
     "inference_geo": "not_available"}, {"input": 10, "output": 5}),
    ("openai", "both names", openai(100, 20, input_tokens=0, output_tokens=0, input_tokens_details=None),
     {"input": 100, "output": 20}),
    ("openai", "both names, the other way", openai(0, 0, 0, input_tokens=100, output_tokens=20), {"input": 100, "output": 20}),
    ("openai", "nulls beside the others", {"prompt_tokens": None, "completion_tokens": None, "input_tokens": 100,
     "output_tokens": 20}, {"input": 100, "output": 20}),
    ("openai", "bedrock converse", {"inputTokens": 10, "outputTokens": 5, "totalTokens": 165, "cacheReadInputTokens": 100,
     "cacheWriteInputTokens": 50}, {"input": 10, "cache_read": 100, "cache_write": 50, "output": 5}),
    ("openai", "bedrock invoke", {"inputTokenCount": 10, "outputTokenCount": 5, "invocationLatency": 1800,
     "firstByteLatency": 300}, {"input": 10, "output": 5}),
    ("openai", "ai sdk 4", {"promptTokens": 10, "completionTokens": 5, "totalTokens": 15}, {"input": 10, "output": 5}),
    ("openai", "ai sdk 5", {"inputTokens": 100, "outputTokens": 50, "totalTokens": 150, "reasoningTokens": 20,
     "cachedInputTokens": 60}, {"input": 40, "cache_read": 60, "output": 30, "reasoning": 20}),
    ("openai", "cohere", {"billed_units": {"input_tokens": 10, "output_tokens": 5}, "tokens": {"input_tokens": 70,
     "output_tokens": 5}}, {"input": 10, "output": 5}),
    ("openai", "cohere with searches", {"billed_units": {"input_tokens": 10.0, "output_tokens": 5.0, "search_units": 1.0}},
     {"input": 10, "output": 5, "web_searches": 1}),
    ("openai", "cohere without bill", {"tokens": {"input_tokens": 70, "output_tokens": 5}}, {"input": 70, "output": 5}),
    ("openai", "ollama", {"prompt_eval_count": 26, "eval_count": 298}, {"input": 26, "output": 298}),
    ("openai", "watsonx", {"input_token_count": 7, "generated_token_count": 20}, {"input": 7, "output": 20}),
    ("openai", "replicate", {"input_token_count": 7, "output_token_count": 20, "predict_time": 1.5},
     {"input": 7, "output": 20}),
    ("openai", "llama.cpp", {"tokens_evaluated": 7, "tokens_predicted": 20}, {"input": 7, "output": 20}),
    (
        "gemini",
        "vertex, snake case",
        {"prompt_token_count": 100, "candidates_token_count": 20, "thoughts_token_count": 30, "total_token_count": 150,
         "cached_content_token_count": 40, "prompt_tokens_details": [{"modality": "AUDIO", "token_count": 25},
         {"modality": "TEXT", "token_count": 75}]},
        {"input": 35, "cache_read": 40, "audio_input": 25, "output": 20, "reasoning": 30},
    ),
    # -- additional fields of other vendors
    ("openai", "groq", openai(100, 20, queue_time=0.01, prompt_time=0.002, completion_time=0.5, total_time=0.502),
     {"input": 100, "output": 20}),
    ("openai", "sambanova", openai(100, 20, acceptance_rate=4.7, completion_tokens_per_sec=512.3, is_last_response=True,
     time_to_first_token=0.1, total_latency=1.2, start_time=1.7e9), {"input": 100, "output": 20}),
    ("openai", "cerebras", openai(100, 20, **prompt_details(cached_tokens=0), **output_details(accepted_prediction_tokens=0,
     rejected_prediction_tokens=0)), {"input": 100, "output": 20}),
    ("openai", "dashscope", openai(100, 20, **prompt_details(cached_tokens=40, text_tokens=100, cache_type="ephemeral",
     cache_creation={"ephemeral_5m_input_tokens": 0}, cache_creation_input_tokens=0)),
     {"input": 60, "cache_read": 40, "output": 20}),
    ("openai", "dashscope writes", openai(100, 20, **prompt_details(cached_tokens=0, cache_creation={"ephemeral_5m_input_tokens": 80},
     cache_creation_input_tokens=80)), {"input": 20, "cache_write": 80, "output": 20}),
    ("openai", "zhipu", openai(100, 20, **prompt_details(cached_tokens=43)), {"input": 57, "cache_read": 43, "output": 20}),
    ("openai", "minimax", openai(100, 20, total_characters=0), {"input": 100, "output": 20}),
    ("openai", "nebius and vllm", openai(100, 20, prompt_tokens_details=None, completion_tokens_details=None, cost=0.3),
     {"input": 100, "output": 20}),
    ("openai", "predictions are within", openai(100, 50, **output_details(accepted_prediction_tokens=10, rejected_prediction_tokens=15,
     reasoning_tokens=0, audio_tokens=0)), {"input": 100, "output": 50}),
    ("openai", "huge reasoning", openai(1000, 1_200_000, **output_details(reasoning_tokens=1_199_000)),
     {"input": 1000, "output": 1000, "reasoning": 1_199_000}),
    ("openai", "xai, all at once", openai(1000, 9, 1509, num_sources_used=4, **prompt_details(text_tokens=700, image_tokens=256,
     audio_tokens=44, cached_tokens=600), **output_details(reasoning_tokens=500, audio_tokens=0)),
     {"input": 100, "cache_read": 600, "image_input": 256, "audio_input": 44, "output": 9, "reasoning": 500,
      "web_searches": 4}),
    ("openai", "no discount for what is none", openai(100, 20, **prompt_details(cached_tokens=-5)), {"input": 100, "output": 20}),
    ("openai", "no thoughts for what is none", openai(100, 20, **output_details(reasoning_tokens=-1)), {"input": 100, "output": 20}),
    ("openai", "no cache for a word", openai(100, 20, prompt_cache_hit_tokens="none"), {"input": 100, "output": 20}),
    ("openai", "parts of tokens", openai(99.5, 19.2, None), {"input": 100, "output": 20}),
    ("openai", "strings with dots", {"prompt_tokens": "100.0", "completion_tokens": " 20 "}, {"input": 100, "output": 20}),
    # -- units
    (
        "openai",
        "perplexity's deep research",
        openai(33, 7163, 7196, citation_tokens=20016, num_search_queries=18, reasoning_tokens=73997,
               search_context_size="low", cost={"total_cost": 0.5, "request_cost": 0.006}),
        {"input": 20049, "output": 7163, "reasoning": 73997, "web_searches": 18},
    ),
    (
        "openai",
        "perplexity, fewer thoughts than words",
        openai(33, 7163, 7196, citation_tokens=0, num_search_queries=1, reasoning_tokens=100),
        {"input": 33, "output": 7163, "reasoning": 100, "web_searches": 1},
    ),
    ("openai", "xai's tools", openai(10, 5, num_server_side_tools_used=5, server_side_tool_usage_details={
        "web_search_calls": 2, "x_search_calls": 1, "code_interpreter_calls": 1, "file_search_calls": 1, "mcp_calls": 0}),
     {"input": 10, "output": 5, "web_searches": 3, "file_searches": 1}),
    ("openai", "xai's sources", openai(10, 5, num_sources_used=7), {"input": 10, "output": 5, "web_searches": 7}),
    ("openai", "dashscope's search", openai(10, 5, plugins={"search": {"count": 1, "strategy": "turbo"}}),
     {"input": 10, "output": 5, "web_searches": 1}),
    ("openai", "mistral's connectors", openai(10, 5, connectors={"web_search": 2}),
     {"input": 10, "output": 5, "web_searches": 2}),
    ("anthropic", "told twice", {"input_tokens": 10, "output_tokens": 5, "server_tool_use": {"web_search_requests": 3,
     "web_fetch_requests": 2}, "server_tool_use_details": {"web_search_requests": 3}},
     {"input": 10, "output": 5, "web_searches": 3}),
    ("openai", "no searches", openai(10, 5, search_context_size="high", search_context_tokens=900, search_time=3,
     cost={"search_cost": 2}), {"input": 10, "output": 5}),
    ("anthropic", "searches", {"input_tokens": 10, "output_tokens": 5, "server_tool_use": {"web_search_requests": 3}},
     {"input": 10, "output": 5, "web_searches": 3}),
    ("openai", "perplexity", openai(10, 5, num_search_queries=2), {"input": 10, "output": 5, "web_searches": 2}),
    # -- number formats
    ("openai", "floats", openai(10.0, 5.0, 15.0), {"input": 10, "output": 5}),
    ("openai", "strings", {"prompt_tokens": "10", "completion_tokens": "5"}, {"input": 10, "output": 5}),
    ("openai", "a side missing", {"prompt_tokens": 10, "total_tokens": 315}, {"input": 10, "output": 305}),
    ("openai", "the other side missing", {"completion_tokens": 5, "total_tokens": 15}, {"input": 10, "output": 5}),
    ("openai", "zeros", openai(0, 0), {}),
    # -- invalid usage
    ("openai", "empty", {}, None),
    ("openai", "one side", {"prompt_tokens": 10}, None),
    ("openai", "one side and nothing left for the other", {"prompt_tokens": 10, "total_tokens": 10}, None),
    ("openai", "negative", openai(-5, 10), None),
    ("openai", "boolean", {"prompt_tokens": True, "completion_tokens": 1}, None),
    ("openai", "more than a row holds", openai(2**31, 1), None),
    ("openai", "more cached than read", openai(10, 10, **prompt_details(cached_tokens=11)), None),
    ("openai", "only a total", {"total_tokens": 100}, None),
    ("openai", "nan", openai(float("nan"), 5, None), None),
    ("openai", "infinite", openai(10, float("inf"), None), None),
    ("openai", "words", openai("ten", "five", None), None),
    ("openai", "objects", openai({}, [], None), None),
    ("openai", "negative sound", openai(10, 10, **prompt_details(audio_tokens=-1)), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "raw", "buckets"),
    [(provider, raw, buckets) for provider, _, raw, buckets in FORMS],
    ids=[f"{provider}: {name}" for provider, name, _, _ in FORMS],
)
def test_usage_becomes_disjoint_buckets(
    provider: str, raw: dict[str, Any], buckets: dict[str, int] | None
) -> None:
    read = PROVIDERS[provider].read_usage(raw)
    if buckets is None:
        assert read is None
        return
    assert read is not None
    assert read.buckets() == buckets
    units = sum(count for name, count in buckets.items() if name.endswith("searches"))
    assert sum(buckets.values()) - units == read.tokens
    assert read.raw is raw
    assert min(read.uncached_input, read.cache_write, read.cache_read, read.output, read.reasoning) >= 0


def test_implausible_usage_is_charged_and_flagged() -> None:
    read = read_usage(openai(60_000_000, 5))
    assert read is not None
    assert (read.uncached_input, read.flags) == (60_000_000, ("tokens_absurd",))


def test_sums_keep_every_bucket() -> None:
    one = read_usage(
        openai(1000, 500, **prompt_details(audio_tokens=800), **output_details(audio_tokens=400))
    )
    other = read_usage(openai(10, 5, **output_details(reasoning_tokens=3)))
    assert one
    assert other
    both = one + other
    assert both.buckets() == {
        "input": 210,
        "audio_input": 800,
        "output": 102,
        "audio_output": 400,
        "reasoning": 3,
    }
    assert both.raw == [one.raw, other.raw]
    assert (both + one).raw == [one.raw, other.raw, one.raw]


@pytest.mark.parametrize(
    ("table", "model", "raw", "dollars"),
    [
        # text 2.5 and 10, audio 32 and 64
        (
            "openai",
            "gpt-audio",
            openai(1000, 500, **prompt_details(audio_tokens=800), **output_details(audio_tokens=400)),
            200 * Decimal("2.5") + 800 * 32 + 100 * 10 + 400 * 64,
        ),
        # cached audio without its own price costs as much as audio
        (
            "openai",
            "gpt-audio",
            openai(
                1000, 0, **prompt_details(audio_tokens=1000, cached_tokens=600, cached_tokens_details={"audio_tokens": 600})
            ),
            1000 * Decimal(32),
        ),
        # text 0.3 and 2.5, audio 1, cached audio 0.1, searches 35 per thousand
        (
            "google",
            "gemini-2.5-flash",
            openai(
                1000, 100, **prompt_details(audio_tokens=500, cached_tokens=100, cached_tokens_details={"audio_tokens": 100})
            ),
            500 * Decimal("0.3") + 400 * 1 + 100 * Decimal("0.1") + 100 * Decimal("2.5"),
        ),
        (
            "google",
            "gemini-2.5-flash",
            openai(0, 0, server_tool_use={"web_search_requests": 2}),
            2 * Decimal("0.035") * MILLION,
        ),
        # image output 30, text 2.5
        (
            "google",
            "gemini-2.5-flash-image",
            openai(100, 1300, **output_details(image_tokens=1290)),
            100 * Decimal("0.3") + 1290 * 30 + 10 * Decimal("2.5"),
        ),
        # cache writes: 5 minutes 3.75, 1 hour 6
        (
            "anthropic",
            "claude-3-7-sonnet-latest",
            {
                "input_tokens": 0,
                "output_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 100},
            },
            10 * Decimal("3.75") + 100 * 6,
        ),
    ],
)  # fmt: skip
def test_each_bucket_has_its_own_price(table: str, model: str, raw: dict[str, Any], dollars: Decimal) -> None:
    price, usage = shipped_price(table, model, NOW), read_usage(raw)
    assert price
    assert usage
    assert price.cost(usage) == dollars / MILLION
    assert price.flags(usage) == []
    kept = price.snapshot(usage)
    assert all(bucket in kept for bucket in usage.buckets() if bucket != "reasoning")


def test_usage_without_a_price_is_flagged() -> None:
    price = ModelPrice("x", (tier_of(0, {"input": Decimal(2), "output": Decimal(10)}),))
    usage = read_usage(
        openai(
            100,
            50,
            num_search_queries=1,
            **prompt_details(audio_tokens=100),
            **output_details(image_tokens=50),
        )
    )
    assert usage
    assert price.cost(usage) == (100 * Decimal(2) + 50 * 10) / MILLION + Decimal("0.035")
    assert price.snapshot(usage)["web_searches"] == "0.035"
    assert flat(0, 0).cost(usage) == 0
    assert price.flags(usage) == ["media_priced_as_text", "unit_without_price"]


def test_missing_rates_are_the_highest_possible() -> None:
    rates = tier_of(0, {"input": Decimal(4), "cache_write": Decimal(5), "audio_input": Decimal(30),
                          "cache_read": Decimal(1), "output": Decimal(8)}).rates  # fmt: skip
    assert rates["cache_write_1h"] == rates["cache_write_12h"] == 8
    assert (rates["cached_audio"], rates["cached_image"]) == (30, 1)
    assert rates["image_output"] == rates["reasoning"] == 8


@pytest.mark.parametrize("answered", ["x-unlisted", None])
def test_a_fallback_price_is_flagged(settings: Settings, answered: str | None) -> None:
    routes = Router(settings, PriceTable())
    route = Route(routes.openrouter, "x/unlisted", "x/unlisted", None)
    cost, price = routes.cost(route, Usage(uncached_input=1_000_000), answered)
    assert (cost, price["flags"]) == (3, "price_guessed")


_few = st.integers(0, 3)


@given(
    usage=st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": _few | st.none() | st.just(30_000_000),
            "completion_tokens": _few | st.none() | st.just(2.0) | st.just(30_000_000),
            "total_tokens": st.integers(0, 8) | st.none() | st.just("3") | st.just(60_000_000),
            "prompt_tokens_details": st.none()
            | st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens"]), _few | st.none()
            ),
            "completion_tokens_details": st.none()
            | st.dictionaries(
                st.sampled_from(["reasoning_tokens", "audio_tokens", "rejected_prediction_tokens"]),
                _few | st.none() | st.just(True),
            ),
            "reasoning_tokens": _few,
        },
    )
)
def test_the_fast_path_parses_like_the_full_parser(usage: dict[str, Any]) -> None:
    parsed = usages._parse_common(usage)
    if parsed is not None:
        assert parsed == usages._parse(usage, usage)
