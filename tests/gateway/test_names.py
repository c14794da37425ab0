"""Model names: listed names route as listed, variants route to OpenRouter, and non-chat models are rejected."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, combinations
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from models.core.errors import DomainError
from models.core.settings import load_settings
from models.gateway import model_names
from models.gateway.chat_format import Usage
from models.gateway.pricing import PriceOverride, PriceTable, flat, shipped_price
from models.gateway.route import Route
from models.gateway.routing import NoPrice, NoRoute, NotAChatModel, Router
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, PROVIDERS, Facts
from views.gateway.api.model_facts import openai_model

PATH = "/v1/chat/completions"
COMBINATIONS = list(
    chain.from_iterable(combinations(PROVIDERS, count) for count in range(len(PROVIDERS) + 1))
)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def routes(*keys: str, prices: PriceTable | None = None) -> Router:
    """The router of a server with keys for these providers."""
    settings = load_settings(_env_file=None, **{f"{name}_api_key": "sk-operator" for name in keys})
    return Router(settings, prices or PriceTable())


# -- the list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("write", [str, str.upper, " {} ".format], ids=["listed", "upper", "spaced"])
def test_every_listed_name_routes_as_listed(keys: tuple[str, ...], write: Callable[[str], str]) -> None:
    served = routes(*keys)
    listed = served.models()
    assert len({route.requested.lower() for route in listed}) == len(listed)
    assert {route.provider.name for route in listed} == {"stoa", *keys}
    for route in listed:
        found = served.find(write(route.requested))
        assert found.provider is route.provider
        assert found.model == route.model
        assert found.price is not None
        assert found.price == route.price


@pytest.mark.parametrize("keys", COMBINATIONS, ids="+".join)
def test_only_models_that_chat_are_listed(keys: tuple[str, ...]) -> None:
    others = (
        "embed", "tts", "whisper", "transcri", "moderation", "rerank", "realtime", "dall-e", "gpt-image",
        "-live", "davinci", "babbage", "lyria", "ft:", "computer-use",
    )  # fmt: skip
    for route in routes(*keys).models():
        assert not any(word in route.requested for word in others), route.requested
        assert not route.requested.endswith("-")


@pytest.mark.parametrize("keys", COMBINATIONS, ids="+".join)
def test_the_price_shown_is_the_price_charged(keys: tuple[str, ...]) -> None:
    served = routes(*keys)
    usage = Usage(uncached_input=1000, output=100)
    for route in served.models():
        shown = {name: Decimal(figure) for name, figure in openai_model(route)["pricing"].items()}
        expected = shown["prompt"] * 1000 + shown["completion"] * 100 + shown["request"]
        for answered in (None, route.model):
            assert served.cost(route, usage, answered)[0] == expected, route.requested


def test_listed_models_belong_to_their_provider() -> None:
    listed = {route.requested: route.provider.name for route in routes(*PROVIDERS).models()}
    assert not [name for name, owner in listed.items() if owner == "gemini" and "claude" in name]
    assert not [name for name, owner in listed.items() if ":" in name and owner != "openrouter"]
    assert all("/" in name for name in listed)


def test_operators_names_are_listed_as_they_were_written() -> None:
    price = flat(1, 2)
    prices = PriceTable(
        {
            "house/fast": PriceOverride(price, "openai", "gpt-5-mini", name="House/Fast"),
            "openai/qwen-7b": PriceOverride(price, name="openai/Qwen-7B"),
            "nobody/has": PriceOverride(price, "anthropic", name="nobody/has"),
            "house/through": PriceOverride(None, "openrouter", "maker/model", name="house/through"),
        }
    )
    served = routes("openai", "openrouter", prices=prices)
    listed = {route.requested: (route.provider.name, route.model) for route in served.models()}
    assert listed["House/Fast"] == ("openai", "gpt-5-mini")
    assert listed["openai/Qwen-7B"] == ("openai", "Qwen-7B")
    assert listed["house/through"] == ("openrouter", "maker/model")
    assert "nobody/has" not in listed


def test_list_is_fast_once_it_is_made() -> None:
    served = routes(*PROVIDERS)
    assert len(served.models()) > 500
    began = time.thread_time()
    for _ in range(100):
        served.models()
    assert time.thread_time() - began < 0.1


def test_cached_names_are_bounded() -> None:
    served = routes("openrouter")
    for number in range(5000):
        served.find(f"maker/model-{number}")
    assert len(served._routes) <= 4097
    assert len(served.prices._cache) <= 4097


# -- routing by name -----------------------------------------------------------------------------------------

ALL, DIRECT = PROVIDERS, ("openai", "anthropic", "gemini")


@pytest.mark.parametrize(
    ("keys", "name", "provider", "upstream"),
    [
        (ALL, "gpt-5", "openai", "gpt-5"),
        (ALL, "GPT-5", "openai", "gpt-5"),
        (ALL, "  OpenAI/GPT-5 ", "openai", "gpt-5"),
        (ALL, "gpt-5:", "openai", "gpt-5"),
        (ALL, "anthropic/claude-sonnet-4.5 : ", "anthropic", "claude-sonnet-4-5"),
        (ALL, "openai/gpt-5:free:online", "openrouter", "openai/gpt-5:free:online"),
        (ALL, "gpt-5:ONLINE:Free ", "openrouter", "openai/gpt-5:online:free"),
        (ALL, "claude-3-7-sonnet:Thinking", "openrouter", "anthropic/claude-3.7-sonnet:thinking"),
        (ALL, "openrouter/auto:online", "openrouter", "openrouter/auto:online"),
        (ALL, "~anthropic/claude-sonnet-latest", "openrouter", "~anthropic/claude-sonnet-latest"),
        (("openrouter", "anthropic"), "openai/gpt-5", "openrouter", "openai/gpt-5"),
        (("openrouter", "openai"), "claude-haiku-4-5", "openrouter", "anthropic/claude-haiku-4.5"),
        (ALL, "gpt-5-2025-08-07", "openai", "gpt-5-2025-08-07"),
        (ALL, "openai/gpt-5-2025-08-07", "openai", "gpt-5-2025-08-07"),
        (ALL, "openai/gpt-5-chat", "openai", "gpt-5-chat-latest"),
        (ALL, "ft:gpt-4o-2024-08-06:My-Org::AbC", "openai", "ft:gpt-4o-2024-08-06:My-Org::AbC"),
        (ALL, "openai/ft:gpt-4o-mini-2024-07-18:o::x1", "openai", "ft:gpt-4o-mini-2024-07-18:o::x1"),
        (ALL, "anthropic/claude-sonnet-4.5", "anthropic", "claude-sonnet-4-5"),
        (ALL, "Anthropic/Claude-Sonnet-4.5", "anthropic", "claude-sonnet-4-5"),
        (ALL, "claude-sonnet-4-5-20250929", "anthropic", "claude-sonnet-4-5-20250929"),
        (ALL, "anthropic/claude-opus-4", "anthropic", "claude-opus-4-0"),
        (("anthropic",), "anthropic/claude-3.5-haiku", "anthropic", "claude-3-5-haiku-latest"),
        (ALL, "gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        (ALL, "models/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        (ALL, "google/models/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        (ALL, "google/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        (ALL, "gemini/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        (("openrouter",), "models/gemini-2.5-pro", "openrouter", "google/gemini-2.5-pro"),
        (("openrouter",), "gemini/gemini-2.5-pro", "openrouter", "google/gemini-2.5-pro"),
        (("openrouter",), "gpt-5", "openrouter", "openai/gpt-5"),
        (("openrouter",), "claude-sonnet-4-5", "openrouter", "anthropic/claude-sonnet-4.5"),
        (("openrouter",), "Anthropic/Claude-Sonnet-4.5", "openrouter", "anthropic/claude-sonnet-4.5"),
        (("openrouter",), "Maker/New-Model", "openrouter", "Maker/New-Model"),
        (ALL, "openrouter/openai/gpt-5", "openrouter", "openai/gpt-5"),
        (ALL, "OpenRouter/openai/gpt-5", "openrouter", "openai/gpt-5"),
        (ALL, "openrouter/auto", "openrouter", "openrouter/auto"),
        (ALL, "Stoa/Demo", "stoa", "stoa/demo"),
        # models that only OpenRouter has under this exact name
        (ALL, "openai/gpt-5.6-luna-pro", "openrouter", "openai/gpt-5.6-luna-pro"),
        (ALL, "anthropic/claude-opus-4.6-fast", "openrouter", "anthropic/claude-opus-4.6-fast"),
        (ALL, "google/gemma-3-27b-it", "openrouter", "google/gemma-3-27b-it"),
        (ALL, "openai/gpt-3.5-turbo-instruct", "openrouter", "openai/gpt-3.5-turbo-instruct"),
        (ALL, "google/claude-opus-4-5", "openrouter", "google/claude-opus-4-5"),
    ],
)  # fmt: skip
def test_a_name_routes_to_its_provider(
    keys: tuple[str, ...], name: str, provider: str, upstream: str
) -> None:
    found = routes(*keys).find(name)
    assert (found.provider.name, found.model) == (provider, upstream)


VARIANTS = ("free", "nitro", "batch", "floor", "online", "thinking", "extended", "exacto", "beta", "Nitro")
MODELS = ("openai/gpt-5", "gpt-5", "anthropic/claude-sonnet-4.5", "google/gemini-2.5-flash", "z-ai/glm-4.6")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("keys", [ALL, ("openrouter",), ("openrouter", "openai")], ids="+".join)
def test_variants_route_to_openrouter_at_a_price(keys: tuple[str, ...], model: str, variant: str) -> None:
    found = routes(*keys).find(f"{model}:{variant}")
    assert found.provider.name == "openrouter"
    base = model if "/" in model else f"openai/{model}"
    assert found.model == f"{base}:{variant.lower()}"
    assert found.price is not None
    assert found.price.max_cost(1000, 1000) > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
def test_variants_need_openrouters_key(model: str, variant: str) -> None:
    with pytest.raises(NoRoute) as caught:
        routes(*DIRECT).find(f"{model}:{variant}")
    assert "OpenRouter" in caught.value.message
    assert f"':{variant.lower()}'" in caught.value.message
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("name", "times", "request_fee"),
    [
        ("z-ai/glm-4.6:nitro", 2, Decimal("0.05")),
        ("z-ai/glm-4.6:online", 2, Decimal("0.05")),
        ("z-ai/glm-4.6:floor", 1, 0),
        ("z-ai/glm-4.6:free", 1, 0),
        ("z-ai/glm-4.6:batch", 1, 0),
    ],
)
def test_a_variant_without_a_row_is_priced_with_care(name: str, times: int, request_fee: Decimal) -> None:
    price = PriceTable().find("openrouter", name, name)
    base = shipped_price("openrouter", "z-ai/glm-4.6", NOW)
    assert price is not None
    assert base is not None
    assert price.request == base.request + request_fee
    for tier, listed in zip(price.tiers, base.tiers, strict=True):
        assert (tier.input, tier.output) == (listed.input * times, listed.output * times)


def test_a_variant_with_a_row_has_its_price() -> None:
    batch, base = (
        PriceTable().find("openrouter", name, name) for name in ("openai/gpt-5:batch", "openai/gpt-5")
    )
    assert batch is not None
    assert base is not None
    assert batch.tiers[0].output == base.tiers[0].output / 2


def test_free_is_free_only_where_it_is_listed() -> None:
    listed = routes("openrouter").find("deepseek/deepseek-r1:free").price
    made_up = routes("openrouter").find("openai/gpt-5:free").price
    assert listed is not None
    assert listed.is_free
    assert made_up is not None
    assert not made_up.is_free
    assert routes("openrouter").find("nobody/knows:free").price is None


def test_an_answer_that_names_the_base_is_priced_as_the_variant() -> None:
    prices = PriceTable()
    asked = "z-ai/glm-4.6:nitro"
    assert prices.find("openrouter", asked, asked, "z-ai/glm-4.6") == prices.find("openrouter", asked, asked)
    fallback = prices.find("openrouter", asked, asked, "openai/gpt-5")
    assert fallback == prices.find("openrouter", "openai/gpt-5", "openai/gpt-5")


# -- non-chat models -----------------------------------------------------------------------------------------

NOT_CHAT = [
    ("text-embedding-3-small", "embeddings"),
    ("openai/text-embedding-ada-002", "embeddings"),
    ("google/gemini-embedding-001", "embeddings"),
    ("models/gemini-embedding-001", "embeddings"),
    ("mistralai/codestral-embed-2505", "embeddings"),
    ("qwen/qwen3-embedding-8b", "embeddings"),
    ("baai/bge-m3", "embeddings"),
    ("voyage-3", "embeddings"),
    ("cohere/rerank-v3.5", "ranks"),
    ("omni-moderation-latest", "classifies"),
    ("openai/text-moderation-stable", "classifies"),
    ("whisper-1", "transcribes"),
    ("gpt-4o-transcribe", "transcribes"),
    ("openai/gpt-4o-mini-transcribe", "transcribes"),
    ("tts-1-hd", "generates speech"),
    ("OpenAI/GPT-4o-mini-TTS", "generates speech"),
    ("gemini-2.5-flash-preview-tts", "generates speech"),
    ("gpt-realtime", "realtime"),
    ("openai/gpt-4o-realtime-preview", "realtime"),
    ("gemini-live-2.5-flash", "realtime"),
    ("gemini-2.5-flash-native-audio-preview-09-2025", "realtime"),
    ("gpt-image-1", "images"),
    ("openai/dall-e-3", "images"),
    ("imagen-4.0-generate-001", "images"),
    ("sora-2", "videos"),
    ("google/veo-3.0-generate-001", "videos"),
    ("google/lyria-3-pro-preview", "music"),
    ("davinci-002", "plain text"),
    ("text-davinci-003", "plain text"),
    ("computer-use-preview", "Responses"),
]


@pytest.mark.parametrize(("name", "message"), NOT_CHAT)
@pytest.mark.parametrize("keys", [ALL, DIRECT, ("openrouter",), ()], ids="+".join)
def test_non_chat_models_are_rejected_with_a_message(keys: tuple[str, ...], name: str, message: str) -> None:
    with pytest.raises(NotAChatModel, match=message):
        routes(*keys).find(name)


@pytest.mark.parametrize(
    "name",
    [
        "openai/gpt-5-image", "google/gemini-2.5-flash-image", "openai/gpt-audio", "openai/gpt-4o-audio-preview",
        "mistralai/voxtral-small-24b-2507", "meta-llama/llama-guard-4-12b", "z-ai/glm-4.6", "openai/gpt-oss-120b",
        "qwen/qwen3-vl-8b-instruct", "openai/gpt-4o-search-preview", "openai/o3-deep-research", "gpt-5-pro",
        "deliverance/alive-7b", "maker/olive-live2", "openai/gpt-5-codex", "google/gemma-3-27b-it", "grok-4",
    ],
)  # fmt: skip
def test_chat_models_are_recognized(name: str) -> None:
    assert model_names.kind_of(name) == model_names.CHAT


@pytest.mark.parametrize("name", ["", "  ", "models/", "x" * 201, "a\x00b", "a\nb", "a\u202eb"])
def test_invalid_names_have_no_route(name: str) -> None:
    with pytest.raises(NoRoute):
        routes(*ALL).find(name)


def test_unknown_models_of_a_direct_provider_have_no_price() -> None:
    with pytest.raises(NoPrice):
        routes(*ALL).find("openai/nobody-knows")


def test_the_callers_own_key_sends_every_name_to_openrouter() -> None:
    served = routes(*DIRECT)
    for name in ("openai/gpt-5", "gpt-5", "openai/gpt-5:nitro", "maker/model"):
        found = served.find(name, byok="sk-or-mine")
        assert (found.provider.name, found.byok) == ("openrouter", "sk-or-mine")
        with_direct = served.find(name, byok="sk-or-mine", direct_openai=True)
        assert with_direct.provider.name == ("openai" if name.endswith("gpt-5") else "openrouter")
    assert served.find("openai/gpt-5").byok is None


# -- endpoints -----------------------------------------------------------------------------------------------


def listed(web: FlaskClient, person: Person) -> list[dict[str, Any]]:
    return list(web.get("/v1/models", headers=person.headers).json["data"])


def test_a_single_model_equals_its_list_entry(web: FlaskClient, alice: Person) -> None:
    models = listed(web, alice)
    for model in models[::20] + [each for each in models if ":" in each["id"]][::10]:
        for address in (model["id"], quote(model["id"], safe="")):
            assert web.get(f"/v1/models/{address}", headers=alice.headers).json == model


def test_list_has_price_and_context_window(web: FlaskClient, alice: Person) -> None:
    models = {model["id"]: model for model in listed(web, alice)}
    gpt = models["openai/gpt-5"]
    assert (gpt["owned_by"], gpt["type"], gpt["context_window"]) == ("openai", "chat", 400_000)
    assert gpt["pricing"]["prompt"] == "0.00000125"
    assert gpt["pricing"]["completion"] == "0.00001"
    assert models["openai/free-model"]["pricing"]["prompt"] == "0"


def test_list_takes_a_worker_some_milliseconds(web: FlaskClient, alice: Person) -> None:
    listed(web, alice)
    began = time.thread_time()
    for _ in range(10):
        listed(web, alice)
    assert time.thread_time() - began < 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["openai/gpt-5:nitro", "deepseek/deepseek-r1:free"])
def test_a_variant_costs_what_openrouter_says(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, name: str, stream: bool
) -> None:
    use = fakes.usage(10, 20, cost=0.04)
    fake.will(
        fakes.stream(fakes.chunks(use=use, model=name)) if stream else fakes.answer(fakes.completion(use=use))
    )
    body = {"model": name, "messages": MESSAGES, "stream": stream}
    assert web.post(PATH, json=body, headers=rich.headers).status_code == 200
    assert (fake.requests[0].path, fake.requests[0].body["model"]) == ("/openrouter/chat/completions", name)
    assert float(facts.call().cost) == pytest.approx(0.04)


def test_calling_a_non_chat_model_takes_no_hold(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    for name, message in NOT_CHAT:
        answer = web.post(PATH, json={"model": name, "messages": MESSAGES}, headers=rich.headers)
        error = answer.json["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "model_not_chat", "model")
        assert message in error["message"]
    assert (facts.holds(), facts.calls()) == (0, [])
    assert fake.requests == []


def test_the_command_lists_the_same_models(web: FlaskClient, alice: Person) -> None:
    output = web.application.test_cli_runner().invoke(args=["gateway", "models"]).output
    assert [line.split()[0] for line in output.splitlines() if "/" in line.split()[0]][
        : len(listed(web, alice))
    ] == sorted(model["id"] for model in listed(web, alice))


def describe(found: Router, name: str) -> Route | str:
    """The route, or the error code if there is none."""
    try:
        return found.find(name)
    except DomainError as error:
        return error.code


def test_prices_change_with_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    served = routes("openai")
    first = served.find("openai/gpt-5")
    assert served.find("openai/gpt-5") is first
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert served.find("openai/gpt-5") is not first
    assert describe(served, "openai/gpt-5") == first
