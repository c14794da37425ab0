"""Threads: trees of messages with models and assistants."""

from models.threads.thread import Thread, ThreadMessage, ThreadShare

__all__ = ["Thread", "ThreadMessage", "ThreadShare"]
