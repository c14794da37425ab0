"""Prices: set, zero or missing; tiers; the operator's file; the cost of calls."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.core.settings import SettingsError
from models.gateway.chat_format import Usage
from models.gateway.model_names import max_output
from models.gateway.price_file import read_overrides
from models.gateway.pricing import ModelPrice, PriceTable, flat, shipped_price, tier_of
from models.gateway.route import held_credits

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def test_shipped_prices_are_exact() -> None:
    price = shipped_price("openai", "gpt-5", NOW)
    assert price is not None
    usage = Usage(uncached_input=600_000, cache_read=400_000, output=100_000, reasoning=50_000)
    assert price.cost(usage) == Decimal("0.75") + Decimal("0.05") + 1
    assert price.source == "genai-prices:openai/gpt-5"


def test_unlisted_models_have_no_price() -> None:
    assert shipped_price("openai", "no-such-model", NOW) is None
    assert PriceTable().find("openai", "openai/no-such-model", "no-such-model") is None


def test_tiers_price_the_whole_call() -> None:
    price = shipped_price("google", "gemini-2.5-pro", NOW)
    assert price is not None
    low, high = Usage(uncached_input=200_000, output=1000), Usage(uncached_input=200_001, output=1000)
    assert price.cost(low) == Decimal("0.25") + Decimal("0.01")
    assert price.cost(high) == Decimal("2.5") * 200_001 / 1_000_000 + Decimal("0.015")


def test_reasoning_has_its_own_price_within_output() -> None:
    tier = tier_of(0, {"input": Decimal(1), "output": Decimal(10), "reasoning": Decimal(2)})
    price = ModelPrice("x", (tier,), Decimal("0.01"))
    usage = Usage(output=1_000_000, reasoning=500_000)
    assert price.cost(usage) == Decimal("0.01") + 5 + 1
    assert price.snapshot(usage)["reasoning"] == "2"


def test_the_operator_wins(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"OpenAI/GPT-5": {"input": 1.5, "output": "20", "cached_input": 0, "cache_write": 3}}')
    prices = PriceTable.load(file)
    price = prices.find("openai", "openai/gpt-5", "gpt-5", "gpt-5-2025-08-07")
    assert price is not None
    usage = Usage(uncached_input=10**6, cache_read=10**6, cache_write=10**6, output=10**6)
    assert price.cost(usage) == Decimal("1.5") + 0 + 3 + 20
    assert not price.is_free


def test_explicit_zero_is_a_price() -> None:
    assert flat(0, 0).is_free
    assert flat(0, 0).cost(Usage(uncached_input=9, output=9)) == 0
    assert not flat(0, 1).is_free


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "neither TOML nor JSON"),
        ("x = 1", "must be a table"),
        ("[m]\ninput = 1", "'output' of 'm' is missing"),
        ("[m]\ninput = -1\noutput = 1", "'input' of 'm' must be from 0"),
        ("[m]\ninput = nan\noutput = 1", "'input' of 'm' must be a number"),
        ("[m]\ninput = inf\noutput = 1", "'input' of 'm' must be a number"),
        ("[m]\ninput = 1e9\noutput = 1", "'input' of 'm' must be from 0"),
        ("[m]\ninput = true\noutput = 1", "'input' of 'm' must be a number"),
        ('[m]\ninput = "a"\noutput = 1', "'input' of 'm' must be a number"),
        ("[m]\nprice = 1", "'price' of 'm' is not one of"),
        ("[m]\nprovider = 3", "'provider' of 'm' must be a name"),
        ("[m]\ninput = 1\noutput = 1\nmax_output = 0", "'max_output' of 'm' must be a whole number"),
        ("[m]\ninput = 1\noutput = 1\nmax_output = 1.5", "'max_output' of 'm' must be a whole number"),
        ("[m]\ninput = 1\noutput = 1\nmax_output = true", "'max_output' of 'm' must be a whole number"),
        ("[m]\nprovider = 'openai'\nmax_output = 9", "'max_output' of 'm' belongs to a price"),
    ],
)
def test_an_invalid_file_is_rejected_with_a_message(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"STOA_PRICES_FILE") as caught:
        read_overrides(file)
    assert message in str(caught.value)


def test_the_operator_can_set_the_output_limit(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        """
        [a]
        input = 1
        output = 1
        max_output = 9000
        [gpt-4o]
        input = 1
        output = 1
        ["house/fast"]
        upstream_model = "gpt-4.1"
        input = 1
        output = 1
        [b]
        input = 1
        output = 1
        """
    )
    prices = read_overrides(file)
    limit = {name: override.price.max_output for name, override in prices.items() if override.price}
    assert limit == {"a": 9000, "gpt-4o": 16_384, "house/fast": 32_768, "b": None}


@pytest.mark.parametrize(
    ("table", "name", "searches"),
    [
        ("openai", "gpt-4o-search-preview", True),
        ("openai", "gpt-4o-search-preview-2025-03-11", True),
        ("openai", "gpt-4o-mini-search-preview", True),
        ("openai", "gpt-5-search-api", True),
        ("openrouter", "openai/gpt-4o-mini-search-preview", True),
        ("openai", "gpt-4o", False),
        ("openrouter", "relace/relace-search", False),
        ("openrouter", "perplexity/sonar", False),
    ],
)
def test_models_that_search_with_each_call_cost_that_search(table: str, name: str, searches: bool) -> None:
    price = shipped_price(table, name, NOW)
    assert price is not None
    assert price.request == (Decimal("0.035") if searches else 0)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("gpt-4o", 16_384), ("openai/GPT-4o-mini", 16_384), ("gpt-4o-2024-11-20", 16_384), ("gpt-4o:extended", None),
        ("gpt-4o-64k-output-alpha", None), ("ft:gpt-4o:x", None), ("chatgpt-4o-latest", 16_384), ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192), ("gpt-4-32k", None), ("gpt-4-turbo-2024-04-09", 4_096), ("gpt-4.1-nano", 32_768),
        ("o1", 100_000), ("o1-mini", 65_536), ("o1-preview", 32_768), ("o3-pro", 100_000), ("o4-mini", 100_000),
        ("gpt-5", None), ("gpt-5.1-chat", 16_384), ("gpt-5-pro", 272_000), ("gpt-5.6-sol", None),
        ("claude-3-haiku-20240307", 4_096), ("anthropic/claude-3.5-sonnet", 8_192), ("claude-3-7-sonnet-latest", None),
        ("claude-opus-4-20250514", 32_768), ("claude-opus-4.1", 32_768), ("claude-opus-4-5", 64_000),
        ("claude-opus-4-6", None), ("claude-sonnet-4-5-20250929", 64_000), ("claude-sonnet-4-6", None),
        ("claude-sonnet-4.5", 64_000), ("anthropic/claude-sonnet-4.5:thinking", None), ("claude-opus-5-5", None),
        ("gemini-1.5-pro-002", 8_192), ("gemini-2.0-flash-lite", 8_192), ("gemini-2.0-flash-thinking-exp", None),
        ("google/gemini-2.5-pro", 65_536), ("gemini-3-pro-preview", None), ("z-ai/glm-4.6", None), ("mygpt-4o", None),
    ],
)  # fmt: skip
def test_output_limits_of_models(name: str, limit: int | None) -> None:
    assert max_output(name) == limit


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        PriceTable.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("cost", "credits"), [("0", 0), ("0.0001", 1), ("0.01", 2), ("1", 106), ("0.10", 11)]
)
def test_a_hold_is_rounded_up(cost: str, credits: int) -> None:
    assert held_credits(Decimal(cost), Decimal("0.055")) == credits


tokens = st.integers(0, 10**7)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tokens, tokens, tokens, tokens)
def test_tokens_always_cost_and_never_more_than_the_maximum(
    uncached: int, cache_write: int, cache_read: int, output: int
) -> None:
    price = shipped_price("anthropic", "claude-sonnet-4-5", NOW)
    assert price is not None
    usage = Usage(uncached_input=uncached, cache_write=cache_write, cache_read=cache_read, output=output)
    cost = price.cost(usage)
    assert (cost > 0) == (usage.tokens > 0)
    assert cost <= price.max_cost(usage.input, output)
