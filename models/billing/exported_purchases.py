"""What an export of a user's data holds of their billing: purchases, subscriptions and invoices, details, referrals and e-mails."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, or_, select

from models.billing.mails import BillingMail, MailOptOut
from models.billing.payments.billing_details import BillingDetails
from models.billing.payments.purchase import Purchase
from models.billing.referral_program.rewards import Referral
from models.billing.subscription_plans.subscriptions import Subscription, SubscriptionInvoice
from models.billing.topups.auto_topup import AutoTopup
from models.core.personal_export import add_csv, add_json_lines, batches


def _purchases(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(*Purchase.__table__.columns).where(Purchase.account_id == user_id)
    return batches(query, Purchase.created_at, Purchase.id)


def _subscriptions(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(Subscription.__table__).where(Subscription.user_id == user_id)
    return batches(query, Subscription.stripe_subscription_id)


def _invoices(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = (
        select(*SubscriptionInvoice.__table__.columns)
        .join(
            Subscription,
            Subscription.stripe_subscription_id == SubscriptionInvoice.stripe_subscription_id,
        )
        .where(Subscription.user_id == user_id)
    )
    return batches(query, SubscriptionInvoice.id)


def _details(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(BillingDetails.__table__).where(BillingDetails.account_id == user_id)
    return batches(query, BillingDetails.account_id)


def _topup(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(AutoTopup.__table__).where(AutoTopup.user_id == user_id)
    return batches(query, AutoTopup.id)


def _referrals(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(Referral.__table__).where(
        or_(Referral.referrer_id == user_id, Referral.referred_id == user_id)
    )
    for row in batches(query, Referral.referrer_id, Referral.referred_id):
        yield {**row, "side": "referrer" if row["referrer_id"] == user_id else "referred"}


def _mails(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(BillingMail.__table__).where(BillingMail.user_id == user_id)
    return batches(query, BillingMail.id)


def _opt_outs(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(MailOptOut.__table__).where(MailOptOut.user_id == user_id)
    return batches(query, MailOptOut.topic)


add_csv(
    "purchases.csv",
    "Credits you bought.",
    {
        "id": "id",
        "kind": "how",
        "created_at": "when",
        "paid_at": "when it was paid",
        "state": "what became of it",
        "credits": "whole credits",
        "amount_cents": "price without tax, in hundredths of the currency",
        "tax_cents": "tax, in hundredths of the currency",
        "currency": "currency",
        "refunded_cents": "refunded, in hundredths of the currency",
        "payment_method_type": "kind of payment",
        "card_brand": "card",
        "card_last4": "its last four digits",
        "client_address": "your address when you bought; old ones are erased",
        "stripe_payment_intent_id": "id at the payment provider",
    },
    _purchases,
)
add_csv(
    "subscriptions.csv",
    "Plans you subscribed to.",
    {
        "stripe_subscription_id": "id at the payment provider",
        "plan_id": "plan",
        "status": "status",
        "billing_period_start": "start of the period",
        "billing_period_end": "end of the period",
        "cancel_at_period_end": "whether it ends then",
        "canceled_at": "when you cancelled it",
        "ended_at": "when it ended",
        "created_at": "when",
    },
    _subscriptions,
)
add_csv(
    "invoices.csv",
    "Invoices of these plans.",
    {
        "id": "id",
        "number": "number of the invoice",
        "stripe_subscription_id": "subscription",
        "billing_reason": "why",
        "status": "status",
        "amount_cents": "amount, in hundredths of the currency of the plan",
        "refunded_cents": "refunded",
        "credits": "whole credits",
        "period_start": "start of the period",
        "period_end": "end of the period",
        "created_at": "when",
        "paid_at": "when it was paid",
    },
    _invoices,
)
add_json_lines(
    "billing_details.jsonl",
    "Name, address and tax ids on invoices.",
    {"details": "the details", "updated_at": "last change"},
    _details,
)
add_csv(
    "auto_topup.csv",
    "Limits of automatic purchases. Whether they are on is in profile.jsonl.",
    {
        "monthly_cap_cents": "at most a month, in hundredths of the currency",
        "off_reason": "why it was switched off",
        "updated_at": "last change",
    },
    _topup,
)
add_csv(
    "referrals.csv",
    "People you referred, and who referred you.",
    {
        "side": "what you are: referrer or referred",
        "status": "status",
        "credits": "whole credits",
        "created_at": "when",
        "completed_at": "when the credits came",
    },
    _referrals,
)
add_json_lines(
    "notifications.jsonl",
    "E-mails about your credits and payments.",
    {
        "kind": "what about",
        "facts": "what the e-mail said",
        "created_at": "when",
        "queued_at": "when it was sent",
        "skipped": "why it was not sent",
    },
    _mails,
)
add_csv(
    "unsubscribed.csv",
    "Topics of e-mails you unsubscribed from.",
    {"topic": "topic", "created_at": "when"},
    _opt_outs,
)
