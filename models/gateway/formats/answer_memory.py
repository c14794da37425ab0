"""Remembers what proves the reasoning before a call of a tool, for clients that do not return it with the result.

Gemini 3 refuses a history whose calls lost their signatures; Claude and GPT models answer worse without their reasoning. The memory is
that of this process: a turn that another worker answered goes on without it, as it does everywhere else.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from models.gateway.conversation import (
    Answer,
    Conversation,
    ConversationMessage,
    Part,
    ReasoningPart,
    ToolCallPart,
)

MAX_BYTES = 32 << 20
MAX_ENTRY = 256 << 10
"""Characters of reasoning that are kept for one call."""


@dataclass(frozen=True, slots=True)
class _Entry:
    reasoning: tuple[ReasoningPart, ...]
    signature: str | None
    size: int


class AnswerMemory:
    """Reasoning by caller and call of a tool; the oldest is dropped beyond `MAX_BYTES`. Thread-safe."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def remember(self, caller: str, answer: Answer) -> None:
        """Keep the proven reasoning of an answer with its first call, and each call's own signature."""
        reasoning = tuple(
            part
            for part in answer.parts
            if isinstance(part, ReasoningPart) and (part.signature or part.encrypted)
        )
        for part in answer.parts:
            if isinstance(part, ToolCallPart) and part.id and (reasoning or part.signature):
                self._keep((caller, part.id), reasoning, part.signature)
                reasoning = ()

    def restore(self, caller: str, conversation: Conversation) -> None:
        """Add what is remembered to the calls that came back without it."""
        if not self._entries:
            return
        for at, message in enumerate(conversation.messages):
            if message.role == "assistant" and any(message.of(ToolCallPart)):
                conversation.messages[at] = self._restored(caller, message)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _restored(self, caller: str, message: ConversationMessage) -> ConversationMessage:
        parts: list[Part] = []
        proven = any(part.signature or part.encrypted for part in message.of(ReasoningPart))
        for part in message.parts:
            entry = self._entries.get((caller, part.id)) if isinstance(part, ToolCallPart) else None
            if entry is None or not isinstance(part, ToolCallPart):
                parts.append(part)
                continue
            if entry.reasoning and not proven:
                parts = [each for each in parts if not isinstance(each, ReasoningPart)]
                parts = [*entry.reasoning, *parts]
            parts.append(part if part.signature else replace(part, signature=entry.signature))
        return replace(message, parts=tuple(parts))

    def _keep(
        self, key: tuple[str, str], reasoning: tuple[ReasoningPart, ...], signature: str | None
    ) -> None:
        size = len(signature or "") + sum(
            len(part.text) + len(part.signature or "") + len(part.encrypted or "") for part in reasoning
        )
        if size > MAX_ENTRY:
            return
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self._size -= old.size
            self._entries[key] = _Entry(reasoning, signature, size)
            self._size += size
            while self._size > MAX_BYTES:
                _, dropped = self._entries.popitem(last=False)
                self._size -= dropped.size


MEMORY = AnswerMemory()
