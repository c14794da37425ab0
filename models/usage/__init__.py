"""Messages as billing facts, the rollups beside them, and what pages, charts and exports read from both."""

from models.usage.message import Message
from models.usage.rollup import UsageRollup

__all__ = ["Message", "UsageRollup"]
