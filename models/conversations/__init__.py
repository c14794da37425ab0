"""Conversations with agents about a workspace: each turn edits files, and its changes become a snapshot."""

from models.conversations import conversation_turn as conversation_turn  # registers its kind of turn
from models.conversations import deploy_events as deploy_events  # follow deployments
from models.conversations import exported_conversations as exported_conversations  # its files of the export
from models.conversations.conversation import ConversationQuestion, ProjectConversation, TimelineItem
from models.conversations.conversation_access import (
    FoundConversation,
    conversations_of,
    conversations_page,
    own_conversation,
)
from models.conversations.conversation_editing import (
    change_conversation,
    clear_conversation,
    start_conversation,
)
from models.conversations.conversation_engine import (
    ConversationEngine,
    EngineMissing,
    EnginePlan,
    EngineTool,
    register_engine,
)
from models.conversations.conversation_preamble import register_preamble
from models.conversations.conversation_prompts import (
    Scratch,
    TurnResult,
    conversation_turn_ended,
    say,
    turn_result,
)
from models.conversations.engine_session import EngineSession
from models.conversations.engines import acp_engine as acp_engine  # register themselves
from models.conversations.engines import store_engine as store_engine

__all__ = [
    "ConversationEngine",
    "ConversationQuestion",
    "EngineMissing",
    "EnginePlan",
    "EngineSession",
    "EngineTool",
    "FoundConversation",
    "ProjectConversation",
    "Scratch",
    "TimelineItem",
    "TurnResult",
    "change_conversation",
    "clear_conversation",
    "conversation_turn_ended",
    "conversations_of",
    "conversations_page",
    "own_conversation",
    "register_engine",
    "register_preamble",
    "say",
    "start_conversation",
    "turn_result",
]
