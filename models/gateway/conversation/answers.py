"""The normal form of an answer: the events of a stream, and the parts they add up to."""

from dataclasses import dataclass, field
from typing import Literal

from models.gateway.conversation.parts import ReasoningPart, TextPart, ToolCallPart

StopReason = Literal["stop", "length", "tool_calls", "refusal", "stop_sequence", "pause", "context"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningProof:
    """What proves the reasoning before it to its vendor: a signature, or the reasoning itself, encrypted. `origin`: the vendor's format."""

    signature: str | None = None
    encrypted: str | None = None
    origin: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the tool call number `index`: the first one has its id and name."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    custom: bool = False
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerStop:
    """The end of the content, and why."""

    reason: StopReason
    sequence: str | None = None


AnswerEvent = TextDelta | ReasoningDelta | ReasoningProof | ToolCallDelta | AnswerStop
AnswerPart = TextPart | ReasoningPart | ToolCallPart


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    parts: list[AnswerPart] = field(default_factory=list)
    stop: AnswerStop | None = None


class AnswerBuilder:
    """Adds up the events of an answer. Parts appear in the order in which they began."""

    def __init__(self) -> None:
        self._open: list[AnswerEvent] = []
        self._texts: list[str] = []
        self._parts: list[AnswerPart | int] = []
        self._calls: dict[int, _OpenCall] = {}
        self._stop: AnswerStop | None = None

    def add(self, event: AnswerEvent) -> None:
        """Add an event."""
        if isinstance(event, TextDelta | ReasoningDelta):
            if self._open and type(self._open[0]) is not type(event):
                self._close()
            self._open = self._open or [event]
            self._texts.append(event.text)
        elif isinstance(event, ReasoningProof):
            self._close(event)
        elif isinstance(event, ToolCallDelta):
            self._close()
            self._add_call(event)
        else:
            self._stop = event

    def answer(self) -> Answer:
        """The answer so far."""
        self._close()
        parts = [self._calls[part].part() if isinstance(part, int) else part for part in self._parts]
        return Answer(parts, self._stop)

    def _add_call(self, event: ToolCallDelta) -> None:
        call = self._calls.get(event.index)
        if call is None:
            call = self._calls[event.index] = _OpenCall()
            self._parts.append(event.index)
        call.id = call.id or event.id
        call.name = call.name or event.name
        call.custom = call.custom or event.custom
        call.signature = call.signature or event.signature
        call.arguments.append(event.arguments)

    def _close(self, proof: ReasoningProof | None = None) -> None:
        """End the open text. A proof belongs to the reasoning before it, or stands alone (redacted reasoning)."""
        text, first = "".join(self._texts), self._open[0] if self._open else None
        self._open, self._texts = [], []
        if isinstance(first, TextDelta):
            self._parts.append(TextPart(text))
            text = ""
        if proof is not None:
            self._parts.append(ReasoningPart(text, proof.signature, proof.encrypted, proof.origin, proof.id))
        elif isinstance(first, ReasoningDelta):
            self._parts.append(ReasoningPart(text))


@dataclass(slots=True)
class _OpenCall:
    id: str | None = None
    name: str | None = None
    arguments: list[str] = field(default_factory=list)
    custom: bool = False
    signature: str | None = None

    def part(self) -> ToolCallPart:
        return ToolCallPart(
            self.id or "", self.name or "", "".join(self.arguments), self.custom, self.signature
        )
