"""The agent store: publishers, agents, versions, and statistics of their runs."""

from models.store import erased_publishers, exported_agents
from models.store.tables import (
    Agent,
    AgentConfig,
    AgentDay,
    AgentRunBill,
    AgentUser,
    AgentVersion,
    Publisher,
    RemotePicture,
    StoreFacet,
    StoreQueue,
    StoreStamp,
    StoreWindow,
    Takedown,
)

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentDay",
    "AgentRunBill",
    "AgentUser",
    "AgentVersion",
    "Publisher",
    "RemotePicture",
    "StoreFacet",
    "StoreQueue",
    "StoreStamp",
    "StoreWindow",
    "Takedown",
    "erased_publishers",
    "exported_agents",
]
