"""The engine `store`: a published agent answers by the server's rounds, as a run of that agent."""

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_engine import EnginePlan, register_engine
from models.conversations.engine_session import EngineSession
from models.conversations.engines.store_agent import store_agent
from models.conversations.engines.sub_agents import SubAgents
from models.core.db import extension


class StoreEngine:
    """See `ConversationEngine`."""

    def check(self, conversation: ProjectConversation) -> None:
        """See `ConversationEngine`. Raises Invalid for an agent that is not published, NeedsClient for one with code."""
        store_agent(conversation.agent or "")

    def plan(self, conversation: ProjectConversation, user_id: str) -> EnginePlan:
        """See `ConversationEngine`."""
        agent = store_agent(conversation.agent or "")
        spawned = SubAgents(extension("settings").stoa_sub_agents)
        return EnginePlan(
            model=agent.model or None,
            instructions=agent.instructions,
            agent_id=agent.id,
            params=agent.params,
            tools=agent.tools,
            more_tools=spawned.tool(agent, 0),
        )

    def drive(self, session: EngineSession) -> None:
        """Its turns are rounds."""
        raise NotImplementedError


register_engine("store", StoreEngine())
