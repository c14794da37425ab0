"""The part of a run that checks: the commands of the project run on the files of an attempt, and a verdict follows.

Which checks run is read from the files that the attempt began with: those of the result may have been made easier.
"""

from typing import Any, NamedTuple, cast

from models.core.db import db, now
from models.core.errors import DomainError
from models.insights.action_item import ActionItem
from models.insights.check_verdict import AttemptWork, Verdict, judge, touched_tests
from models.insights.item_run import ActionItemRun
from models.insights.item_run_reading import tree_named
from models.insights.item_run_steps import ItemRunSteps, account_of, note
from models.insights.weakened_tests import weakened_tests
from models.projects.snapshots.manifest_store import tree_changes
from models.runners import CheckResult, Workplace, detect_checks, open_workplace, run_checks
from models.runners.check_detection import Check, CheckKind
from models.runners.check_hosts import hosts_for_checks
from models.runners.workplace import Level
from models.turns import Turn

MAX_TOUCHED = 100
MAX_HOSTS = 50
RUN_AGAIN: tuple[CheckKind, ...] = ("test",)
"""Checks that run once more if they fail: a test that passes then is told as one that depends on luck."""
AskedHosts = list[dict[str, Any]]


class CheckFacts(NamedTuple):
    """What is checked: the work of the attempt in its files, at which level, with which hosts open to installs, and the checks of the files
    before, None where no commands run."""

    account_id: str
    manifest_hash: str
    work: AttemptWork
    level: Level
    hosts: tuple[str, ...]
    allow_test_changes: bool
    checks: list[Check] | None


class ItemRunChecks:
    """The checks of one run, while this process drives it."""

    def __init__(self, steps: ItemRunSteps) -> None:
        self._steps = steps
        self._handle = steps.handle

    def planned(self) -> list[Check] | None:
        """The checks of the files that the run is based on. None where no commands run."""
        with self._handle.context():
            run = self._steps.run_row()
            account_id, hash, level = account_of(run), run.base_manifest_hash, run.level
        if level == "virtual":
            return None
        workplace = self._open("virtual", account_id, hash)
        try:
            return detect_checks(workplace)
        finally:
            workplace.close()

    def check(self) -> None:
        """Run the checks on what the attempt made, and end the run if they pass."""
        results: list[CheckResult] = []
        asked: AskedHosts = []
        try:
            facts = self._facts()
            verdict = _verdict(facts, results, without_checks=True)
            if verdict.passed:
                results = self._results(facts, asked) if facts.checks else []
                if self._handle.stopped or any(each.ended == "lost" for each in results):
                    return  # they run again, or the run ends
                verdict = _verdict(facts, results)
        except DomainError as error:
            self._steps.fail_with(error)
            return
        with self._handle.step() as turn:
            locked = self._steps.locked(turn)
            if locked is not None:
                self._judged(turn, *locked, facts, results, asked, verdict)

    def _facts(self) -> CheckFacts:
        checks = self.planned()
        with self._handle.context():
            run = self._steps.run_row()
            account_id, manifest = account_of(run), run.attempts[-1]["manifest_hash"]
            base, tree = (tree_named(account_id, hash) for hash in (run.base_manifest_hash, manifest))
            changes = tree_changes(account_id, base, tree)
            item = db.session.get_one(ActionItem, run.action_item_id)
            work = AttemptWork(
                tree, changes, weakened_tests(account_id, changes), frozenset(item.affected_files)
            )
            level = cast(Level, run.level)
            hosts = hosts_for_checks(run.project_id)
            return CheckFacts(account_id, manifest, work, level, hosts, run.allow_test_changes, checks)

    def _results(self, facts: CheckFacts, asked: AskedHosts) -> list[CheckResult]:
        def on_host(host: str, allowed: bool) -> None:
            if len(asked) < MAX_HOSTS:
                asked.append({"host": host[:253], "allowed": allowed})
            self._handle.emit("host.asked", {"host": host[:253], "allowed": allowed})

        workplace = self._open(
            facts.level, facts.account_id, facts.manifest_hash, hosts=facts.hosts, on_host=on_host
        )
        self._handle.on_stop(workplace.stop)
        try:
            return run_checks(workplace, facts.checks or [], again=RUN_AGAIN)
        finally:
            self._handle.on_stop(None)
            workplace.close()

    def _open(self, level: Level, account_id: str, manifest_hash: str, **more: Any) -> Workplace:
        """A workplace, whose reads have contexts of their own. Raises as `open_workplace`."""
        with self._handle.context():
            return open_workplace(level, account_id, manifest_hash, context=self._handle.context, **more)

    def _judged(
        self,
        turn: Turn,
        item: ActionItem,
        run: ActionItemRun,
        facts: CheckFacts,
        results: list[CheckResult],
        asked: AskedHosts,
        verdict: Verdict,
    ) -> None:
        run.checks = [_stored(each, facts.work.tree_hash) for each in results]
        run.tests_touched = touched_tests(facts.work.changes)[:MAX_TOUCHED]
        run.updated_at = now()
        note(
            run,
            state="passed" if verdict.passed else "failed",
            checks=run.checks,
            hosts=asked,
            tests_touched=run.tests_touched,
            outside=facts.work.outside[:MAX_TOUCHED],
            problem=verdict.problem,
        )
        if not verdict.passed:
            return
        run.status, run.verified, run.doubts = "ready", verdict.verified, verdict.doubts or None
        run.completed_at = now()
        if item.status == "running":
            item.status, item.updated_at = "ready", now()
        self._steps.over = True
        self._handle.end(turn, "completed", verified=verdict.verified)


def _verdict(facts: CheckFacts, results: list[CheckResult], *, without_checks: bool = False) -> Verdict:
    """`without_checks`: what the files alone say, before any check runs."""
    return judge(
        facts.work,
        [] if without_checks else facts.checks,
        results,
        checked_tree=facts.work.tree_hash,
        allow_test_changes=facts.allow_test_changes,
    )


def _stored(result: CheckResult, tree_hash: str | None) -> dict[str, Any]:
    return {**result._asdict(), "output": result.output.replace("\0", "\ufffd"), "tree_hash": tree_hash}
