"""What a published version sets for its runs."""

from sqlalchemy import select

from models.core.db import db
from models.store.publishing.takedowns import StoreName
from models.store.tables import AgentConfig


def default_run_budget(agent: str) -> int | None:
    """The credits that a run of this agent, `publisher/agent@version`, may spend by default; None without a limit."""
    name = StoreName.parse(agent)
    if name is None or not (name.agent_id and name.version):
        return None
    query = select(AgentConfig.data["runBudget"]).where(
        AgentConfig.publisher_id == name.publisher_id,
        AgentConfig.id == name.agent_id,
        AgentConfig.version == name.version,
    )
    found = db.session.scalar(query)
    return found if type(found) is int else None
