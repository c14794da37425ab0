"""The domain. Importing it imports every room, which completes the table metadata."""

from models import accounts, admin, billing, gateway, index, ledger, orgs, playground, runs, store, usage

__all__ = [
    "accounts",
    "admin",
    "billing",
    "gateway",
    "index",
    "ledger",
    "orgs",
    "playground",
    "runs",
    "store",
    "usage",
]
