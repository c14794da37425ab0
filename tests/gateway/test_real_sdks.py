"""The vendors' own clients, unmodified, against the application."""

import json
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from flask.testing import FlaskClient

from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, completion, stream, usage
from tests.gateway.conftest import Facts

MODEL = "openai/house-model"
CLAUDE_TOOL: Any = {"name": "ls", "description": "List", "input_schema": {"type": "object", "properties": {}}}
OPENAI_TOOL: Any = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
CALLED = [
    chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "ls", "arguments": '{"p"'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
    chunk({}, "tool_calls"),
    chunk(None, usage=usage(100, 20)),
    "[DONE]",
]


@pytest.fixture
def key(rich: Person) -> str:
    return rich.headers["authorization"].split()[1]


@pytest.fixture
def claude(web: FlaskClient, key: str) -> anthropic.Anthropic:
    transport = httpx2.WSGITransport(app=web.application)
    http = httpx2.Client(transport=transport)
    return anthropic.Anthropic(api_key=key, base_url="http://localhost:8000", http_client=http, max_retries=0)


@pytest.fixture
def gpt(web: FlaskClient, key: str) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.WSGITransport(app=web.application))
    return openai.OpenAI(api_key=key, base_url="http://localhost:8000/v1", http_client=http, max_retries=0)


def test_anthropics(claude: anthropic.Anthropic, fake: FakeUpstream, facts: Facts) -> None:
    message = claude.messages.create(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "Hi"}])
    assert message.content[0].type == "text"
    assert message.usage.output_tokens == 20
    assert [model.id for model in claude.models.list(limit=20)]
    assert (
        claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hi"}]).input_tokens
        > 0
    )
    with claude.messages.stream(
        model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "Hi"}]
    ) as text:
        assert "".join(text.text_stream) == "Hello there my friend."
        assert text.get_final_message().usage.input_tokens == 100
    fake.will(stream(CALLED))
    with claude.messages.stream(
        model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "Hi"}], tools=[CLAUDE_TOOL]
    ) as called:
        final = called.get_final_message()
    assert (final.content[0].type, final.stop_reason) == ("tool_use", "tool_use")
    assert final.content[0].input == {"p": 1}
    fake.will(stream([chunk({"content": "Hello"}), chunk({"content": "!"})], cut_after=2))
    with (
        pytest.raises(anthropic.APIStatusError),
        claude.messages.stream(
            model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "Hi"}]
        ) as cut,
    ):
        cut.until_done()
    with pytest.raises(anthropic.BadRequestError, match="'max_tokens'"):
        claude.messages.create(model=MODEL, max_tokens=0, messages=[{"role": "user", "content": "Hi"}])
    assert {call.state for call in facts.calls()} <= {"settled", "failed"}


