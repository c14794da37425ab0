"""Money in: purchases through Stripe, what refunds and disputes take back, subscriptions, referrals and ad rewards."""

from models.billing.auto_topup import AutoTopup, AutoTopupConsent, AutoTopupView, TopupSettings
from models.billing.billing_details import BillingDetails
from models.billing.buying import BuyOutcome, buy, resolve
from models.billing.confirmations import PaymentConfirmation
from models.billing.disputes import clear_freeze
from models.billing.low_balance import LowBalance, low_balance_threshold, set_low_balance_threshold
from models.billing.mails import BillingMail, MailOptOut
from models.billing.plans import (
    LimitOverride,
    NewPlan,
    Plan,
    PlanWindow,
    WindowLimit,
    create_plan,
    get_plan,
    listed_plans,
    new_version,
    public_plans,
    retire_plan,
    stripe_price,
    update_plan,
)
from models.billing.purchase import (
    BuyingFreeze,
    Purchase,
    PurchaseDispute,
    PurchaseRefund,
    Receipt,
    buying_freeze,
    listed_purchases,
    purchase_of,
    purchases_of,
    receipt_of,
)
from models.billing.reconciliation import Reconciliation, last_reconciliation, reconcile
from models.billing.rewards import REFERRAL_STATUSES, AdImpression, Referral
from models.billing.stripe_api import BillingDisabled, StripeError, connect, enabled, test_mode
from models.billing.stripe_events import StripeEvent, WebhookRefusal
from models.billing.subscriptions import SUBSCRIPTION_STATUSES, Subscription, SubscriptionInvoice
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
    "LimitOverride",
    "LowBalance",
    "MailOptOut",
    "NewPlan",
    "PaymentConfirmation",
    "Plan",
    "PlanWindow",
    "Purchase",
    "PurchaseDispute",
    "PurchaseRefund",
    "Receipt",
    "Reconciliation",
    "Referral",
    "StripeError",
    "StripeEvent",
    "Subscription",
    "SubscriptionInvoice",
    "TopupSettings",
    "WebhookRefusal",
    "WindowLimit",
    "buy",
    "buying_freeze",
    "buying_limits",
    "clear_freeze",
    "connect",
    "create_plan",
    "enabled",
    "get_plan",
    "last_reconciliation",
    "listed_plans",
    "listed_purchases",
    "low_balance_threshold",
    "new_version",
    "public_plans",
    "purchase_of",
    "purchases_of",
    "receipt_of",
    "reconcile",
    "resolve",
    "retire_plan",
    "set_low_balance_threshold",
    "set_trust_level",
    "stripe_price",
    "test_mode",
    "top_up",
    "update_plan",
]
