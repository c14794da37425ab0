"""Assistants: saved instructions, tools and settings of a person or an organisation, in versions."""

from models.assistants import assistant_documents as assistant_documents
from models.assistants import erased_assistants, exported_assistants, tool_registry, tool_secrets
from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.assistant_access import (
    AgentDeleted,
    SavedAssistant,
    check_capability,
    readable_assistant,
    runnable_assistant,
)
from models.assistants.assistant_editing import (
    StaleVersion,
    assistant_budget_changed,
    create_assistant,
    delete_assistant,
    duplicate_assistant,
    restore_assistant,
    restore_version,
    update_assistant,
)
from models.assistants.assistant_listing import assistants_page, versions_page
from models.assistants.builtin_tools import BUILTIN_TOOLS, register_builtin
from models.assistants.instruction_variables import placeholders, render_instructions
from models.assistants.tool import Tool, ToolSecret
from models.assistants.tool_requests import ToolFailed
from models.assistants.toolbox import Toolbox, call_tool, open_toolbox

__all__ = [
    "BUILTIN_TOOLS",
    "AgentDeleted",
    "Assistant",
    "AssistantVersion",
    "SavedAssistant",
    "StaleVersion",
    "Tool",
    "ToolFailed",
    "ToolSecret",
    "Toolbox",
    "assistant_budget_changed",
    "assistants_page",
    "call_tool",
    "check_capability",
    "create_assistant",
    "delete_assistant",
    "duplicate_assistant",
    "erased_assistants",
    "exported_assistants",
    "open_toolbox",
    "placeholders",
    "readable_assistant",
    "register_builtin",
    "render_instructions",
    "restore_assistant",
    "restore_version",
    "runnable_assistant",
    "tool_registry",
    "tool_secrets",
    "update_assistant",
    "versions_page",
]
