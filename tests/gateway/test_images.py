"""Generated and edited images: held at their most, charged by tokens or per image, streams passed on."""

from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.gateway.formats.image_requests import image_tokens
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream, answer, stream
from tests.gateway.conftest import Facts, events

PATH, EDITS = "/v1/images/generations", "/v1/images/edits"
MODEL, HOUSE = "gpt-image-1.5", "openai/house-image"
USAGE = {
    "input_tokens": 1_000,
    "output_tokens": 10_000,
    "total_tokens": 11_000,
    "input_tokens_details": {"text_tokens": 400, "image_tokens": 600},
}


def images(count: int = 1, **extra: Any) -> dict[str, Any]:
    return {"created": 1_750_000_000, "data": [{"b64_json": "aGk="}] * count, **extra}


# input 5, image input 8, text output 10, image output 32 dollars per million tokens
BY_TOKENS = Decimal("0.002") + Decimal("0.0048") + Decimal("0.32")


@pytest.mark.parametrize(
    ("model", "asked", "answered", "cost", "parts", "stored"),
    [
        (MODEL, {}, images(usage=USAGE), BY_TOKENS, {"images:auto:auto": 1}, "1 image"),
        (
            MODEL,
            {"size": "1024x1024", "quality": "low"},
            images(
                2, usage={**USAGE, "output_tokens_details": {"image_tokens": 9_000, "text_tokens": 1_000}}
            ),
            Decimal("0.002") + Decimal("0.0048") + Decimal("0.288") + Decimal("0.01"),
            {"images:1024x1024:low": 2},
            "2 images (1024x1024 low)",
        ),
        (HOUSE, {}, images(), Decimal("0.12"), {"images:auto:auto": 1}, "1 image"),
        (HOUSE, {"size": "1024x1024", "quality": "standard"}, images(2), Decimal("0.08"), None, None),
        (HOUSE, {"size": "1024x1024", "quality": "hd"}, images(), Decimal("0.08"), None, None),
        (HOUSE, {"width": 1024, "height": 1792, "quality": "hd"}, images(), Decimal("0.12"), None, None),
        (
            HOUSE,
            {"size": "1024x1792", "quality": "hd"},
            images(quality="standard"),
            Decimal("0.04"),
            None,
            None,
        ),
        (HOUSE, {"size": "auto"}, images(size="1024x1792", quality="hd"), Decimal("0.12"), None, None),
    ],
)
def test_images_are_charged_by_tokens_or_by_size_and_quality(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    model: str,
    asked: dict[str, Any],
    answered: dict[str, Any],
    cost: Decimal,
    parts: dict[str, int] | None,
    stored: str | None,
) -> None:
    fake.will(answer(answered))
    got = web.post(PATH, json={"model": model, "prompt": "A cat", **asked}, headers=rich.headers)
    assert (got.status_code, got.json) == (200, answered)
    assert fake.requests[0].path == "/openai/images/generations"
    call = facts.call()
    assert (call.cost, call.door, call.usage_source) == (
        cost,
        "images",
        "provider" if model == MODEL else "counted",
    )
    assert call.parts is not None
    assert parts is None or parts.items() <= call.parts.items()
    (message,) = facts.messages()
    assert stored is None or message.response == stored
    assert message.request == [{"role": "user", "content": "A cat"}]
    assert "aGk" not in str(message.response)


