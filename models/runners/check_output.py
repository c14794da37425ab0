"""Reads from what test runners write whether any test ran: several of them succeed without one."""

import re
from typing import Literal

TestsSeen = Literal["none", "skipped", "some"]
"""`none`: no test was found; `skipped`: none of those that were found ran; `some`: nothing says that none did."""

_NONE = re.compile(
    r"^(?:Ran 0 tests in |no tests ran\b|collected 0 items|No tests? (?:files? )?found|(?:#|\u2139) tests 0$|[ \t]*0 passing\b|running 0 tests$)",
    re.MULTILINE | re.IGNORECASE,
)
_SOME = re.compile(
    r"(?:\b[1-9]\d* (?:passed|failed|passing|failing|xpassed|errors?)\b|^ok[ \t]+\S|^--- (?:PASS|FAIL)|^running [1-9]\d* tests?$|^(?:#|\u2139) tests [1-9])",
    re.MULTILINE | re.IGNORECASE,
)
_NO_GO_FILES = re.compile(r"^\?[ \t]+\S+[ \t]+\[no test files\]$", re.MULTILINE)
_UNITTEST = re.compile(r"^Ran ([1-9]\d*) tests? in ", re.MULTILINE)
_UNITTEST_SKIPPED = re.compile(r"^(?:OK|NO TESTS RAN) \(skipped=(\d+)", re.MULTILINE)
_SKIPPED = re.compile(
    r"^(?:=+ )?[1-9]\d* (?:skipped|deselected|pending|todo)\b(?:, \d+ \w+)* in |^Tests:[ \t]+\d+ (?:skipped|todo), \d+ total",
    re.MULTILINE | re.IGNORECASE,
)


def seen_tests(output: str) -> TestsSeen:
    """What the output of a test command says of the tests that ran. Knows pytest, unittest, Go, Cargo, Jest, Vitest, Mocha and Node's own."""
    ran, skipped = _UNITTEST.search(output), _UNITTEST_SKIPPED.search(output)
    if ran is not None:
        return "skipped" if skipped is not None and int(skipped[1]) >= int(ran[1]) else "some"
    if _SOME.search(output):
        return "some"
    if _SKIPPED.search(output):
        return "skipped"
    return "none" if _NONE.search(output) or _NO_GO_FILES.search(output) else "some"
