"""Runners: where agents, checks and builds work on the files of a tree, at one of three levels of isolation."""

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
    "LEVELS",
    "CommandResult",
    "FileChange",
    "Level",
    "Limits",
    "NoProcesses",
    "SearchMatch",
    "Workplace",
]
