"""Parses the stored request and response of a call into conversation turns for its page.

Clients and models wrote this JSON, so any shape is accepted, and long texts are truncated for display.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CHARS = 40_000
MAX_PARTS = 50
MEDIA = {
    "image_url": "Image",
    "input_image": "Image",
    "image": "Image",
    "input_audio": "Audio",
    "audio": "Audio",
    "video_url": "Video",
    "document": "Document",
    "file": "File",
}
"""Types of parts that are media, which are also the keys of what they hold."""
NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True)
class MessagePart:
    """A part of a turn: `text`, `reasoning`, `call` (of the tool `title`), `result` of a tool call, or `media`, which is not shown
    and is named by `title`.

    `length` is the number of characters before truncation, of media about the number of bytes; 0 if unknown.
    """

    kind: str
    text: str
    length: int
    title: str = ""

    @property
    def truncated(self) -> bool:
        """Whether `text` is only the beginning."""
        return self.length > len(self.text)


@dataclass(frozen=True)
class ConversationTurn:
    """One message: its `role`, its parts, and in `title` the author's name or the tool call it answers."""

    role: str
    parts: Sequence[MessagePart]
    title: str = ""

    @property
    def length(self) -> int:
        """Number of characters in all parts before truncation."""
        return sum(part.length for part in self.parts)

    @property
    def preview(self) -> str:
        """The beginning of the text, for a collapsed turn."""
        first = next((part for part in self.parts if part.text.strip()), None)
        if first is None:
            return ""
        text = " ".join(first.text[:400].split())
        text = f"{first.title} {text}" if first.kind == "call" else text
        return text if len(text) <= 120 else text[:119] + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Transcript:
    """The turns of a call. `request` and `response` are None where the body was not stored. `omitted` counts the
    request's messages before the first turn."""

    request: Sequence[ConversationTurn] | None
    response: Sequence[ConversationTurn] | None
    omitted: int = 0


def transcript(request: Any, total: int, response: Any, reasoning: str | None) -> Transcript:
    """Build the transcript of a call from its stored bodies. `request` is the last of `total` messages, or None."""
    messages = [] if request is None else _messages(request)
    turns = None if request is None else [_turn(message, tools=_tool_names(messages)) for message in messages]
    return Transcript(turns, _response_turns(response, reasoning), max(0, total - len(turns or ())))


def text_of(turns: Sequence[ConversationTurn]) -> str:
    """The text of the turns, without reasoning and tool calls."""
    return "\n".join(part.text for turn in turns for part in turn.parts if part.kind == "text")


def text_or_calls(turns: Sequence[ConversationTurn]) -> str:
    """The text of an answer or, of one without text, the tools that it calls with their arguments."""
    calls = (f"{part.title} {part.text}" for turn in turns for part in turn.parts if part.kind == "call")
    return text_of(turns) or "\n".join(calls)


def _tool_names(messages: Sequence[Any]) -> Mapping[str, str]:
    """The names of the tools that the messages call, by the id of the call."""
    names = {}
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls[:MAX_PARTS] if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str) and isinstance(call.get("id"), str):
                names[call["id"]] = name
    return names


def _messages(request: Any) -> list[Any]:
    if isinstance(request, list) and len(request) == 1 and isinstance(request[0], dict):
        request = request[0].get("messages", request)
    return request if isinstance(request, list) else [request]


def _response_turns(response: Any, reasoning: str | None) -> list[ConversationTurn] | None:
    """Return one turn per choice, None if nothing was stored. An empty response is an empty turn."""
    if response is None and not reasoning:
        return None
    choices = _choices(response)
    turns = [
        _turn(choice if isinstance(choice, dict) else {"content": choice}, "assistant") for choice in choices
    ]
    if reasoning:
        first = turns[0] if turns else ConversationTurn("assistant", [])
        if not any(part.kind == "reasoning" for part in first.parts):
            turns[:1] = [
                ConversationTurn(first.role, [_part("reasoning", reasoning), *first.parts], first.title)
            ]
    return turns


