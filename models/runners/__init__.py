"""Runners: where agents, checks and builds work on the files of a tree, at one of three levels of isolation."""

from models.runners.check_detection import CHECK_KINDS, Check, CheckKind, detect_checks
from models.runners.check_running import CheckResult, all_passed, run_checks
from models.runners.workplace import (
    LEVELS,
    CommandResult,
    FileChange,
    Level,
    Limits,
    NoProcesses,
    SearchMatch,
    Workplace,
)

__all__ = [
    "CHECK_KINDS",
    "LEVELS",
    "Check",
    "CheckKind",
    "CheckResult",
    "CommandResult",
    "FileChange",
    "Level",
    "Limits",
    "NoProcesses",
    "SearchMatch",
    "Workplace",
    "all_passed",
    "detect_checks",
    "run_checks",
]
