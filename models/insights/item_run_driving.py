"""Drives a run of an action item as a turn: attempts of an agent in a scratch copy of the workspace, each followed by checks.

The turn makes no model call itself: those are turns of the run's conversation, which share its budget. It gives the run a lease, so a run
whose worker was killed goes on within seconds elsewhere, and a way to stop it. What happened is written before what comes next begins: whoever
takes over does what is not written yet. Checks that were cut off run again; an agent whose server stopped gets another attempt.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

from sqlalchemy import func, select

from models.accounts.sessions import Session
from models.conversations import Scratch, say, start_conversation, turn_result
from models.conversations.conversation_access import own_conversation
from models.core.db import db, extension, now
from models.core.errors import DomainError
from models.insights.action_item import ActionItem
from models.insights.check_verdict import Verdict, judge, touched_tests
from models.insights.item_run import MAX_REPORT, MAX_SUMMARY, SUMMARY_LINES, ActionItemRun
from models.insights.item_run_prompt import attempt_prompt
from models.insights.item_run_reading import locked_run, tree_named
from models.insights.item_run_starting import KIND, end_failed
from models.ledger import Account
from models.projects import Project, ProjectCaller
from models.projects.snapshots.directory_tree import Changes
from models.projects.snapshots.manifest_store import tree_changes
from models.runners import CheckResult, Workplace, detect_checks, open_workplace, run_checks
from models.runners.check_detection import Check
from models.runners.workplace import Level
from models.threads import ThreadMessage
from models.turns import ENDED, Turn
from models.turns.engine import FAILED, LeaseLost, TurnHandle, register_kind
from models.turns.turn_verbs import request_stop, take_to_end

POLL_SECONDS = 0.3
"""How often the turn of an attempt is looked at."""
MAX_RESTARTS = 2
"""How often the checks of one attempt begin again, and attempts that a server's stop cut off are made again."""
OUT_OF_CREDITS = ("budget_exceeded", "insufficient_credits", "credits_held")
ANOTHER_TRY = ("max_rounds_reached", "loop_guard", "no_progress", "question")
"""Codes of failed attempts after which another one makes sense."""
Step = Callable[[], None]


class CheckFacts(NamedTuple):
    """What is checked: the files of the attempt, what they changed, and the checks of the files before, None where no commands run."""

    account_id: str
    manifest_hash: str
    changes: Changes
    checks: list[Check] | None


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


