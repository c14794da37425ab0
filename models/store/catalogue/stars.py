"""Stars: users mark agents that they like, once each. `agent.stars` counts them, by a trigger."""

from datetime import datetime

from sqlalchemy import ColumnElement, ForeignKey, ForeignKeyConstraint, Index, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts import User
from models.core.db import NOW, Base, db
from models.store.catalogue import agent_page
from models.store.tables import Agent


class AgentStar(Base):
    """A user's star for an agent."""

    __tablename__ = "agent_star"
    __table_args__ = (
        ForeignKeyConstraint(
            ["publisher_id", "agent_id"],
            ["agent.publisher_id", "agent.id"],
            ondelete="CASCADE",
            name="agent_star_agent_fk",
        ),
        Index("idx_agent_star_user", "user_id"),
    )

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


def star(by: User, publisher_id: str, agent_id: str) -> int:
    """Star an agent; returns its number of stars. Idempotent. Locks the agent's row if it is new. Raises NotFound, TakenDown."""
    agent_page.find(publisher_id, agent_id)
    values = {"publisher_id": publisher_id, "agent_id": agent_id, "user_id": by.id}
    db.session.execute(insert(AgentStar).values(values).on_conflict_do_nothing())
    return _count(publisher_id, agent_id)


def unstar(by: User, publisher_id: str, agent_id: str) -> int:
    """Take the user's star back; returns the number of stars left. Idempotent. Raises NotFound, TakenDown."""
    agent_page.find(publisher_id, agent_id)
    db.session.execute(delete(AgentStar).where(*_of(by, publisher_id, agent_id)))
    return _count(publisher_id, agent_id)


def is_starred(by: User, publisher_id: str, agent_id: str) -> bool:
    """Whether the user starred the agent. One statement."""
    return db.session.scalar(select(AgentStar.user_id).where(*_of(by, publisher_id, agent_id))) is not None


def _of(by: User, publisher_id: str, agent_id: str) -> tuple[ColumnElement[bool], ...]:
    star = AgentStar
    return star.publisher_id == publisher_id, star.agent_id == agent_id, star.user_id == by.id


def _count(publisher_id: str, agent_id: str) -> int:
    query = select(Agent.stars).where(Agent.publisher_id == publisher_id, Agent.id == agent_id)
    return db.session.execute(query).scalar_one()
