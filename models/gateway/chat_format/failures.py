"""Parses provider errors of any form into a readable message, a status, a code and details."""

import contextlib
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from models.gateway.chat_format.call import ProviderFailure
from models.gateway.lenient_json import NotJson, read, write

MAX_MESSAGE = 2000
"""Limit of a message, in characters."""
MAX_PLAIN_TEXT = 4000
"""Limit of a plain text error, in characters."""
MAX_DETAILS = 8000
"""Limit of the details, in bytes."""
_MAX_DEPTH = 6

_MESSAGES = ("message", "error_message", "errorMessage", "error_msg", "errorMsg", "msg", "detail", "details")
_MESSAGE_ALIASES = (
    "errmsg",
    "err_msg",
    "faultstring",
    "error_text",
    "error_description",
    "description",
    "status_msg",
    "reason",
    "title",
    "text",
    "Message",
)
_NESTED = ("error", "errors", "err", "base_resp", "fault", "cause", "data", "response", "body")
_CODES = (
    *("code", "error_code", "errorCode", "errcode", "err_code", "err_no"),
    *("status_code", "statusCode", "http_code", "status"),
)
_GENERIC_CODES = ("error", "fail", "failed", "failure")
_STANDARD_KEYS = frozenset({"message", "code", "type", "param", "metadata"})
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "provider", "choices", "usage", "system_fingerprint"}
)

_STATUS_OF_MINIMAX = {1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 2013: 400, 2049: 401}
"""Status of each code in MiniMax's `base_resp`, which is sent with status 200."""
_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "insufficient_balance": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 429,
    "too_many_requests": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "api_error": 500,
    "internal": 500,
    "unavailable": 503,
    "service_unavailable": 503,
    "overloaded_error": 503,
    "timeout_error": 504,
    "deadline_exceeded": 504,
}


def find_failure(body: Any, *, is_error: bool = False) -> ProviderFailure | None:
    """The error in a parsed chunk or response; None if it is not one. `is_error`: the status or event name already
    marks it as an error."""
    if isinstance(body, dict):
        error = body.get("error")
        if error or is_error or (not body.get("choices") and _looks_like_error(body)):
            return _failure(body, error)
    elif isinstance(body, list) and len(body) < 100:
        found = (find_failure(item, is_error=is_error) for item in body if isinstance(item, dict))
        return next((failure for failure in found if failure), None)
    elif is_error and isinstance(body, str) and body.strip():
        return ProviderFailure(readable(body)[:MAX_MESSAGE], plain=True)
    return None


def parse_failure(raw: bytes, *, is_error: bool = True) -> ProviderFailure | None:
    """The error in a raw body: JSON or, with `is_error` (its status marks it as an error), HTML or plain text. None if
    there is no error message."""
    try:
        body = read(raw).value
    except NotJson:
        body = _truncated_message(raw)
    failure = find_failure(body, is_error=is_error)
    if not is_error or (
        failure is not None and (failure.message != DEFAULT_MESSAGE or failure.code is not None)
    ):
        return failure
    if isinstance(body, dict) and "error" in body:
        return None
    text = readable(raw.decode("utf-8", "replace"))[:MAX_PLAIN_TEXT]
    return ProviderFailure(text, plain=True) if text and text not in ("{}", "[]", "null", '""') else None


def _truncated_message(raw: bytes) -> Any:
    """The message in a truncated JSON object."""
    text = raw.decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    found = _MESSAGE_START.search(text) if text[:1] in ("{", "[") else None
    if found is None:
        return None
    return {"message": read(f'"{found["text"]}"'.encode()).value}


_MESSAGE_START = re.compile(
    r'"(?:message|msg|detail|error)"\s*:\s*"(?P<text>(?:[^"\\]|\\["\\/bfnrt]|\\u[\da-fA-F]{4}){0,2000})'
)
DEFAULT_MESSAGE = "The provider reported an error."


def _looks_like_error(body: Mapping[str, Any]) -> bool:
    """Whether a JSON object without choices is an error under a key other than `error`."""
    if body.get("object") == "error" or body.get("type") == "error":
        return True
    if body.get("usage") or str(body.get("object")).startswith("chat.completion"):
        return False
    if isinstance(body.get("base_resp"), dict):
        return bool(body["base_resp"].get("status_code"))
    return any(isinstance(body.get(key), str) and body[key] for key in (*_MESSAGES, "errorCode")) or any(
        isinstance(body.get(key), list) and body[key] for key in ("detail", "errors")
    )


