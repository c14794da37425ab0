"""Billing pages: buying credits, purchases, cards, billing details, receipts, and settings of e-mails."""

from views.billing.pages import checkout, details, mail_settings, receipts, saved_cards
from views.billing.pages.billing_blueprint import bp

__all__ = ["bp", "checkout", "details", "mail_settings", "receipts", "saved_cards"]
