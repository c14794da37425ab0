"""Messages as billing records, usage rollups, and the queries for pages, charts and exports."""

from models.ledger.message import Message
from models.ledger.rollup import UsageRecounting, UsageRollup
from models.usage import departures, erased_prompts, exported_ledger
from models.usage.org_usage import OrgUsage, OrgUsageState
from models.usage.weekly_report import OrgWeeklyReport
from models.usage.zone_rollups import UsageZone

__all__ = [
    "Message",
    "OrgUsage",
    "OrgUsageState",
    "OrgWeeklyReport",
    "UsageRecounting",
    "UsageRollup",
    "UsageZone",
    "departures",
    "erased_prompts",
    "exported_ledger",
]
