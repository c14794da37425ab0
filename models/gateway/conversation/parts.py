"""The normal form of a request: what every format of a conversation can say, and what only one of them can.

A format reads its body into a `Conversation` and writes one from it (`models/gateway/formats`), so that any client's format
can be sent to any provider's. Texts and tool arguments are kept as they are; a part that only one format knows is a
`NativePart`, which the others leave out and name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant"]
Effort = str


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text. `cache` is the cache mark after it, in Anthropic's form (`{"type": "ephemeral", "ttl"}`)."""

    text: str
    cache: Any = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image: a `data:` or an https URL. `detail` is OpenAI's."""

    url: str = field(repr=False)
    detail: str | None = None
    cache: Any = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Audio in base64, and its format (`wav`, `mp3`)."""

    data: str = field(repr=False)
    format: str = "wav"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document: a `data:` or an https URL, and its name."""

    url: str = field(repr=False)
    name: str | None = None
    cache: Any = None


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Reasoning of an earlier answer. `signature` or `encrypted` prove it to the vendor (`origin`: the format it came in), which
    alone can read it."""

    text: str = ""
    signature: str | None = field(default=None, repr=False)
    encrypted: str | None = field(default=None, repr=False)
    origin: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call of a tool by the model. `arguments` is JSON as the model wrote it, or any text if `custom`. `signature` is Gemini's
    thought signature, which must come back with the call."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str | None = None
    cache: Any = None


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool answered to the call `id`."""

    id: str
    parts: "tuple[Part, ...]"
    is_error: bool = False
    custom: bool = False
    cache: Any = None


@dataclass(frozen=True, slots=True)
class NativePart:
    """A part that only the format `origin` knows. `kind` names it in the list of what was left out."""

    origin: str
    kind: str
    value: Any = field(repr=False)


Part = (
    TextPart | ImagePart | AudioPart | FilePart | ReasoningPart | ToolCallPart | ToolResultPart | NativePart
)


@dataclass(frozen=True, slots=True)
class ConversationMessage:
    """One message. Results of tools are parts of a user's message."""

    role: Role
    parts: tuple[Part, ...]

    def of(self, *kinds: type) -> Iterator[Any]:
        """The parts of these kinds, in order."""
        return (part for part in self.parts if isinstance(part, kinds))


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool that the client runs: a function with a JSON `schema`, or `custom` with free text and its `grammar`."""

    name: str
    description: str | None = None
    schema: Any = None
    strict: bool | None = None
    custom: bool = False
    grammar: Any = None
    cache: Any = None


@dataclass(frozen=True, slots=True)
class NativeTool:
    """A tool that only the format `origin` knows: it runs at the vendor, or its schema is built into the model."""

    origin: str
    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`auto`, `none`, `required` (any tool) or `tool` (the one named)."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningRequest:
    """How much to reason. `effort`: minimal, low, medium, high, xhigh or max; `budget`: tokens; `enabled` False: not at all. `summary`: how
    much of it to show."""

    effort: str | None = None
    budget: int | None = None
    enabled: bool = True
    summary: str | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The form of the answer: any JSON, or JSON that follows `schema`."""

    schema: Any = None
    name: str = "answer"
    strict: bool | None = None


@dataclass(slots=True)
class Conversation:
    """A request in normal form. None: not given. `other` holds the keys that the reader's format alone knows; `left_out` names what
    the reader could not express."""

    messages: list[ConversationMessage]
    origin: str = ""
    tools: list[ToolDefinition | NativeTool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_output: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    reasoning: ReasoningRequest | None = None
    output: OutputFormat | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    user: str | None = None
    cache_key: str | None = None
    metadata: dict[str, str] | None = None
    stream: bool = False
    other: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, name: str) -> None:
        """Name something that cannot be expressed, once."""
        if name not in self.left_out:
            self.left_out.append(name)
