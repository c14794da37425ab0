"""The README of an agent: public, written by members of its publisher."""

from models.accounts import User
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.store import publishers
from models.store.catalogue.markdown import normalize, problem_in
from models.store.tables import Agent


def open_agent(by: User, publisher_id: str, agent_id: str, *, lock: bool = False) -> Agent:
    """The agent, for users who can manage it. Raises NotFound, and as `publishers.accessible` does."""
    publisher = publishers.accessible(by, publisher_id)
    agent = None
    if "\x00" not in agent_id:
        agent = db.session.get(Agent, (publisher.id, agent_id), with_for_update=lock, populate_existing=lock)
    if agent is None:
        raise NotFound("There is no such agent here")
    return agent


def revision(agent: Agent) -> str:
    """Identifies the current README, to detect edit conflicts; empty without one."""
    return agent.readme_updated_at.isoformat() if agent.readme_updated_at else ""


def validated(text: str) -> str:
    """The text as it is stored. Raises Invalid with a message for the field `readme`."""
    normalized = normalize(text)
    problem = problem_in(normalized)
    if problem:
        raise Invalid(problem, fields={"readme": problem})
    return normalized


def write(by: User, publisher_id: str, agent_id: str, text: str, seen: str) -> Agent:
    """Replace the README whose `revision` is `seen`; empty text removes it. Locks the agent's row, flushes.

    Raises Conflict if it changed since, and as `open_agent` and `validated` do.
    """
    agent = open_agent(by, publisher_id, agent_id, lock=True)
    normalized = validated(text)
    if seen != revision(agent):
        raise Conflict("This README changed since you opened it. Merge your changes, then save again.")
    if normalized != (agent.readme or ""):
        agent.readme, agent.readme_updated_at = normalized or None, now()
        db.session.flush()
    return agent