class ItemRunDriver:
    """One run, while this process drives it."""

    def __init__(self, handle: TurnHandle) -> None:
        self.handle = handle

    def drive(self) -> None:
        """Do what is next until the run has ended. When this server stops it is left as it is, and another one takes it over."""
        while self.handle.stopped != "shutdown" and (step := self._next()) is not None:
            step()

    def fail(self) -> None:
        """End the run after an error on our side, if this worker still has it. Does its best."""
        with suppress(Exception), self.handle.step() as turn:
            if turn.state == "running" and (locked := self._locked(turn)) is not None:
                self._stop_agent(locked[1])
                self._failed(turn, *locked, "internal_error", FAILED)

    def _next(self) -> Step | None:
        with self.handle.step() as turn:
            locked = self._locked(turn)
            if locked is None:
                return None
            item, run = locked
            last = run.attempts[-1] if run.attempts else None
            if last is not None and last["state"] == "working":
                return partial(self._watch, last["turn_id"])
            if self.handle.stopped:
                self._failed(turn, item, run, "stopped", "Somebody stopped the run.")
                return None
            if last is not None and last["state"] == "checking":
                if last["restarts"] < MAX_RESTARTS:
                    _note(run, restarts=last["restarts"] + 1)
                    return self._check
                _note(run, state="failed", problem="The checks ended again and again without a result.")
            lost = sum(each["state"] == "lost" for each in run.attempts)
            if run.attempt_count >= run.max_attempts or lost > MAX_RESTARTS:
                problem = run.attempts[-1]["problem"]
                self._failed(turn, item, run, "attempts_failed", f"No attempt succeeded. {problem}")
                return None
            return self._begin

    # -- an attempt ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Let the agent begin, in a copy of the files that the run began with."""
        checks = self._planned_checks()
        with self.handle.step() as turn:
            locked = self._locked(turn)
            if locked is None:
                return
            item, run = locked
            try:
                with db.session.begin_nested():
                    agent = self._ask_agent(turn, item, run, checks)
            except DomainError as error:
                self._failed(turn, item, run, error.code, error.message)
                return
            run.status, run.started_at, run.updated_at = "running", run.started_at or now(), now()
            run.attempt_count += 1
            run.attempts = [*run.attempts, _attempt(run.attempt_count, agent.id)]
            self.handle.record("item_run.attempt", {"number": run.attempt_count, "turn_id": agent.id})
            agent_id, begun = agent.id, agent.state == "running"
        if begun:
            self._engine_run(agent_id)

    def _ask_agent(
        self, turn: Turn, item: ActionItem, run: ActionItemRun, checks: list[Check] | None
    ) -> Turn:
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
            key=self.handle.key,
            owner=extension("turns").owner,
            on_busy="reject",
            scratch=Scratch(run.base_manifest_hash),
        )

    def _watch(self, agent_id: str) -> None:
        """Wait until the agent's turn has ended; one that waits for somebody, or is to stop, is ended."""
        halt: tuple[str, str] | None = None
        while not self._ended(agent_id):
            if self.handle.stopped == "shutdown":
                return
            if halt is None:
                halt = self._halt(agent_id)
            time.sleep(POLL_SECONDS)
        with self.handle.step() as turn:
            locked = self._locked(turn)
            if locked is not None:
                self._keep(turn, *locked, halt)

    def _ended(self, agent_id: str) -> bool:
        if not self.handle.has_lease():
            raise LeaseLost
        with self.handle.context():
            state = db.session.scalar(select(Turn.state).where(Turn.id == agent_id))
        return state is None or state in ENDED

    def _halt(self, agent_id: str) -> tuple[str, str] | None:
        """End the agent's turn if it has to; why."""
        if self.handle.stopped:
            with self.handle.step():
                self._end_agent(agent_id)
            return "stopped", "Somebody stopped the run."
        with self.handle.context():
            agent = db.session.get(Turn, agent_id)
            state = agent.state if agent is not None else "gone"
            why = (agent.error_code or "", agent.error_message or "") if agent is not None else ("", "")
        if state not in ("paused", "requires_action"):
            return None
        taken = False
        with self.handle.step():
            taken = self._end_agent(agent_id)
        if taken:
            self._engine_run(agent_id)
        if state == "paused":
            return why
        return "question", "The agent asked a question, and nobody answers within a run."

    def _end_agent(self, agent_id: str) -> bool:
        """Within a step: ask the agent's turn to end; whether this worker has to end it."""
        query = select(Turn).where(Turn.id == agent_id).with_for_update()
        agent = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if agent is None or request_stop(agent):
            return False
        return take_to_end(agent, extension("turns").owner)

    def _stop_agent(self, run: ActionItemRun) -> None:
        last = run.attempts[-1] if run.attempts else None
        agent = db.session.get(Turn, last["turn_id"]) if last and last["state"] == "working" else None
        if agent is not None:
            request_stop(agent)

    def _keep(self, turn: Turn, item: ActionItem, run: ActionItemRun, halt: tuple[str, str] | None) -> None:
        """Write what the agent's turn made, and what it cost."""
        agent = db.session.get(Turn, run.attempts[-1]["turn_id"], populate_existing=True)
        run.credits = _spent(run)
        result = turn_result(agent) if agent is not None else None
        manifest = result.manifest_hash if result is not None else None
        if agent is not None and manifest is not None:
            run.result_manifest_hash = manifest
        report = _report(agent) if agent is not None else ""
        _note(
            run,
            manifest_hash=manifest,
            report=report,
            credits=(agent.credits or 0) if agent is not None else 0,
        )
        if report:
            run.report, run.summary = report, _summary(report)
        if agent is None or agent.state == "interrupted":
            _note(run, state="lost", problem="The server stopped during this attempt.")
            run.attempt_count -= 1
            return
        if agent.state == "completed" and manifest is not None:
            _note(run, state="checking")
            return
        code, message = halt or (
            agent.error_code or "failed",
            agent.error_message or "The agent's turn failed.",
        )
        _note(run, state="failed", problem=message)
        if code in OUT_OF_CREDITS:
            self._failed(turn, item, run, code, f"{message} What the run did not use is not charged.")
        elif code not in ANOTHER_TRY and code != "stopped":
            self._failed(turn, item, run, code, message)

    # -- checks ----------------------------------------------------------------------------------------------

    def _planned_checks(self) -> list[Check] | None:
        """The checks of the files that the run began with: those of the result may have been made easier. None where no commands run."""
        with self.handle.context():
            run = db.session.get_one(ActionItemRun, self.handle.subject_id)
            account_id, hash, level = _account_of(run), run.base_manifest_hash, run.level
        if level == "virtual":
            return None
        workplace = self._open("virtual", account_id, hash)
        try:
            return detect_checks(workplace)
        finally:
            workplace.close()

    def _check(self) -> None:
        """Run the checks on what the attempt made, and end the run if they pass."""
        facts = self._facts()
        with self.handle.context():
            run = db.session.get_one(ActionItemRun, self.handle.subject_id)
            level, allowed = cast(Level, run.level), run.allow_test_changes
        results: list[CheckResult] = []
        verdict = judge(facts.changes, [], [], allow_test_changes=allowed)
        if verdict.passed:
            if facts.checks:
                try:
                    results = self._results(facts, level)
                except DomainError as error:
                    self._fail_with(error)
                    return
            if self.handle.stopped or any(each.ended == "lost" for each in results):
                return  # they run again, or the run ends
            verdict = judge(facts.changes, facts.checks, results, allow_test_changes=allowed)
        with self.handle.step() as turn:
            locked = self._locked(turn)
            if locked is not None:
                self._judged(turn, *locked, facts, results, verdict)

    def _facts(self) -> CheckFacts:
        checks = self._planned_checks()
        with self.handle.context():
            run = db.session.get_one(ActionItemRun, self.handle.subject_id)
            account_id, manifest = _account_of(run), run.attempts[-1]["manifest_hash"]
            trees = (tree_named(account_id, hash) for hash in (run.base_manifest_hash, manifest))
            return CheckFacts(account_id, manifest, tree_changes(account_id, *trees), checks)

    def _results(self, facts: CheckFacts, level: Level) -> list[CheckResult]:
        workplace = self._open(level, facts.account_id, facts.manifest_hash)
        self.handle.on_stop(workplace.stop)
        try:
            return run_checks(workplace, facts.checks or [], on_output=None)
        finally:
            self.handle.on_stop(None)
            workplace.close()

    def _open(self, level: Level, account_id: str, manifest_hash: str) -> Workplace:
        """A workplace, whose reads have contexts of their own. Raises as `open_workplace`."""
        with self.handle.context():
            return open_workplace(level, account_id, manifest_hash, context=self.handle.context)

    def _judged(
        self,
        turn: Turn,
        item: ActionItem,
        run: ActionItemRun,
        facts: CheckFacts,
        results: Sequence[CheckResult],
        verdict: Verdict,
    ) -> None:
        run.checks = [_stored(each) for each in results]
        run.tests_touched = touched_tests(facts.changes)[:100]
        run.updated_at = now()
        _note(
            run,
            state="passed" if verdict.passed else "failed",
            checks=run.checks,
            tests_touched=run.tests_touched,
            problem=verdict.problem,
        )
        if not verdict.passed:
            return
        run.status, run.verified, run.doubts = "ready", verdict.verified, verdict.doubts or None
        run.completed_at = now()
        if item.status == "running":
            item.status, item.updated_at = "ready", now()
        self.handle.end(turn, "completed", verified=verdict.verified)

    # -- rows ------------------------------------------------------------------------------------------------

    def _locked(self, turn: Turn) -> tuple[ActionItem, ActionItemRun] | None:
        """The item and the run, locked; None if the run is gone or has ended, and then the turn ends."""
        locked = locked_run(self.handle.subject_id)
        if locked is not None and locked[1].active:
            return locked
        if turn.state == "running":
            self.handle.end(turn, "cancelled")
        return None

    def _fail_with(self, error: DomainError) -> None:
        with self.handle.step() as turn:
            locked = self._locked(turn)
            if locked is not None:
                _note(locked[1], state="failed", problem=error.message)
                self._failed(turn, *locked, error.code, error.message)

    def _failed(self, turn: Turn, item: ActionItem, run: ActionItemRun, code: str, message: str) -> None:
        run.credits = _spent(run)
        end_failed(item, run, code, message)
        if code == "stopped":
            self.handle.end(turn, "cancelled")
        else:
            self.handle.end(turn, "failed", code=code, message=message[:2_000])

    def _engine_run(self, agent_id: str) -> None:
        with self.handle.context():
            engine = extension("turns")
        engine.run(agent_id)


