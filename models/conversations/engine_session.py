"""What an engine works with during a turn: the files, the prompt, and what it tells, asks and spends."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from models.core.errors import DomainError
from models.runners import Workplace

if TYPE_CHECKING:
    from models.conversations.conversation_turn import ProjectConversationTurn
    from models.conversations.turn_actions import TurnActions

Answers = list[list[str]]
GoingOn = Literal["no", "resumed", "taken_over"]
"""Whether a turn of an engine that drives it goes on: after it was paused, or because the process that ran it died."""


class SessionGone(DomainError):
    """The turn was taken over from a process that died, and the engine cannot go on where it was: the turn fails on our side."""

    status = 502
    code = "worker_died"


class EngineSession:
    """A turn, as an engine that drives it itself, or a tool of an engine, sees it. Safe for the threads of the engine.

    `prompt` is what was said, `history` the messages before it as chat completions take them, `system` the server's text. `workplace` are
    the files, `socket` is the turn's, if its engine wants one. `handle` is the turn (`models.turns.TurnHandle`), for model calls. `going_on`: the engine has begun
    it before; `prompt` then says to go on, and `history` has what was asked. One that cannot go on with a turn that was taken over raises SessionGone.
    """

    def __init__(
        self,
        turn: "ProjectConversationTurn",
        actions: "TurnActions",
        workplace: Workplace,
        *,
        prompt: str,
        history: Sequence[Mapping[str, Any]],
        system: str,
        going_on: GoingOn = "no",
    ) -> None:
        self.handle = turn.handle
        self.settings = turn.settings
        self.conversation_id: str = turn.place.conversation_id
        self.project_id: str = turn.place.project_id
        self.workspace_id: str = turn.place.workspace_id
        self.account_id: str = turn.place.account_id
        self.agent: str | None = turn.place.agent
        self.model: str = turn.place.model
        self.org_id: str | None = turn.wanted.org_id
        self.workplace, self.prompt, self.history, self.system = workplace, prompt, history, system
        self.socket = turn.files.socket
        self.going_on: GoingOn = going_on
        self._turn, self._actions = turn, actions

    @property
    def stopped(self) -> str | None:
        """Why the turn is to end: `stop`, `interrupt`, `shutdown` or `lost`; None while it goes on."""
        return self.handle.stopped

    @property
    def pausing(self) -> bool:
        """Whether the turn is to wait: for a budget, or because the agent makes no progress. Return then as if it were stopped."""
        return self._actions.pausing

    def on_stop(self, stop: Callable[[], None] | None) -> None:
        """What to do at once when the turn is to end or to wait: a function that is safe to call from any thread."""
        self._actions.on_pause(stop)
        self.handle.on_stop(stop)

    def known_session(self) -> str | None:
        """The session of the engine's program that knows what was said before on this branch; None: there is none. In a context."""
        return self._actions.known_session()

    def note_session(self, id: str) -> None:
        """The program has this session: the turn goes on with it, and the next one begins with it. Raises LeaseLost."""
        self._actions.note_session(id)

    def text(self, piece: str) -> None:
        """A piece of the answer; of an engine that drives the turn, as are reasoning and tools. Raises LeaseLost."""
        self._actions.text(piece)

    def thinking(self, piece: str) -> None:
        """A piece of the reasoning. Raises LeaseLost."""
        self._actions.thinking(piece)

    def tool_started(self, id: str, name: str, arguments: str) -> None:
        """The engine uses a tool. `arguments` is JSON. Raises LeaseLost."""
        self._actions.tool_started(id, name, arguments)

    def tool_completed(
        self, id: str, result: str, *, failed: bool = False, command: str | None = None
    ) -> None:
        """The tool has this result, which is cut to 64,000 characters; what it changed is kept from now on. `command`: what it ran, if it ran something. Raises
        LeaseLost, SavingFailed."""
        self._actions.tool_completed(id, result, failed=failed, command=command)

    def ask(
        self,
        questions: Sequence[Mapping[str, Any]],
        *,
        kind: str = "permission",
        seconds: float | None = None,
    ) -> Answers | None:
        """Ask the person and wait: a list of texts for each question; None if they rejected it, did not answer within `seconds` (by default
        STOA_TOOL_WAIT_SECONDS), or the turn is to end. Each question is an object with `question`, and optionally `header`, `options`
        (each `label`, `description`) and `multiple`. Raises LeaseLost."""
        return self._actions.ask(questions, kind, seconds or self.settings.stoa_tool_wait_seconds)

    def reserve(self, needed: int) -> bool:
        """Take at least `needed` more credits from the budgets of the turn and the conversation, for a call that the envelope of the run
        refused. False: they leave too little; then end, and the turn is paused. Without a budget: False, nothing is short. Raises LeaseLost."""
        return self._actions.reserve(needed)

    def spent(self, credits: int) -> None:
        """A settled call of the turn's run cost so much. Raises LeaseLost."""
        self._actions.spent(credits)

    def save(self) -> None:
        """Keep what was changed so far, so that it outlives this process. Raises LeaseLost."""
        self._turn.save_work()
