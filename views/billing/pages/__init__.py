"""Billing pages: buying credits, purchases, cards, billing details and receipts."""

from views.billing.pages import checkout, details, receipts, saved_cards
from views.billing.pages.billing_blueprint import bp

__all__ = ["bp", "checkout", "details", "receipts", "saved_cards"]
