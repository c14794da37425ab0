"""Runs the checks of a tree in a workplace, in order, until one fails."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from models.runners.check_detection import CHECK_KINDS, Check, CheckKind
from models.runners.workplace import CommandResult, Ended, NoProcesses, Workplace

MAX_OUTPUT = 12_000
"""Characters of the output of a check that are kept (fastest contract 4.9): its beginning and, longer, its end."""
_HEAD = 4_000
CHECK_SECONDS = 600.0
CHECK_ENV = {"CI": "1", "NO_COLOR": "1", "TERM": "dumb"}
"""Test runners neither watch for changes nor draw."""
AGAIN = "It failed. It ran again on the same files, and passed:"
ENDINGS: dict[Ended, str] = {
    "timeout": "Stopped: it took longer than {seconds:.0f} seconds.",
    "memory": "Stopped: it used more memory than it may.",
    "output": "Stopped: it wrote more output than it may.",
    "disk": "Stopped: it wrote more files than it may.",
    "stopped": "Stopped by a person.",
    "lost": "The runner was lost while it ran.",
}


class CheckResult(NamedTuple):
    """How a check ended. `output` has at most 12,000 characters; `exit_code` is None unless `ended` is `exit`. `flaky`: it failed, and passed when it
    ran again on the same files."""

    kind: CheckKind
    command: str
    success: bool
    output: str
    seconds: float
    ended: Ended = "exit"
    exit_code: int | None = None
    flaky: bool = False


def run_checks(
    workplace: Workplace,
    checks: Sequence[Check],
    *,
    seconds: float = CHECK_SECONDS,
    on_output: Callable[[str], None] | None = None,
    again: Collection[CheckKind] = (),
) -> list[CheckResult]:
    """Run checks in the order install, build, typecheck, test; after a failure none. Each may take `seconds`. The hosts of the workplace are
    open to installs, and closed to all that comes after. `on_output` is told each command and what it writes, as it comes. A check of a kind in
    `again` that exits with a failure runs once more. Raises NoProcesses for a workplace that runs no commands: nothing is then said to have
    passed."""
    if workplace.level == "virtual":
        raise NoProcesses(
            "Checks cannot run here: this level reads and changes files, and runs no commands. Choose the level process or machine."
        )
    results: list[CheckResult] = []
    for check in sorted(checks, key=lambda each: CHECK_KINDS.index(each.kind)):
        if check.kind != "install":
            workplace.close_hosts()
        result = _run_check(workplace, check, seconds, on_output)
        if not result.success and result.ended == "exit" and check.kind in again:
            result = _either(result, _run_check(workplace, check, seconds, on_output))
        results.append(result)
        if not result.success:
            break
    return results


def all_passed(checks: Sequence[Check], results: Sequence[CheckResult]) -> bool:
    """Whether each of the checks ran and succeeded. True without checks: whoever needs one asks whether there is any."""
    return len(results) == len(checks) and all(result.success for result in results)


def shortened_output(text: str, most: int = MAX_OUTPUT) -> str:
    """A text that can be stored, without what is between its first and its last lines if it is long."""
    text = text.replace("\0", "\ufffd")
    if len(text) <= most:
        return text
    head = text[: min(_HEAD, most // 3)]
    note = f"\n… more than {len(text) - most:,} characters are left out …\n"
    return head + note + text[len(head) + len(note) - most :]


def _run_check(
    workplace: Workplace, check: Check, seconds: float, on_output: Callable[[str], None] | None
) -> CheckResult:
    if on_output is not None:
        on_output(f"$ {check.command}\n")
    start = time.monotonic()
    done = workplace.run(check.command, seconds=seconds, env=CHECK_ENV, on_output=on_output)
    return _check_result(check, done, seconds, max(done.seconds, time.monotonic() - start))


def _either(first: CheckResult, second: CheckResult) -> CheckResult:
    """The result of a check that failed and ran again."""
    if not second.success:
        return first if second.ended == "exit" else second
    output = f"{first.output.rstrip()}\n\n{AGAIN}\n\n{second.output.lstrip()}"
    return second._replace(
        output=shortened_output(output), seconds=round(first.seconds + second.seconds, 3), flaky=True
    )


def _check_result(check: Check, done: CommandResult, allowed: float, seconds: float) -> CheckResult:
    output = done.output
    if done.ended != "exit":
        sentence = ENDINGS[done.ended].format(seconds=allowed)
        output = f"{output.rstrip()}\n{sentence}".lstrip()
    return CheckResult(
        check.kind,
        check.command,
        done.succeeded,
        shortened_output(output),
        round(seconds, 3),
        done.ended,
        done.exit_code,
    )