def _attempt(number: int, turn_id: str) -> dict[str, Any]:
    return {
        "number": number,
        "state": "working",
        "turn_id": turn_id,
        "manifest_hash": None,
        "checks": [],
        "tests_touched": [],
        "problem": "",
        "report": "",
        "credits": 0,
        "restarts": 0,
    }


def _note(run: ActionItemRun, **facts: Any) -> None:
    """Change what is written of the last attempt."""
    *before, last = run.attempts
    run.attempts = [*before, {**last, **facts}]


def _stored(result: CheckResult) -> dict[str, Any]:
    return {**result._asdict(), "output": result.output.replace("\0", "\ufffd")}


def _account_of(run: ActionItemRun) -> str:
    return db.session.scalars(select(Project.account_id).where(Project.id == run.project_id)).one()


def _spent(run: ActionItemRun) -> int:
    """Credits of the turns of all attempts."""
    ids = [each["turn_id"] for each in run.attempts]
    return int(db.session.scalar(select(func.sum(Turn.credits)).where(Turn.id.in_(ids))) or 0)


def _report(agent: Turn) -> str:
    """The last text that the agent wrote."""
    query = select(ThreadMessage.text).where(
        ThreadMessage.turn_id == agent.id, ThreadMessage.role == "assistant", ThreadMessage.text != ""
    )
    return (db.session.scalar(query.order_by(ThreadMessage.seq.desc()).limit(1)) or "").strip()[:MAX_REPORT]


def _summary(report: str) -> str:
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return "\n".join(lines[:SUMMARY_LINES])[:MAX_SUMMARY]


register_kind(KIND, ItemRunTurns())
