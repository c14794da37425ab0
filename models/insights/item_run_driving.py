"""Drives a run of an action item as a turn: attempts of an agent in a scratch copy of the workspace, each followed by checks.

The turn gives the run a lease, so a run whose worker was killed goes on within seconds elsewhere, and a way to stop it. What happened is
written before what comes next begins: whoever takes over does what is not written yet. Checks that were cut off run again; an agent whose
server stopped gets another attempt.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from models.insights.item_run import ActionItemRun
from models.insights.item_run_agent import STOPPED, ItemRunAgent
from models.insights.item_run_checking import ItemRunChecks
from models.insights.item_run_ending import return_charges
from models.insights.item_run_starting import KIND
from models.insights.item_run_steps import ItemRunSteps, last_turn, note
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind

MAX_RESTARTS = 2
"""How often the checks of one attempt begin again, and attempts that a server's stop cut off are made again."""
CUT_OFF = "The checks ended again and again without a result."
Step = Callable[[], None]


class ItemRunTurns:
    """The work of turns of runs."""

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        driver = ItemRunDriver(handle)
        try:
            driver.drive()
        except LeaseLost:
            raise
        except Exception:
            driver.fail()
            raise
        finally:
            driver.settle()


class ItemRunDriver:
    """One run, while this process drives it."""

    def __init__(self, handle: TurnHandle) -> None:
        self.handle = handle
        self._steps = ItemRunSteps(handle)
        self._agent, self._checks = ItemRunAgent(self._steps), ItemRunChecks(self._steps)

    def drive(self) -> None:
        """Do what is next until the run has ended, or waits. When this server stops it is left as it is, and another one takes it over."""
        while self.handle.stopped != "shutdown" and (step := self._next()) is not None:
            step()
            if self._steps.over:
                return

    def fail(self) -> None:
        """End the run after an error on our side, if this worker still has it. Does its best."""
        agent_id = None
        with suppress(Exception):
            with self.handle.context():
                agent = last_turn(self._steps.run_row())
                agent_id = agent.id if agent is not None else None
            if agent_id is not None:
                self._agent.end(agent_id)
        with suppress(Exception), self.handle.step() as turn:
            if turn.state == "running" and (locked := self._steps.locked(turn)) is not None:
                self._steps.fail(turn, *locked, "internal_error", FAILED, ours=True)

    def settle(self) -> None:
        """Give back at once what is owed, if no agent still works; a job does it otherwise."""
        if self._steps.over:
            with suppress(Exception), self.handle.transaction():
                return_charges(self.handle.subject_id)

    def _next(self) -> Step | None:
        with self.handle.step() as turn:
            locked = self._steps.locked(turn)
            if locked is None:
                return None
            item, run = locked
            last = run.attempts[-1] if run.attempts else None
            if last is not None and last["state"] == "working":
                return partial(self._agent.watch, last["turn_id"])
            if self.handle.stopped:
                self._steps.fail(turn, item, run, *STOPPED)
                return None
            if last is not None and last["state"] == "checking":
                if last["restarts"] < MAX_RESTARTS:
                    note(run, restarts=last["restarts"] + 1)
                    return self._checks.check
                note(run, state="failed", problem=CUT_OFF)
            if (why := _no_more(run)) is not None:
                self._steps.fail(turn, item, run, *why[:2], ours=why[2])
                return None
            return self._begin

    def _begin(self) -> None:
        self._agent.begin(self._checks.planned())


def _no_more(run: ActionItemRun) -> tuple[str, str, bool] | None:
    """Why no attempt follows: a code, a sentence, and whether it is our fault. None if one does."""
    if not run.attempts:
        return None
    last: dict[str, Any] = run.attempts[-1]
    problem, ours = last["problem"], last["problem"] == CUT_OFF
    if last.get("kind") == "rebase":
        return "rebase_failed", f"The patch does not hold on the newer files. {problem}", ours
    if sum(each["state"] == "lost" for each in run.attempts) > MAX_RESTARTS:
        return "attempts_lost", "The server stopped during each attempt. Run it again.", True
    if run.attempt_count >= run.max_attempts:
        return "attempts_failed", f"No attempt succeeded. {problem}", ours
    return None


register_kind(KIND, ItemRunTurns())
