"""Request bodies: compression, limits before authentication, and limits on values."""

import gzip
import io
import os
import random
import re
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import brotli  # type: ignore[import-untyped]
import orjson
import pytest
from backports import zstd
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from models.core.decompression import MAX_MEMBERS, DecompressionError, decompress
from models.usage import Message
from tests import factories
from tests.factories import Person
from views.web import body as bodies
from views.web.body import ANONYMOUS_BYTES, MAX_VALUES, BadJson, BodyTooLarge, UndecodableBody, read_json
from views.web.content_encoding import UnsupportedEncoding, parse_encodings
from views.web.guards import limiter

BODY = {"messages": [{"role": "user", "content": "Say hello. " * 200}], "model": "stoa/demo"}
PLAIN = orjson.dumps(BODY)
LARGE = b'{"messages": [{"role": "user", "content": "' + b"x" * (1 << 20) + b'"}], "model": "stoa/demo"}'


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "identity": lambda data: data,
    "": lambda data: data,
    "identity, gzip": gzip.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "deflate,zstd": lambda data: zstd.compress(zlib.compress(data)),
    "br,gzip,identity": lambda data: gzip.compress(brotli.compress(data)),
}


def compressed(name: str) -> bytes:
    return ENCODE[name](PLAIN)


def decompressed(data: bytes, header: str, step: int = 0) -> bytes:
    chunks = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    return b"".join(decompress(iter(chunks), parse_encodings(header)))


@pytest.mark.parametrize("step", [0, 1, 7, 1000])
@pytest.mark.parametrize("header", ENCODE)
def test_compressed_bodies_are_decompressed(header: str, step: int) -> None:
    assert decompressed(compressed(header), header, step) == PLAIN


@pytest.mark.parametrize("header", ["gzip", "deflate", "Deflate ", "br", "zstd"])
def test_incompressible_and_highly_compressible_data(header: str) -> None:
    for data in (os.urandom(300_000), b"a" * 300_000, b"", b"a"):
        assert decompressed(ENCODE[header](data), header, 5000) == data


@pytest.mark.parametrize("header", ["gzip", "deflate", "Deflate ", "br", "zstd", "gzip, br"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="cut"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: b"\xf7nonsense" + data, id="other"),
        pytest.param(lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:], id="flipped"),
    ],
)
def test_invalid_data_raises(header: str, spoil: Callable[[bytes], bytes]) -> None:
    try:
        found = decompressed(spoil(ENCODE[header](PLAIN)), header)
    except DecompressionError:
        return
    assert found != PLAIN  # deflate and brotli have no checksum


def test_the_number_of_members_is_limited() -> None:
    assert decompressed(gzip.compress(b"ab") + gzip.compress(b"cd") + b"\0" * 9, "gzip") == b"abcd"
    assert decompressed(zstd.compress(b"ab") + zstd.compress(b"cd"), "zstd") == b"abcd"
    for header in ("gzip", "zstd"):
        with pytest.raises(DecompressionError):
            decompressed(ENCODE[header](b"") * (MAX_MEMBERS + 1), header)


@pytest.mark.parametrize(
    "header", ["compress", "aws-chunked", "gzip, lzma", "base64", "gzip;q=1", "gzip, br, zstd"]
)
def test_unsupported_encodings_list_the_supported_ones(header: str) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        parse_encodings(header)
    assert dict(caught.value.get_headers())["Accept-Encoding"] == "gzip, deflate, br, zstd"


def test_a_zstd_window_of_a_gigabyte_is_refused() -> None:
    options = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    large = zstd.ZstdCompressor(options=options)
    with pytest.raises(DecompressionError):
        decompressed(large.compress(os.urandom(1 << 16)) + large.flush(), "zstd")


@pytest.fixture(autouse=True)
def unlimited(app: Flask) -> None:
    """Reset rate limits for each test."""
    with app.app_context():
        limiter.reset()


# -- routes -------------------------------------------------------------------------------------------------


