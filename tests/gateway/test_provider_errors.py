"""Provider errors in any format: a readable message, the right status and code, details, no secret."""

import gzip
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.chat_format import find_failure, parse_failure
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}
CODEBUFF = "/api/v1/chat/completions"
KEY = "sk-operator-openai"

CLOUDFLARE = b"""<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<head><title>api.example.com | 502: Bad gateway</title><style>body{margin:0}</style></head>
<body><div id="cf-wrapper"><h1>Bad gateway</h1></div><script>alert(1)</script></body></html>"""
NGINX = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>"

STATUS = object()
SHAPES: dict[str, tuple[Any, str, Any]] = {
    # body, expected message, code; STATUS if the body has no code in a known field
    "openai": ({"error": {"message": "The words.", "type": "t", "param": "p", "code": "c"}}, "The words.", "c"),
    "text": ({"error": "The words."}, "The words.", STATUS),
    "list of objects": ({"error": [{"message": "The words."}]}, "The words.", STATUS),
    "list of texts": ({"error": ["The words.", "More."]}, "The words.; More.", STATUS),
    "gemini": ([{"error": {"code": 400, "message": "The words.", "status": "INVALID_ARGUMENT"}}], "The words.", 400),
    "detail": ({"detail": "The words."}, "The words.", STATUS),
    "detail object": ({"detail": {"error": {"message": "The words."}}}, "The words.", STATUS),
    "fastapi": (
        {"detail": [{"loc": ["body", "messages", 0], "msg": "field required", "type": "value_error"}]},
        "messages.0: field required",
        STATUS,
    ),
    "message": ({"message": "The words."}, "The words.", STATUS),
    "msg": ({"msg": "The words.", "code": 1234}, "The words.", 1234),
    "errors": ({"errors": [{"code": 7003, "message": "The words."}], "success": False}, "The words.", 7003),
    "detail with a code": ({"detail": {"error": {"message": "The words.", "code": "c"}}}, "The words.", "c"),
    "errors of texts": ({"errors": ["The words."]}, "The words.", STATUS),
    "anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "The words."}}, "The words.", None),
    "vllm": ({"object": "error", "message": "The words.", "type": "BadRequestError", "param": None, "code": 400}, "The words.", 400),
    "aws": ({"Message": "The words."}, "The words.", STATUS),
    "minimax": ({"base_resp": {"status_code": 1008, "status_msg": "The words."}}, "The words.", 1008),
    "word and sentence": ({"error": "invalid_request", "message": "The words."}, "The words.", "invalid_request"),
    "spring": ({"status": 400, "error": "Bad Request", "message": "The words.", "path": "/"}, "The words.", 400),
    "json in a text": ({"error": json.dumps({"error": {"message": "The words."}})}, "The words.", STATUS),
    "json in the message": ({"error": {"message": '{"detail":"The words."}'}}, "The words.", None),
    "page in the message": ({"error": {"message": NGINX.decode()}}, "502 Bad Gateway", None),
    "message as object": ({"error": {"message": {"text": "The words."}}}, "The words.", STATUS),
    "lone surrogate": (b'{"error":{"message":"The words. \\ud83d"}}', "The words.", None),
    "bom": (b'\xef\xbb\xbf{"detail":"The words."}\x00', "The words.", STATUS),
    "json text": (b'"The words."', "The words.", STATUS),
    "plain": (b"The words.", "The words.", STATUS),
    "cloudflare": (CLOUDFLARE, "api.example.com | 502: Bad gateway", STATUS),
    "nginx": (NGINX, "502 Bad Gateway", STATUS),
    "xml": (b"<?xml version='1.0'?><Error><Code>X</Code><Message>The words.</Message></Error>", "The words.", STATUS),
    "gzip": (gzip.compress(b'{"error":{"message":"The words."}}'), "The words.", None),
    "huge": (b'The words. {"x":"' + b"y" * (1 << 20), "The words.", STATUS),
    "huge json": (b'{"error":{"message":"The words.","x":"' + b"y" * (1 << 20) + b'"}}', "The words.", STATUS),
    "huge message": (b'{"message":"The words. ' + b"\\u00e4" * (1 << 20) + b'"}', "The words.", STATUS),
    "fault": ({"fault": {"faultstring": "The words.", "detail": {"errorcode": "policies.ratelimit"}}}, "The words.", STATUS),
    "errmsg": ({"errcode": 40001, "errmsg": "The words."}, "The words.", 40001),
    "err_msg": ({"err_no": 4, "err_msg": "The words."}, "The words.", 4),
    "mistral": ({"object": "error", "message": {"detail": [{"loc": ["body", "messages"], "msg": "The words."}]},
                 "type": "invalid_request_error", "code": None}, "messages: The words.", STATUS),
    "bifrost": ({"is_bifrost_error": False, "status_code": 400, "error": {"message": "The words.", "code": "x"}}, "The words.", "x"),
    "problem": ({"type": "https://x/e", "title": "Bad", "detail": "The words."}, "The words.", STATUS),
    "huggingface": ({"error": ["The words.", "More."], "warnings": ["x"]}, "The words.; More.", STATUS),
    "cloudflare's gateway": ({"success": False, "result": [], "error": [{"code": 2009, "message": "The words."}]}, "The words.", 2009),
    "a flag and a sentence": ({"error": True, "message": "The words."}, "The words.", STATUS),
    "graphql": ({"errors": [{"message": "The words.", "extensions": {"code": "X"}}], "data": None}, "The words.", STATUS),
    "unknown json": ({"oops": True}, '{"oops": true}', STATUS),
}  # fmt: skip
WORDLESS = {
    "empty": b"",
    "object": {},
    "list": [],
    "null": b"null",
    "error without words": {"error": {}},
    "garbage": bytes(range(128, 256)) * 10,
    "broken gzip": b"\x1f\x8b\x08\x00" + b"\xff" * 500,
    "page without words": b"<html><body></body></html>",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_errors_of_any_form(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    shape: tuple[Any, str, Any],
    status: int,
    streaming: bool,
) -> None:
    sent, sentence, code = shape
    fake.will(fakes.answer(sent, status))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == status
    error = answer.json["error"]
    assert sentence in error["message"]
    assert "<" not in error["message"]
    assert len(error["message"]) <= 4000
    assert isinstance(error["type"], str)
    assert (
        {"message", "type", "param", "code"} <= set(error) <= {"message", "type", "param", "code", "details"}
    )
    assert error["code"] == (status if code is STATUS else code)
    call = facts.call()
    assert (call.state, call.http_status, call.credits) == ("failed", status, 0)
    answer = web.post(CODEBUFF, json={**body, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == status
    assert sentence in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(1002, 429, 1002), (1039, 429, 1039), (2013, 400, 2013), (1004, 502, "upstream_account"),
     (1008, 502, "upstream_account"), (1000, 502, 1000)],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True])
