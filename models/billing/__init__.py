"""Credits and what they cost: the ledger, holds, subscriptions, referrals and ad rewards."""

from models.billing.ledger import (
    ENTRY_KINDS,
    GRANT_TYPES,
    CreditAccount,
    CreditEntry,
    CreditHold,
    CreditLedger,
    SyncFailure,
)
from models.billing.plans import SUBSCRIPTION_STATUSES, LimitOverride, Subscription
from models.billing.rewards import REFERRAL_STATUSES, AdImpression, Referral

__all__ = [
    "ENTRY_KINDS",
    "GRANT_TYPES",
    "REFERRAL_STATUSES",
    "SUBSCRIPTION_STATUSES",
    "AdImpression",
    "CreditAccount",
    "CreditEntry",
    "CreditHold",
    "CreditLedger",
    "LimitOverride",
    "Referral",
    "Subscription",
    "SyncFailure",
]
