"""Prices by service tier, speed, region, batch and context: the way that the answer names decides."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.core.settings import SettingsError
from models.gateway.chat_format import Usage
from models.gateway.price_file import parse_price, read_overrides
from models.gateway.served_ways import served_ways
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream, answer, stream
from tests.gateway.conftest import MESSAGES, Facts

MODEL = "openai/tiered-model"
USAGE = fakes.usage(100_000, 10_000)
ENTRY: dict[str, Any] = {
    "input": 10,
    "output": 100,
    "cached_input": 1,
    "above": {"200000": {"input": 20}, "1000": {"output": 150}},
    "service_tier": {"flex": {"input": 5, "output": 50, "above": {"200000": {"input": 9}}}},
    "speed": {"fast": {"input": 60, "output": 600}},
    "region": {"us": {"input": "11", "output": 110}},
    "batch": {"input": 4, "output": 40},
}


@pytest.mark.parametrize(
    ("ways", "input", "dollars"),
    [
        ((), 1_000, "0.11"),
        ((), 1_001, "0.16001"),
        ((), 300_000, "6.1"),
        (("service_tier:flex",), 1_000, "0.055"),
        (("service_tier:flex",), 300_000, "2.75"),
        (("speed:fast",), 1_000, "0.66"),
        (("region:us", "service_tier:flex"), 1_000, "0.121"),
        (("batch",), 1_000, "0.044"),
        (("service_tier:scale",), 1_000, "0.11"),
    ],
)
def test_an_entry_has_prices_by_way_and_context(ways: tuple[str, ...], input: int, dollars: str) -> None:
    usage = Usage(uncached_input=input, output=1_000)
    price = parse_price("m", ENTRY).of_way(ways, usage)
    assert price.cost(usage) == Decimal(dollars)
    assert price.snapshot(usage)["source"].startswith("import")


INVALID = [
    ({"above": {"x": {"input": 1}}}, "above.x"),
    ({"above": {"0": {"input": 1}}}, "above.0"),
    ({"above": {"9": {"inputs": 1}}}, "above.9.inputs"),
    ({"above": 7}, "above"),
    ({"service_tier": {"flex": 7}}, "service_tier.flex"),
    ({"service_tier": {"flex": {}}}, "service_tier.flex"),
    ({"service_tier": {"flex": {"input": 1}}}, "service_tier.flex.output"),
    ({"service_tier": {"flex": {"input": "x", "output": 1}}}, "service_tier.flex.input"),
    ({"speed": {"fast": {"provider": "openai"}}}, "speed.fast.provider"),
    ({"batch": {"input": -1, "output": 1}}, "batch.input"),
    ({"image": {"1024x1024": "x"}}, "image:1024x1024"),
    ({"second": True}, "second"),
    ({"tier": {}}, "tier"),
]


@pytest.mark.parametrize(("more", "key"), INVALID)
def test_mistakes_are_named(more: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=rf"'{key}' of 'm'"):
        parse_price("m", {"input": 1, "output": 1, **more})


def test_ways_need_a_price(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[m]\nprovider = "openai"\n[m.batch]\ninput = 1\noutput = 1\n')
    with pytest.raises(SettingsError, match="'batch' of 'm' belongs to a price"):
        read_overrides(file)
    file.write_text('[m]\nkind = "poem"\n')
    with pytest.raises(SettingsError, match="'kind' of 'm' must be one of chat"):
        read_overrides(file)


@pytest.mark.parametrize(
    ("fields", "ways"),
    [
        ({"service_tier": "default", "speed": "standard", "inference_geo": "global"}, ()),
        ({"service_tier": "priority"}, ("service_tier:priority",)),
        ({"service_tier": "batch", "speed": "fast"}, ("batch", "speed:fast")),
        ({"inference_geo": "us"}, ("region:us",)),
        ({"service_tier": None, "speed": 7, "inference_geo": "x" * 41}, ()),
    ],
)
def test_usual_ways_need_no_price(fields: dict[str, Any], ways: tuple[str, ...]) -> None:
    assert served_ways(fields) == ways


LIST, FLEX, PRIORITY = Decimal(2), Decimal(1), Decimal(4)


@pytest.mark.parametrize(
    ("asked", "served", "cost", "flags"),
    [
        (None, None, LIST, None),
        (None, "default", LIST, None),
        ("auto", "priority", PRIORITY, None),
        ("priority", "priority", PRIORITY, None),
        ("priority", "default", LIST, None),
        ("flex", "flex", FLEX, None),
        (None, "scale", LIST, None),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_served_tier_decides_the_price(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    asked: str | None,
    served: str | None,
    cost: Decimal,
    flags: list[str] | None,
    streamed: bool,
) -> None:
    tier = {} if served is None else {"service_tier": served}
    whole = answer(fakes.completion(use=USAGE, model="tiered-model", **tier))
    fake.will(stream(fakes.chunks(use=USAGE, **tier)) if streamed else whole)
    body = {"model": MODEL, "messages": MESSAGES, "service_tier": asked, "stream": streamed, "max_tokens": 10}
    assert web.post("/v1/chat/completions", json=body, headers=rich.headers).status_code == 200
    call = facts.call()
    assert (call.cost, call.flags) == (cost, flags)
    assert call.price is not None
    assert call.price["source"] == ("operator" if cost == LIST else f"operator, service_tier:{served}")


def test_a_tier_without_a_price_is_flagged_or_refused(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(answer(fakes.completion(use=USAGE, model="house-model", service_tier="priority")))
    body = {"model": "openai/house-model", "messages": MESSAGES, "max_tokens": 10}
    assert web.post("/v1/chat/completions", json=body, headers=rich.headers).status_code == 200
    assert facts.call().flags == ["tier_without_price"]
    for key, value in (
        ("service_tier", "priority"),
        ("speed", "fast"),
        ("inference_geo", "us"),
        ("speed", {}),
    ):
        got = web.post("/v1/chat/completions", json={**body, key: value}, headers=rich.headers)
        assert (got.status_code, got.json["error"]["param"]) == (400, key)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({}, "2"),
        ({"service_tier": "standard"}, "2"),
        ({"speed": "fast"}, "12"),
        ({"inference_geo": "us"}, "2.2"),
        ({"service_tier": "batch"}, "1"),
    ],
)
def test_claude_says_in_its_usage_how_it_served(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, usage: dict[str, Any], cost: str
) -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 100_000, "output_tokens": 10_000, **usage},
    }
    fake.will(answer(message))
    body = {"model": "house/claude", "messages": MESSAGES, "max_tokens": 10, "speed": "fast"}
    assert web.post("/v1/messages", json=body, headers=rich.headers).status_code == 200
    assert facts.call().cost == Decimal(cost)