def test_minimax_tells_its_errors_inside_a_200(
    web: FlaskClient, fake: FakeUpstream, rich: Person, number: int, status: int, code: Any, streaming: bool
) -> None:
    fake.will(fakes.answer({"base_resp": {"status_code": number, "status_msg": "words"}, "choices": None}))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": streaming}, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("sent", WORDLESS.values(), ids=WORDLESS.keys())
@pytest.mark.parametrize(
    ("status", "words"), [(500, "Internal Server Error"), (530, "The provider answered 530.")]
)
def test_errors_without_a_message(
    web: FlaskClient, fake: FakeUpstream, rich: Person, sent: Any, status: int, words: str
) -> None:
    fake.will(fakes.answer(sent, status))
    answer = web.post("/v1/chat/completions", json=BODY, headers=rich.headers)
    assert answer.status_code == status
    assert answer.json["error"]["message"] in (words, "The provider reported an error.")
    assert answer.json["error"]["code"] in (status, None)


def test_the_rest_of_an_error_is_in_details(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    detail = [{"loc": ["body", "n"], "msg": "too many", "type": "value_error"}]
    fake.will(fakes.answer({"detail": detail}, 422))
    for path, request in (("/v1/chat/completions", BODY), (CODEBUFF, body)):
        error = web.post(path, json=request, headers=rich.headers).json["error"]
        assert (error["message"], error["code"]) == ("n: too many", 422)
        assert error["details"] == {"detail": detail}
    inner = {"code": 400, "message": "m", "status": "INVALID_ARGUMENT", "details": [{"reason": "r"}]}
    fake.will(fakes.answer([{"error": inner}], 400))
    error = web.post("/v1/chat/completions", json=BODY, headers=rich.headers).json["error"]
    assert error["details"] == {"status": "INVALID_ARGUMENT", "details": [{"reason": "r"}]}
    fake.will(fakes.answer({"error": {"message": "m", "code": "c", "type": "t", "param": None}}, 400))
    assert "details" not in web.post("/v1/chat/completions", json=BODY, headers=rich.headers).json["error"]


INSIDE = {
    "number": ({"error": {"message": "m", "code": 429}}, 429),
    "digits": ({"error": {"message": "m", "code": "429"}}, 429),
    "status": ({"error": {"message": "m", "status": 503}}, 503),
    "outside": ({"error": "m", "code": 429}, 429),
    "status_code": ({"message": "m", "status_code": 422}, 422),
    "vllm": ({"object": "error", "message": "m", "code": 404}, 404),
    "anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, 503),
    "word": ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, 429),
    "list": ([{"error": {"message": "m", "code": 429}}], 429),
    "detail": ({"detail": "m"}, 502),
    "errors": ({"errors": [{"message": "m"}]}, 502),
    "without a status": ({"error": {"message": "m", "code": "odd"}}, 502),
    "small number": ({"error": {"message": "m", "code": 17}}, 502),
    "minimax": ({"base_resp": {"status_code": 1002, "status_msg": "m"}, "choices": None}, 429),
    "in the choice": ({"choices": [{"index": 0, "error": {"message": "m", "code": 429}}]}, 429),
}