@pytest.fixture
def payer(session: OrmSession, alice: Person) -> Person:
    assert alice.user is not None
    factories.grant(alice.user, 100_000)
    return alice


DOORS: list[tuple[str, Any, int]] = [
    ("/v1/chat/completions", BODY, 200),
    ("/api/v1/chat/completions", BODY, 400),  # without a run
    ("/api/v1/token-count", BODY, 200),
    ("/api/v1/agent-runs", {"action": "START", "agentId": "a"}, 200),
    ("/api/v1/usage", {"fingerprintId": "f"}, 200),
    ("/api/agents/validate", {"agentDefinitions": []}, 200),
    ("/api/agents/publish", {"data": [{"id": "a"}]}, 400),
    ("/api/auth/cli/code", {"fingerprintId": "f"}, 200),
]


@pytest.mark.parametrize("header", [name for name in ENCODE if name])
@pytest.mark.parametrize(("path", "value", "status"), DOORS)
def test_every_route_accepts_compressed_bodies(
    client: FlaskClient, payer: Person, path: str, value: Any, status: int, header: str
) -> None:
    plain = client.post(path, data=orjson.dumps(value), headers=payer.headers)
    answer = client.post(
        path, data=ENCODE[header](orjson.dumps(value)), headers={**payer.headers, "Content-Encoding": header}
    )
    assert plain.status_code == answer.status_code == status
    assert answer.get_json().keys() == plain.get_json().keys()


@pytest.mark.parametrize(("path", "value", "status"), DOORS)
def test_every_route_rejects_unsupported_encodings(
    client: FlaskClient, payer: Person, path: str, value: Any, status: int
) -> None:
    answer = client.post(path, data=b"x", headers={**payer.headers, "Content-Encoding": "compress"})
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate, br, zstd")
    assert "compress" in answer.get_data(as_text=True)
    broken = client.post(path, data=b"\xf7x", headers={**payer.headers, "Content-Encoding": "gzip"})
    assert broken.status_code == 400


@cache
def bomb(header: str, size: int) -> bytes:
    return ENCODE[header](b" " * size)


@pytest.mark.parametrize(("path", "value", "status"), DOORS)
@pytest.mark.parametrize("header", ["gzip", "deflate", "br", "zstd", "gzip, br"])
def test_bombs_stop_at_the_limit(
    client: FlaskClient, payer: Person, header: str, path: str, value: Any, status: int
) -> None:
    headers = {**payer.headers, "Content-Encoding": header}
    answer = client.post(path, data=bomb(header, 64 << 20), headers=headers)
    assert answer.status_code == 413
    assert re.search("larger than (20 MB|5,000,000 bytes)", answer.get_data(as_text=True))
    strange = client.post(path, data=bomb(header, 2 << 20), headers={"Content-Encoding": header})
    assert strange.status_code in (401, 413)