def _choices(response: Any) -> list[Any]:
    if isinstance(response, dict) and isinstance(response.get("choices"), list):
        response = response["choices"]
    if isinstance(response, str) and response.startswith('["'):
        response = _texts_of(response)
    choices = response if isinstance(response, list) else [response]
    return [
        choice["message"] if isinstance(choice, dict) and isinstance(choice.get("message"), dict) else choice
        for choice in choices[:MAX_PARTS]
    ]


def _texts_of(text: str) -> Any:
    """Parse several choices, stored as the text of a JSON array (contract 5.5). Returns other text unchanged."""
    try:
        texts = json.loads(text)
    except ValueError:
        return text
    return texts if all(isinstance(item, str) for item in texts) else text


def _turn(message: Any, role: str = "user", *, tools: Mapping[str, str] = NO_NAMES) -> ConversationTurn:
    if not isinstance(message, dict):
        return ConversationTurn(role, _content(message))
    if message and not message.keys() & {"role", "content", "tool_calls", "function_call"}:
        # not a message, but the body of an invalid request
        return ConversationTurn("other", [_part("text", _pretty(message))])
    given_role = message.get("role")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    parts = [_part("reasoning", reasoning)] if isinstance(reasoning, str) and reasoning else []
    parts += _content(message.get("content"))
    calls = message.get("tool_calls")
    for call in calls[:MAX_PARTS] if isinstance(calls, list) else ():
        parts.append(_tool_call(call))
    if isinstance(message.get("function_call"), dict):
        parts.append(_tool_call({"function": message["function_call"]}))
    answered = message.get("tool_call_id")
    title = message.get("name") or (tools.get(answered) if isinstance(answered, str) else None) or answered
    return ConversationTurn(
        role if given_role is None else _short(given_role),
        parts,
        _short(title) if title else "",
    )


def _content(content: Any) -> list[MessagePart]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [_part("text", content)]
    if isinstance(content, list):
        return [_content_part(part) for part in content[:MAX_PARTS]]
    return [_content_part(content)]


def _content_part(content: Any) -> MessagePart:
    if isinstance(content, str):
        return _part("text", content)
    if isinstance(content, dict):
        kind = content.get("type")
        text = content.get("text")
        if isinstance(text, str):
            return _part("reasoning" if kind in ("thinking", "reasoning") else "text", text)
        if kind == "thinking" and isinstance(content.get("thinking"), str):
            return _part("reasoning", content["thinking"])
        if kind == "tool_use":
            return _part("call", _pretty(content.get("input")), _short(content.get("name") or "tool"))
        if kind == "tool_result":
            result = content.get("content")
            return _part("result", result if isinstance(result, str) else _pretty(result))
        if kind in MEDIA:
            return _media(content, MEDIA[kind])
    return _part("text", _pretty(content))


def _media(content: Mapping[str, Any], name: str) -> MessagePart:
    """A placeholder with the kind of media, its type or file name, and its host or size."""
    inner: Any = next((content[key] for key in MEDIA if isinstance(content.get(key), dict | str)), content)
    if isinstance(inner, str):
        inner = {"url": inner}
    source: Any = inner.get("source") if isinstance(inner.get("source"), dict) else inner
    values = [source.get(key) for key in ("url", "file_data", "data")]
    data = next((value for value in values if isinstance(value, str) and value), "")
    kind = source.get("media_type") or source.get("format")
    if data.startswith(("http://", "https://")):
        host = data.split("/", 3)[2][:100]
        return MessagePart("media", "", 0, f"{name} at {host}")
    if data.startswith("data:") and "," in data:
        kind, _, data = data[5:].partition(",")
        kind = kind.split(";")[0]
    label = " ".join(_short(each) for each in (inner.get("filename"), kind) if isinstance(each, str) and each)
    return MessagePart("media", "", len(data) * 3 // 4, f"{name}, {label}" if label else name)


def _tool_call(call: Any) -> MessagePart:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return _part("call", _pretty(call), "tool")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return _part("call", arguments, _short(function.get("name") or "tool"))
    return _part("call", _pretty(arguments), _short(function.get("name") or "tool"))


def _pretty(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except RecursionError:
        return str(type(value).__name__)


def _part(kind: str, text: str, title: str = "") -> MessagePart:
    return MessagePart(kind, text[:MAX_CHARS], len(text), title)


def _short(value: Any) -> str:
    return str(value)[:120]
