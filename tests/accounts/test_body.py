"""The shared JSON reader: accepted bodies and error messages (contract 0.1, 0.2)."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from flask import Flask
from pydantic import Field

from views.web.body import (
    Amount,
    BadJson,
    Body,
    Count,
    Instant,
    Int32,
    InvalidBody,
    Missing,
    Number,
    parse,
    parse_tagged,
    read_json,
)

door = Flask("door")


def load(raw: bytes, *, content_type: str | None = None, allow_nul: bool = False) -> Any:
    with door.test_request_context("/", method="POST", data=raw, content_type=content_type):
        return read_json(allow_nul=allow_nul)


class Start(Body):
    action: Literal["START"]
    agentId: str
    ancestorRunIds: Missing[list[str]] = None


class Finish(Body):
    action: Literal["FINISH"]
    runId: str
    status: Literal["completed", "failed", "cancelled"]
    totalSteps: Count
    directCredits: Amount
    errorMessage: Missing[str] = None


ACTIONS = {"START": Start, "FINISH": Finish}


def problems(value: Any) -> InvalidBody:
    with pytest.raises(InvalidBody) as caught:
        parse_tagged("action", ACTIONS, value)
    return caught.value


@pytest.mark.parametrize("content_type", [None, "text/plain;charset=UTF-8", "application/json", "image/png"])
def test_json_is_read_whatever_the_content_type_says(content_type: str | None) -> None:
    assert load(b'{"a": 1}', content_type=content_type) == {"a": 1}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b'{"a": "\\u0000"}',
        b'{"\\u0000": 1}',
        b'[["x\\u0000y"]]',
        b'{"a": "\x00"}',
        b"[" * 201 + b"]" * 201,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": 1} trailing',
        b"{'a': 1}",
    ],
)
def test_what_cannot_be_kept_is_not_json(raw: bytes) -> None:
    with pytest.raises(BadJson):
        load(raw)


def test_brackets_inside_text_are_not_depth() -> None:
    assert load(b'{"a": "' + b"[" * 500 + b'"}') == {"a": "[" * 500}


def test_nesting_up_to_the_limit_is_read() -> None:
    assert load(b"[" * 200 + b"]" * 200)


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    assert load(rb'{"a": "\\u0000"}') == {"a": "\\u0000"}


def test_a_door_may_allow_nul() -> None:
    assert load(rb'{"a": "x\u0000"}', allow_nul=True) == {"a": "x\x00"}


def test_half_an_emoji_becomes_the_replacement_character() -> None:
    assert load(rb'{"a": "cut \ud83d", "b": "\ude00", "c": "\ud83d\ude00", "d": "\\ud83d"}') == {
        "a": "cut \ufffd",
        "b": "\ufffd",
        "c": "\U0001f600",
        "d": "\\ud83d",
    }


def test_a_byte_order_mark_is_skipped() -> None:
    assert load(b"\xef\xbb\xbf{}") == {}


def test_unknown_keys_are_dropped() -> None:
    start = parse_tagged("action", ACTIONS, {"action": "START", "agentId": "", "extra": 1, "START": 2})
    assert isinstance(start, Start)
    assert start.agentId == ""
    assert start.ancestorRunIds is None


@pytest.mark.parametrize(
    "value", [{}, {"action": "NOPE"}, {"action": 7}, {"action": None}, {"action": ["START"]}]
)
def test_a_missing_or_unknown_tag(value: Any) -> None:
    assert problems(value).tree == {"_errors": [], "action": {"_errors": ["Invalid input"]}}


@pytest.mark.parametrize(
    ("value", "word"),
    [([], "array"), (None, "null"), ("x", "string"), (1, "number"), (1.5, "number"), (True, "boolean")],
)
def test_a_body_that_is_no_object(value: Any, word: str) -> None:
    expected = f"Invalid input: expected object, received {word}"
    assert problems(value).tree == {"_errors": [expected]}
    with pytest.raises(InvalidBody) as caught:
        parse(Start, value)
    assert caught.value.issues == [
        {"code": "invalid_type", "expected": "object", "path": [], "message": expected}
    ]


def test_missing_and_wrong_types_name_what_was_expected() -> None:
    error = problems({"action": "START", "agentId": 5, "ancestorRunIds": ["a", 1, None]})
    assert error.issues == [
        {
            "code": "invalid_type",
            "expected": "string",
            "path": ["agentId"],
            "message": "Invalid input: expected string, received number",
        },
        {
            "code": "invalid_type",
            "expected": "string",
            "path": ["ancestorRunIds", 1],
            "message": "Invalid input: expected string, received number",
        },
        {
            "code": "invalid_type",
            "expected": "string",
            "path": ["ancestorRunIds", 2],
            "message": "Invalid input: expected string, received null",
        },
    ]
    assert error.tree == {
        "_errors": [],
        "agentId": {"_errors": ["Invalid input: expected string, received number"]},
        "ancestorRunIds": {
            "_errors": [],
            "1": {"_errors": ["Invalid input: expected string, received number"]},
            "2": {"_errors": ["Invalid input: expected string, received null"]},
        },
    }


def test_missing_keys_are_undefined() -> None:
    assert problems({"action": "FINISH"}).tree == {
        "_errors": [],
        "runId": {"_errors": ["Invalid input: expected string, received undefined"]},
        "status": {"_errors": ['Invalid option: expected one of "completed"|"failed"|"cancelled"']},
        "totalSteps": {"_errors": ["Invalid input: expected number, received undefined"]},
        "directCredits": {"_errors": ["Invalid input: expected number, received undefined"]},
    }


FINISH = {"action": "FINISH", "runId": "r", "status": "failed", "totalSteps": 1, "directCredits": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "done"}, 'Invalid option: expected one of "completed"|"failed"|"cancelled"'),
        ({"status": None}, 'Invalid option: expected one of "completed"|"failed"|"cancelled"'),
        ({"totalSteps": -1}, "Too small: expected number to be >=0"),
        ({"totalSteps": 1.5}, "Invalid input: expected int, received number"),
        ({"totalSteps": True}, "Invalid input: expected number, received boolean"),
        ({"totalSteps": "1"}, "Invalid input: expected number, received string"),
        ({"totalSteps": 2**31}, "Too big: expected number to be <=2147483647"),
        ({"totalSteps": 1e300}, "Too big: expected number to be <=2147483647"),
        ({"directCredits": -0.5}, "Too small: expected number to be >=0"),
        ({"directCredits": True}, "Invalid input: expected number, received boolean"),
        ({"directCredits": "3"}, "Invalid input: expected number, received string"),
        ({"errorMessage": None}, "Invalid input: expected string, received null"),
        ({"errorMessage": {}}, "Invalid input: expected string, received object"),
    ],
)
def test_each_wrong_field_has_its_message(change: dict[str, Any], message: str) -> None:
    field = next(iter(change))
    assert problems({**FINISH, **change}).tree == {"_errors": [], field: {"_errors": [message]}}


def test_numbers_are_exact_and_whole_floats_are_whole() -> None:
    finish = parse_tagged("action", ACTIONS, {**FINISH, "totalSteps": 1.0, "directCredits": 0.1})
    assert isinstance(finish, Finish)
    assert type(finish.totalSteps) is int
    assert finish.directCredits == Decimal("0.1")


class Odd(Body):
    a: Missing[Int32] = None
    b: Missing[Number] = None
    c: Missing[Instant] = None
    d: Missing[str | list[int]] = None
    e: Missing[str] = Field(None, min_length=2, max_length=3)
    f: Missing[Literal["only"]] = None
    g: str | None = None
    h: Missing["Odd"] = None


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"a": -(2**31) - 1}, ["a"], "Too small: expected number to be >=-2147483648"),
        ({"b": []}, ["b"], "Invalid input: expected number, received array"),
        ({"c": "2026-01-01T00:00:00+00:00"}, ["c"], "Invalid ISO datetime"),
        ({"c": "2026-02-30T00:00:00Z"}, ["c"], "Invalid ISO datetime"),
        ({"c": "2026-01-01"}, ["c"], "Invalid ISO datetime"),
        ({"c": 5}, ["c"], "Invalid input: expected string, received number"),
        ({"d": 5}, ["d"], "Invalid input"),
        ({"d": ["x"]}, ["d"], "Invalid input"),
        ({"e": "x"}, ["e"], "Too small: expected string to have >=2 characters"),
        ({"e": "long"}, ["e"], "Too big: expected string to have <=3 characters"),
        ({"f": "other"}, ["f"], 'Invalid input: expected "only"'),
        ({"g": 1}, ["g"], "Invalid input: expected string, received number"),
        ({"h": {"h": {"a": "x"}}}, ["h", "h", "a"], "Invalid input: expected number, received string"),
    ],
)
def test_the_other_kinds(value: Any, path: list[str], message: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        parse(Odd, value)
    assert [(issue["path"], issue["message"]) for issue in caught.value.issues] == [(path, message)]


def test_moments_are_aware_and_seconds_may_be_left_out() -> None:
    assert parse(Odd, {"c": "2026-01-01T10:20Z"}).c == datetime(2026, 1, 1, 10, 20, tzinfo=UTC)
    assert parse(Odd, {"c": "2026-01-01T10:20:30.123Z"}).c == datetime(
        2026, 1, 1, 10, 20, 30, 123000, tzinfo=UTC
    )
    assert parse(Odd, {"g": None, "d": [1], "f": "only"}).g is None