def test_a_compressed_form_is_rejected(client: FlaskClient) -> None:
    answer = client.post("/login", data={"email": "a@example.org"}, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_compressed_requests_are_stored_like_plain_ones(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100_000)
    value = {**BODY, "messages": [{"role": "user", "content": "word " * 20_000}] * 9, "max_tokens": 1}
    answer = client.post(
        "/v1/chat/completions",
        data=gzip.compress(orjson.dumps(value)),
        headers={**alice.headers, "Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200
    stored = session.scalars(select(Message.request)).one()
    assert len(orjson.dumps(stored)) < 300 << 10


# -- unauthenticated -----------------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the bodies parsed as JSON."""
    sizes: list[int] = []
    load = bodies._load

    def noted(raw: bytes) -> Any:
        sizes.append(len(raw))
        return load(raw)

    monkeypatch.setattr(bodies, "_load", noted)
    return sizes


def _writing(app: Flask) -> Iterator[tuple[str, str]]:
    values = {
        "publisher_id": "p",
        "agent_id": "a",
        "version": "1.0.0",
        "run_id": "r",
        "token": "t",
        "provider": "github",
        "id": "1",
        "number": "1",
        "stop_id": "1",
    }
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) & {"POST", "PUT", "PATCH", "DELETE"}):
            _, path = rule.build(
                {name: values.get(name, "x") for name in rule.arguments}, append_unknown=False
            ) or (
                "",
                "",
            )
            if path:
                yield method, path


class Chunked(io.BytesIO):
    """A body without a length, as the server passes it to the application."""


def _send(
    client: FlaskClient, method: str, path: str, data: bytes, chunked: bool, **headers: str
) -> TestResponse:
    if not chunked:
        return client.open(path, method=method, data=data, headers=headers, content_type="application/json")
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    return client.open(
        path,
        method=method,
        input_stream=Chunked(data),
        environ_overrides=environ,
        headers=headers,
        content_type="application/json",
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("who", ["nobody", "unknown", "expired", "banned"])
def test_no_route_parses_a_large_unauthenticated_body(
    app: Flask, client: FlaskClient, session: OrmSession, parsed: list[int], who: str, chunked: bool
) -> None:
    headers = {}
    if who != "nobody":
        user = factories.user("stranger", banned=who == "banned")
        past = {"expires": factories.now().replace(year=2020)} if who == "expired" else {}
        key = factories.token(user, **past) if who != "unknown" else "cb-pat-unknown"
        headers = {"authorization": f"Bearer {key}"}
    seen = 0
    for method, path in _writing(app):
        data = b'{"a": "' + b"x" * (1 << 21) + b'"}'
        answer = _send(client, method, path, data, chunked, **headers)
        # this server takes no payments; of a form only the fields are read, and this one needs none
        closed = {"/api/stripe/webhook": {503}, "/oauth/device_authorization": {200}}.get(path, set())
        assert answer.status_code in {303, 400, 401, 402, 403, 404, 405, 413, 429} | closed, (
            method,
            path,
            answer.status_code,
        )
        seen += 1
    assert seen > 30
    assert not [size for size in parsed if size > 1 << 20]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/chat/completions", 401, "unknown or expired"),
        ("/api/v1/chat/completions", 401, "Invalid Codebuff API key"),
        ("/api/v1/token-count", 413, "64 KiB"),
        ("/api/v1/agent-runs", 404, "Invalid API key"),
        ("/api/agents/publish", 413, "1 MB"),
        ("/api/agents/validate", 413, "1 MB"),
        ("/api/v1/usage", 413, "64 KiB"),
        ("/api/auth/cli/code", 413, "64 KiB"),
    ],
)
def test_errors_for_large_unauthenticated_bodies(
    client: FlaskClient, path: str, status: int, message: str
) -> None:
    data = b'{"a": "' + b"x" * (1 << 21) + b'"}'
    for chunked in (False, True):
        answer = _send(client, "POST", path, data, chunked, authorization="Bearer cb-pat-unknown")
        assert answer.status_code == status
        assert message in answer.get_data(as_text=True)


def test_small_bodies_are_checked_in_the_order_of_the_contract(client: FlaskClient) -> None:
    answer = client.post("/api/v1/chat/completions", data=b"{", headers={"authorization": "Bearer no"})
    assert (answer.status_code, answer.get_json()) == (400, {"message": "Invalid JSON in request body"})
    answer = client.post("/api/v1/chat/completions", data=b" " * ANONYMOUS_BYTES + b"{")
    assert (answer.status_code, answer.get_json()) == (401, {"message": "Unauthorized"})


def test_known_callers_may_send_large_bodies(client: FlaskClient, payer: Person, parsed: list[int]) -> None:
    for path, status in (("/v1/chat/completions", 200), ("/api/v1/token-count", 200)):
        for chunked in (False, True):
            assert _send(client, "POST", path, LARGE, chunked, **payer.headers).status_code == status
    assert parsed == [len(LARGE)] * 4
    assert payer.browser.post("/api/api-keys", data=LARGE).status_code == 201


