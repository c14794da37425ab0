"""Billing pages: settings of e-mails, and unsubscribing from them."""

from views.billing.pages import mail_settings

__all__ = ["mail_settings"]
