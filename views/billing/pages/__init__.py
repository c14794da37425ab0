"""Billing pages: buying credits, purchases, cards, billing details, receipts, plans, and settings of e-mails."""

from views.billing.pages import (
    auto_topup,
    checkout,
    details,
    mail_settings,
    organisation_seats,
    plan_checkout,
    receipts,
    saved_cards,
    statement,
    subscriptions,
)
from views.billing.pages.billing_blueprint import bp

__all__ = [
    "auto_topup",
    "bp",
    "checkout",
    "details",
    "mail_settings",
    "organisation_seats",
    "plan_checkout",
    "receipts",
    "saved_cards",
    "statement",
    "subscriptions",
]
