"""Checks a request in the format of Google's Gemini API."""

import re
from typing import Any

from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import whole_number
from models.gateway.formats.body_checks import check, check_objects, object_of, text_size
from models.gateway.formats.gemini_request import NAME

MAX_OUTPUT_TOKENS = 1 << 31
_SNAKE = re.compile(r"_([a-z])")
_FREE = frozenset(
    {"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"}
)
"""Keys of the client's own objects, whose keys are not ours to spell."""
MAX_DEPTH = 8


def parse_gemini(body: Any, model: str, size: int, *, stream: bool) -> Call:
    """A JSON `body` of `size` bytes as a call. Like Google's server, accepts keys in snake_case. Raises BadCall."""
    body = camel_case(object_of(body))
    contents = body.get("contents")
    contents = [contents] if isinstance(contents, dict) else contents
    if isinstance(contents, str):
        contents = [{"role": "user", "parts": [{"text": contents}]}]
    if not isinstance(contents, list) or not contents:
        raise BadCall("'contents' must be a list with at least one content.", param="contents")
    body["contents"] = contents
    for key in ("systemInstruction", "toolConfig", "generationConfig"):
        if isinstance(body.get(key), str) and key == "systemInstruction":
            body[key] = {"parts": [{"text": body[key]}]}
        check(body, key, dict, "an object")
    check_objects(body, "tools")
    parts = [part for at, content in enumerate(contents) for part in _parts(content, f"contents[{at}]")]
    if (system := body.get("systemInstruction")) is not None:
        _parts(system, "systemInstruction")
    config = body.get("generationConfig") or {}
    for key in ("temperature", "topP", "topK"):
        check(config, key, int | float, "a number")
    check(config, "stopSequences", list, "a list of strings")
    if config.get("candidateCount") not in (None, 1):
        raise BadCall(
            "'candidateCount' must be 1: send the request as often as you want answers.",
            param="candidateCount",
        )
    input_tokens, text_bytes = text_size(parts, size)
    return Call(
        model=model,
        stream=stream,
        n=1,
        max_output=whole_number(config, "maxOutputTokens", MAX_OUTPUT_TOKENS),
        input_tokens=input_tokens,
        text_bytes=text_bytes,
        body=body,
        wants_usage=True,
        format=NAME,
    )


def _parts(content: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(content, dict):
        raise BadCall(f"'{name}' must be an object with 'parts'.", param=name)
    parts = content.get("parts")
    if isinstance(parts, dict):
        parts = content["parts"] = [parts]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise BadCall(f"'{name}.parts' must be a list of objects.", param=f"{name}.parts")
    if not all(isinstance(part.get("text") or "", str) for part in parts):
        raise BadCall(f"A 'text' in '{name}.parts' must be a string.", param=f"{name}.parts")
    return parts


def camel_case(value: Any, depth: int = 0) -> Any:
    """The value with its keys in camelCase, except in the client's own objects."""
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [camel_case(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        name = _SNAKE.sub(lambda match: match[1].upper(), key)
        found[name] = inner if name in _FREE else camel_case(inner, depth + 1)
    return found
