"""The files of one turn: the workplace that it works in, and what was stored of them, so that it outlives the process."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_engine import EnginePlan
from models.conversations.loop_guard import LoopGuard
from models.conversations.turn_ending import SavingFailed
from models.core.db import db
from models.core.errors import DomainError
from models.runners import Level, TurnSocket, Workplace, open_turn_socket, open_workplace, store_changes
from models.turns import Turn
from models.turns.engine import LeaseLost, TurnHandle

MAX_COMMANDS = 20
"""Commands that a turn notes, for the words of its timeline item."""
MAX_COMMAND = 120


@dataclass(frozen=True)
class TurnPlace:
    """Where a turn works, and with what."""

    conversation_id: str
    project_id: str
    workspace_id: str
    account_id: str
    engine: str
    level: Level
    agent: str | None
    model: str
    title: str


class TurnFiles:
    """See the module. Safe for the threads of the turn."""

    def __init__(
        self, handle: TurnHandle, place: TurnPlace, plan: EnginePlan, guard: LoopGuard, turn: Turn
    ) -> None:
        self.work: str | None = turn.request.get("work")
        """The manifest of the files as they were stored last."""
        self.socket: TurnSocket | None = None
        self.lock = threading.RLock()
        self.dirty = False
        """Whether the files may differ from what is stored."""
        self.org_id: str | None = None
        self._handle, self._place, self._plan, self._guard = handle, place, plan, guard
        self._commands: list[dict[str, str]] = list(turn.request.get("commands") or ())
        self._opened: str | None = None
        """The manifest that the workplace was opened with."""
        self._workplace: Workplace | None = None

    def workplace(self, peer: Callable[[], TurnSocket | None] = lambda: None) -> Workplace:
        """The workplace, opened with the files as they were stored last, when it is needed first; `peer` makes the turn's socket. In a context, outside of any
        transaction. Raises LevelUnavailable and what `open_workplace` raises."""
        with self.lock:
            if self._workplace is None:
                self._opened, self.socket = self.work, peer()
                self._workplace = open_workplace(
                    self._place.level,
                    self._place.account_id,
                    self.work,
                    limits=self._plan.limits,
                    socket=self.socket,
                    hosts=self._plan.hosts,
                    on_host=self._on_host,
                    runner_labels=self._plan.runner_labels,
                    home=self._place.conversation_id if self._plan.home else None,
                    context=self._handle.context,
                )
            return self._workplace

    def stop(self) -> None:
        """End what runs in the workplace, from any thread."""
        if self._workplace is not None:
            self._workplace.stop()

    def on_stop(self, stop: Callable[[], None] | None) -> None:
        """What to do when the turn is to end: a running command ends too."""
        if stop is None:
            self._handle.on_stop(None)
            return

        def end() -> None:
            self.stop()
            stop()

        self._handle.on_stop(end)

    def ran(self, command: str, how: str) -> None:
        """A command was run, and ended so; noted with the next `note`."""
        with self.lock:
            self._commands = [
                *self._commands[1 - MAX_COMMANDS :],
                {"command": " ".join(command.split())[:MAX_COMMAND], "how": how},
            ]

    def store(self) -> None:
        """Store what differs from what was opened. Outside of the turn's transactions: it may take long. Raises SavingFailed."""
        with self.lock:
            if not self.dirty or self._workplace is None:
                return
            try:
                changes = self._workplace.changes()
                with self._handle.transaction():
                    self.work = store_changes(self._place.account_id, self._opened, changes)
            except DomainError as error:
                raise SavingFailed(error) from error
            self.dirty = False
        for path, why in sorted(changes.refused.items())[:20]:
            self._handle.emit("warning", {"warning": f"{path[:200]} is not kept: {why}"})

    def note(self, turn: Turn) -> None:
        """Within a step: what this process has stored is what the next one opens."""
        if turn.request.get("commands", []) != self._commands:
            turn.request = {**turn.request, "commands": self._commands}
        if turn.request.get("work") == self.work:
            return
        turn.request = {**turn.request, "work": self.work, "changed_at": turn.credits or 0}
        self._guard.changed(turn.credits or 0)
        conversation = db.session.get(ProjectConversation, self._place.conversation_id)
        if conversation is not None:
            conversation.work_manifest_hash = self.work

    def save(self) -> None:
        """Store what was changed, and note it. Raises LeaseLost, SavingFailed."""
        with self.lock:
            self.dirty = True
            self.store()
            with self._handle.step() as turn:
                self.note(turn)

    def open_socket(
        self, *, on_refused: Callable[[Exception], bool], on_admitted: Callable[[], None]
    ) -> TurnSocket | None:
        """The turn's socket to the model doors, for engines that need it."""
        if not self._plan.socket:
            return None
        model = self._place.model
        return open_turn_socket(
            self._handle,
            org_id=self.org_id,
            models=[model] if model else [],
            on_refused=on_refused,
            on_admitted=on_admitted,
        )

    def close(self) -> None:
        """Leave the workplace. Idempotent."""
        workplace, self._workplace = self._workplace, None
        if workplace is not None:
            with suppress(Exception):
                workplace.close()

    def _on_host(self, host: str, allowed: bool) -> None:
        with suppress(LeaseLost):
            self._handle.emit("host.asked", {"host": host, "allowed": allowed})
