"""A provider's error, in whatever form it comes: one readable sentence, its status and code, and the rest as details."""

import contextlib
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from models.gateway.chat_format.call import ProviderFailure
from models.gateway.lenient_json import NotJson, read, write

MOST_WORDS = 2000
"""Characters of a message."""
MOST_PLAIN = 4000
"""Characters of a plain text that is passed on as it is."""
MOST_DETAILS = 8000
"""Bytes of details."""
_LEVELS = 6

_MESSAGES = ("message", "error_message", "errorMessage", "error_msg", "errorMsg", "msg", "detail", "details")
_MORE_MESSAGES = (
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
_NO_CODES = ("error", "fail", "failed", "failure")
_TOLD = frozenset({"message", "code", "type", "param", "metadata"})
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "provider", "choices", "usage", "system_fingerprint"}
)

_STATUS_OF_MINIMAX = {1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 2013: 400, 2049: 401}
"""What the codes in a `base_resp` mean, which comes with a 200."""
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


def failure_of(body: Any, *, refused: bool = False) -> ProviderFailure | None:
    """The error that a chunk or an answer is instead of content, else None. `refused`: its status or its event's name
    has said already that it is one."""
    if isinstance(body, dict):
        error = body.get("error")
        if error or refused or (not body.get("choices") and _looks_like_one(body)):
            return _failure(body, error)
    elif isinstance(body, list) and len(body) < 100:
        found = (failure_of(item, refused=refused) for item in body if isinstance(item, dict))
        return next((failure for failure in found if failure), None)
    elif refused and isinstance(body, str) and body.strip():
        return ProviderFailure(readable(body)[:MOST_WORDS], plain=True)
    return None


def failure_in(raw: bytes, *, refused: bool = True) -> ProviderFailure | None:
    """The error that a body tells of: JSON and, where its status has said that it is one, a web page or plain text.
    None when it says nothing."""
    try:
        body = read(raw).value
    except NotJson:
        body = _cut_off(raw)
    failure = failure_of(body, refused=refused)
    if not refused or (failure is not None and (failure.message != SILENT or failure.code is not None)):
        return failure
    if isinstance(body, dict) and "error" in body:
        return None
    text = readable(raw.decode("utf-8", "replace"))[:MOST_PLAIN]
    return ProviderFailure(text, plain=True) if text and text not in ("{}", "[]", "null", '""') else None


def _cut_off(raw: bytes) -> Any:
    """What the beginning of a JSON object says that is too long, or was not sent to its end."""
    text = raw.decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    found = _BEGUN.search(text) if text[:1] in ("{", "[") else None
    if found is None:
        return None
    return {"message": read(f'"{found["text"]}"'.encode()).value}


_BEGUN = re.compile(
    r'"(?:message|msg|detail|error)"\s*:\s*"(?P<text>(?:[^"\\]|\\["\\/bfnrt]|\\u[\da-fA-F]{4}){0,2000})'
)
SILENT = "The provider reported an error."


def _looks_like_one(body: Mapping[str, Any]) -> bool:
    """Whether a JSON object without choices is an error that is not called `error`."""
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
    places = _places(body)
    message = next(_sentences(error), None) or next(_sentences(body), None) or SILENT
    code = next((code for place in places if (code := _code(place)) is not None), None)
    if isinstance(error, str):
        # a word for programs beside a sentence for people
        rest = {key: value for key, value in body.items() if key != "error"}
        if (said := next(_sentences(rest), None)) is not None:
            message = said
            code = error[:200] if code is None and " " not in error else code
    kind, param = inner.get("type"), inner.get("param")
    kind = kind if isinstance(kind, str) and kind != "error" else None
    usual = isinstance(error, dict) and isinstance(error.get("message"), str) and bool(error["message"])
    return ProviderFailure(
        message[:MOST_WORDS],
        next((status for place in places if (status := _status(place))), None)
        or (_STATUS_OF_MINIMAX.get(code) if "base_resp" in body and isinstance(code, int) else None)
        or _STATUS_OF_CODE.get(str(code).lower())
        or _STATUS_OF_CODE.get(str(kind).lower()),
        code,
        kind,
        param if isinstance(param, str) else None,
        inner.get("metadata"),
        plain=not usual,
        details=_details(body, error),
    )


