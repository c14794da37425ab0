"""Messages as billing facts, and the rollups that pages and charts read."""

from models.usage.message import Message
from models.usage.rollup import UsageRollup

__all__ = ["Message", "UsageRollup"]
