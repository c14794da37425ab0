"""The session that a call belongs to, from what its client sends."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import orjson

from models.gateway.dialects.error_shapes import RequestHeaders

HEADERS = (
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "thread-id",
    "conversation-id",
    "x-session-affinity",
)
"""Headers with a session, by priority: ours, Claude Code's, Codex's and opencode's. Underscores count as dashes."""
KEYS = ("prompt_cache_key", "safety_identifier", "user")
MAX_SESSION = 500


def session_of(headers: RequestHeaders, body: Mapping[str, Any]) -> str | None:
    """The id of the client's session, or what is nearest to it; None if there is none."""
    for name in HEADERS:
        if value := headers.get(name):
            return value[:MAX_SESSION]
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    found = _session_in(user) or next((value for key in KEYS if _text(value := body.get(key))), None) or user
    return found[:MAX_SESSION] if _text(found) else None


def _session_in(user: Any) -> str | None:
    """The session in Anthropic's `metadata.user_id`, where Claude Code sends JSON."""
    if not _text(user) or not user.startswith("{") or len(user) > 4096:
        return None
    try:
        value = orjson.loads(user).get("session_id")
    except ValueError:
        return None
    return value if _text(value) else None


def _text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)
