"""Keys of chat requests: free, included in the hold, or rejected by name; and keys that are removed."""

from decimal import Decimal
from typing import Any, get_type_hints

import orjson
import pytest
from flask.testing import FlaskClient
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from models.core.settings import Settings
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import parse
from models.gateway.price_factors import DEFAULT_CONTEXT_WINDOW
from models.gateway.price_keys import KEYS
from models.gateway.pricing import ModelPrice, PriceTable, tier_of
from models.gateway.providers.provider import Endpoint, Provider
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import HttpUpstream, UpstreamTimeouts
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

OPENAIS = sorted(get_type_hints(CompletionCreateParamsStreaming))

OPENROUTER_KEYS = [
    "cache_control",
    "debug",
    "frequency_penalty",
    "image_config",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "min_p",
    "modalities",
    "model",
    "models",
    "parallel_tool_calls",
    "plugins",
    "prediction",
    "presence_penalty",
    "preset",
    "provider",
    "reasoning",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "route",
    "seed",
    "service_tier",
    "session_id",
    "speed",
    "stop",
    "stop_server_tools_when",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_a",
    "top_k",
    "top_logprobs",
    "top_p",
    "trace",
    "transforms",
    "usage",
    "user",
    "verbosity",
    "web_search_options",
    "include_reasoning",
]

PRICE = ModelPrice(
    "test",
    (tier_of(0, {"input": Decimal(2), "output": Decimal(10)}),),
    context_window=400_000,
)
AUDIO_PRICE = ModelPrice(
    "test",
    (
        tier_of(
            0,
            {
                "input": Decimal(2),
                "output": Decimal(10),
                "audio_input": Decimal(40),
                "audio_output": Decimal(80),
            },
        ),
    ),
)


@pytest.fixture
def routes(settings: Settings) -> Router:
    return Router(settings.model_copy(update={"openai_base_url": "http://house.example/v1"}), PriceTable())


def call_of(**keys: Any) -> Call:
    body = {"model": "test/model", "messages": MESSAGES, "max_tokens": 1000, **keys}
    body = {key: value for key, value in body.items() if value is not None}
    return parse(body, len(orjson.dumps(body)))


def hold(routes: Router, provider: Provider, price: ModelPrice | None = PRICE, /, **keys: Any) -> Decimal:
    """Dollars held for a request with these keys."""
    call = call_of(**keys)
    route, _ = routes.prepare(Route(provider, call.model, call.model, price), call)
    return route.cost_up_to(call, route.held_output(call, call.n), call.n)


def genuine(routes: Router) -> Provider:
    return type(routes.direct[0])(
        Endpoint("https://api.openai.com/v1", "sk"), HttpUpstream("Nobody", UpstreamTimeouts(1, 1, 1))
    )


@pytest.mark.parametrize("key", OPENAIS)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "openrouter", "stoa"])
def test_every_key_of_openai_is_known(provider: str, key: str) -> None:
    assert key in KEYS[provider], (
        f"add {key!r} and its effect on the price at {provider} to models/gateway/price_factors.py"
    )


@pytest.mark.parametrize("key", OPENROUTER_KEYS)
def test_every_key_of_openrouter_is_known(key: str) -> None:
    assert key in KEYS["openrouter"], (
        f"add {key!r} and its effect on the price to models/gateway/price_factors.py"
    )


