"""The README of an agent: written by who may publish it, shown to everybody."""

from models.accounts import User
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.store import publishers
from models.store.catalogue.markdown import cleaned, fault
from models.store.tables import Agent


def open_agent(by: User, publisher_id: str, agent_id: str, *, lock: bool = False) -> Agent:
    """The agent, for those who may change it. Raises as `publishers.accessible` does, NotFound for no such agent."""
    publisher = publishers.accessible(by, publisher_id)
    agent = None
    if "\x00" not in agent_id:
        agent = db.session.get(Agent, (publisher.id, agent_id), with_for_update=lock, populate_existing=lock)
    if agent is None:
        raise NotFound("There is no such agent here")
    return agent


def edition(agent: Agent) -> str:
    """Which README this is, so that a form can say what it was filled with; empty before the first."""
    return agent.readme_updated_at.isoformat() if agent.readme_updated_at else ""


def checked(text: str) -> str:
    """The text as it is kept. Raises Invalid with a sentence for the field `readme`."""
    kept = cleaned(text)
    wrong = fault(kept)
    if wrong:
        raise Invalid(wrong, fields={"readme": wrong})
    return kept


def write(by: User, publisher_id: str, agent_id: str, text: str, seen: str) -> Agent:
    """Put `text` in place of the edition `seen`; an empty one removes it. Locks the agent's row, flushes.

    Raises as `open_agent` and `checked` do, and Conflict when somebody else wrote since.
    """
    agent = open_agent(by, publisher_id, agent_id, lock=True)
    kept = checked(text)
    if seen != edition(agent):
        raise Conflict(
            "Somebody else changed this README since you opened it. Put your changes into theirs, and save again."
        )
    if kept != (agent.readme or ""):
        agent.readme, agent.readme_updated_at = kept or None, now()
        db.session.flush()
    return agent
