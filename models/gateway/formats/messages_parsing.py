"""Checks a request in the format of Anthropic's Messages API."""

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
from models.gateway.formats.messages_request import NAME

MAX_OUTPUT_TOKENS = 1 << 31
ROLES = ("user", "assistant", "system")


def parse_messages(body: Any, size: int, *, limit_required: bool = True) -> Call:
    """A JSON `body` of `size` bytes as a call. Unknown keys and blocks are accepted: they are passed on, or left out and named.
    Raises BadCall."""
    body = object_of(body)
    model = model_of(body)
    check(body, "stream", bool, "true or false")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadCall("'messages' must be a list with at least one message.", param="messages")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadCall(f"'{name}' must be an object whose 'role' is user or assistant.", param=name)
        check_content(message.get("content"), f"{name}.content")
    check_content(body.get("system"), "system")
    check_objects(body, "tools")
    for key in ("temperature", "top_p"):
        check(body, key, int | float, "a number")
    check(body, "top_k", int, "a whole number")
    for key in ("thinking", "metadata", "output_config", "output_format", "tool_choice"):
        check(body, key, dict, "an object")
    check(body, "stop_sequences", list, "a list of strings")
    if not all(isinstance(item, str) for item in body.get("stop_sequences") or ()):
        raise BadCall("'stop_sequences' must be a list of strings.", param="stop_sequences")
    limit = whole_number(body, "max_tokens", MAX_OUTPUT_TOKENS)
    if limit is None and limit_required:
        raise BadCall(
            "'max_tokens' is missing: set it to the most tokens the answer may have.", param="max_tokens"
        )
    contents = [block for message in messages for block in _blocks(message.get("content"))]
    input_tokens, text_bytes = text_size(contents, size)
    return Call(
        model=model,
        stream=body.get("stream") is True,
        n=1,
        max_output=limit,
        input_tokens=input_tokens,
        text_bytes=text_bytes,
        body=body,
        wants_usage=True,
        format=NAME,
    )


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []
