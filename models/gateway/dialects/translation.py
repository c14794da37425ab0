"""Translates a call from its client's format into a provider's."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.conversation import Conversation
from models.gateway.formats.wire_formats import WIRE_FORMATS


def translated(call: Call, target: str, read: Callable[[Mapping[str, Any]], Conversation]) -> Call:
    """The call with its body in the format `target`; unchanged if it is in that already. `read` reads the client's body. What the target
    cannot express is named in `left_out`."""
    if call.format == target:
        return call
    conversation = read(call.body)
    conversation.max_output = call.max_output
    body = {"model": call.model, **WIRE_FORMATS[target].write_request(conversation)}
    return replace(
        call,
        body=body,
        format=target,
        original=call.body,
        left_out=tuple(conversation.left_out),
        headers={},
    )