def _failure(body: Mapping[str, Any], error: Any) -> ProviderFailure:
    inner = error if isinstance(error, dict) else body
    objects = _error_objects(body)
    message = next(_find_messages(error), None) or next(_find_messages(body), None) or DEFAULT_MESSAGE
    code = next((code for item in objects if (code := _code(item)) is not None), None)
    if isinstance(error, str):
        # a machine-readable code next to a message
        rest = {key: value for key, value in body.items() if key != "error"}
        if (sentence := next(_find_messages(rest), None)) is not None:
            message = sentence
            code = error[:200] if code is None and " " not in error else code
    kind, param = inner.get("type"), inner.get("param")
    kind = kind if isinstance(kind, str) and kind != "error" else None
    standard = isinstance(error, dict) and isinstance(error.get("message"), str) and bool(error["message"])
    return ProviderFailure(
        message[:MAX_MESSAGE],
        next((status for item in objects if (status := _status(item))), None)
        or (_STATUS_OF_MINIMAX.get(code) if "base_resp" in body and isinstance(code, int) else None)
        or _STATUS_OF_CODE.get(str(code).lower())
        or _STATUS_OF_CODE.get(str(kind).lower()),
        code,
        kind,
        param if isinstance(param, str) else None,
        inner.get("metadata"),
        plain=not standard,
        details=_details(body, error),
    )


def _error_objects(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Objects that may hold an error code, innermost first."""
    objects = [body]
    while len(objects) < _MAX_DEPTH:
        inside = (objects[0].get(key) for key in ("error", "errors", "detail"))
        found = next((value for value in inside if isinstance(value, dict | list) and value), None)
        if isinstance(found, list):
            found = found[0]
        if not isinstance(found, dict):
            break
        objects.insert(0, found)
    return objects


def _code(error: Mapping[str, Any]) -> str | int | None:
    for key in _CODES:
        code = error.get(key)
        if type(code) is int or (
            isinstance(code, str) and 0 < len(code) <= 200 and code not in _GENERIC_CODES
        ):
            return code
    nested = error.get("base_resp")
    return _code(nested) if isinstance(nested, dict) else None


def _status(error: Mapping[str, Any]) -> int | None:
    for key in _CODES:
        value = error.get(key)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    return None


def _details(body: Mapping[str, Any], error: Any) -> Any:
    """Everything except the message, code, type and parameter."""
    if isinstance(error, dict):
        rest = {**body, **error}
    else:
        rest = {
            key: value for key, value in body.items() if not isinstance(value, str) or key not in _MESSAGES
        }
    skipped = _STANDARD_KEYS | _ENVELOPE | ({"error"} if isinstance(error, dict | str) else set())
    rest = {key: value for key, value in rest.items() if key not in skipped and value is not None}
    return rest if rest and len(write(rest)) <= MAX_DETAILS else None


def _find_messages(value: Any, depth: int = 0) -> Iterator[str]:
    """All messages in a JSON value, the most likely one first."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        if value[:1] in "{[" and depth < _MAX_DEPTH and len(value) < MAX_DETAILS:
            with contextlib.suppress(NotJson):
                yield from _find_messages(read(value.encode("utf-8", "replace")).value, depth + 1)
        if text := readable(value):
            yield text
    elif isinstance(value, list):
        found = [message for item in value[:5] if (message := next(_find_messages(item, depth + 1), None))]
        if found:
            yield "; ".join(found)
    elif isinstance(value, dict):
        location = _location(value.get("loc"))
        for key in (*_MESSAGES, *_MESSAGE_ALIASES, *_NESTED):
            if value.get(key) and not isinstance(value[key], int | float):
                for text in _find_messages(value[key], depth + 1):
                    yield f"{location}: {text}" if location else text


def _location(loc: Any) -> str:
    """A FastAPI error location, as `messages.0.content`."""
    if not isinstance(loc, list):
        return ""
    names = [str(name) for name in loc[:10] if isinstance(name, str | int)]
    return ".".join(names[1:] if names[:1] == ["body"] and len(names) > 1 else names)


# -- text that is not JSON -----------------------------------------------------------------------------------


def readable(text: str) -> str:
    """Human-readable text: the message of an HTML page, empty for binary data."""
    text = text[: 4 * MAX_PLAIN_TEXT].strip().lstrip("\ufeff")
    if not text:
        return ""
    unprintable = sum(
        1 for letter in text if letter == "\ufffd" or (not letter.isprintable() and letter not in "\r\n\t")
    )
    if unprintable * 10 > len(text):
        return ""
    if unprintable:
        text = "".join(letter if letter.isprintable() or letter in "\r\n\t" else "\ufffd" for letter in text)
    if text.startswith("<"):
        return _html_message(text)
    return text


def _html_message(text: str) -> str:
    lower = text.lower()
    for tag in ("title", "message", "h1", "h2", "h3", "p"):
        message = _tag_text(text, lower, tag)
        if message:
            return f"The provider answered with a web page: {message}" if tag != "message" else message
    return _strip_tags(text)


def _tag_text(text: str, lower: str, tag: str) -> str:
    start = lower.find(f"<{tag}")
    begin = lower.find(">", start) + 1 if start >= 0 else 0
    end = lower.find(f"</{tag}", begin) if begin else -1
    return _strip_tags(text[begin:end]) if end > 0 else ""


def _strip_tags(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).replace("<", " ").split())[:500]


_TAG = re.compile(r"<[^<>]*>")
