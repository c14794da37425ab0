"""Server-sent events: parsed in any format and chunking, passed on so that OpenAI's client reads them."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from models.gateway import sse
from models.gateway.sse import MAX_EVENT, SseParser
from models.gateway.upstream import AnswerTooLarge
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

STREAM: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "stream": True}


def parsed(*pieces: bytes) -> list[sse.SseEvent]:
    parser = SseParser()
    return [*(event for piece in pieces for event in parser.feed(piece)), *parser.end()]


def data(*pieces: bytes) -> list[bytes]:
    return [event.data for event in parsed(*pieces) if event.data is not None]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'data: {"a":1}\n\n', [b'{"a":1}']),
        (b'data:{"a":1}\n\n', [b'{"a":1}']),
        (b'data:  {"a":1}\n\n', [b' {"a":1}']),
        (b'data: {"a":1}\r\n\r\n', [b'{"a":1}']),
        (b'data: {"a":1}\r\r', [b'{"a":1}']),
        (b'data: {"a":1}\n\r\n', [b'{"a":1}']),
        (b'data: {"a":1}\r\n\n', [b'{"a":1}']),
        (b'\n\n\ndata: {"a":1}\n\n\n\ndata: {"b":1}\n\n', [b'{"a":1}', b'{"b":1}']),
        (b'\xef\xbb\xbfdata: {"a":1}\n\n', [b'{"a":1}']),
        (b'data: {"a":\ndata: 1}\n\n', [b'{"a":\n1}']),
        (b'data: {\ndata: "a": {"b": 1}\ndata: }\n\n', [b'{\n"a": {"b": 1}\n}']),
        (b'data: {"a":1}\ndata: {"b":1}\n\n', [b'{"a":1}', b'{"b":1}']),
        (b'data: {"a":1}\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
        (
            b'data: {"a":1}\ndata: {"b":1}\ndata: {"c":1}\ndata: [DONE]\n',
            [b'{"a":1}', b'{"b":1}', b'{"c":1}', b"[DONE]"],
        ),
        (b'data: {"a":1}\ndata: \n\n', [b'{"a":1}']),
        (b'data: {"a":1}\n', [b'{"a":1}']),
        (b'data: {"a":1}', [b'{"a":1}']),
        (b'data: {"a":1}\r', [b'{"a":1}']),
        (b'data: {"a":1}\n\ndata: [DONE]', [b'{"a":1}', b"[DONE]"]),
        (b": comment\n\ndata: {}\n\n", [b"{}"]),
        (b": comment\ndata: {}\n\n", [b"{}"]),
        (b"data: {}\n: comment\n\n", [b"{}"]),
        (b"event: message\nid: 1\nretry: 10\ndata: {}\n\n", [b"{}"]),
        (b"data: {}\nevent: late\n\n", [b"{}"]),
        (b"event: nothing\n\ndata: {}\n\n", [b"{}"]),
        (b"data\n\ndata:\n\ndata: \n\n", []),
        (b"data {}\nDATA: {}\n data: {}\n\n", []),
        (b"", []),
        # JSON instead of a stream: whole, on lines, in a list
        (b'{"a":1}', [b'{"a":1}']),
        (b'{"a":1}\n', [b'{"a":1}']),
        (b'\xef\xbb\xbf \r\n\n{"a":1}\r\n\r\n', [b'{"a":1}']),
        (b'{"a":1}\n{"b":1}\n', [b'{"a":1}', b'{"b":1}']),
        (b'{"a":1}\ndata: {"b":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b'{"b":1}', b"[DONE]"]),
        (b': ping\n{"a":1}\n\n', [b'{"a":1}']),
        (b'{\n  "a": {\r\n\n"b": [1]}\n}\n', [b'{"a":{"b":[1]}}']),
        (b'[{"a":1},\n{"b":1}]', [b'{"a":1}', b'{"b":1}']),
        (b'[{"a":1}, 7, {"b":1}]', [b'{"a":1}', b'{"b":1}']),
        (b'{"a":\n', []),
        (b'{"a"\n\ndata: {"b":1}\n\n', [b'{"b":1}']),
        (b" \n \n", []),
    ],
)
def test_events_by_the_standard_and_as_providers_write_them(stream: bytes, expected: list[bytes]) -> None:
    assert data(stream) == expected
    assert data(*(stream[at : at + 1] for at in range(len(stream)))) == expected


@pytest.mark.parametrize(
    ("stream", "forwarded"),
    [
        (b": OPENROUTER PROCESSING\n\n", b": OPENROUTER PROCESSING\n\n"),
        (b": ping\ndata: {}\n\n", b": ping\n\ndata: {}\n\n"),
        (b":\n", b":\n\n"),
        (b"event: error\ndata: {}\n\n", b"event: error\ndata: {}\n\n"),
        (b"id: 7\nretry: 1\ndata: {}\n\n", b"data: {}\n\n"),
        (b"id: 7\n\n", b""),
        (b'data: {"a":\ndata: 1}\n\n', b'data: {"a": 1}\n\n'),
        (b"<html>\n", b": <html>\n\n"),
        (b": \xe4\xb8\n\n", b": \xef\xbf\xbd\n\n"),
        (b"event: \xe4\xb8\ndata: {}\n\n", b"event: \xef\xbf\xbd\ndata: {}\n\n"),
    ],
)
def test_what_is_passed_on(stream: bytes, forwarded: bytes) -> None:
    assert b"".join(event.text for event in parsed(stream)) == forwarded


pieces = st.sampled_from(
    [
        b'data: {"a":"\xc3\xbc"}',
        b"data: [DONE]",
        b'data:{"b":1}',
        b"data: {",
        b'data: "c":1}',
        b"data:",
        b"event: x",
        b": c",
        b"id: 1",
        b"stray",
        b"\xef\xbb\xbf",
        b" ",
        b'{"d":1}',
        b'[{"e":1}]',
        b'{"f":',
    ]
)
ends = st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\r\r", b"\n\r", b""])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(pieces, ends), max_size=8).map(lambda lines: b"".join(map(b"".join, lines))),
    st.lists(st.integers(0, 100), max_size=6),
)
@example(b"\xef\xbb\xbf\xef\xbb\xbf", [3])
@example(b"\xef\xbb\xbf  \xef\xbb\xbf", [3, 4, 5])
@example(b"\xef\xbb\xbf", [1, 3])
@example(b' \r\n {"a":1}\n{"b":2}', [1, 2, 3, 4, 6])
def test_chunk_boundaries_do_not_affect_the_events(stream: bytes, cuts: list[int]) -> None:
    cuts = sorted(min(cut, len(stream)) for cut in cuts)
    cut = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parsed(*cut) == parsed(stream)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(pieces, ends), max_size=8))
def test_what_is_passed_on_is_read_alike_by_openais_client(lines: list[tuple[bytes, bytes]]) -> None:
    events = parsed(b"".join(line + end for line, end in lines))
    forwarded = [event.text for event in events]
    read = [event.data for event in SSEDecoder().iter_bytes(iter(forwarded))]
    assert read == [event.data.replace(b"\n", b" ").decode() for event in events if event.data is not None]


@pytest.mark.parametrize(
    "done",
    [b"[DONE]", b" [DONE] ", b"[done]", b"[ DONE ]", b'"[DONE]"', b"DONE", b"[DONE]\t", b"[DONE] bye"],
)
def test_spellings_of_done(done: bytes) -> None:
    assert sse.is_done(done)


@pytest.mark.parametrize("other", [b"{}", b"", b"[]", b"done with it", b'{"a":"[DONE]"}', b"[DON"])
def test_what_is_not_done(other: bytes) -> None:
    assert not sse.is_done(other)


@pytest.mark.parametrize(
    "piece", [b"x" * (1 << 20), b"data: " + b"x" * (1 << 20) + b"\n", b"data: x\n" * 8192]
)
def test_an_event_has_a_size_limit(piece: bytes) -> None:
    parser = SseParser("OpenAI")
    stream = (event for _ in range(MAX_EVENT // (1 << 19)) for event in parser.feed(piece))
    with pytest.raises(AnswerTooLarge, match="OpenAI"):
        list(stream)
    assert parser.end() == []


# -- through the gateway -------------------------------------------------------------------------------------


def ends_of(script: list[Any], end: bytes) -> Iterator[bytes]:
    for event in script:
        yield fakes.sse(event).replace(b"\n\n", end)


def read_by_openai(answer: bytes) -> list[Any]:
    """The chunks as OpenAI's client reads them. Raises its errors."""
    events = list(SSEDecoder().iter_bytes(iter([answer])))
    assert [event.data for event in events].count("[DONE]") == 1
    assert events[-1].data == "[DONE]"
    chunks = [event.json() for event in events[:-1]]
    assert all(isinstance(chunk["choices"], list) for chunk in chunks)
    return chunks


