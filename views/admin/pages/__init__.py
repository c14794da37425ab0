"""Operators' pages: they show what the commands of the same names print, and need an address in STOA_ADMINS."""

from views.admin.pages.billing_operations import bp

__all__ = ["bp"]
