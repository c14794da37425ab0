"""What an API key may do: the closed list of scopes. Keys of the older kind, browsers and command lines have all of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.core.errors import Forbidden, Invalid


class Scope(NamedTuple):
    """A scope, and what it opens."""

    name: str
    opens: str


CHAT, EMBEDDINGS = "inference:chat", "inference:embeddings"
IMAGES, AUDIO = "inference:images", "inference:audio"
RUNNERS_WORK = "runners:work"
AGENTS_READ, AGENTS_WRITE = "agents:read", "agents:write"
AGENTS_RUN, AGENTS_PUBLISH = "agents:run", "agents:publish"
USAGE_READ, KEYS_READ, KEYS_WRITE = "usage:read", "keys:read", "keys:write"
ORG_ADMIN = "org:admin"
THREADS_READ, THREADS_WRITE = "threads:read", "threads:write"
PROJECTS_READ, PROJECTS_WRITE = "projects:read", "projects:write"
SCOPES = (
    Scope(CHAT, "Chat, messages, responses, token counts"),
    Scope(EMBEDDINGS, "Embeddings and reranking"),
    Scope(IMAGES, "Generate and edit images"),
    Scope(AUDIO, "Speech, transcription, translation"),
    Scope(THREADS_READ, "Read threads, their messages and documents"),
    Scope(THREADS_WRITE, "Write threads and messages, upload documents"),
    Scope(PROJECTS_READ, "Read projects, their snapshots and files"),
    Scope(PROJECTS_WRITE, "Change projects, push snapshots and files"),
    Scope(RUNNERS_WORK, "Serve as a runner: take work, and nothing else"),
    Scope(AGENTS_READ, "Read assistants, their tools and the names of secrets"),
    Scope(AGENTS_WRITE, "Change assistants, their tools and secrets"),
    Scope(AGENTS_RUN, "Start and finish runs and steps"),
    Scope(AGENTS_PUBLISH, "Publish, withdraw and deprecate agents"),
    Scope(USAGE_READ, "Read usage, runs, calls and the plan"),
    Scope(KEYS_READ, "List API keys"),
    Scope(KEYS_WRITE, "Create, change and revoke API keys"),
    Scope(ORG_ADMIN, "Settings, members, plans and billing"),
)
NAMES = tuple(scope.name for scope in SCOPES)
INFERENCE = (CHAT, EMBEDDINGS, IMAGES, AUDIO)
"""The scopes of a key unless others are chosen: all model calls."""
NEW_KEY = (*INFERENCE, AGENTS_RUN, USAGE_READ)
"""The scopes that the form of a new key begins with: what the client of the agent store needs too."""
ANY_INFERENCE = "inference"
"""A route that a key with any scope for model calls may use."""
ANY = "any"
"""A route that a key with any scope may use, except that of runners alone."""
OLD_WORDS = {"chat": (CHAT,), "image": (IMAGES,), "thread": (THREADS_READ, THREADS_WRITE)}


class MissingScope(Forbidden):
    """The key lacks the scope of this route."""

    code = "insufficient_permissions"

    def __init__(self, scope: str) -> None:
        super().__init__(scope_message(scope))


def scope_words(scope: str) -> str:
    """The scope of a route, for documentation."""
    return {ANY: "any", ANY_INFERENCE: "any of inference:…"}.get(scope, scope)


def scope_message(scope: str) -> str:
    """Which scope a key lacks."""
    if scope == ANY:
        return "This API key has no permissions. Give it a scope, or use another key."
    needed = "a scope for model calls (inference:…)" if scope == ANY_INFERENCE else f"the scope '{scope}'"
    return f"This API key lacks {needed}. Add it to the key, or use another key."


def normal_scopes(names: Iterable[str]) -> list[str]:
    """The scopes of these names, in the order of the list; old words become their new names. Raises Invalid (422) for unknown ones."""
    found: set[str] = set()
    for name in names:
        if name not in NAMES and name not in OLD_WORDS:
            problem = f"There is no scope '{name[:50]}'. Use: {', '.join(NAMES)}."
            raise Invalid(problem, fields={"permissions": problem})
        found.update(OLD_WORDS.get(name, (name,)))
    return [name for name in NAMES if name in found]


def allows(permissions: Sequence[str], scope: str) -> bool:
    """Whether a key with these permissions may use a route with this scope."""
    if scope == ANY:
        return any(name != RUNNERS_WORK for name in permissions)
    if scope == ANY_INFERENCE:
        return any(name in INFERENCE for name in permissions)
    return scope in permissions
