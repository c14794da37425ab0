"""Members of organisations."""

from blinker import Signal

members_changed = Signal()
"""Sent with the organisation's id after people were added or removed, in the same transaction. Billing adjusts the seats."""
