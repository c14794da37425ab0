"""The part of a run that its agent does: an attempt is a turn of the run's conversation, in a scratch copy of the files.

The driving turn makes no model call itself: those are the agent's, which share the run's budget.
"""

import time
from typing import Any

from sqlalchemy import select

from models.accounts.sessions import Session
from models.conversations import Scratch, say, start_conversation, turn_result
from models.conversations.conversation_access import own_conversation
from models.core.db import db, extension, now
from models.core.errors import DomainError
from models.insights.action_item import ActionItem
from models.insights.item_run import ATTEMPT, MAX_REPORT, MAX_SUMMARY, SUMMARY_LINES, ActionItemRun
from models.insights.item_run_prompt import attempt_prompt
from models.insights.item_run_steps import OUT_OF_CREDITS, ItemRunSteps, note, spent_by
from models.ledger import Account
from models.projects import ProjectCaller
from models.runners.check_detection import Check
from models.threads import ThreadMessage
from models.turns import ENDED, Turn
from models.turns.engine import LeaseLost
from models.turns.turn_verbs import request_stop, take_to_end

POLL_SECONDS = 0.3
"""How often the turn of an attempt is looked at."""
ANOTHER_TRY = ("max_rounds_reached", "loop_guard", "no_progress", "question")
"""Codes of failed attempts after which another one makes sense."""
STOPPED = "stopped", "Somebody stopped the run."
Halt = tuple[str, str]
"""Why an agent's turn was ended: a code, and a sentence."""


