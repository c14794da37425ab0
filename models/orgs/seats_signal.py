"""The signal that the people of an organisation changed."""

from blinker import Signal

members_changed = Signal()
"""Sent with the organisation's id after people were added or removed, in the same transaction. Billing adjusts the seats."""


def seats_changed(org_id: str) -> None:
    """Tell billing that the number of people changed. Call after the change is flushed."""
    members_changed.send(org_id)
