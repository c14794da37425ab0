"""JSON that clients can read is parsed, metered and passed on, in answers and in streams."""

import gzip
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.lenient_json import NotJson, read, read_all, whole_text, write
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b' \r\n{"a":1}\n\n', {"a": 1}),
        (b'{"a":1}\x00\x00', {"a": 1}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1}\xc2\xa0', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\u0000"}', {"a": "\x00"}),
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (b'{"a":"\xed\xa0\xbd"}', {"a": "\ud83d"}),
        (b'{"a":"\xff\xfe"}', {"a": "\ufffd\ufffd"}),
        (b'{"a":NaN,"b":-Infinity,"c":1e999}', {"a": None, "b": None, "c": None}),
        (b'{"a":"x\ty\nz"}', {"a": "x\ty\nz"}),
        (b'{"a":' + b"9" * 30 + b',"b":"\\ud83d"}', {"a": 10**30 - 1, "b": "\ud83d"}),
        (b'{"a":' + b"9" * 5000 + b"}", None),
    ],
)
def test_json_that_clients_read_is_read(raw: bytes, value: Any) -> None:
    read_value, text = read(raw)
    if value is not None:
        assert read_value == value
    # the output is strict JSON for Python and JavaScript
    json.loads(text.decode(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"{}{}", b"not json", b"{'a':1}", b'{"a":1,}', b"[" * 100_000, b'"' + b"x" * 10]
)
def test_json_that_no_client_reads_is_refused(raw: bytes) -> None:
    with pytest.raises(NotJson):
        read(raw)


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (b'{"a": 1}', [{"a": 1}]),
        (b'{"a": NaN}', [{"a": None}]),
        (b'{"a": 1}{"b": 2}', [{"a": 1}, {"b": 2}]),
        (b'{"a": 1}\ndata: {"b": NaN}', [{"a": 1}, {"b": None}]),
        (b'{"a": 1} [DONE]', [{"a": 1}]),
        (b"<html>", []),
    ],
)
def test_an_event_may_hold_several_values(raw: bytes, values: list[Any]) -> None:
    assert [parsed.value for parsed in read_all(raw)] == values


def test_bytes_of_ordinary_json_are_not_touched() -> None:
    for raw in (b'{"a" : 1.0,  "b":"\\u00fc"}\n', b'{"a":"\\ud83d\\ude00"}', b'{"a":"\\ud83d"}'):
        assert read(raw).text == raw


def test_every_parsed_value_can_be_written() -> None:
    deep: Any = "\ud83d"
    for _ in range(400):
        deep = [deep]
    for value in ({"a": "\ud83d"}, {"a": 10**30}, {"a": "\ud83d", "b": float("nan")}, deep):
        json.loads(write(value))


def test_split_surrogate_pairs_are_joined() -> None:
    assert whole_text("a\ud83d\ude00b") == "a\U0001f600b"
    assert whole_text("a\ud83d b\ude00") == "a\ufffd b\ufffd"


ODD = {
    "lone surrogate": (b"Hello there.", b"Hello \\ud83d there."),
    "nul in a text": (b"Hello there.", b"Hello \\u0000there."),
    "invalid utf-8": (b"Hello there.", b"Hello \xff there."),
    "surrogate in bytes": (b"Hello there.", b"Hello \xed\xa0\xbd there."),
    "raw tab": (b"Hello there.", b"Hello\tthere."),
    "odd id": (b'"chatcmpl-1"', b'"chat\\u0000\\ud83d"'),
    "odd model": (b'gpt-5-mini"', b'gpt-5-mini\\u0000\\udead"'),
    "nan": (b'"index": 0', b'"index": 0, "logprob": NaN'),
    "huge number": (b'"index": 0', b'"index": 0, "seed": ' + b"9" * 40),
    "digits without end": (b'"index": 0', b'"index": 0, "seed": ' + b"9" * 6000),
    "key twice": (b'"index": 0', b'"index": 5, "index": 0'),
}


@pytest.mark.parametrize("around", [(b"", b""), (b"\xef\xbb\xbf", b""), (b" ", b"\x00"), (b"", b"\xc2\xa0 ")])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("door", ["openai", "codebuff"])
def test_odd_answers_are_passed_on_and_billed(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    odd: tuple[bytes, bytes],
    around: tuple[bytes, bytes],
    door: str,
) -> None:
    raw = json.dumps(fakes.completion(use=fakes.usage(100, 20, cost=0.01))).encode().replace(*odd)
    fake.will(fakes.answer(around[0] + raw + around[1]))
    if door == "openai":
        answer = web.post("/v1/chat/completions", json=BODY, headers=rich.headers)
    else:
        answer = web.post("/api/v1/chat/completions", json=body, headers=rich.headers)
    assert answer.status_code == 200
    assert "ello" in json.loads(answer.data)["choices"][0]["message"]["content"]
    call = facts.call()
    assert (call.state, call.usage_source, call.output_tokens) == ("settled", "provider", 20)
    stored = facts.messages()[0].response
    assert "\x00" not in stored
    assert stored.encode()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_chunks_are_passed_on_and_counted(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, odd: tuple[bytes, bytes]
) -> None:
    raw = json.dumps(fakes.chunk({"content": "Hello there."})).encode().replace(*odd)
    script = [b"data: " + raw + b"\n\n"] * 20
    fake.will(fakes.stream([*script, fakes.chunk({}, "stop"), "[DONE]"]))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    seen = events(answer.data)
    assert sum("ello" in event["choices"][0]["delta"].get("content", "") for event in seen) == 20
    call = facts.call()
    assert (call.state, call.usage_source) == ("settled", "counted")
    assert call.output_tokens >= 60


def test_a_response_compressed_unasked_is_read(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    packed = gzip.compress(json.dumps(fakes.completion(use=fakes.usage(100, 20))).encode())
    fake.will(fakes.answer(packed, headers={"Content-Encoding": "gzip"}))
    answer = web.post("/v1/chat/completions", json=BODY, headers=rich.headers)
    assert answer.json["choices"][0]["message"]["content"] == "Hello there."
    assert facts.call().output_tokens == 20
