"""Checks a request in the format of OpenAI's Responses API."""

from typing import Any

from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import whole_number
from models.gateway.formats.body_checks import (
    check,
    check_content,
    check_objects,
    model_of,
    object_of,
    text_size,
)
from models.gateway.formats.responses_request import NAME

MAX_OUTPUT_TOKENS = 1 << 31
_ELSEWHERE = {
    "conversation": "send it to POST /v1/responses",
    "prompt": "send the text of the prompt as 'instructions' and 'input'",
}
"""Keys that only turns of conversations have (`models/threads/response_turn.py`), and what to do instead."""
_OBJECTS = ("reasoning", "text", "metadata", "stream_options")


def parse_responses(body: Any, size: int) -> Call:
    """A JSON `body` of `size` bytes as a call. Unknown keys, items and tools are accepted: they are passed on, or left out and named.
    Raises BadCall."""
    body = object_of(body)
    model = model_of(body)
    for key in ("stream", "background", "parallel_tool_calls", "store"):
        check(body, key, bool, "true or false")
    if body.get("background"):
        raise BadCall("'background' is not served here: send it to POST /v1/responses.", param="background")
    for key, mend in _ELSEWHERE.items():
        if body.get(key) is not None:
            raise BadCall(f"'{key}' is not served here: {mend}.", param=key)
    check(body, "instructions", str, "a string")
    check_objects(body, "tools")
    for key in ("temperature", "top_p"):
        check(body, key, int | float, "a number")
    for key in _OBJECTS:
        check(body, key, dict, "an object")
    for key in ("user", "safety_identifier", "prompt_cache_key", "previous_response_id"):
        check(body, key, str, "a string")
    contents = _check_input(body.get("input"), continues=bool(body.get("previous_response_id")))
    input_tokens, text_bytes = text_size(contents, size)
    return Call(
        model=model,
        stream=body.get("stream") is True,
        n=1,
        max_output=whole_number(body, "max_output_tokens", MAX_OUTPUT_TOKENS),
        input_tokens=input_tokens,
        text_bytes=text_bytes,
        body=body,
        wants_usage=True,
        format=NAME,
    )


def _check_input(given: Any, *, continues: bool) -> list[Any]:
    """The parts of the input that may be media. A request that continues a response needs no input. Raises BadCall."""
    if continues and given in (None, "", []):
        return []
    if isinstance(given, str):
        if not given:
            raise BadCall("'input' is empty.", param="input")
        return []
    if not isinstance(given, list) or not given:
        raise BadCall("'input' must be a string, or a list with at least one item.", param="input")
    parts: list[Any] = []
    for index, item in enumerate(given):
        if not isinstance(item, dict):
            raise BadCall(f"'input[{index}]' must be an object.", param=f"input[{index}]")
        for key in ("content", "output"):
            if isinstance(item.get(key), list):
                check_content(item[key], f"input[{index}].{key}")
                parts += item[key]
        kind = item.get("type")
        if kind in (None, "message") and not isinstance(item.get("role"), str):
            raise BadCall(f"'input[{index}]' must have a 'role'.", param=f"input[{index}].role")
    return parts