def content(**part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


FREE: list[dict[str, Any]] = [
    {"temperature": 1, "top_p": 1, "seed": 1, "user": "u", "logprobs": True, "top_logprobs": 3},
    {"verbosity": "low", "reasoning_effort": "low", "tool_choice": "auto", "store": False},
    {"service_tier": "auto"},
    {"service_tier": "flex"},
    {"modalities": ["text"]},
    {"plugins": []},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
    {"tools": [{"name": "f", "input_schema": {}}]},
    {"speed": "standard"},
    {"enable_search": False},
    {"search_parameters": {"mode": "off"}},
    {"no_such_key": {"a": 1}},
    {"provider": {"allow_fallbacks": True}},
    {"provider": {"sort": "price"}},
    {"provider": {"max_price": {"prompt": 1}}},
    {"provider": {"order": [], "data_collection": "allow"}},
    {"extra_body": {"min_p": 0.1, "n": 1}},
    {"web_search": False},
    {"previous_response_id": ""},
    {"max_output_tokens": 10},
    {"max_output_tokens": -1},
    {"max_output_tokens": "many"},
    {"thinking": {"type": "adaptive"}},
    {"thinking": {"type": "enabled", "budget_tokens": -1}},
    {"thinking": True},
    {"reasoning": {"max_tokens": None, "effort": "high"}},
    {"prediction": None, "speed": None, "service_tier": None, "web_search_options": None, "plugins": None},
    {
        "tools": [
            {"type": "function", "function": {"name": "web_search", "strict": True}, "cache_control": {}}
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "https://x.example/a.mp4"}]}]},
    {"messages": [{"role": "user", "content": "data:video/mp4;base64,AAAA"}]},
    {"min_p": 0.1, "top_k": 5, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("keys", FREE)
@pytest.mark.parametrize("name", ["openai", "openrouter", "gemini", "anthropic"])
def test_what_is_free_is_held_as_text(routes: Router, name: str, keys: dict[str, Any]) -> None:
    provider = routes.providers[name]
    # the key itself counts as text: one token per three bytes
    assert 0 <= hold(routes, provider, **keys) - hold(routes, provider) < Decimal("0.0002")


OUT, IN = Decimal(10) / 1_000_000, Decimal(2) / 1_000_000

PRICED: list[tuple[str, dict[str, Any], Decimal]] = [
    # both limits are sent: the larger one counts
    ("openai", {"max_tokens": 10, "max_completion_tokens": 50_000}, 49_000 * OUT),
    ("openai", {"max_tokens": 50_000, "max_completion_tokens": 10}, 49_000 * OUT),
    ("openrouter", {"max_tokens": 1, "max_completion_tokens": 123_000}, 122_000 * OUT),
    ("openrouter", {"max_tokens": 300_000}, 299_000 * OUT),
    ("openai", {"max_tokens": None}, 127_000 * OUT),
    ("openai", {"max_tokens": None, "stream": True}, 7_192 * OUT),
    ("openai", {"n": 4}, 3 * 1000 * OUT),
    ("openrouter", {"n": 4}, 3 * 1000 * OUT),
    ("openrouter", {"models": ["openai/gpt-5-pro"]}, 1000 * (Decimal(120) / 1_000_000 - OUT)),
    ("openrouter", {"models": ["openai/gpt-4o-mini", "openai/gpt-5-pro"]}, 1000 * (Decimal(120) / 1_000_000 - OUT)),
    ("openrouter", {"models": ["openai/gpt-4o-mini:online"]}, Decimal("0.07")),
    ("openai", {"fallbacks": ["gpt-5-pro"]}, 1000 * (Decimal(120) / 1_000_000 - OUT)),
    ("openrouter", {"plugins": [{"id": "web"}]}, Decimal("0.07")),
    ("openrouter", {"plugins": [{"id": "web", "max_results": 50}]}, Decimal("0.25")),
    ("openrouter", {"model": "test/model:online"}, Decimal("0.07")),
    ("openrouter", {"model": "test/model:nitro:online"}, Decimal("0.05")),
    ("openrouter", {"web_search_options": {"search_context_size": "high"}}, Decimal("0.09")),
    ("openrouter", {"tools": [{"type": "openrouter:web_search"}]}, Decimal("0.7")),
    ("openrouter", {"service_tier": "priority"}, Decimal("1.5") * 1000 * OUT),
    ("openrouter", {"provider": {"order": ["Fast"]}}, 1000 * OUT),
    *[
        ("openrouter", {"provider": {**each, "allow_fallbacks": True}}, 1000 * OUT)
        for each in (
            {"only": ["a"]}, {"ignore": ["a"]}, {"sort": "throughput"}, {"zdr": True}, {"quantizations": ["fp16"]},
            {"data_collection": "deny"}, {"require_parameters": True}, {"preferred_min_throughput": 50},
        )
    ],
    # limits under nonstandard keys, and in objects that servers merge into the body
    *[
        (name, {"max_tokens": 10, **longer}, 49_000 * OUT - 1000 * OUT)
        for name in ("openai", "gemini", "anthropic", "openrouter")
        for longer in (
            {"max_output_tokens": 50_000}, {"max_output_tokens": "50000"}, {"max_new_tokens": 50_000.0},
            {"extra_body": {"max_tokens": 50_000}}, {"extra_body": {"max_completion_tokens": 1e30}},
            {"generationConfig": {"maxOutputTokens": 50_000}}, {"options": {"num_predict": 50_000}},
            {"extra_body": {"extra_body": {"max_length": 50_000}}},
        )
    ],
    ("gemini", {"google": {"thinking_config": {"thinking_budget": 9_000}}}, 9_000 * OUT),
    ("gemini", {"extra_body": {"extra_body": {"google": {"thinking_config": {"thinking_budget": 9_000}}}}}, 9_000 * OUT),
    ("openrouter", {"extra_body": {"service_tier": "priority"}}, Decimal("1.5") * 1000 * OUT),
    ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": "32000"}}, 32_000 * OUT),
    ("openrouter", {"reasoning": {"max_tokens": 10**12}}, 1_000_000 * OUT),
    ("openrouter", {"reasoning": {"max_tokens": 1e300}}, 1_000_000 * OUT),
    # models that always search
    ("openrouter", {"model": "perplexity/sonar-pro"}, Decimal("0.05")),
    ("openrouter", {"model": "openai/o3-deep-research"}, Decimal("0.7")),
    # a schema is input text
    ("openai", {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 90_000}}]}, 90_000 * IN),
    ("openai", {"functions": [{"name": "f", "description": "x" * 90_000}]}, 90_000 * IN),
    ("gemini", {"response_format": {"type": "json_schema", "json_schema": {"d": "x" * 90_000}}}, 90_000 * IN),
    ("anthropic", {"no_such_key": {"x" * 90_000: 1}}, 90_000 * IN),
    # unusual text has one token per byte, up to the context window
    ("openai", {"messages": [{"role": "user", "content": "\U0002a6d0" * 20_000}]}, 80_000 * IN),
    ("openai", {"messages": [{"role": "user", "content": "x" * 1_000_000}]}, 399_000 * IN),
    ("openrouter", {"modalities": ["image", "text"]}, Decimal("0.3")),
    ("openai", {"prediction": {"type": "content", "content": "x" * 30_000}}, 30_000 * OUT),
    ("openai", {"prediction": {"type": "content", "content": [{"type": "text", "text": "x" * 30_000}]}}, 30_000 * OUT),
    ("openai", {"prediction": "x" * 30_000}, 30_000 * OUT),
    ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 32_000}}, 32_000 * OUT),
    ("openrouter", {"reasoning": {"max_tokens": 32_000}}, 32_000 * OUT),
    ("openai", {"thinking_budget": 32_000}, 32_000 * OUT),
    ("gemini", {"extra_body": {"google": {"thinking_config": {"thinking_budget": 9_000}}}}, 9_000 * OUT),
    # media by URL: the maximum of an image, or the context window
    ("openai", content(type="image_url", image_url={"url": "https://x.example/a.png"}), 5_000 * IN),
    ("openai", content(type="image_url", image_url="https://x.example/a.png"), 5_000 * IN),
    # a uniform image, video or silence compresses to a few bytes
    ("openai", content(type="image_url", image_url={"url": "data:image/png;base64,AAAA", "detail": "auto"}), 5_000 * IN),
    ("openai", content(type="image_url", image_url={"url": "data:image/png;base64,AAAA", "detail": "original"}), 12_000 * IN),
    ("openai", {"model": "gpt-4o-mini", **content(type="image_url", image_url="https://x.example/a.png")}, 48_000 * IN),
    ("openai", content(type="image", image="data:image/png;base64," + "A" * 9_000), 5_000 * IN),
    ("anthropic", content(type="image", source={"type": "url", "url": "https://x.example/a.png"}), 5_000 * IN),
    ("anthropic", content(type="image", source={"type": "base64", "media_type": "image/png", "data": "A"}), 5_000 * IN),
    ("anthropic", content(type="document", source={"type": "url", "url": "https://x.example/a"}), 400_000 * IN),
    ("anthropic", content(type="document", source={"type": "text", "data": "x" * 50_000}), 50_000 * IN),
    ("anthropic", content(type="tool_result", content=[{"type": "image", "source": {"url": "https://x.example/"}}]), 5_000 * IN),
    ("gemini", content(type="video_url", video_url={"url": "data:video/mp4;base64,AAAA"}), 400_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "data:video/mp4;base64,AAAA"}), 400_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "DATA:Audio/ogg;base64,AAAA"}), 400_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "data:application/pdf;base64," + "A" * 9_000}), 9_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "https://youtu.be/abc"}), 400_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "https://x.example/a.MP4?x=1"}), 400_000 * IN),
    ("gemini", content(type="image_url", image_url={"url": "https://x.example/a.pdf"}), 400_000 * IN),
    ("gemini", content(type="inline_data", inline_data={"mime_type": "video/mp4", "data": "A"}), 400_000 * IN),
    ("gemini", content(fileData={"mimeType": "image/png", "fileUri": "gs://bucket/a"}), 400_000 * IN),
    ("openai", content(type="file", file={"filename": "image/x.png", "file_data": "data:image/png;base64," + "A" * 9_000}),
     9_000 * IN),
    ("openai", content(type="video", video=["https://x.example/1.jpg", "https://x.example/2.jpg"]), 400_000 * IN),
    ("openai", content(type="whatever", thing={"deep": ["https://x.example/"]}), 400_000 * IN),
    ("gemini", content(type="input_audio", input_audio={"data": "A" * 400, "format": "flac"}), 400_000 * IN),
    ("gemini", content(type="input_audio", input_audio={"data": "A" * 400}), 400_000 * IN),
    ("gemini", content(type="video_url", video_url={"url": "https://x.example/a.mp4"}), 400_000 * IN),
    ("gemini", content(type="input_audio", input_audio={"url": "https://x.example/a.mp3"}), 400_000 * IN),
    ("gemini", content(type="file", file={"file_data": "gs://bucket/a.pdf"}), 400_000 * IN),
    ("openrouter", content(type="file", file={"file_data": "https://x.example/a.pdf"}), 2 + 400_000 * IN),
    ("openrouter", content(type="file", file={"file_data": "data:application/pdf;base64," + "A" * 100_000}),
     Decimal("0.1") + 100_000 * IN),
    ("gemini", content(type="input_audio", input_audio={"data": "A" * 4_000_000, "format": "mp3"}), 100_000 * IN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "keys", "more"), PRICED, ids=[f"{name} {str(keys)[:60]}" for name, keys, _ in PRICED]
)
def test_what_costs_more_is_held(routes: Router, name: str, keys: dict[str, Any], more: Decimal) -> None:
    provider = routes.providers[name]
    assert hold(routes, provider, **keys) - hold(routes, provider) >= more * Decimal("0.99")


