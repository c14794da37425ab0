"""Money in: purchases through Stripe, what refunds and disputes take back, subscriptions, referrals and ad rewards."""

from models.billing.auto_topup import AutoTopup, AutoTopupConsent, AutoTopupView, TopupSettings
from models.billing.billing_details import BillingDetails
from models.billing.buying import BuyOutcome, buy, resolve
from models.billing.confirmations import PaymentConfirmation
from models.billing.disputes import FrozenBuyer, banned_buyers, clear_freeze, frozen_buyers
from models.billing.low_balance import LowBalance, low_balance_threshold, set_low_balance_threshold
from models.billing.mails import BillingMail, MailOptOut
from models.billing.plans import SUBSCRIPTION_STATUSES, LimitOverride, Subscription
from models.billing.proof_runs import ProofRun, last_proof, record_proof
from models.billing.purchase import (
    BuyingFreeze,
    Purchase,
    PurchaseDispute,
    PurchaseRefund,
    Receipt,
    buying_freeze,
    existing_purchases,
    listed_purchases,
    purchase_of,
    purchases_of,
    receipt_of,
)
from models.billing.reconciliation import Reconciliation, last_reconciliation, reconcile
from models.billing.rewards import REFERRAL_STATUSES, AdImpression, Referral
from models.billing.stripe_api import BillingDisabled, StripeError, connect, enabled, test_mode
from models.billing.stripe_events import StripeEvent, WebhookRefusal
from models.billing.topup_charging import top_up
from models.billing.trust import BuyingLimited, BuyingLimits, buying_limits, set_trust_level

__all__ = [
    "REFERRAL_STATUSES",
    "SUBSCRIPTION_STATUSES",
    "AdImpression",
    "AutoTopup",
    "AutoTopupConsent",
    "AutoTopupView",
    "BillingDetails",
    "BillingDisabled",
    "BillingMail",
    "BuyOutcome",
    "BuyingFreeze",
    "BuyingLimited",
    "BuyingLimits",
    "FrozenBuyer",
    "LimitOverride",
    "LowBalance",
    "MailOptOut",
    "PaymentConfirmation",
    "ProofRun",
    "Purchase",
    "PurchaseDispute",
    "PurchaseRefund",
    "Receipt",
    "Reconciliation",
    "Referral",
    "StripeError",
    "StripeEvent",
    "Subscription",
    "TopupSettings",
    "WebhookRefusal",
    "banned_buyers",
    "buy",
    "buying_freeze",
    "buying_limits",
    "clear_freeze",
    "connect",
    "enabled",
    "existing_purchases",
    "frozen_buyers",
    "last_proof",
    "last_reconciliation",
    "listed_purchases",
    "low_balance_threshold",
    "purchase_of",
    "purchases_of",
    "receipt_of",
    "reconcile",
    "record_proof",
    "resolve",
    "set_low_balance_threshold",
    "set_trust_level",
    "test_mode",
    "top_up",
]
