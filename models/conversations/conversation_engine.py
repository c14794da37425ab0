"""What answers the turns of conversations: the interface of an engine, and the engines of this server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from models.conversations.conversation import ProjectConversation
from models.core.errors import DomainError
from models.runners import Level, LevelUnavailable, Limits, level_state

if TYPE_CHECKING:
    from models.conversations.engine_session import EngineSession

AGENT = "conversation"
"""What runs of the builtin engine are called."""


class EngineMissing(DomainError):
    """This server has no such engine, or it is not set up."""

    status = 501
    code = "not_implemented"


@dataclass(frozen=True)
class EngineTool:
    """A tool that an engine adds to those of the workplace: its definition for chat completions, and what runs it. `run` gets the session
    and the arguments, an object, and returns a text for the model; it raises ToolFailed or DomainError with one. It is called outside of any
    transaction, one call after the other."""

    definition: Mapping[str, Any]
    run: Callable[["EngineSession", Mapping[str, Any]], str]
    seconds: float | None = None
    """How long it may take; None: as other tools of the server (STOA_TOOL_SECONDS)."""


@dataclass(frozen=True)
class EnginePlan:
    """How an engine answers a turn.

    With `rounds`: by the server's own loop of model calls and tools, with this `model` (None: the conversation's, or the server's),
    these `instructions` before the server's own text, and of the workplace's tools those named in `tools` (None: all), and `more_tools`.
    Without: `ConversationEngine.drive` does the work. `agent_id` is what its run is called, such as `publisher/agent@version`. `socket`: the
    workplace gets the turn's socket; `hosts` are those that it may reach.
    """

    model: str | None = None
    instructions: str = ""
    agent_id: str = AGENT
    params: Mapping[str, Any] = field(default_factory=dict)
    tools: frozenset[str] | None = None
    more_tools: Sequence[EngineTool] = ()
    rounds: bool = True
    socket: bool = False
    hosts: Sequence[str] = ()
    runner_labels: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    home: bool = False


class ConversationEngine(Protocol):
    """One way to answer. Both methods that take a conversation are called in a transaction, and do nothing that takes long."""

    def check(self, conversation: ProjectConversation) -> None:
        """Raise DomainError if conversations with this agent, level and model cannot work here; called when one begins and before each turn."""

    def plan(self, conversation: ProjectConversation, user_id: str) -> EnginePlan:
        """How the next turn is answered, asked for by this person. Raises DomainError: the turn fails with it."""

    def drive(self, session: "EngineSession") -> None:
        """Answer the prompt, if the plan has no `rounds`: return when the answer is whole, or soon after `session.stopped`. Called outside of any
        transaction. Raises DomainError: the turn fails with it, what was written and changed is kept."""


def check_engine(conversation: ProjectConversation, account_id: str) -> ConversationEngine:
    """The engine of a conversation, if it and its level work here for the account of the project. Raises EngineMissing (501), LevelUnavailable (409)
    with the sentence that says why, and what `ConversationEngine.check` raises."""
    engine = engine_named(conversation.engine)
    state = level_state(cast(Level, conversation.level), account_id)
    if not state.available:
        raise LevelUnavailable(state.sentence)
    engine.check(conversation)
    return engine


_ENGINES: dict[str, ConversationEngine] = {}


def register_engine(name: str, engine: ConversationEngine) -> None:
    """Name the code of an engine (`ENGINES`)."""
    _ENGINES[name] = engine


def engine_named(name: str) -> ConversationEngine:
    """The engine. Raises EngineMissing (501)."""
    found = _ENGINES.get(name)
    if found is None:
        raise EngineMissing(f"This server has no engine '{name[:40]}'.")
    return found


class BuiltinEngine:
    """The server's own loop with the tools of the workplace, for any model."""

    def check(self, conversation: ProjectConversation) -> None:
        """See `ConversationEngine`."""

    def plan(self, conversation: ProjectConversation, user_id: str) -> EnginePlan:
        """See `ConversationEngine`."""
        return EnginePlan()

    def drive(self, session: "EngineSession") -> None:
        """Its turns are rounds."""
        raise NotImplementedError


register_engine("builtin", BuiltinEngine())
