"""What was said in a call: request messages and answer as turns, whatever JSON the client sent.

Everything here was written by clients and models. Nothing is trusted to have a shape, and every text is cut at a
length a page can bear.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_CHARS = 40_000
MAX_PARTS = 50
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "note")


@dataclass(frozen=True)
class MessagePart:
    """A piece of a turn: `text`, `reasoning`, `call` (of a tool, named by `title`) or `media` that is not shown.

    `length` is the number of characters before cutting.
    """

    kind: str
    text: str
    length: int
    title: str = ""

    @property
    def cut(self) -> bool:
        """Whether `text` is only the beginning."""
        return self.length > len(self.text)


@dataclass(frozen=True)
class ConversationTurn:
    """One message: who speaks (`role`), the tool it answers for (`title`), and its parts."""

    role: str
    parts: Sequence[MessagePart]
    title: str = ""

    @property
    def length(self) -> int:
        """Characters in all parts before cutting."""
        return sum(part.length for part in self.parts)

    @property
    def opening(self) -> str:
        """The first words, for a folded turn."""
        first = next((part for part in self.parts if part.text.strip()), None)
        if first is None:
            return ""
        words = " ".join(first.text[:400].split())
        words = f"{first.title} {words}" if first.kind == "call" else words
        return words if len(words) <= 120 else words[:119] + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Transcript:
    """The turns of a call. `asked` is None when the request was not kept, `answers` when the answer was not;
    `earlier` messages of the request were left out before the first turn."""

    asked: Sequence[ConversationTurn] | None
    answers: Sequence[ConversationTurn] | None
    earlier: int = 0


def transcript(request: Any, total: int, response: Any, reasoning: str | None) -> Transcript:
    """The turns of a call from its kept bodies: `request` is the last of `total` messages, or None."""
    asked = None if request is None else [_turn(message) for message in _messages(request)]
    return Transcript(asked, _answers(response, reasoning), max(0, total - len(asked or ())))


def _messages(request: Any) -> list[Any]:
    if isinstance(request, list) and len(request) == 1 and isinstance(request[0], dict):
        request = request[0].get("messages", request)
    return request if isinstance(request, list) else [request]


def _answers(response: Any, reasoning: str | None) -> list[ConversationTurn] | None:
    """One turn, or one for each choice. Nothing kept is None; an answer without words is an empty turn."""
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
    """Several choices are kept as the text of a JSON array (contract 5.5); anything else stays as it is."""
    try:
        texts = json.loads(text)
    except ValueError:
        return text
    return texts if all(isinstance(item, str) for item in texts) else text


def _turn(message: Any, role: str = "user") -> ConversationTurn:
    if not isinstance(message, dict):
        return ConversationTurn(role, _content(message))
    named = message.get("role")
    said = message.get("reasoning") or message.get("reasoning_content")
    parts = [_part("reasoning", said)] if isinstance(said, str) and said else []
    parts += _content(message.get("content"))
    calls = message.get("tool_calls")
    for call in calls[:MAX_PARTS] if isinstance(calls, list) else ():
        parts.append(_tool_call(call))
    if isinstance(message.get("function_call"), dict):
        parts.append(_tool_call({"function": message["function_call"]}))
    title = message.get("name") or message.get("tool_call_id")
    return ConversationTurn(
        named if isinstance(named, str) and named in ROLES else role if named is None else _short(named),
        parts,
        _short(title) if title else "",
    )


def _content(content: Any) -> list[MessagePart]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [_part("text", content)]
    if isinstance(content, list):
        return [_piece(piece) for piece in content[:MAX_PARTS]]
    return [_piece(content)]


def _piece(piece: Any) -> MessagePart:
    if isinstance(piece, str):
        return _part("text", piece)
    if isinstance(piece, dict):
        kind = piece.get("type")
        text = piece.get("text")
        if isinstance(text, str):
            return _part("reasoning" if kind in ("thinking", "reasoning") else "text", text)
        if kind in ("image_url", "input_image", "image", "input_audio", "audio", "file", "video_url"):
            size = len(json.dumps(piece, ensure_ascii=False))
            return MessagePart("media", "", size, _short(kind).replace("_", " "))
    return _part("text", _pretty(piece))


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
