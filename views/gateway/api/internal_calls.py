"""Model calls that the server makes for one of its own routes, with the caller's API key."""

from typing import Any

from models.runs.internal_chat import CallFailed, CallNotPossible, InternalAnswer, chat_once

__all__ = ["CallFailed", "CallNotPossible", "InternalAnswer", "complete_chat"]


def complete_chat(key: str, body: dict[str, Any], *, client_id: str) -> InternalAnswer:
    """Send a chat with this API key, which pays; wait for the whole answer. Hold no transaction meanwhile. Raises CallNotPossible,
    CallFailed."""
    return chat_once(key, body, client_id=client_id)
