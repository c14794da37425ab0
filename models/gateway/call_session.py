"""What clients say about the session and the sub-agent that a call belongs to, in headers and bodies of their own."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

MAX_ID = 200
"""Longest id of a session or sub-agent, in characters. Longer ones are ignored."""
AFFINITY_KEYS = ("prompt_cache_key", "safety_identifier", "user")
MAX_AFFINITY = 500
MAX_JSON = 8_000
"""Longest header or field with JSON that is read, in characters."""
_ID = re.compile(r"[!-~]+")
_KIND = re.compile(r"[^A-Za-z0-9._ -]+")
_OLD_CLAUDE_USER = re.compile(r"user_[0-9a-f]{1,64}_account_[0-9a-f-]{0,36}_session_([0-9a-f-]{36})")

_CODEX_BODY = ("thread_id", "x-codex-parent-thread-id", "x-openai-subagent")
_CODEX_HEADERS = ("HTTP_THREAD_ID", "HTTP_X_CODEX_PARENT_THREAD_ID", "HTTP_X_OPENAI_SUBAGENT")

_PURPOSE = {
    "prompt_id": "HTTP_X_CLAUDE_CODE_PROMPT_ID",
    "request_class": "HTTP_X_CLAUDE_CODE_REQUEST_CLASS",
    "auxiliary_type": "HTTP_X_CLAUDE_CODE_AUXILIARY_TYPE",
    "compaction": "HTTP_X_CLAUDE_CODE_COMPACTION",
}

TITLES = {
    "claude-code": "Claude Code",
    "codex": "Codex",
    "opencode": "opencode",
    "client": "Client",
}
"""Names of clients by the agent id of their sessions' runs; that of a sub-agent's run is `<client>/<type>`."""


class CallSession(NamedTuple):
    """A session of a client, a key of TITLES. `agent`: the id of the sub-agent that calls, empty for the session itself, `kind` its
    type, `parent` the id of the sub-agent that started it."""

    client: str
    id: str
    agent: str = ""
    kind: str = "agent"
    parent: str = ""


def read_session(environ: Mapping[str, Any], body: Any) -> CallSession | None:
    """The session of a call, from its WSGI environment and its parsed body; None without one. In order: Stoa's header, Claude Code's,
    Codex's, those of opencode and others, and the session in the `metadata.user_id` of Anthropic's bodies."""
    get = environ.get
    if session := _id(get("HTTP_X_SESSION_ID")):
        return CallSession(_client(get), session)
    if session := _id(get("HTTP_X_CLAUDE_CODE_SESSION_ID")):
        agent, parent = (
            _id(get("HTTP_X_CLAUDE_CODE_AGENT_ID")),
            _id(get("HTTP_X_CLAUDE_CODE_PARENT_AGENT_ID")),
        )
        return CallSession("claude-code", session, agent, _kind(get("HTTP_X_CLAUDE_CODE_AGENT_TYPE")), parent)
    said = body.get("client_metadata") if isinstance(body, dict) else None
    if isinstance(said, dict) and "x-codex-window-id" in said and (session := _id(said.get("session_id"))):
        # over WebSocket, the headers are those of the first thread
        return _codex(session, [said.get(name) for name in _CODEX_BODY])
    if session := _id(get("HTTP_SESSION_ID")):
        if _client(get) == "codex":
            return _codex(session, [get(name) for name in _CODEX_HEADERS])
        return CallSession(_client(get), session)
    if session := _id(get("HTTP_X_SESSION_AFFINITY")):
        return CallSession(_client(get), session)
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if isinstance(metadata, dict) and (session := _id(_session_of_user(metadata.get("user_id")))):
        return CallSession("claude-code" if _client(get) == "claude-code" else "client", session)
    return None


def is_claude_code(headers: Any) -> bool:
    """Whether the headers of a request are Claude Code's."""
    return "x-claude-code-session-id" in headers or (headers.get("user-agent") or "").startswith("claude-c")


def read_purpose(environ: Mapping[str, Any]) -> dict[str, str]:
    """What a client says a call is for: the prompt of the user that it belongs to, and its class, such as `main` or `compaction`.
    Claude Code says most of it only if it was asked to (CLAUDE_CODE_GATEWAY_HINT_HEADERS)."""
    found = {name: _id(environ.get(field)) for name, field in _PURPOSE.items()}
    if text := environ.get("HTTP_X_CODEX_TURN_METADATA"):
        said = _object(text)
        found |= {"prompt_id": _id(said.get("turn_id")), "request_class": _id(said.get("request_kind"))}
    return {name: value for name, value in found.items() if value}


def affinity(session: CallSession | None, run_id: str | None, body: Mapping[str, Any]) -> str | None:
    """What tells the calls of one conversation, for which its provider caches the prompt: the session, the run, or the client's key
    or user for that purpose; None without one."""
    if session is not None:
        return session.id
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    for found in (run_id, *(body.get(key) for key in AFFINITY_KEYS), user):
        if isinstance(found, str) and found:
            return found[:MAX_AFFINITY]
    return None


def run_title(agent_id: str) -> str | None:
    """The name of a run of a client's session or sub-agent, by its agent id; None for other runs."""
    client, slash, kind = agent_id.partition("/")
    title = TITLES.get(client)
    if title is None:
        return None
    return f"{title}: {kind}" if slash else f"{title} session"


def _codex(session: str, said: Sequence[Any]) -> CallSession:
    """The session, given the ids of the thread and of the one above, and the type of the sub-agent: threads of sub-agents have an id of
    their own."""
    thread_id, parent_id, subagent = said
    thread, parent = _id(thread_id) or session, _id(parent_id)
    root = parent if parent and thread == session else session
    if thread == root:
        return CallSession("codex", root)
    return CallSession("codex", root, thread, _kind(subagent), "" if parent == root else parent)


def _client(get: Any) -> str:
    agent = get("HTTP_USER_AGENT", "").lower()
    if agent.startswith("opencode"):
        return "opencode"
    if agent.startswith("claude"):
        return "claude-code"
    return "codex" if agent.startswith("codex") or get("HTTP_X_CODEX_WINDOW_ID") else "client"


def _id(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_ID and _ID.fullmatch(value) else ""


def _kind(value: Any) -> str:
    return _KIND.sub("-", value)[:60].strip() if isinstance(value, str) and value.strip() else "agent"


def _session_of_user(user: Any) -> Any:
    """The session in the user that Claude Code names: JSON, or (older versions) one name of three parts."""
    if not isinstance(user, str) or len(user) > MAX_JSON:
        return None
    if user.startswith("{"):
        return _object(user).get("session_id")
    old = _OLD_CLAUDE_USER.fullmatch(user)
    return old[1] if old else None


def _object(text: Any) -> Mapping[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        found = orjson.loads(text) if isinstance(text, str) and len(text) <= MAX_JSON else None
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
