"""Yanking versions, deprecating agents, and takedowns. All can be undone; no data is deleted.

A yanked version stays available by its exact version; `latest` skips it. A deprecated agent stays available and names a
successor. What an operator takes down is not available to anybody.
"""

import unicodedata
from datetime import datetime

from models.accounts.users import User
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.store.catalogue import catalogue
from models.store.publishing import takedowns
from models.store.publishing.publish import lock_publisher
from models.store.publishing.takedowns import StoreName
from models.store.tables import Agent, AgentVersion, Takedown

REASON_LENGTH = 500
_LOCK = {"key_share": True}


def yank(
    by: User | None,
    publisher_id: str,
    agent_id: str,
    version: str,
    reason: str,
    now: datetime,
) -> AgentVersion:
    """Yank a version, or change the reason. Locks the publisher's row, flushes. `by` None is the operator.

    Raises as `lock_publisher` does, NotFound for the version, and Invalid for a reason that is empty, has control characters
    or more than 500 characters.
    """
    found = _version(by, publisher_id, agent_id, version)
    found.yanked_reason = _reason(reason)
    found.yanked_at = found.yanked_at or now
    found.yanked_by = by.id if by else None
    catalogue.refresh(publisher_id, [agent_id])
    return found


def unyank(by: User | None, publisher_id: str, agent_id: str, version: str) -> AgentVersion:
    """Restore a yanked version. Idempotent. Raises as `yank` does. Flushes."""
    found = _version(by, publisher_id, agent_id, version)
    found.yanked_at = found.yanked_by = found.yanked_reason = None
    catalogue.refresh(publisher_id, [agent_id])
    return found


def deprecate(
    by: User | None,
    publisher_id: str,
    agent_id: str,
    reason: str,
    successor: str | None,
    now: datetime,
) -> Agent:
    """Deprecate an agent with a reason and an optional successor (`publisher/agent`). Locks the publisher's row, flushes.

    Raises as `yank` does, and Invalid for a successor that is not in the store, is the agent itself or is deprecated.
    """
    found = _agent(by, publisher_id, agent_id)
    found.successor = _successor(found, successor) if successor else None
    found.deprecated_reason = _reason(reason)
    found.deprecated_at = found.deprecated_at or now
    db.session.flush()
    return found


def undeprecate(by: User | None, publisher_id: str, agent_id: str) -> Agent:
    """Undo a deprecation. Idempotent. Raises as `yank` does. Flushes."""
    found = _agent(by, publisher_id, agent_id)
    found.deprecated_at = found.deprecated_reason = found.successor = None
    db.session.flush()
    return found


def take_down(name: StoreName, reason: str, actor: str, now: datetime) -> bool:
    """Take down a publisher, an agent or a version, or change the reason; returns whether anything changed.

    Effective at commit: it leaves the lists, its pages show only the reason, its definitions are not found, no runs of it start
    and nothing can be published in its place. Statistics are kept. Idempotent. Locks the publisher's row, flushes. Raises
    NotFound for an unknown name, and Invalid as `yank` does.
    """
    reason = _reason(reason)
    found = _takedown(name)
    if found is not None and found.reason == reason:
        return False
    if found is not None:
        found.reason = reason
        db.session.flush()
        return True
    db.session.add(
        Takedown(
            publisher_id=name.publisher_id,
            agent_id=name.agent_id,
            version=name.version,
            reason=reason,
            actor=actor,
            at=now,
        )
    )
    _refresh_listing(name)
    return True


def restore(name: StoreName) -> bool:
    """Undo a takedown; returns whether there was one. A wider takedown may still cover it. Raises as `take_down` does."""
    found = _takedown(name)
    if found is None:
        return False
    db.session.delete(found)
    _refresh_listing(name)
    return True


def _takedown(name: StoreName) -> Takedown | None:
    lock_publisher(None, name.publisher_id)
    if name.agent_id and db.session.get(Agent, (name.publisher_id, name.agent_id)) is None:
        raise NotFound(f"@{name.publisher_id} has no agent {name.agent_id}.")
    key = (name.publisher_id, name.agent_id, name.version)
    if name.version and db.session.get(AgentVersion, key) is None:
        raise NotFound(f"{name.publisher_id}/{name.agent_id} has no version {name.version}.")
    return db.session.get(Takedown, key, populate_existing=True)


def _refresh_listing(name: StoreName) -> None:
    catalogue.refresh(name.publisher_id, [name.agent_id] if name.agent_id else None)


def _version(by: User | None, publisher_id: str, agent_id: str, version: str) -> AgentVersion:
    _agent(by, publisher_id, agent_id)
    found = None if "\x00" in version else db.session.get(AgentVersion, (publisher_id, agent_id, version))
    if found is None:
        raise NotFound(
            "Version not found",
            details=f"{publisher_id}/{agent_id} has no version {version[:100]!r}."
            f" /publishers/{publisher_id}/agents/{agent_id}/versions lists its versions.",
        )
    return found


def _agent(by: User | None, publisher_id: str, agent_id: str) -> Agent:
    not_found = NotFound(
        "Agent not found",
        details=f"{publisher_id[:100]!r} has no agent {agent_id[:100]!r}. /publishers/{publisher_id[:100]} lists its agents.",
    )
    if "\x00" in publisher_id + agent_id:
        raise not_found
    lock_publisher(by, publisher_id)
    # lock order: the agent's row before the rows of its versions, as when statistics are written
    found = db.session.get(Agent, (publisher_id, agent_id), populate_existing=True, with_for_update=_LOCK)
    if found is None:
        raise not_found
    return found


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        problem = "Say why in one sentence."
    elif len(reason) > REASON_LENGTH:
        problem = f"Use at most {REASON_LENGTH} characters."
    elif any(unicodedata.category(letter) == "Cc" and letter not in "\r\n\t" for letter in reason):
        problem = "Remove control characters."
    else:
        return reason
    raise Invalid(f"Invalid reason. {problem}", fields={"reason": problem}, status=400)


def _successor(agent: Agent, named: str) -> str:
    publisher_id, _, agent_id = named.strip().partition("/")
    found = None if "\x00" in named else db.session.get(Agent, (publisher_id, agent_id))
    if found is None or takedowns.find(publisher_id, agent_id):
        problem = "Agent not found. Write it as publisher/agent."
    elif found is agent:
        problem = "An agent cannot be its own successor."
    elif found.deprecated_at is not None:
        problem = "That agent is deprecated too."
    else:
        return f"{publisher_id}/{agent_id}"
    raise Invalid(f"Invalid successor. {problem}", fields={"successor": problem}, status=400)
