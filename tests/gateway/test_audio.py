"""Speech and transcription: held, streamed, charged by characters, seconds or tokens."""

import wave
from base64 import b64encode
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.factories import Person
from tests.fakes.upstream import CLOSE, Behaviour, Exchange, FakeUpstream, answer, stream
from tests.gateway.conftest import Facts, events, wait

SPEECH, TEXT, ENGLISH = "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"


def sound(*chunks: bytes, kind: str = "audio/mpeg", whole: bool = True) -> Behaviour:
    def behave(exchange: Exchange) -> Any:
        exchange.head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"})
        for chunk in chunks:
            exchange.chunk(chunk)
        if not whole:
            return CLOSE
        exchange.send(b"0\r\n\r\n")
        return None

    return behave


@pytest.mark.parametrize("path", [SPEECH, f"/api{SPEECH}"])
@pytest.mark.parametrize(
    ("format", "kind"), [(None, "audio/mpeg"), ("wav", "audio/wav"), ("opus", "audio/ogg")]
)
def test_speech_is_streamed_and_charged_by_characters(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, path: str, format: str | None, kind: str
) -> None:
    fake.will(sound(b"ID3one", b"two", b"three"))
    body = {"model": "tts-1", "input": "Grüße " * 1_000, "voice": "nova", "response_format": format}
    got = web.post(path, json=body, headers=rich.headers)
    assert (got.status_code, got.content_type, got.data) == (200, kind, b"ID3onetwothree")
    assert (fake.requests[0].path, fake.requests[0].body) == ("/openai/audio/speech", body)
    call = facts.call()
    # $15 per million characters
    assert (call.cost, call.parts, call.usage_source) == (Decimal("0.09"), {"characters": 6_000}, "counted")
    assert (call.door, call.credits, call.output_tokens) == ("speech", 9, 0)
    assert facts.messages()[0].response == "14 bytes of speech"


DELTAS = [{"type": "speech.audio.delta", "audio": b64encode(each).decode()} for each in (b"one", b"two")]
DONE = {
    "type": "speech.audio.done",
    "usage": {"input_tokens": 100, "output_tokens": 10_000, "total_tokens": 10_100},
}


