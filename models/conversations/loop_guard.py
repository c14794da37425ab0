"""Notices that an agent makes no progress: the same call three times in a row, the same command failing three times, or credits spent without a
change of the files."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from models.conversations.workplace_tools import FAILED_COMMAND, RUN_COMMAND

CODE = "loop_guard"
TIMES = 3
"""How often the same may happen before the agent is paused."""


class LoopGuard:
    """The calls of one turn since somebody last looked. `idle_credits` are the most that it may spend without a change."""

    def __init__(self, idle_credits: int) -> None:
        self.idle_credits = idle_credits
        self.spent_at_change = 0
        """What the turn had spent when its files changed last, or when it was looked at, in credits."""
        self._last = ("", 0)
        self._failed: Counter[str] = Counter()
        self._repeated = self._failing = ""

    def note(self, call: Mapping[str, Any], result: str, *, failed: bool | None = None) -> None:
        """A tool was called, and answered so. `failed` is said of a command that an agent's program ran itself."""
        function = call["function"]
        name, sign = function["name"], _sign(function)
        times = self._last[1] + 1 if self._last[0] == sign else 1
        self._last = sign, times
        if times >= TIMES:
            self._repeated = name
        if failed is None:
            failed = name == RUN_COMMAND and result.startswith(FAILED_COMMAND)
        if failed:
            self._failed[sign] += 1
            if self._failed[sign] >= TIMES:
                self._failing = name

    def changed(self, spent: int) -> None:
        """The files changed, or somebody looked, when the turn had spent so much."""
        self.spent_at_change = spent

    def problem(self, spent: int) -> str | None:
        """Why the turn is to pause, as a question to the person; None if it goes on."""
        if self._repeated:
            return f"The agent called {self._repeated[:60]} {TIMES} times in a row with the same arguments. Shall it go on? Say what to do differently."
        if self._failing:
            return (
                f"The same command failed {TIMES} times. Shall the agent go on? Say what to do differently."
            )
        if spent - self.spent_at_change >= self.idle_credits:
            return f"The agent spent {spent - self.spent_at_change:,} credits without changing a file. Shall it go on?"
        return None


def _sign(function: Mapping[str, Any]) -> str:
    arguments = str(function.get("arguments"))
    return f"{function['name']} {hashlib.sha256(arguments.encode('utf-8', 'replace')).hexdigest()}"
