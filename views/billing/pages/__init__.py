"""Billing pages: buying credits, purchases, cards, billing details and receipts."""

from views.billing.pages import auto_topup, checkout, details, receipts, saved_cards
from views.billing.pages.billing_blueprint import bp

__all__ = ["auto_topup", "bp", "checkout", "details", "receipts", "saved_cards"]
