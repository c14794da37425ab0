"""Money in: subscriptions, referrals and ad rewards."""

from models.billing.plans import SUBSCRIPTION_STATUSES, LimitOverride, Subscription
from models.billing.rewards import REFERRAL_STATUSES, AdImpression, Referral

__all__ = [
    "REFERRAL_STATUSES",
    "SUBSCRIPTION_STATUSES",
    "AdImpression",
    "LimitOverride",
    "Referral",
    "Subscription",
]