def test_tokens_of_images_without_usage_are_estimated(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(answer(images(2)))
    body = {"model": MODEL, "prompt": "A cat", "size": "1024x1024", "quality": "high", "n": 2}
    assert web.post(PATH, json=body, headers=rich.headers).status_code == 200
    call = facts.call()
    assert (call.output_tokens, call.usage_source) == (2 * 4_160, "estimated")


PARTIAL = {"type": "image_generation.partial_image", "b64_json": "aA==", "partial_image_index": 0}
COMPLETED = {
    "type": "image_generation.completed",
    "b64_json": "aGk=",
    "size": "1024x1024",
    "quality": "low",
    "usage": USAGE,
}


@pytest.mark.parametrize(
    ("behaviour", "kinds", "state", "cost"),
    [
        (stream([PARTIAL, COMPLETED]), ["partial_image", "completed"], "settled", BY_TOKENS),
        (stream([COMPLETED, COMPLETED]), ["completed", "completed"], "settled", 2 * BY_TOKENS),
        (answer(images(2, usage=USAGE)), ["completed", "completed"], "settled", BY_TOKENS),
        (stream([PARTIAL, COMPLETED], cut_after=1), ["partial_image", "error"], "settled", None),
        (
            stream([PARTIAL, {"error": {"message": "Blocked", "code": "moderation"}}]),
            ["partial_image", "error"],
            "settled",
            None,
        ),
        (stream([{"type": "error", "error": {"message": "No", "code": "x"}}]), ["error"], "failed", None),
        (stream([]), ["error"], "failed", None),
    ],
    ids=["partial", "two", "not streamed", "cut", "error", "only an error", "empty"],
)
def test_a_stream_of_images_is_passed_on(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    behaviour: Any,
    kinds: list[str],
    state: str,
    cost: Decimal | None,
) -> None:
    fake.will(behaviour)
    body = {"model": MODEL, "prompt": "A cat", "stream": True, "partial_images": 1}
    got = web.post(PATH, json=body, headers=rich.headers)
    assert got.content_type.startswith("text/event-stream")
    assert [each["type"].rpartition(".")[2] for each in events(got.data)] == kinds
    call = facts.call()
    assert call.state == state
    assert cost is None or call.cost == cost


def test_images_are_edited_in_a_form(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(answer(images(usage=USAGE)))
    for path in (EDITS, f"/api{EDITS}"):
        form = {
            "model": MODEL,
            "prompt": "A hat",
            "n": "1",
            "image[]": [(BytesIO(b"one"), 'a"b\r\n.png', "image/png"), (BytesIO(b"two"), "b.png", "no type")],
            "mask": (BytesIO(b"mask"), "m.png"),
        }
        got = web.post(path, data=form, headers=rich.headers)
        assert (got.status_code, got.json) == (200, images(usage=USAGE))
    sent = fake.requests[0]
    assert sent.path == "/openai/images/edits"
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert sent.raw.count(b'name="image[]"; filename=') == 2
    assert b"\r\n\r\none\r\n" in sent.raw
    assert b"\r\n\r\nA hat\r\n" in sent.raw
    assert b"Content-Type: application/octet-stream\r\n\r\ntwo" in sent.raw
    assert [call.cost for call in facts.calls()] == [BY_TOKENS, BY_TOKENS]
    assert "[image: b.png]" in str(facts.messages()[0].request)


def test_images_are_edited_in_json(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    fake.will(answer(images(usage=USAGE)))
    body = {"model": MODEL, "prompt": "A hat", "images": [{"image_url": "data:image/png;base64,aGk="}]}
    assert web.post(EDITS, json=body, headers=rich.headers).status_code == 200
    assert fake.requests[0].body == body


INVALID: list[tuple[str, dict[str, Any], str]] = [
    (PATH, {"model": MODEL}, "prompt"),
    (PATH, {"model": MODEL, "prompt": 7}, "prompt"),
    (PATH, {"model": MODEL, "prompt": "a" * 32_001}, "prompt"),
    (PATH, {"prompt": "a"}, "model"),
    (PATH, {"model": MODEL, "prompt": "a", "n": 11}, "n"),
    (PATH, {"model": MODEL, "prompt": "a", "n": "two"}, "n"),
    (PATH, {"model": MODEL, "prompt": "a", "size": 1024}, "size"),
    (PATH, {"model": MODEL, "prompt": "a", "quality": []}, "quality"),
    (PATH, {"model": MODEL, "prompt": "a", "partial_images": 4}, "partial_images"),
    (PATH, {"model": MODEL, "prompt": "a", "stream": 1}, "stream"),
    (PATH, {"model": MODEL, "prompt": "a", "width": -1, "height": 5}, "width"),
    (PATH, {"model": MODEL, "prompt": "a", "frame_count": 17}, "frame_count"),
    (PATH, {"model": MODEL, "prompt": "a", "svg": {"model": "gpt-5"}}, "svg"),
    (PATH, {"model": "openai/unpriced-image", "prompt": "a"}, "size"),
    (PATH, {"model": "gpt-5", "prompt": "a"}, "model"),
    (EDITS, {"model": MODEL, "prompt": "a"}, "image"),
    (EDITS, {"model": MODEL, "prompt": "a", "images": [{"file_id": "file-1"}]}, "images[0].file_id"),
]


def test_invalid_requests_are_refused_by_name(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    for path, body, param in INVALID:
        got = web.post(path, json=body, headers=rich.headers)
        assert (got.status_code, got.json["error"]["param"]) == (400, param), body
    got = web.post(PATH, json={"model": "openai/unpriced-image", "prompt": "a"}, headers=rich.headers)
    assert "no price per image" in got.json["error"]["message"]
    many = {"model": MODEL, "prompt": "a", "image": [(BytesIO(b"x"), f"{n}.png") for n in range(18)]}
    assert web.post(EDITS, data=many, headers=rich.headers).status_code == 400
    headers = {**rich.headers, "content-type": "multipart/form-data; boundary=x"}
    assert web.post(EDITS, data=b"x" * (27 << 20), headers=headers).status_code == 413
    assert web.post(EDITS, data={"model": MODEL, "image": (BytesIO(b"x"), "x.png")}).status_code == 401
    assert (facts.holds(), fake.requests) == (0, [])


@pytest.mark.parametrize(
    "behaviour",
    [fakes.hang_up, answer({"error": {"message": "No"}}, 500), answer(images(0)), answer(b"<html>")],
)
def test_a_failure_of_the_provider_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, behaviour: Any
) -> None:
    fake.will(behaviour)
    assert web.post(PATH, json={"model": MODEL, "prompt": "a"}, headers=rich.headers).status_code >= 500
    assert (facts.call().state, facts.call().credits) == ("failed", 0)


def test_what_an_image_costs_must_be_available(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 30)
    body = {"model": HOUSE, "prompt": "a", "n": 3, "size": "1024x1792", "quality": "hd"}
    got = web.post(PATH, json=body, headers=alice.headers)  # 38 credits
    assert (got.status_code, got.json["error"]["code"]) == (402, "insufficient_credits")
    assert (facts.holds(), fake.requests) == (0, [])


@pytest.mark.parametrize(
    ("size", "quality", "tokens"),
    [
        ("1024x1024", "low", 272),
        ("1536x1024", "high", 6_240),
        ("auto", "auto", 6_240),
        ("1024x1024", "new", 16_640),
    ],
)
def test_tokens_of_an_image_grow_with_size_and_quality(size: str, quality: str, tokens: int) -> None:
    assert image_tokens({"size": size, "quality": quality}) == tokens