class ItemRunAgent:
    """The agent of one run, while this process drives it."""

    def __init__(self, steps: ItemRunSteps) -> None:
        self._steps = steps
        self._handle = steps.handle

    def begin(self, checks: list[Check] | None) -> None:
        """Let the agent begin, in a copy of the files that the run is based on. `checks` are those that will run."""
        steps, handle = self._steps, self._handle
        with handle.step() as turn:
            locked = steps.locked(turn)
            if locked is None:
                return
            item, run = locked
            try:
                with db.session.begin_nested():
                    agent = self._ask(turn, item, run, checks)
            except DomainError as error:
                if error.code in OUT_OF_CREDITS:
                    steps.pause(turn, run, error.code, error.message)
                else:
                    steps.fail(turn, item, run, error.code, error.message, ours=error.status >= 500)
                return
            run.status, run.started_at, run.updated_at = "running", run.started_at or now(), now()
            run.attempt_count += 1
            attempt = {
                **ATTEMPT,
                "number": run.attempt_count,
                "turn_id": agent.id,
                "base_manifest_hash": run.base_manifest_hash,
            }
            run.attempts = [*run.attempts, attempt]
            handle.record("item_run.attempt", {"number": run.attempt_count, "turn_id": agent.id})
            agent_id, begun = agent.id, agent.state == "running"
        if begun:
            self._engine_run(agent_id)

    def watch(self, agent_id: str) -> None:
        """Wait until the agent's turn has ended. Without credits the run is paused; one that waits for somebody else, or is to stop, is ended."""
        halt: Halt | None = None
        while not self._ended(agent_id):
            if self._handle.stopped == "shutdown":
                return
            if halt is None:
                halt = self._halt(agent_id)
            if self._steps.over:
                return
            time.sleep(POLL_SECONDS)
        with self._handle.step() as turn:
            locked = self._steps.locked(turn)
            if locked is not None:
                self._keep(turn, *locked, halt)

    def end(self, agent_id: str) -> None:
        """End the agent's turn: what it did is kept, and charged."""
        with self._handle.step():
            taken = self._end(agent_id)
        if taken:
            self._engine_run(agent_id)

    def _ask(self, turn: Turn, item: ActionItem, run: ActionItemRun, checks: list[Check] | None) -> Turn:
        session = db.session.get(Session, turn.key_id)
        if session is None:
            raise DomainError("The key that began the run is gone. Run it again.", code="key_gone")
        caller = ProjectCaller(turn.user_id, Account.of(session), session)
        if run.conversation_id is None:
            found = start_conversation(
                caller,
                run.workspace_id,
                title=f"Run: {item.title}"[:200],
                level=run.level,
                model=run.model,
                budget=run.budget,
                purpose="item_run",
            )
            run.conversation_id = found.conversation.id
        else:
            found = own_conversation(caller, run.conversation_id, "edit_projects")
        return say(
            caller,
            found,
            attempt_prompt(item, run, checks),
            key=self._handle.key,
            owner=extension("turns").owner,
            on_busy="reject",
            scratch=Scratch(run.base_manifest_hash),
        )

    def _ended(self, agent_id: str) -> bool:
        if not self._handle.has_lease():
            raise LeaseLost
        with self._handle.context():
            state = db.session.scalar(select(Turn.state).where(Turn.id == agent_id))
        return state is None or state in ENDED

    def _halt(self, agent_id: str) -> Halt | None:
        """End the agent's turn if it has to, or pause the run; why it was ended."""
        if self._handle.stopped:
            self.end(agent_id)
            return STOPPED
        with self._handle.context():
            agent = db.session.get(Turn, agent_id)
            state = agent.state if agent is not None else "gone"
            why = (agent.error_code or "", agent.error_message or "") if agent is not None else ("", "")
        if state not in ("paused", "requires_action"):
            return None
        if state == "paused" and why[0] in OUT_OF_CREDITS:
            self._pause(*why)
            return None
        self.end(agent_id)
        if state == "paused":
            return why
        return "question", "The agent asked a question, and nobody answers within a run."

    def _pause(self, code: str, message: str) -> None:
        with self._handle.step() as turn:
            locked = self._steps.locked(turn)
            if locked is not None:
                message = message.replace("budget of this thread", "budget of this run")
                self._steps.pause(turn, locked[1], code, message.replace("resume the turn", "let it go on"))

    def _end(self, agent_id: str) -> bool:
        """Within a step: ask the agent's turn to end; whether this worker has to end it."""
        query = select(Turn).where(Turn.id == agent_id).with_for_update()
        agent = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if agent is None or request_stop(agent):
            return False
        return take_to_end(agent, extension("turns").owner)

    def _keep(self, turn: Turn, item: ActionItem, run: ActionItemRun, halt: Halt | None) -> None:
        """Write what the agent's turn made, and what it cost."""
        agent = db.session.get(Turn, run.attempts[-1]["turn_id"], populate_existing=True)
        run.credits = spent_by(run)
        manifest = self._note_result(run, agent)
        if agent is None or agent.state == "interrupted":
            note(run, state="lost", problem="The server stopped during this attempt.")
            run.attempt_count -= 1
            return
        if agent.state == "completed" and manifest is not None:
            note(run, state="checking")
            return
        code, message = halt or (
            agent.error_code or "failed",
            agent.error_message or "The agent's turn failed.",
        )
        note(run, state="failed", problem=message)
        if code not in ANOTHER_TRY and code != "stopped":
            self._steps.fail(turn, item, run, code, message, ours=code == "internal_error")

    def _note_result(self, run: ActionItemRun, agent: Turn | None) -> str | None:
        """Note what an agent left; the manifest of its files, if it made one."""
        result = turn_result(agent) if agent is not None else None
        manifest = result.manifest_hash if result is not None else None
        if manifest is not None:
            run.result_manifest_hash = manifest
        report = _report(agent) if agent is not None else ""
        facts: dict[str, Any] = {"credits": (agent.credits or 0) if agent is not None else 0}
        note(run, manifest_hash=manifest, report=report, **facts)
        if report:
            run.report, run.summary = report, _summary(report)
        return manifest

    def _engine_run(self, agent_id: str) -> None:
        with self._handle.context():
            engine = extension("turns")
        engine.run(agent_id)


def _report(agent: Turn) -> str:
    """The last text that the agent wrote."""
    query = select(ThreadMessage.text).where(
        ThreadMessage.turn_id == agent.id, ThreadMessage.role == "assistant", ThreadMessage.text != ""
    )
    return (db.session.scalar(query.order_by(ThreadMessage.seq.desc()).limit(1)) or "").strip()[:MAX_REPORT]


def _summary(report: str) -> str:
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return "\n".join(lines[:SUMMARY_LINES])[:MAX_SUMMARY]
