"""Messages as billing records, usage rollups, and the queries for pages, charts and exports."""

from models.ledger.message import Message
from models.ledger.rollup import UsageRollup
from models.usage import departures

__all__ = ["Message", "UsageRollup", "departures"]
