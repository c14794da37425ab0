"""Runners: where agents, checks and builds work on the files of a tree, at one of three levels of isolation."""

from models.runners import machine_workplace, sandbox_probe, virtual_workplace  # noqa: F401  (they register their levels)
from models.runners.account_runner import connected_runners
from models.runners.changed_tree import store_changes
from models.runners.check_detection import CHECK_KINDS, Check, CheckKind, detect_checks
from models.runners.check_running import CheckResult, all_passed, run_checks
from models.runners.isolation_levels import (
    LevelState,
    LevelUnavailable,
    PeerSocket,
    WorkplaceRequest,
    level_state,
    levels,
    open_workplace,
    register_level,
)
from models.runners.machine_workplace import RunnerLost
from models.runners.process_workplace import ProcessWorkplace, sweep_sandboxes
from models.runners.runner_tables import Runner, RunnerAction, RunnerWork
from models.runners.turn_socket import TurnSocket, open_turn_socket
from models.runners.workplace import (
    LEVELS,
    CommandResult,
    FileChange,
    Level,
    Limits,
    Matches,
    NoProcesses,
    SearchMatch,
    TreeChanges,
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
    "LevelState",
    "LevelUnavailable",
    "Limits",
    "Matches",
    "NoProcesses",
    "PeerSocket",
    "ProcessWorkplace",
    "Runner",
    "RunnerAction",
    "RunnerLost",
    "RunnerWork",
    "SearchMatch",
    "TreeChanges",
    "TurnSocket",
    "Workplace",
    "WorkplaceRequest",
    "all_passed",
    "connected_runners",
    "detect_checks",
    "level_state",
    "levels",
    "open_turn_socket",
    "open_workplace",
    "register_level",
    "run_checks",
    "store_changes",
    "sweep_sandboxes",
]
