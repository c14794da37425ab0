"""Billing pages: buying credits, purchases, cards, billing details and receipts."""

from views.billing.pages import auto_topup, buying, cards, details, receipts
from views.billing.pages.blueprint import bp

__all__ = ["auto_topup", "bp", "buying", "cards", "details", "receipts"]
