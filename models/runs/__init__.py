"""Agent runs and their steps."""

from models.runs import erased_runs, exported_runs
from models.runs.client_sessions import ClientSessionRun
from models.runs.run import RUN_STATUSES, STEP_STATUSES, AgentRun, AgentRunVolume, AgentStep
from models.runs.run_credits import RunCreditMark
from models.runs.run_share import RunShare

__all__ = [
    "RUN_STATUSES",
    "STEP_STATUSES",
    "AgentRun",
    "AgentRunVolume",
    "AgentStep",
    "ClientSessionRun",
    "RunCreditMark",
    "RunShare",
    "erased_runs",
    "exported_runs",
]