def _places(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where a code may stand, the innermost object first."""
    places = [body]
    while len(places) < _LEVELS:
        inside = (places[0].get(key) for key in ("error", "errors", "detail"))
        found = next((value for value in inside if isinstance(value, dict | list) and value), None)
        if isinstance(found, list):
            found = found[0]
        if not isinstance(found, dict):
            break
        places.insert(0, found)
    return places


def _code(place: Mapping[str, Any]) -> str | int | None:
    for key in _CODES:
        code = place.get(key)
        if type(code) is int or (isinstance(code, str) and 0 < len(code) <= 200 and code not in _NO_CODES):
            return code
    deeper = place.get("base_resp")
    return _code(deeper) if isinstance(deeper, dict) else None


def _status(place: Mapping[str, Any]) -> int | None:
    for key in _CODES:
        value = place.get(key)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    return None


def _details(body: Mapping[str, Any], error: Any) -> Any:
    """What the message, code, type and parameter do not tell."""
    if isinstance(error, dict):
        rest = {**body, **error}
    else:
        rest = {
            key: value for key, value in body.items() if not isinstance(value, str) or key not in _MESSAGES
        }
    told = _TOLD | _ENVELOPE | ({"error"} if isinstance(error, dict | str) else set())
    rest = {key: value for key, value in rest.items() if key not in told and value is not None}
    return rest if rest and len(write(rest)) <= MOST_DETAILS else None


def _sentences(value: Any, level: int = 0) -> Iterator[str]:
    """The messages that a JSON value holds, the most likely one first."""
    if level > _LEVELS:
        return
    if isinstance(value, str):
        if value[:1] in "{[" and level < _LEVELS and len(value) < MOST_DETAILS:
            with contextlib.suppress(NotJson):
                yield from _sentences(read(value.encode("utf-8", "replace")).value, level + 1)
        if text := readable(value):
            yield text
    elif isinstance(value, list):
        found = [said for item in value[:5] if (said := next(_sentences(item, level + 1), None))]
        if found:
            yield "; ".join(found)
    elif isinstance(value, dict):
        place = _place(value.get("loc"))
        for key in (*_MESSAGES, *_MORE_MESSAGES, *_NESTED):
            if value.get(key) and not isinstance(value[key], int | float):
                for text in _sentences(value[key], level + 1):
                    yield f"{place}: {text}" if place else text


def _place(loc: Any) -> str:
    """Where FastAPI found a fault, as `messages.0.content`."""
    if not isinstance(loc, list):
        return ""
    names = [str(name) for name in loc[:10] if isinstance(name, str | int)]
    return ".".join(names[1:] if names[:1] == ["body"] and len(names) > 1 else names)


# -- text that is no JSON ------------------------------------------------------------------------------------


def readable(text: str) -> str:
    """A text as a person can read it: of a web page what it says, of bytes that are no text nothing."""
    text = text[: 4 * MOST_PLAIN].strip().lstrip("\ufeff")
    if not text:
        return ""
    strange = sum(
        1 for letter in text if letter == "\ufffd" or (not letter.isprintable() and letter not in "\r\n\t")
    )
    if strange * 10 > len(text):
        return ""
    if strange:
        text = "".join(letter if letter.isprintable() or letter in "\r\n\t" else "\ufffd" for letter in text)
    if text.startswith("<"):
        return _of_page(text)
    return text


def _of_page(text: str) -> str:
    lower = text.lower()
    for tag in ("title", "message", "h1", "h2", "h3", "p"):
        said = _inside(text, lower, tag)
        if said:
            return f"The provider answered with a web page: {said}" if tag != "message" else said
    return _without_tags(text)


def _inside(text: str, lower: str, tag: str) -> str:
    start = lower.find(f"<{tag}")
    begin = lower.find(">", start) + 1 if start >= 0 else 0
    end = lower.find(f"</{tag}", begin) if begin else -1
    return _without_tags(text[begin:end]) if end > 0 else ""


def _without_tags(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).replace("<", " ").split())[:500]


_TAG = re.compile(r"<[^<>]*>")
