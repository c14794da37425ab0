"""The checks of a tree before it is deployed by itself: those that are detected, in a workplace that runs commands."""

from typing import NamedTuple

from models.core import jobs
from models.core.errors import DomainError
from models.projects.snapshots.blob_packs import BlobDamaged
from models.runners import (
    Level,
    Workplace,
    all_passed,
    detect_checks,
    level_state,
    open_workplace,
    run_checks,
)

ORDER: tuple[Level, ...] = ("process", "machine")
"""Where checks run: on this server, else on a runner of the account's own."""
SHOWN_LINES = 400


class CheckReport(NamedTuple):
    """Whether all passed, why not, and the lines of the log (step, line)."""

    passed: bool
    reason: str
    lines: list[tuple[str, str]]


def check_tree(account_id: str, manifest_hash: str) -> CheckReport:
    """Run the checks of the tree of a manifest. What cannot be run has not passed. Blocks, up to ten minutes for each; no transaction is open
    while they run. Commits."""
    try:
        with jobs.transaction():
            states = [(level, level_state(level, account_id)) for level in ORDER]
            level = next((name for name, state in states if state.available), None)
            if level is None:
                return _refused(f"The checks cannot run here. {states[0][1].sentence}")
            workplace = open_workplace(level, account_id, manifest_hash)
    except (DomainError, BlobDamaged) as error:
        return _refused(
            f"The checks cannot run: {error.message if isinstance(error, DomainError) else 'files are damaged.'}"
        )
    try:
        return _checked(workplace)
    except DomainError as error:
        return _refused(f"The checks cannot run: {error.message}")
    finally:
        workplace.close()


def _checked(workplace: Workplace) -> CheckReport:
    checks = detect_checks(workplace)
    if not checks:
        return CheckReport(True, "", [("build", "No checks were found: none ran.")])
    results = run_checks(workplace, checks)
    lines: list[tuple[str, str]] = []
    for each in results:
        step = "install" if each.kind == "install" else "build"
        lines.append((step, f"$ {each.command}"))
        lines += [(step, line) for line in each.output.splitlines()[-SHOWN_LINES:]]
        lines.append((step, f"{'Passed' if each.success else 'Failed'} after {each.seconds:.1f} s."))
    if all_passed(checks, results):
        return CheckReport(True, "", lines)
    failed = next((each for each in results if not each.success), results[-1])
    return CheckReport(False, f"The {failed.kind} check failed: {failed.command[:200]}", lines)


def _refused(reason: str) -> CheckReport:
    return CheckReport(False, reason, [])
