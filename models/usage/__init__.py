"""Messages as billing facts, the rollups beside them, and what pages, charts and exports read from both."""

from models.ledger.message import Message
from models.ledger.rollup import UsageRollup

__all__ = ["Message", "UsageRollup"]
