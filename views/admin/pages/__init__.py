"""Operators' pages, for e-mail addresses in STOA_ADMINS. They show the same data as the commands of the same names."""

from views.admin.pages.billing_operations import bp

__all__ = ["bp"]