@pytest.mark.parametrize(("sent", "status"), INSIDE.values(), ids=INSIDE.keys())
def test_errors_inside_a_200(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, sent: Any, status: int
) -> None:
    fake.will(fakes.answer(sent))
    answer = web.post("/v1/chat/completions", json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["message"]) == (status, "m")
    assert (facts.call().state, facts.call().credits) == ("failed", 0)
    if isinstance(sent, dict) and sent.get("choices"):
        return
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["message"]) == (status, "m")


STREAMED = {
    "openai": b'data: {"error":{"message":"m","code":429}}\n\n',
    "text": b'data: {"error":"m"}\n\n',
    "event": b'event: error\ndata: {"error":{"message":"m"}}\n\n',
    "event without a key": b'event: error\ndata: {"message":"m","code":"x"}\n\n',
    "event with a text": b'event: error\ndata: "m"\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n',
    "vllm": b'data: {"object":"error","message":"m","type":"BadRequestError","code":400}\n\n',
    "detail": b'data: {"detail":"m"}\n\n',
    "fastapi": b'data: {"detail":[{"msg":"m"}]}\n\n',
    "message": b'data: {"message":"m","code":1}\n\n',
    "list": b'data: [{"error":{"message":"m","code":429}}]\n\n',
    "in the choice": b'data: {"choices":[{"index":0,"delta":{},"error":{"message":"m"},"finish_reason":"error"}]}\n\n',
    "openrouter": b'data: {"id":"g","error":{"message":"m","code":502},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}\n\n',
    "no event at all": b'{"error":{"message":"m","code":429}}\n',
    "no event at all, not ended": b'{"detail":"m"}',
    "not ended": b'data: {"error":{"message":"m"}}',
}  # fmt: skip


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("sent", STREAMED.values(), ids=STREAMED.keys())
def test_streamed_errors_have_the_form_that_clients_know(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, sent: bytes, done: bool
) -> None:
    if done and (sent[-1:] != b"\n" or sent[:1] == b"{"):
        pytest.skip("nothing can follow this error")
    fake.will(fakes.stream([sent, *(["[DONE]"] if done else [])]))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    (error,) = [event["error"] for event in events(answer.data)]
    assert error["message"] == "m"
    assert (facts.call().state, facts.call().credits) == ("failed", 0)


@pytest.mark.parametrize("sent", STREAMED.values(), ids=STREAMED.keys())
def test_text_before_a_streamed_error_is_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, sent: bytes
) -> None:
    if sent[:1] == b"{":
        pytest.skip("after an event, this is an invalid line and not an error")
    fake.will(fakes.stream([*fakes.chunks("one two three")[:4], sent]))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    assert events(answer.data)[-1]["error"]["message"] == "m"
    call = facts.call()
    assert (call.state, call.error, call.output_tokens) == ("settled", "upstream_error", 3)


