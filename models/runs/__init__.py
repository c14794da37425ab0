"""Agent runs and their steps."""

from models.runs.run import RUN_STATUSES, STEP_STATUSES, AgentRun, AgentRunVolume, AgentStep

__all__ = ["RUN_STATUSES", "STEP_STATUSES", "AgentRun", "AgentRunVolume", "AgentStep"]
