"""The log: one line per error, with the request id and without secrets."""

import logging
import sys
from types import TracebackType

import pytest
from flask import Flask, g

from models.core.redaction import redact
from views.web.logs import LogFormatter


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key cb-pat-" + "a1" * 32, "key cb-pat-***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("sk-ant-api03-abcdefghij and sk-or-v1-0123456789", "sk-*** and sk-***"),
        ("AIza" + "x" * 35, "AIza***"),
        ("postgresql://stoa:hunter2@db/stoa", "postgresql://stoa:***@db/stoa"),
        ("ghp_0123456789abcdef", "ghp_***"),
        ("the bearer of a risk-averse idea", "the bearer of a risk-averse idea"),
    ],
)
def test_secrets_are_masked_by_their_shape(text: str, masked: str) -> None:
    assert redact(text) == masked


def test_configured_secrets_are_masked_by_their_value() -> None:
    assert redact("it is my-own-token!", ["my-own-token"]) == "it is ***!"


def _record(level: int, message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | None = None
    if failed:
        try:
            raise ValueError("first\nsecond sk-0123456789")
        except ValueError as error:
            exc_info = (ValueError, error, sys.exc_info()[2])
    return logging.LogRecord("stoa.test", level, __file__, 1, message, arguments, exc_info)


def test_an_error_is_one_line_with_the_request_id(app: Flask) -> None:
    with app.test_request_context("/"):
        g.request_id = "abc123"
        line = LogFormatter().format(_record(logging.ERROR, "it\nbroke %s", "here", failed=True))
    assert "\n" not in line
    assert " ERROR stoa.test request=abc123 it broke here | ValueError at " in line
    assert "second" not in line
    assert "test_logs.py" in line


def test_addresses_and_links_are_masked_but_in_a_mail_on_the_console() -> None:
    text = "Mail to ada.l@mail.example.org: http://localhost:8000/login/link/a_b-C9?x=1 /shared/k-_9 of acme/agent@1.0.0"
    assert LogFormatter().format(_record(logging.INFO, text)) == text
    masked = "Mail to ***: http://localhost:8000/login/link/***?x=1 /shared/*** of acme/agent@1.0.0"
    assert LogFormatter().format(_record(logging.WARNING, text)).endswith(masked)


def test_info_is_the_message_only() -> None:
    assert LogFormatter().format(_record(logging.INFO, "Starting")) == "Starting"