def test_a_page_instead_of_a_stream_is_an_error(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    fake.will(fakes.answer(CLOUDFLARE, headers={"Content-Type": "text/html; charset=UTF-8"}))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    assert answer.status_code == 502
    assert "unknown format" in answer.json["error"]["message"]
    fake.will(fakes.stream([CLOUDFLARE]))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    assert "502: Bad gateway" in events(answer.data)[-1]["error"]["message"]


@pytest.mark.parametrize("quoted", [KEY, KEY[:11] + "********nrou", f"Bearer {KEY}", "sk-opera…enai"])
@pytest.mark.parametrize("place", ["status", "inside", "streamed", "stray", "junk", "plain", "details"])
def test_the_operators_key_is_never_sent_to_clients(
    web: FlaskClient, fake: FakeUpstream, rich: Person, quoted: str, place: str
) -> None:
    error = {"error": {"message": f"The key {quoted} is slow today.", "code": "slow"}}
    behaviours = {
        "status": fakes.answer(error, 429),
        "inside": fakes.answer(error),
        "streamed": fakes.stream([error]),
        "stray": fakes.stream([json.dumps(error, ensure_ascii=False).encode()]),
        "junk": fakes.stream([f": {quoted}\n\ndata: {quoted}\n\n{quoted}\n\n".encode(), *fakes.chunks()]),
        "plain": fakes.answer(f"The key {quoted} is slow today.".encode(), 500),
        "details": fakes.answer({"error": {"message": "slow", "key": quoted}}, 400),
    }
    fake.will(behaviours[place])
    streaming = place in ("streamed", "stray", "junk")
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": streaming}, headers=rich.headers)
    assert "sk-oper" not in answer.text
    assert "[key]" in answer.text


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_streamed_refusal_of_the_operators_key_looks_like_ours(
    web: FlaskClient, fake: FakeUpstream, rich: Person, status: int
) -> None:
    fake.will(fakes.stream([{"error": {"message": "No such account", "code": status}}]))
    answer = web.post("/v1/chat/completions", json={**BODY, "stream": True}, headers=rich.headers)
    error = events(answer.data)[-1]["error"]
    assert error["code"] == "upstream_account"
    assert "your key is fine" in error["message"]


@pytest.mark.parametrize("letter", ["x", "\\u00e4", "\\\\", '\\"', "a\t", "\\ud83d\\ude00"])
@pytest.mark.parametrize("shift", range(4))
def test_the_message_of_an_error_that_was_cut_off(letter: str, shift: int) -> None:
    failure = parse_failure(b'{"error": {"message": "' + b"." * shift + letter.encode() * 100_000)
    assert failure is not None
    assert failure.message.startswith("." * shift)
    assert "message" not in failure.message
    assert 900 < len(failure.message) <= 2000


@pytest.mark.parametrize(
    "value",
    [None, {}, {"error": None}, {"error": False}, {"error": ""}, {"type": "ping"}, {"choices": []}, [], [{}],
     {"choices": [], "prompt_filter_results": [{"message": "x"}]}, {"message": {"content": "x"}}, {"usage": {"a": 1}, "message": "x"},
     {"base_resp": {"status_code": 0, "status_msg": ""}}, {"object": "chat.completion.chunk", "message": "x"}],
)  # fmt: skip
def test_bodies_that_are_no_errors(value: Any) -> None:
    assert find_failure(value) is None


def test_hostile_errors_cost_little_and_never_raise() -> None:
    deep: Any = "m"
    for _ in range(800):
        deep = {"error": deep}
    for body in (
        json.dumps(deep).encode(),
        b"<" * 200_000,
        b"<title" * 40_000,
        b"&" * 200_000,
        b'{"errors":' + b"[" * 900 + b"]" * 900 + b"}",
        json.dumps({"error": {"message": "x" * 200_000}}).encode(),
        json.dumps({"detail": [{"msg": "x" * 1000}] * 200}).encode(),
    ):
        failure = parse_failure(body)
        assert failure is None or 0 < len(failure.message) <= 4000
