"""Tells later rooms that the decisions of a project changed."""

from blinker import Signal

decisions_moved = Signal()
"""Sent with the id of the project, in the transaction of the change."""
