"""A body of the Responses API on the path of chat completions, as Cursor sends it: answered in chat's shape."""

from dataclasses import replace
from typing import Any

from models.gateway.chat_format import BadCall, Call, chat_parsing
from models.gateway.dialects.dialect import IncomingRequest
from models.gateway.formats.chat_request import write_chat
from models.gateway.formats.responses_parsing import parse_responses
from models.gateway.formats.responses_request import read_responses
from models.gateway.response_state.response_items import references


def is_responses_body(body: Any) -> bool:
    """Whether a body is one of the Responses API."""
    return isinstance(body, dict) and "messages" not in body and "input" in body


def parse_as_chat(received: IncomingRequest) -> Call:
    """Such a body as a call of chat completions. Raises BadCall."""
    body: dict[str, Any] = received.body
    call = parse_responses(body, chat_parsing.size_of(received.raw))
    if body.get("previous_response_id") or references(body.get("input")):
        raise BadCall(
            "Kept responses are continued on /v1/responses. Here, send the whole conversation.",
            param="previous_response_id" if body.get("previous_response_id") else "input",
        )
    conversation = read_responses(body)
    options = body.get("stream_options")
    return replace(
        call,
        body={"model": call.model, **write_chat(conversation)},
        format="chat",
        original=body,
        left_out=tuple(conversation.left_out),
        wants_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )
