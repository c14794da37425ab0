"""A turn of a conversation as entered: models, system prompt, tools, parameters, the messages so far and the new one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.core.errors import Invalid

SIDES = ("a", "b")
"""Two models may answer side by side, each in its own conversation."""
EFFORTS = ("minimal", "low", "medium", "high")
MAX_TEXT = 200_000
"""Characters of the system prompt, of the tools and of a message."""
MAX_CONVERSATION = 1_000_000
MAX_MESSAGES = 200
MAX_MODEL = 256
MAX_OUTPUT = 1_000_000
ROLES = ("user", "assistant", "tool")

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PlaygroundTurn:
    """`models` and `conversations` are by side; the second side is empty without a second model. `agent` is where the settings came from."""

    models: Mapping[str, str]
    conversations: Mapping[str, Conversation]
    prompt: str
    system: str = ""
    tools: Sequence[Any] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    effort: str = ""

    @property
    def sides(self) -> list[str]:
        """The sides that have a model."""
        return [side for side in SIDES if self.models.get(side)]

    def messages(self, side: str) -> list[Any]:
        """The conversation with the new message. After tool calls the message is the result of each."""
        before = list(self.conversations.get(side, ()))
        calls = before[-1].get("tool_calls") if before else None
        if calls:
            return before + [
                {"role": "tool", "tool_call_id": str(call.get("id", "")), "content": self.prompt}
                for call in calls
            ]
        return [*before, {"role": "user", "content": self.prompt}]

    def body(self, side: str) -> dict[str, Any]:
        """The request of one side, as `/v1/chat/completions` takes it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: dict[str, Any] = {"model": self.models[side], "messages": [*system, *self.messages(side)]}
        if self.tools:
            body["tools"] = list(self.tools)
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_completion_tokens"] = self.max_tokens
        if self.effort:
            body["reasoning_effort"] = self.effort
        return body


def read_turn(values: Mapping[str, str]) -> PlaygroundTurn:
    """The turn in a form. Raises Invalid with a message by field."""
    errors: dict[str, str] = {}
    models = {side: _model(values, side, errors) for side in SIDES}
    turn = PlaygroundTurn(
        models=models,
        conversations={side: _conversation(values.get(f"conversation_{side}", ""), errors) for side in SIDES},
        prompt=_text(values, "prompt", errors),
        system=_text(values, "system", errors),
        tools=_tools(values.get("tools", ""), errors),
        temperature=_temperature(values.get("temperature", ""), errors),
        max_tokens=_max_tokens(values.get("max_tokens", ""), errors),
        effort=values.get("effort", ""),
    )
    if not turn.prompt.strip() and "prompt" not in errors:
        errors["prompt"] = "Enter a message."
    if turn.effort not in ("", *EFFORTS):
        errors["effort"] = "Choose an effort from the list."
    if errors:
        raise Invalid(next(iter(errors.values())), fields=errors)
    return turn


def _model(values: Mapping[str, str], side: str, errors: dict[str, str]) -> str:
    name = values.get(f"model_{side}", "").strip()
    if len(name) > MAX_MODEL or not name.isprintable():
        errors[f"model_{side}"] = "Choose a model from the list."
    elif not name and side == "a":
        errors["model_a"] = "Choose a model."
    return name


def _text(values: Mapping[str, str], name: str, errors: dict[str, str]) -> str:
    text = values.get(name, "").replace("\r\n", "\n")
    if len(text) > MAX_TEXT:
        errors[name] = f"Enter at most {MAX_TEXT:,} characters."
    return text.replace("\0", "")


def _conversation(text: str, errors: dict[str, str]) -> Conversation:
    """The messages that the page carries along. They are the user's own, so only their shape matters."""
    if not text:
        return []
    try:
        found = json.loads(text) if len(text) <= MAX_CONVERSATION else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) <= MAX_MESSAGES and all(map(_is_message, found)):
        return found
    errors["prompt"] = "This conversation is too long, or cannot be read. Start a new one."
    return []


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return False
    calls = message.get("tool_calls")
    return calls is None or (isinstance(calls, list) and plain_calls(calls) == calls)


def plain_calls(calls: Any) -> list[dict[str, Any]]:
    """The tool calls of an answer, which may have anything in them, with texts for id, name and arguments."""
    found = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts = {key: str(function.get(key) or "") for key in ("name", "arguments")}
            found.append({"id": str(call.get("id") or ""), "type": "function", "function": texts})
    return found


def _tools(text: str, errors: dict[str, str]) -> Sequence[Any]:
    if not text.strip():
        return []
    try:
        found = json.loads(text) if len(text) <= MAX_TEXT else None
    except (ValueError, RecursionError) as error:
        errors["tools"] = (
            f"This is no JSON: {error}." if isinstance(error, ValueError) else "This is no JSON."
        )
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        errors["tools"] = 'Enter a list of tools: [{"type": "function", "function": {"name": …}}].'
        return []
    return found


def _temperature(text: str, errors: dict[str, str]) -> float | None:
    plain = text.strip().replace(",", ".", 1)
    if not plain:
        return None
    digits = plain.replace(".", "", 1)
    if len(plain) <= 8 and digits.isascii() and digits.isdigit() and float(plain) <= 2:
        return float(plain)
    errors["temperature"] = "Enter a number from 0 to 2."
    return None


def _max_tokens(text: str, errors: dict[str, str]) -> int | None:
    plain = text.strip().replace(",", "")
    if not plain:
        return None
    if len(plain) <= 9 and plain.isascii() and plain.isdigit() and 1 <= int(plain) <= MAX_OUTPUT:
        return int(plain)
    errors["max_tokens"] = f"Enter 1 to {MAX_OUTPUT:,} tokens."
    return None
