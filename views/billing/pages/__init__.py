"""Billing pages: buying credits, purchases, cards, billing details and receipts."""

from views.billing.pages import buying, cards, details, receipts
from views.billing.pages.blueprint import bp

__all__ = ["bp", "buying", "cards", "details", "receipts"]
