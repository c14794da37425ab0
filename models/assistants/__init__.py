"""Assistants: saved instructions, tools and settings of a person or an organisation, in versions."""

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
from models.assistants.instruction_variables import placeholders, render_instructions
from models.assistants.tool import Tool, ToolSecret

__all__ = [
    "AgentDeleted",
    "Assistant",
    "AssistantVersion",
    "SavedAssistant",
    "StaleVersion",
    "Tool",
    "ToolSecret",
    "assistant_budget_changed",
    "assistants_page",
    "check_capability",
    "create_assistant",
    "delete_assistant",
    "duplicate_assistant",
    "placeholders",
    "readable_assistant",
    "render_instructions",
    "restore_assistant",
    "restore_version",
    "runnable_assistant",
    "update_assistant",
    "versions_page",
]
