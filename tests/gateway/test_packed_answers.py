"""Responses compressed by a provider or a proxy although uncompressed ones were requested."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
from flask.testing import FlaskClient

from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Behaviour, Exchange, FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}
PLAIN = json.dumps(fakes.completion(use=fakes.usage(100, 20))).encode()
SCRIPT = fakes.chunks("one two three", use=fakes.usage(100, 7))


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def same(data: bytes) -> bytes:
    return data


FORMS: dict[str, tuple[str | None, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "GZIP": ("GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "twice": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "identity first": ("identity, gzip", gzip.compress),
    "not told": (None, gzip.compress),
    "packed again by a proxy": ("gzip", lambda data: gzip.compress(gzip.compress(data))),
    "in two members": ("gzip", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
    "without its end": ("gzip", lambda data: gzip.compress(data)[:-8]),
    "told gzip, and plain": ("gzip", same),
    "told deflate, and plain": ("deflate", same),
    "told br, and plain": ("br", same),
    "told zstd, and plain": ("zstd", same),
    "a coding that nobody knows, and plain": ("utf-8", same),
}


def packed(status: int, kind: str, coding: str | None, body: bytes, size: int) -> Behaviour:
    def behave(exchange: Exchange) -> Any:
        headers = {"Content-Type": kind, "Transfer-Encoding": "chunked"}
        exchange.head(status, headers | ({"Content-Encoding": coding} if coding else {}))
        for start in range(0, len(body), size):
            exchange.chunk(body[start : start + size])
        exchange.send(b"0\r\n\r\n")

    return behave


@pytest.mark.parametrize("size", [10_000, 7])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_compressed_answers_are_read_and_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, form: Any, size: int
) -> None:
    coding, pack = form
    if (coding, pack, size) == ("deflate", same, 7):
        pytest.skip("the first letters of plain JSON are deflate as well")
    fake.will(packed(200, "application/json", coding, pack(PLAIN), size))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert answer.status_code == 200
    assert answer.json["choices"][0]["message"]["content"] == "Hello there."
    assert "Content-Encoding" not in answer.headers
    assert (facts.call().usage_source, facts.call().output_tokens) == ("provider", 20)


@pytest.mark.parametrize("size", [10_000, 7])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_compressed_streams_are_read_and_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, form: Any, size: int
) -> None:
    coding, pack = form
    whole = b"".join(fakes.sse(event) for event in SCRIPT)
    fake.will(packed(200, "text/event-stream", coding, pack(whole), size))
    answer = web.post(PATH, json={**BODY, "stream": True}, headers=rich.headers)
    said = [c["delta"].get("content") or "" for event in events(answer.data) for c in event["choices"]]
    assert "".join(said) == "one two three"
    assert answer.data.endswith(b"data: [DONE]\n\n")
    assert (facts.call().usage_source, facts.call().output_tokens) == ("provider", 7)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_compressed_errors_are_read(
    web: FlaskClient, fake: FakeUpstream, rich: Person, form: Any, streaming: bool
) -> None:
    coding, pack = form
    refused = json.dumps(
        {"error": {"message": "Too many tokens in this minute; wait.", "code": "x"}}
    ).encode()
    fake.will(packed(429, "application/json", coding, pack(refused), 10_000))
    answer = web.post(PATH, json={**BODY, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == 429
    assert answer.json["error"]["message"] == "Too many tokens in this minute; wait."


def test_a_compressed_event_does_not_wait_for_the_next_one(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    seen: list[bytes] = []

    def behave(exchange: Exchange) -> None:
        packer = zlib.compressobj(wbits=31)
        headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
        exchange.head(200, {**headers, "Transfer-Encoding": "chunked"})
        for number, event in enumerate(SCRIPT):
            exchange.chunk(packer.compress(fakes.sse(event)) + packer.flush(zlib.Z_SYNC_FLUSH))
            while number == 1 and b"one" not in b"".join(seen):
                fake.closing.wait(0.01)
        exchange.chunk(packer.flush())
        exchange.send(b"0\r\n\r\n")

    fake.will(behave)
    answer = web.post(PATH, json={**BODY, "stream": True}, headers=rich.headers, buffered=False)
    seen.extend(answer.response)
    assert facts.call().output_tokens == 7


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("br", partial(brotli.compress, quality=1)), ("zstd", zstd.compress)],
)
def test_a_decompression_bomb_ends_at_the_limit(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, coding: str, pack: Any, streaming: bool
) -> None:
    bomb = pack(b" " * (200 << 20))
    kind = "text/event-stream" if streaming else "application/json"
    fake.will(packed(200, kind, coding, bomb, len(bomb)))
    answer = web.post(PATH, json={**BODY, "stream": streaming}, headers=rich.headers)
    assert b"upstream_too_large" in answer.data
    assert facts.call().credits == 0


def test_invalid_compression_is_an_incomplete_answer(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    whole = gzip.compress(json.dumps(fakes.completion("x y " * 50_000)).encode(), 0)
    fake.will(packed(200, "application/json", "gzip", whole[:100_000] + b"\xff" * 100_000, 50_000))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "upstream_cut")
    assert facts.call().credits == 0


def test_a_connection_is_reused_after_a_compressed_answer(
    web: FlaskClient, fake: FakeUpstream, rich: Person
) -> None:
    fake.will(packed(200, "application/json", "gzip", gzip.compress(PLAIN), 10_000))
    for _ in range(3):
        assert web.post(PATH, json=BODY, headers=rich.headers).status_code == 200
    assert fake.connections <= 1