def test_the_ledger_is_not_asked_twice_within_seconds_for_large_bodies(
    app: Flask, client: FlaskClient, payer: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = app.extensions["gateway"]
    admitted: list[Any] = []
    admit = gateway.admitter.admissions.admit
    monkeypatch.setattr(
        gateway.admitter.admissions, "admit", lambda claim: admitted.append(claim.hold) or admit(claim)
    )
    for _ in range(3):
        assert client.post("/v1/chat/completions", data=LARGE, headers=payer.headers).status_code == 200
    assert [hold is None for hold in admitted] == [True, False, False, False]


# -- values --------------------------------------------------------------------------------------------------


door = Flask("door")


def load(raw: bytes) -> Any:
    with door.test_request_context("/", method="POST", data=raw):
        return read_json(allow_nul=True)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"1," * 10_000_000 + b"1]",
        b"[" + b"{}," * 1_000_000 + b"1]",
        b"[" + b'"",' * 1_000_000 + b"1]",
        b'{"a":[' + b'{"a":1},' * MAX_VALUES + b"1]}",
        b"[" + b'"\\\\",' * 1_000_000 + b"1]",
        b"[" + b'"\\",[[[",' * 500_000 + b"1]",
        b"[[],1" * 600_000,
        b'["' * 2_000_000,
    ],
    ids=range(8),
)
def test_too_many_values_are_not_parsed(raw: bytes, parsed: list[int]) -> None:
    with pytest.raises(BodyTooLarge, match="500,000 values"):
        load(raw)
    assert not parsed


@pytest.mark.parametrize(
    "text", [",[{" * 1_000_000, '\\"' * 1_000_000 + ",", '[\\",' * 500_000, "\\" * 1_000_000 + "," * 600_000]
)
def test_separators_in_strings_are_not_counted(text: str) -> None:
    assert load(orjson.dumps([text, {"a": text}])) == [text, {"a": text}]


def test_large_bodies_that_are_deep_or_infinite_are_rejected() -> None:
    for raw in (b"[" * 150_000 + b"]" * 150_000, b"1" * (10 << 20), b'{"a":' * 190_000):
        with pytest.raises(BadJson):
            load(raw)
    assert issubclass(UndecodableBody, BadJson)
    assert issubclass(BodyTooLarge, HTTPException)


def test_lone_surrogates_are_replaced_at_every_chunk_boundary() -> None:
    """Compared with a reference implementation, on texts longer than a chunk."""
    dice = random.Random(7)
    parts = [
        "\\ud83d",
        "\\ude00",
        "\\ud83d\\ude00",
        "\\n",
        "\\\\",
        "a",
        "\\uD83D",
        "\\u4e2d",
        "ud83d",
        "\\\\ud83d",
    ]
    for size in (10, 100, 30_000):
        for _ in range(20):
            text = "".join(dice.choices(parts, k=size))
            assert load(f'["{text}\\ud83d"]'.encode()) == [_reference(text + "\\ud83d")]


def _reference(text: str) -> str:
    units: list[int] = []
    at = 0
    while at < len(text):
        if text[at] != "\\":
            units.append(ord(text[at]))
            at += 1
        elif text[at + 1] == "u":
            units.append(int(text[at + 2 : at + 6], 16))
            at += 6
        else:
            units.append(ord({"n": "\n", "\\": "\\"}[text[at + 1]]))
            at += 2
    high = [0xD800 <= unit < 0xDC00 for unit in units]
    low = [0xDC00 <= unit < 0xE000 for unit in units]
    good = [False] * len(units)
    for first, second in pairwise(range(len(units))):
        if high[first] and low[second]:
            good[first] = good[second] = True
    whole = [unit if good[at] or not (high[at] or low[at]) else 0xFFFD for at, unit in enumerate(units)]
    return b"".join(unit.to_bytes(2, "big") for unit in whole).decode("utf-16-be")
