"""The domain. Importing it imports every room, so that the metadata is complete."""

from models import accounts, admin, billing, gateway, ledger, orgs, runs, store, usage

__all__ = ["accounts", "admin", "billing", "gateway", "ledger", "orgs", "runs", "store", "usage"]
