"""The agent store: publishers, the agents they publish, their versions, and statistics of the runs of those."""

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
]