def test_openais(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    response = gpt.responses.create(model=MODEL, input="Hi")
    assert response.output_text == "Hello there my friend."
    assert response.usage is not None
    assert response.usage.output_tokens == 20
    with gpt.responses.stream(model=MODEL, input="Hi") as text:
        deltas = [event.delta for event in text if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "Hello there my friend."
        assert text.get_final_response().output_text == "Hello there my friend."
    fake.will(stream(CALLED))
    with gpt.responses.stream(model=MODEL, input="Hi", tools=[OPENAI_TOOL]) as called:
        (item,) = called.get_final_response().output
    assert item.type == "function_call"
    assert json.loads(item.arguments) == {"p": 1}
    kept = gpt.responses.retrieve(response.id)
    assert (kept.output_text, kept.usage) == (response.output_text, response.usage)
    more = gpt.responses.create(model=MODEL, input="More", previous_response_id=response.id)
    assert more.previous_response_id == response.id
    kinds = [item.type for item in gpt.responses.input_items.list(more.id, limit=1, order="asc")]
    assert kinds == ["message"] * 3
    fake.will(answer(completion("Brief.")))
    compacted = gpt.responses.compact(model=MODEL, input="Hi", previous_response_id=response.id)
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    gpt.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        gpt.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="not found") as lost:
        gpt.responses.create(model=MODEL, input="More", previous_response_id=response.id)
    assert lost.value.code == "previous_response_not_found"
    assert {call.state for call in facts.calls()} <= {"settled", "failed"}


def test_openais_embeddings(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    made = gpt.embeddings.create(model="stoa/demo-embeddings", input=["Hi", "there"], dimensions=8)
    assert [len(each.embedding) for each in made.data] == [8, 8]
    assert made.usage.prompt_tokens == 2
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        gpt.embeddings.create(model="stoa/demo", input="Hi")
    assert [call.state for call in facts.calls()] == ["settled"]
    assert fake.requests == []


def test_openais_moderation(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    fake.will(
        answer({"id": "m", "model": "omni", "results": [{"flagged": True, "categories": {"hate": True}}]})
    )
    found = gpt.moderations.create(model="openai/house-moderation", input="Hi")
    assert found.results[0].flagged
    assert facts.call().cost == Decimal("0.02")


def test_openais_completions(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "house-model"}
    pieces = [
        {**head, "choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("Hel", "lo")
    ]
    fake.will(stream([*pieces, {**head, "choices": [], "usage": usage(10, 2)}, "[DONE]"]))
    parts = gpt.completions.create(model=MODEL, prompt="Say", stream=True, max_tokens=9)
    assert "".join(part.choices[0].text for part in parts) == "Hello"
    assert facts.call().output_tokens == 2


IMAGE_USAGE = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30, "input_tokens_details": {}}


def test_openais_images(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    made = {"created": 1, "data": [{"b64_json": "aGk="}], "usage": IMAGE_USAGE}
    fake.will(answer(made))
    images = gpt.images.generate(model="gpt-image-1.5", prompt="A cat", size="1024x1024", quality="low")
    assert images.data is not None
    assert images.data[0].b64_json == "aGk="
    edited = gpt.images.edit(
        model="gpt-image-1.5", prompt="A hat", image=[("a.png", b"one"), ("b.png", b"two")]
    )
    assert edited.usage is not None
    assert edited.usage.output_tokens == 20
    assert b"two" in fake.requests[1].raw
    partial = {"type": "image_generation.partial_image", "b64_json": "aA==", "partial_image_index": 0}
    done = {"type": "image_generation.completed", "b64_json": "aGk=", "usage": IMAGE_USAGE}
    fake.will(stream([partial, done]))
    events = gpt.images.generate(model="gpt-image-1.5", prompt="A cat", stream=True, partial_images=1)
    assert [event.type for event in events] == [partial["type"], done["type"]]
    fake.will(stream([partial, done], cut_after=1))
    cut = gpt.images.generate(model="gpt-image-1.5", prompt="A cat", stream=True)
    with pytest.raises(openai.APIError, match="closed the connection"):
        list(cut)
    assert {call.state for call in facts.calls()} == {"settled"}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_openais_audio(gpt: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    fake.will(answer(b"ID3 speech", headers={"Content-Type": "audio/mpeg"}))
    assert gpt.audio.speech.create(model="tts-1", voice="nova", input="Hello").content == b"ID3 speech"
    fake.will(answer({"text": "Hi.", "usage": {"type": "duration", "seconds": 7}}))
    heard = gpt.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"ID3" * 99), temperature=0.2)
    assert heard.text == "Hi."
    assert gpt.audio.translations.create(model="whisper-1", file=("a.mp3", b"ID3" * 99)).text == "Hi."
    usage = {"type": "tokens", "input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
    done = {"type": "transcript.text.done", "text": "Hi.", "usage": usage}
    fake.will(stream([{"type": "transcript.text.delta", "delta": "Hi."}, done]))
    events = gpt.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.mp3", b"ID3" * 99), stream=True
    )
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert [call.door for call in facts.calls()] == ["speech", *["transcriptions"] * 3]
    assert {call.state for call in facts.calls()} == {"settled"}


class LosingTransport(httpx2.WSGITransport):
    """Loses the first response, after the server has sent it."""

    lost = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if not self.lost:
            self.lost = True
            response.read()
            raise httpx2.ReadError("connection reset")
        return response


def test_retry_of_an_sdk_is_charged_once(
    web: FlaskClient, key: str, fake: FakeUpstream, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDKs repeat the header with their own retries."""
    once = {"Idempotency-Key": "turn-7"}

    def http() -> httpx2.Client:
        return httpx2.Client(transport=LosingTransport(app=web.application))

    gpt = openai.OpenAI(api_key=key, base_url="http://localhost:8000/v1", http_client=http(), max_retries=1)
    claude = anthropic.Anthropic(
        api_key=key, base_url="http://localhost:8000", http_client=http(), max_retries=1
    )
    for client in (gpt, claude):
        monkeypatch.setattr(client, "_calculate_retry_timeout", lambda *_, **__: 0)
    answer = gpt.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], extra_headers=once
    )
    assert (answer.choices[0].message.content, len(fake.requests)) == ("Hello there my friend.", 1)
    with gpt.responses.stream(model=MODEL, input="Hi", extra_headers={"Idempotency-Key": "turn-8"}) as events:
        assert events.get_final_response().output_text
    message = claude.messages.create(
        model=MODEL,
        max_tokens=50,
        messages=[{"role": "user", "content": "Hi"}],
        extra_headers={"Idempotency-Key": "turn-9"},
    )
    assert message.usage.output_tokens == 20
    assert len(fake.requests) == len(facts.messages()) == 3
