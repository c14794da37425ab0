"""Prices: set, zero or missing; tiers; the operator's file; and what a call comes to."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.gateway.pricing import Price, Prices, flat, read_overrides, shipped_price, tier_of
from models.gateway.routing import held_credits
from models.gateway.wire import Usage
from models.settings import SettingsError

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def test_shipped_prices_are_exact() -> None:
    price = shipped_price("openai", "gpt-5", NOW)
    assert price is not None
    usage = Usage(uncached_input=600_000, cache_read=400_000, output=100_000, reasoning=50_000)
    assert price.cost(usage) == Decimal("0.75") + Decimal("0.05") + 1
    assert price.source == "genai-prices:openai/gpt-5"


def test_what_is_not_listed_is_missing() -> None:
    assert shipped_price("openai", "no-such-model", NOW) is None
    assert Prices().find("openai", "openai/no-such-model", "no-such-model") is None


def test_tiers_price_the_whole_call() -> None:
    price = shipped_price("google", "gemini-2.5-pro", NOW)
    assert price is not None
    low, high = Usage(uncached_input=200_000, output=1000), Usage(uncached_input=200_001, output=1000)
    assert price.cost(low) == Decimal("0.25") + Decimal("0.01")
    assert price.cost(high) == Decimal("2.5") * 200_001 / 1_000_000 + Decimal("0.015")


def test_reasoning_has_its_own_price_within_output() -> None:
    tier = tier_of(0, {"input": Decimal(1), "output": Decimal(10), "reasoning": Decimal(2)})
    price = Price("x", (tier,), Decimal("0.01"))
    usage = Usage(output=1_000_000, reasoning=500_000)
    assert price.cost(usage) == Decimal("0.01") + 5 + 1
    assert price.snapshot(usage)["reasoning"] == "2"


def test_the_operator_wins(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"OpenAI/GPT-5": {"input": 1.5, "output": "20", "cached_input": 0, "cache_write": 3}}')
    prices = Prices.load(file)
    price = prices.find("openai", "openai/gpt-5", "gpt-5", "gpt-5-2025-08-07")
    assert price is not None
    usage = Usage(uncached_input=10**6, cache_read=10**6, cache_write=10**6, output=10**6)
    assert price.cost(usage) == Decimal("1.5") + 0 + 3 + 20
    assert not price.zero


def test_explicit_zero_is_a_price() -> None:
    assert flat(0, 0).zero
    assert flat(0, 0).cost(Usage(uncached_input=9, output=9)) == 0
    assert not flat(0, 1).zero


@pytest.mark.parametrize(
    ("text", "words"),
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
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"STOA_PRICES_FILE") as caught:
        read_overrides(file)
    assert words in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Prices.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("cost", "credits"), [("0", 0), ("0.0001", 1), ("0.01", 2), ("1", 106), ("0.10", 11)]
)
def test_a_hold_is_rounded_up(cost: str, credits: int) -> None:
    assert held_credits(Decimal(cost), Decimal("0.055")) == credits


tokens = st.integers(0, 10**7)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tokens, tokens, tokens, tokens)
def test_tokens_at_a_price_always_cost_and_never_more_than_the_worst(
    put: int, wrote: int, read: int, out: int
) -> None:
    price = shipped_price("anthropic", "claude-sonnet-4-5", NOW)
    assert price is not None
    usage = Usage(uncached_input=put, cache_write=wrote, cache_read=read, output=out)
    cost = price.cost(usage)
    assert (cost > 0) == (usage.tokens > 0)
    assert cost <= price.worst(usage.input, out)