SCRIPT = fakes.chunks("one two three", use=fakes.usage(100, 7))
UNENDED = SCRIPT[:-1]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(list(ends_of(SCRIPT, b"\r\n\r\n")), id="crlf"),
        pytest.param(list(ends_of(SCRIPT, b"\r\r")), id="cr"),
        pytest.param(list(ends_of(SCRIPT, b"\n")), id="single newlines"),
        pytest.param(list(ends_of(UNENDED, b"\n")), id="single newlines, no done"),
        pytest.param(UNENDED, id="no done"),
        pytest.param([*UNENDED, b"data: [DONE]"], id="done without an end"),
        pytest.param([*UNENDED, b"data:[done] \n"], id="done otherwise"),
        pytest.param([*UNENDED, b'data: "[DONE]"\n\n'], id="done in quotes"),
        pytest.param([*UNENDED[:-1], fakes.sse(UNENDED[-1])[:-2]], id="last event without an end"),
        pytest.param([*UNENDED[:-1], fakes.sse(UNENDED[-1])[:-1]], id="last event ended once"),
        pytest.param([*UNENDED[:-1], fakes.sse(UNENDED[-1])[:-1], b"data: [DONE]\n\n"], id="glued to done"),
        pytest.param([b"".join(fakes.sse(event)[:-2] for event in SCRIPT)], id="glued without any end"),
        pytest.param(
            [b"data: " + b" ".join(orjson.dumps(event) for event in SCRIPT[:3]) + b"\n\n", *SCRIPT[3:]],
            id="several objects in an event",
        ),
        pytest.param(
            [b"data: " + b"".join(orjson.dumps(event) for event in UNENDED) + b"[DONE]\n\n"],
            id="all in an event",
        ),
        pytest.param([b"\xef\xbb\xbf", *SCRIPT], id="bom"),
        pytest.param([b": ping\n", *SCRIPT[:2], b": ping\n\n:\n\n", *SCRIPT[2:]], id="comments"),
        pytest.param([b"event: message\nid: 4\n" + fakes.sse(event) for event in SCRIPT], id="fields"),
        pytest.param([*SCRIPT[:2], b"data: ping\n\ndata: \n\ndata: 1\n\n", *SCRIPT[2:]], id="no json"),
        pytest.param([*SCRIPT, b"data: {}\n\n", "[DONE]"], id="more after done"),
        pytest.param([b'event: ping\ndata: {"type": "ping"}\n\n', *SCRIPT], id="pings"),
        pytest.param([*SCRIPT[:-2], {"usage": SCRIPT[-2]["usage"]}, "[DONE]"], id="usage without choices"),
        pytest.param(
            [
                b"".join(
                    b"data: " + line + b"\n"
                    for line in orjson.dumps(event, option=orjson.OPT_INDENT_2).split(b"\n")
                )
                + b"\n"
                for event in UNENDED
            ],
            id="json over several lines",
        ),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_openais_client_reads_what_is_passed_on(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, sent: list[Any], size: int | None
) -> None:
    whole = b"".join(fakes.sse(event) for event in sent)
    cut = [whole] if size is None else [whole[at : at + size] for at in range(0, len(whole), size)]
    fake.will(fakes.stream(cut))
    body = {**STREAM, "stream_options": {"include_usage": True}}
    chunks = read_by_openai(web.post("/v1/chat/completions", json=body, headers=rich.headers).data)
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == "one two three"
    assert chunks[-1]["usage"]["completion_tokens"] == 7
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "provider", None)
    assert (call.uncached_input_tokens, call.output_tokens) == (100, 7)
    assert facts.messages()[0].response == "one two three"


def test_a_stream_that_is_announced_as_json_is_a_stream(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    whole = b"".join(fakes.sse(event) for event in SCRIPT)
    fake.will(fakes.answer(whole))
    answer = web.post("/v1/chat/completions", json=STREAM, headers=rich.headers)
    assert answer.status_code == 200
    read_by_openai(answer.data)
    assert facts.call().output_tokens == 7
