"""What differs between the contents of an assistant: two versions, or a version and what somebody entered."""

from collections.abc import Mapping
from typing import Any

from models.assistants.assistant import AssistantVersion
from models.assistants.assistant_fields import FIELDS, checked_fields
from models.store.catalogue.version_diff import FieldChange, compare

TITLES = {
    "name": "Name",
    "description": "Description",
    "instructions": "Instructions",
    "variables": "Variables",
    "context": "Context",
    "model": "Model",
    "model_params": "Parameters",
    "tools": "Tools",
    "mcp_servers": "MCP servers",
    "metadata": "Metadata",
}
"""Fields as pages name them, in the order in which they show them."""


def content_of(version: AssistantVersion) -> dict[str, Any]:
    """The fields of a version by name."""
    return {name: getattr(version, "metadata_" if name == "metadata" else name) for name in FIELDS}


def changed_fields(version: AssistantVersion, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields, checked, that differ from the version's. Raises Invalid (422) with the field."""
    content = content_of(version)
    return {name: value for name, value in checked_fields(raw).items() if value != content[name]}


def content_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    """The fields that differ, by their titles; tools by their names where only names are listed. Bounded work."""
    return compare(_titled(before), _titled(after))


def _titled(content: Mapping[str, Any]) -> dict[str, Any]:
    return {title: content[name] for name, title in TITLES.items() if content.get(name)}
