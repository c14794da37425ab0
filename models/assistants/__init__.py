"""Assistants: saved instructions, tools and settings of a person or an organisation, in versions."""

from models.assistants.assistant import Assistant, AssistantVersion

__all__ = ["Assistant", "AssistantVersion"]
