"""Taking back what was published without taking it away: yanking versions, deprecating agents, and takedowns.

A yanked version stays there for who names it exactly; only `latest` passes over it. A deprecated agent stays there for
everybody, and says which agent to use instead. What an operator took down is shown to nobody, and nothing of it is lost.
"""

import unicodedata
from datetime import datetime

from models.accounts.users import User
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.store.catalogue import catalogue
from models.store.publishing import takedowns
from models.store.publishing.publish import manage
from models.store.publishing.takedowns import StoreName
from models.store.tables import Agent, AgentVersion, Takedown

REASON_LENGTH = 500
_NO_KEY = {"key_share": True}


def yank(
    by: User | None,
    publisher_id: str,
    agent_id: str,
    version: str,
    reason: str,
    now: datetime,
) -> AgentVersion:
    """Withdraw a version; a second time changes the reason. Holds the publisher's row. Flushes.

    Raises NotFound and Forbidden as `manage` does (`by` None: the operator), NotFound for the version, and Invalid
    for a reason that is empty, has control characters or more than 500 characters.
    """
    found = _version(by, publisher_id, agent_id, version)
    found.yanked_reason = _reason(reason)
    found.yanked_at = found.yanked_at or now
    found.yanked_by = by.id if by else None
    catalogue.refresh(publisher_id, [agent_id])
    return found


def unyank(by: User | None, publisher_id: str, agent_id: str, version: str) -> AgentVersion:
    """Bring a version back; nothing happens to one that was not withdrawn. Raises as `yank` does. Flushes."""
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
    """Say that an agent should not be used any more, why, and which one should (`publisher/agent`). Flushes.

    Holds the publisher's row. Raises as `yank` does, and Invalid for a successor that is not in the store, is the agent
    itself or is deprecated too.
    """
    found = _agent(by, publisher_id, agent_id)
    found.successor = _successor(found, successor) if successor else None
    found.deprecated_reason = _reason(reason)
    found.deprecated_at = found.deprecated_at or now
    db.session.flush()
    return found


def undeprecate(by: User | None, publisher_id: str, agent_id: str) -> Agent:
    """Take that back. Nothing happens to an agent that is not deprecated. Raises as `yank` does. Flushes."""
    found = _agent(by, publisher_id, agent_id)
    found.deprecated_at = found.deprecated_reason = found.successor = None
    db.session.flush()
    return found


def take_down(name: StoreName, reason: str, actor: str, now: datetime) -> bool:
    """Take a publisher, an agent or a version out of the store, or change the reason; whether that changed anything.

    It leaves the lists at the commit; its pages tell the reason and nothing else, its definitions are found no more, runs of
    it cannot be started and nothing can be published in its place. Figures stay as they are. Idempotent. Holds the
    publisher's row; flushes. Raises NotFound for what is not in the store, Invalid as `yank` does.
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
    _relist(name)
    return True


def restore(name: StoreName) -> bool:
    """Take a takedown back; whether there was one. What it belongs to may still be taken down. Raises as `take_down`."""
    found = _takedown(name)
    if found is None:
        return False
    db.session.delete(found)
    _relist(name)
    return True


def _takedown(name: StoreName) -> Takedown | None:
    manage(None, name.publisher_id)
    if name.agent_id and db.session.get(Agent, (name.publisher_id, name.agent_id)) is None:
        raise NotFound(f"@{name.publisher_id} has no agent {name.agent_id}.")
    place = (name.publisher_id, name.agent_id, name.version)
    if name.version and db.session.get(AgentVersion, place) is None:
        raise NotFound(f"{name.publisher_id}/{name.agent_id} has no version {name.version}.")
    return db.session.get(Takedown, place, populate_existing=True)


def _relist(name: StoreName) -> None:
    catalogue.refresh(name.publisher_id, [name.agent_id] if name.agent_id else None)


def _version(by: User | None, publisher_id: str, agent_id: str, version: str) -> AgentVersion:
    _agent(by, publisher_id, agent_id)
    found = None if "\x00" in version else db.session.get(AgentVersion, (publisher_id, agent_id, version))
    if found is None:
        raise NotFound(
            "Version not found",
            details=f"{publisher_id}/{agent_id} has no version {version[:100]!r}."
            f" /publishers/{publisher_id}/agents/{agent_id}/versions lists those that it has.",
        )
    return found


def _agent(by: User | None, publisher_id: str, agent_id: str) -> Agent:
    nothing = NotFound(
        "Agent not found",
        details=f"{publisher_id[:100]!r} has no agent {agent_id[:100]!r}. /publishers/{publisher_id[:100]} lists its agents.",
    )
    if "\x00" in publisher_id + agent_id:
        raise nothing
    manage(by, publisher_id)
    # before the rows of its versions, as whoever writes figures takes them
    found = db.session.get(Agent, (publisher_id, agent_id), populate_existing=True, with_for_update=_NO_KEY)
    if found is None:
        raise nothing
    return found


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        problem = "Say why, in a sentence."
    elif len(reason) > REASON_LENGTH:
        problem = f"Use at most {REASON_LENGTH} characters."
    elif any(unicodedata.category(letter) == "Cc" and letter not in "\r\n\t" for letter in reason):
        problem = "Use no control characters."
    else:
        return reason
    raise Invalid(f"The reason cannot be kept. {problem}", fields={"reason": problem}, status=400)


def _successor(agent: Agent, named: str) -> str:
    publisher_id, _, agent_id = named.strip().partition("/")
    found = None if "\x00" in named else db.session.get(Agent, (publisher_id, agent_id))
    if found is None or takedowns.standing(publisher_id, agent_id):
        problem = "There is no such agent. Write it as publisher/agent."
    elif found is agent:
        problem = "An agent cannot follow itself."
    elif found.deprecated_at is not None:
        problem = "That agent is deprecated too."
    else:
        return f"{publisher_id}/{agent_id}"
    raise Invalid(f"The successor cannot be kept. {problem}", fields={"successor": problem}, status=400)
