"""The domain. Importing it imports every room, which completes the table metadata."""

from models import (
    accounts,
    admin,
    assistants,
    billing,
    gateway,
    index,
    insights,
    ledger,
    orgs,
    playground,
    projects,
    runs,
    store,
    threads,
    turns,
    usage,
)

__all__ = [
    "accounts",
    "admin",
    "assistants",
    "billing",
    "gateway",
    "index",
    "insights",
    "ledger",
    "orgs",
    "playground",
    "projects",
    "runs",
    "store",
    "threads",
    "turns",
    "usage",
]
