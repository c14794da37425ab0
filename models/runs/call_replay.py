"""Builds the request of a stored call as JSON, and as a curl command that sends it again."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.gateway import GatewayCall
from models.gateway.chat_format import CONVERSATION
from models.runs.call_definitions import KINDS, cut_of

MAX_INLINE = 48 << 10
"""Longest request that is part of the command, in bytes; the command reads a longer one from a file."""
NOT_SENT = frozenset(
    (
        "tools",
        "functions",
        "tool_choice",
        "tools_total",
        "functions_total",
        "other",
        "response_format",
        "client",
    )
)
PLAIN_FORMATS = ("text", "json_object")
PLAIN_CHOICES = ("auto", "none", "required")
IGNORED = CONVERSATION | {"codebuff_metadata"}
"""Keys that another call does not need, or whose value is in its messages."""
_UNSAFE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that a terminal may act upon, or that are invisible."""


@dataclass(frozen=True)
class CallReplay:
    """A request to send again. `body` is its JSON on several lines; `missing` names what is not in it, because it was not kept."""

    body: str
    missing: Sequence[str]


def replay_of(call: GatewayCall, request: Any, definitions: Mapping[str, Any] | None) -> CallReplay | None:
    """The request of a call, from its messages and definitions as stored; None if its messages were not kept."""
    messages = _messages(request)
    if not messages:
        return None
    stored = call.parameters or {}
    body: dict[str, Any] = {
        "model": call.requested_model,
        "messages": [each for each in messages if not _is_note(each)],
    }
    body |= {key: value for key, value in stored.items() if key not in NOT_SENT}
    if stored.get("response_format") in PLAIN_FORMATS:
        body["response_format"] = {"type": stored["response_format"]}
    body |= _defined(stored, definitions or {})
    missing = [f"{messages[0].get('content', '')}".split(":")[0]] if _is_note(messages[0]) else []
    missing += _undefined(stored, definitions or {}, body)
    other = stored.get("other")
    missing += [key for key in other if key not in IGNORED] if isinstance(other, list) else []
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
    return CallReplay(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), missing)


def curl_command(base_url: str, body: str | None, file: str = "") -> str:
    """A command for a POSIX shell that sends the request to this server, with the key in $STOA_KEY. `body` is its JSON,
    or None: read it from `file`."""
    head = [
        f"curl {shlex.quote(base_url + '/v1/chat/completions')}",
        '  -H "Authorization: Bearer $STOA_KEY"',
        "  -H 'Content-Type: application/json'",
    ]
    if body is None:
        return " \\\n".join([*head, f"  --data-binary @{shlex.quote(file)}"])
    # no line of JSON is the delimiter: its texts have no line breaks
    return " \\\n".join([*head, "  --data-binary @- <<'JSON'"]) + f"\n{body}\nJSON"


def _defined(stored: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions of the request, and the choice among its tools."""
    found = {key: definitions[key] for key in KINDS if key in definitions}
    if "tools" in found and "tool_choice" not in found and stored.get("tool_choice") in PLAIN_CHOICES:
        found["tool_choice"] = stored["tool_choice"]
    return found


def _undefined(
    stored: Mapping[str, Any], definitions: Mapping[str, Any], body: Mapping[str, Any]
) -> list[str]:
    """What the request defined beyond its body: keys, or how many of a key."""
    cut = cut_of(definitions)
    partly = [f"{number} of the {key}" for key, number in cut.items() if key in body]
    names = ("tools", "functions", "tool_choice", "response_format")
    return partly + [key for key in names if (stored.get(key) or key in cut) and key not in body]


def _messages(request: Any) -> list[Any]:
    if isinstance(request, list) and len(request) == 1 and _is_body(request[0]):
        (request,) = request
    if isinstance(request, Mapping):
        request = request.get("messages")
    return request if isinstance(request, list) else []


def _is_body(value: Any) -> bool:
    """Whether it is the whole of a request, which was invalid, rather than a message."""
    return isinstance(value, dict) and "role" not in value


def _is_note(message: Any) -> bool:
    """Whether the message stands for those that were not stored (`newest_messages`)."""
    return isinstance(message, dict) and message.get("role") == "note"