def test_a_voice_is_held_at_its_price(routes: Router) -> None:
    openai = genuine(routes)
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "mp3"}}
    assert hold(routes, openai, AUDIO_PRICE, **spoken) >= 1000 * 80 / Decimal(1_000_000)
    assert hold(routes, openai, AUDIO_PRICE) < 1100 * 10 / Decimal(1_000_000)
    heard = content(type="input_audio", input_audio={"data": "A" * 40_000, "format": "wav"})
    assert hold(routes, openai, AUDIO_PRICE, **heard) >= (1000 * 10 + 1000 * 40) / Decimal(1_000_000)
    again = {
        "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "and?"}]
    }
    assert hold(routes, openai, AUDIO_PRICE, **again) >= 20_000 * 40 / Decimal(1_000_000)


@pytest.mark.parametrize("place", ["part", "message", "body", "tool"])
def test_a_cache_for_an_hour_is_held_at_its_price(routes: Router, place: str) -> None:
    price = ModelPrice(
        "test", (tier_of(0, {"input": Decimal(4), "cache_write": Decimal(5), "output": Decimal(1)}),)
    )
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    text = "x" * 300_000
    tool = {"type": "function", "function": {"name": "f"}}
    bodies: dict[str, dict[str, Any]] = {
        "part": content(type="text", text=text, **hour),
        "message": {"messages": [{"role": "user", "content": text, **hour}]},
        "body": {"messages": [{"role": "user", "content": text}], **hour},
        "tool": {"messages": [{"role": "user", "content": text}], "tools": [{**tool, **hour}]},
    }
    held = hold(routes, routes.openrouter, price, **bodies[place])
    assert held >= 100_000 * Decimal(8) / 1_000_000


def test_a_long_time_in_the_cache_is_held_at_its_price(routes: Router) -> None:
    price = ModelPrice(
        "test", (tier_of(0, {"input": Decimal(4), "cache_write": Decimal(5), "output": Decimal(1)}),)
    )
    text = {"messages": [{"role": "user", "content": "x" * 300_000}]}
    openai = routes.providers["openai"]
    assert hold(routes, openai, price, **text, prompt_cache_options={"ttl": "12h"}) >= Decimal("0.8")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("openrouter", {"models": ["nobody/knows"]}, "models"),
    ("openrouter", {"models": [5]}, "models"),
    ("openrouter", {"models": "nobody/knows"}, "models"),
    ("openrouter", {"plugins": [{"id": "fusion"}]}, "plugins[0]"),
    ("openrouter", {"plugins": [{"id": "web"}, {"id": "x"}]}, "plugins[1]"),
    ("openrouter", {"plugins": [{"id": "web", "max_results": 10**9}]}, "plugins"),
    ("openrouter", {"plugins": [{"id": ["web"]}]}, "plugins[0]"),
    ("openrouter", {"preset": "mine"}, "preset"),
    ("openrouter", {"speed": "fast"}, "speed"),
    ("openrouter", {"service_tier": "ultrafast"}, "service_tier"),
    ("openrouter", {"service_tier": ["priority"]}, "service_tier"),
    ("openrouter", {"tools": [{"type": "openrouter:image_generation"}]}, "tools[0].type"),
    ("openai", {"service_tier": "priority"}, "service_tier"),
    ("openai", {"web_search_options": {}}, "web_search_options"),
    ("openai", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("openai", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0].type"),
    ("openai", {"tools": [{"type": "file_search"}]}, "tools[0].type"),
    ("openai", {"tools": [{"type": ["function"]}]}, "tools[0].type"),
    ("openai", {"plugins": [{"id": "web"}]}, "plugins[0]"),
    ("openai", {"fallbacks": ["nobody-knows"]}, "fallbacks"),
    ("openai", {"search_parameters": {"mode": "auto"}}, "search_parameters"),
    ("openai", {"enable_search": True}, "enable_search"),
    ("openai", {"best_of": 20}, "best_of"),
    ("openai", {"inference_geo": "us"}, "inference_geo"),
    ("openai", content(type="file", file={"file_id": "file-1"}), "messages[0].content.file.file_id"),
    ("anthropic", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ("anthropic", {"mcp_servers": [{"url": "https://x.example"}]}, "mcp_servers"),
    ("gemini", {"tools": [{"google_search": {}}]}, "tools[0].type"),
    ("gemini", {"tools": [{"type": "function", "function": {"name": "f"}, "googleSearch": {}}]}, "tools[0].type"),
    ("gemini", {"tools": [{"function": {"name": "f"}, "code_execution": {}}]}, "tools[0].type"),
    ("gemini", {"tools": [{"name": "f", "urlContext": {}}]}, "tools[0].type"),
    *[
        (name, {"tools": [{"type": kind}]}, "tools[0].type")
        for name in ("openai", "anthropic", "gemini", "openrouter")
        for kind in (
            "web_search_preview", "image_generation", "mcp", "computer_use_preview", "shell", "live_search", "x_search",
            "code_execution_20250825", "web_fetch_20250910", "memory_20250818", "builtin_function", "tool_search", "",
        )
    ],
    *[
        (name, keys, param)
        for name in ("openai", "anthropic", "gemini", "openrouter")
        for keys, param in (
            ({"extra_body": {"n": 5}}, "extra_body.n"),
            ({"extra_body": {"model": "gpt-5-pro"}}, "extra_body.model"),
            ({"extra_body": {"messages": []}}, "extra_body.messages"),
            ({"extra_body": {"speed": "fast"}}, "extra_body.speed"),
            ({"extra_body": {"service_tier": "ultrafast"}}, "extra_body.service_tier"),
            ({"extra_body": {"search_parameters": {"mode": "on"}}}, "extra_body.search_parameters"),
            ({"extra_body": {"google": {"cached_content": "cachedContents/1"}}}, "extra_body.google.cached_content"),
            ({"extra_body": {"tools": [{"google_search": {}}]}}, "tools[0].type"),
            ({"generationConfig": {"candidateCount": 4}}, "generationConfig.candidateCount"),
            ({"candidate_count": 4}, "candidate_count"),
            ({"num_return_sequences": 4}, "num_return_sequences"),
            ({"web_search": True}, "web_search"),
            ({"web_search": {"enable": True}}, "web_search"),
            ({"enable_search": 1.5}, "enable_search"),
            ({"enable_search": "true"}, "enable_search"),
            ({"enable_code_interpreter": True}, "enable_code_interpreter"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": {"id": "conv_1"}}, "conversation"),
            ({"service_tier": "scale"}, "service_tier"),
            ({"service_tier": "fast"}, "service_tier"),
            ({"service_tier": ""}, "service_tier"),
            ({"service_tier": {}}, "service_tier"),
            ({"model": "@preset/mine"}, "model"),
            ({"model": "openai/gpt-5@preset/mine"}, "model"),
        )
    ],
    ("openrouter", {"models": ["openai/gpt-5@preset/mine"]}, "models"),
    ("openai", {"extra_body": {"web_search_options": {}}}, "extra_body.web_search_options"),
    ("genuine", {"modalities": ["text", "audio"]}, "modalities"),
    ("genuine", {"audio": {"voice": "alloy"}}, "audio"),
    ("genuine", content(type="input_audio", input_audio={"data": "AA"}), "messages[0].content.input_audio"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "keys", "param"), REFUSED, ids=[f"{name} {str(keys)[:60]}" for name, keys, _ in REFUSED]
)
def test_what_cannot_be_priced_is_refused_by_name(
    routes: Router, name: str, keys: dict[str, Any], param: str
) -> None:
    provider = genuine(routes) if name == "genuine" else routes.providers[name]
    with pytest.raises(BadCall) as caught:
        hold(routes, provider, **keys)
    assert caught.value.param == param
    assert param.partition("[")[0] in caught.value.message
    assert caught.value.status == 400


def test_the_own_key_may_ask_for_anything(routes: Router) -> None:
    call = call_of(preset="mine", plugins=[{"id": "fusion"}], models=["nobody/knows"])
    route, request = routes.prepare(Route(routes.openrouter, call.model, call.model, PRICE, "sk-mine"), call)
    assert orjson.loads(request.body)["preset"] == "mine"
    assert not route.factors.prices


def test_a_price_for_each_call_lets_its_searches_pass(routes: Router) -> None:
    price = ModelPrice("operator", PRICE.tiers, request=Decimal("0.04"))
    assert hold(routes, routes.providers["openai"], price, web_search_options={}) > Decimal("0.05")


def test_media_never_exceed_what_the_model_can_read(routes: Router) -> None:
    film = {"type": "video_url", "video_url": {"url": "https://x.example/a.mp4"}}
    many = {"messages": [{"role": "user", "content": [film] * 50}]}
    held = hold(routes, routes.providers["gemini"], **many) - hold(routes, routes.providers["gemini"])
    # and the letters of the request
    assert held < 405_000 * IN
    assert DEFAULT_CONTEXT_WINDOW > 400_000


@pytest.mark.parametrize(
    ("keys", "param"),
    [({"plugins": [{"id": "fusion"}]}, "plugins[0]"), ({"models": ["nobody/knows"]}, "models")],
)
@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
def test_both_doors_refuse_by_name(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    keys: dict[str, Any],
    param: str,
    door: str,
) -> None:
    answer = web.post(door, json={**body, **keys}, headers=rich.headers)
    assert answer.status_code == 400
    assert f"'{param}'" in answer.json["error"]["message"]
    assert fake.requests == []
    assert facts.holds() == 0