def test_events_of_speech_report_their_tokens(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(stream([*DELTAS, DONE]))
    body = {"model": "gpt-4o-mini-tts", "input": "Hello", "voice": "nova", "stream_format": "sse"}
    got = web.post(SPEECH, json=body, headers=rich.headers)
    assert got.content_type.startswith("text/event-stream")
    assert events(got.data) == [*DELTAS, DONE]
    call = facts.call()
    assert (call.usage_source, call.cost) == ("provider", Decimal("0.00006") + Decimal("0.12"))


def test_openais_events_become_bytes(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = web.application.extensions["gateway"].routes.providers["openai"]
    monkeypatch.setattr(openai, "speaks_in_events", lambda model: True)
    fake.will(stream([*DELTAS, DONE]))
    body = {"model": "gpt-4o-mini-tts", "input": "Hello", "voice": "nova", "response_format": "pcm"}
    got = web.post(SPEECH, json=body, headers=rich.headers)
    assert (got.content_type, got.data) == ("audio/pcm", b"onetwo")
    assert fake.requests[0].body["stream_format"] == "sse"
    assert facts.call().cost == Decimal("0.00006") + Decimal("0.12")


def test_speech_without_usage_is_estimated_by_its_text(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(sound(b"ID3"))
    body = {"model": "openai/house-speech", "input": "Hello " * 100, "voice": "nova"}
    assert web.post(SPEECH, json=body, headers=rich.headers).data == b"ID3"
    call = facts.call()
    assert (call.output_tokens, call.usage_source) == (900, "estimated")
    assert call.parts == {"audio_output": 900, "characters": 600}


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        (sound(b"ID3one", b"two", whole=False), "settled"),
        (sound(), "failed"),
        (stream([DELTAS[0], {"type": "error", "error": {"message": "No", "code": "x"}}]), "settled"),
    ],
    ids=["cut", "empty", "error"],
)
def test_speech_that_fails_breaks_off(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    behaviour: Behaviour,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "error" in request.node.name:
        openai = web.application.extensions["gateway"].routes.providers["openai"]
        monkeypatch.setattr(openai, "speaks_in_events", lambda model: True)
    fake.will(behaviour)
    body = {"model": "tts-1", "input": "Hello " * 100, "voice": "nova"}
    with pytest.raises(ConnectionResetError):
        _ = web.post(SPEECH, json=body, headers=rich.headers).data
    call = facts.call()
    assert (call.state, call.cost) == (state, Decimal("0.009") if state == "settled" else 0)


def test_a_listener_that_leaves_pays_for_the_speech(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(sound(*[b"x" * 1_000] * 20))
    got = web.post(SPEECH, json={"model": "tts-1", "input": "Hello", "voice": "nova"}, headers=rich.headers)
    next(iter(got.response))
    got.close()
    wait(lambda: [each.state for each in facts.calls()] == ["settled"])
    assert facts.calls()[0].parts == {"characters": 5}


# -- transcription -------------------------------------------------------------------------------------------


def wav(seconds: float = 3.2) -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
        out.writeframes(b"\0\0" * int(8_000 * seconds))
    return file.getvalue()


def form(
    model: str = "whisper-1", data: bytes | None = None, name: str = "talk.wav", **fields: Any
) -> dict[str, Any]:
    return {"model": model, "file": (BytesIO(wav() if data is None else data), name), **fields}


@pytest.mark.parametrize("path", [TEXT, ENGLISH, f"/api{TEXT}", f"/api{ENGLISH}"])
@pytest.mark.parametrize(
    ("fields", "answered", "seconds", "source", "shown"),
    [
        ({}, {"text": "Hi.", "usage": {"type": "duration", "seconds": 400}}, 400, "provider", None),
        ({"response_format": "verbose_json"}, {"text": "Hi.", "duration": 399.1}, 400, "provider", None),
        ({"response_format": "verbose_json"}, {"text": "Hi.", "duration": "399.1"}, 400, "provider", None),
        ({}, {"text": "Hi."}, 4, "counted", None),
        ({}, {"text": ""}, 4, "counted", None),
        (
            {"response_format": "text"},
            {"text": "Hi.", "usage": {"type": "duration", "seconds": 9}},
            9,
            "provider",
            b"Hi.\n",
        ),
        ({"response_format": "text"}, b"Hi.\n", 4, "counted", ...),
        ({"response_format": "srt"}, b"1\n00:00:00,000 --> 00:06:39,500\nHi.\n", 400, "provider", ...),
        ({"response_format": "vtt"}, b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi.\n", 4, "counted", ...),
    ],
)
def test_audio_is_charged_by_its_seconds(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    path: str,
    fields: dict[str, Any],
    answered: Any,
    seconds: int,
    source: str,
    shown: Any,
) -> None:
    headers = {"Content-Type": "text/plain"} if isinstance(answered, bytes) else None
    fake.will(answer(answered, headers=headers))
    got = web.post(path, data=form(**fields), headers=rich.headers)
    assert got.status_code == 200
    if shown is None:
        assert got.json == answered
    else:
        assert got.data == (answered if shown is ... else shown)
        assert got.content_type.startswith("text/plain")
    sent = fake.requests[0]
    assert sent.path == f"/openai{path.removeprefix('/api')[3:]}"
    assert b'name="file"; filename="talk.wav"' in sent.raw
    assert wav() in sent.raw
    assert (b"\r\n\r\ntext\r\n" in sent.raw) is False
    call = facts.call()
    # $0.36 an hour
    assert (call.cost, call.parts) == (Decimal("0.0001") * seconds, {"seconds": seconds})
    assert (call.usage_source, call.door) == (source, "transcriptions")
    assert facts.messages()[0].request[0]["content"] == "[audio: talk.wav, 4 seconds]"


TOKENS = {
    "type": "tokens",
    "input_tokens": 1_100,
    "output_tokens": 1_000,
    "total_tokens": 2_100,
    "input_token_details": {"text_tokens": 100, "audio_tokens": 1_000},
}
# text 2.5, audio 6, output 10 dollars per million tokens
BY_TOKENS = Decimal("0.00025") + Decimal("0.006") + Decimal("0.01")


@pytest.mark.parametrize(
    ("answered", "cost", "source"),
    [
        ({"text": "Hi.", "usage": TOKENS}, BY_TOKENS, "provider"),
        # four seconds with ten tokens each, and two tokens of text
        ({"text": "Hi."}, Decimal("0.00024") + Decimal("0.00002"), "estimated"),
        ({"text": "Hi.", "usage": {"type": "duration", "seconds": 4}}, Decimal("0.00026"), "estimated"),
    ],
)
def test_newer_models_are_charged_by_tokens(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    answered: Any,
    cost: Decimal,
    source: str,
) -> None:
    fake.will(answer(answered))
    got = web.post(TEXT, data=form("gpt-4o-transcribe"), headers=rich.headers)
    assert (got.status_code, got.json) == (200, answered)
    assert (facts.call().cost, facts.call().usage_source) == (cost, source)


@pytest.mark.parametrize(
    ("behaviour", "texts", "state", "cost"),
    [
        (
            stream(
                [
                    {"type": "transcript.text.delta", "delta": "Hi"},
                    {"type": "transcript.text.delta", "delta": "."},
                    {"type": "transcript.text.done", "text": "Hi.", "usage": TOKENS},
                ]
            ),
            ["Hi", ".", None],
            "settled",
            BY_TOKENS,
        ),
        (
            stream([{"type": "transcript.text.delta", "delta": "Hi"}], cut_after=1),
            ["Hi", None],
            "settled",
            None,
        ),
        (answer({"text": "Hi.", "usage": TOKENS}), [None], "settled", BY_TOKENS),
        (answer({"error": {"message": "No", "code": "x"}}), None, "failed", None),
    ],
    ids=["whole", "cut", "not streamed", "error"],
)
def test_a_streamed_transcription_is_passed_on(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    behaviour: Any,
    texts: list[str | None] | None,
    state: str,
    cost: Decimal | None,
) -> None:
    fake.will(behaviour)
    got = web.post(TEXT, data=form("gpt-4o-transcribe", stream="true"), headers=rich.headers)
    if texts is not None:
        assert [each.get("delta") for each in events(got.data)] == texts
    call = facts.call()
    assert call.state == state
    assert cost is None or call.cost == cost
    if state == "settled":
        assert call.cost > 0


@pytest.mark.parametrize(
    ("data", "name", "seconds"),
    [
        (wav(10), "a.wav", 10),
        (b"\x1aE\xdf\xa3" + b"x" * 40_000, "a.webm", 11),
        (b"RIFF\xff\xff\xff\xff broken", "a.wav", 1),
        (b"ID3" + b"\xff" * 4_000, "a.mp3", 2),
    ],
    ids=["wav", "webm", "broken", "no frames"],
)
def test_the_length_is_read_from_the_file_or_estimated_by_its_size(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, data: bytes, name: str, seconds: int
) -> None:
    fake.will(answer({"text": "Hi."}))
    assert web.post(TEXT, data=form(data=data, name=name), headers=rich.headers).status_code == 200
    assert facts.call().parts == {"seconds": seconds}


INVALID: list[tuple[str, dict[str, Any], str | None]] = [
    (SPEECH, {"model": "tts-1"}, "input"),
    (SPEECH, {"model": "tts-1", "input": ["a"]}, "input"),
    (SPEECH, {"model": "tts-1", "input": "a" * 100_001}, "input"),
    (SPEECH, {"model": "tts-1", "input": "a", "response_format": "ogg"}, "response_format"),
    (SPEECH, {"model": "tts-1", "input": "a", "stream_format": 1}, "stream_format"),
    (SPEECH, {"model": "tts-1", "input": "a", "speed": 5}, "speed"),
    (SPEECH, {"model": "tts-1", "input": "a", "speed": True}, "speed"),
    (SPEECH, {"model": "tts-1", "input": "a", "instructions": {}}, "instructions"),
    (SPEECH, {"model": "whisper-1", "input": "a"}, "model"),
    (TEXT, {"model": "whisper-1", "file": "a.mp3"}, "file"),
    (TEXT, {"model": "whisper-1"}, "file"),
    (TEXT, [], None),
]


def test_invalid_requests_are_refused_by_name(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    for path, body, param in INVALID:
        got = web.post(path, json=body, headers=rich.headers)
        assert (got.status_code, got.json["error"]["param"]) == (400, param), body
    forms = [
        ({}, "file", {"data": b""}),
        ({"response_format": "mp3"}, "response_format", {}),
        ({"stream": "maybe"}, "stream", {}),
        ({"model": "tts-1"}, "model", {}),
        ({"model": "a\0b"}, "model", {}),
        ({"prompt": ["a", "b"]}, "prompt", {}),
    ]
    for fields, param, more in forms:
        got = web.post(TEXT, data=form(**more) | fields, headers=rich.headers)
        assert (got.status_code, got.json["error"]["param"]) == (400, param), fields
    assert web.post(TEXT, data=form()).status_code == 401
    encoded = {**rich.headers, "content-encoding": "gzip", "content-type": "multipart/form-data; boundary=x"}
    assert web.post(TEXT, data=b"x", headers=encoded).status_code == 415
    assert (facts.holds(), fake.requests) == (0, [])


def test_what_the_audio_costs_must_be_available(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 2)
    got = web.post(
        TEXT, data=form(data=b"x" * 400_000, name="a.webm"), headers=alice.headers
    )  # 400 s: 5 credits
    assert (got.status_code, got.json["error"]["code"]) == (402, "insufficient_credits")
    got = web.post(SPEECH, json={"model": "tts-1", "input": "a" * 2_000, "voice": "x"}, headers=alice.headers)
    assert (got.status_code, got.json["error"]["code"]) == (402, "insufficient_credits")
    assert (facts.holds(), fake.requests) == (0, [])


def test_a_retry_gets_the_same_speech_and_transcription(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    once = {**rich.headers, "Idempotency-Key": "speech-1"}
    fake.will(sound(b"ID3one", b"two"))
    body = {"model": "tts-1", "input": "Hello", "voice": "nova"}
    assert web.post(SPEECH, json=body, headers=once).data == b"ID3onetwo"
    second = web.post(SPEECH, json=body, headers=once)
    assert second.data == b"ID3onetwo"
    assert (second.content_type, second.headers["Idempotent-Replayed"]) == ("audio/mpeg", "true")
    once = {**rich.headers, "Idempotency-Key": "text-1"}
    fake.will(answer({"text": "Hi."}))
    first, second = (web.post(TEXT, data=form(), headers=once) for _ in "12")
    assert first.json == second.json == {"text": "Hi."}
    other = web.post(TEXT, data=form(data=wav(5)), headers=once)
    assert other.json["error"]["code"] == "idempotency_error"
    assert (len(fake.requests), len(facts.messages())) == (2, 2)
    fake.will(sound(b"ID3one", b"two", whole=False), sound(b"ID3one", b"two"))
    once = {**rich.headers, "Idempotency-Key": "speech-2"}
    with pytest.raises(ConnectionResetError):
        _ = web.post(SPEECH, json=body, headers=once).data
    again = web.post(SPEECH, json=body, headers=once)
    assert (again.status_code, again.json["error"]["code"]) == (409, "idempotency_answer_not_kept")
