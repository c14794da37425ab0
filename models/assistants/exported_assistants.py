"""What exports of people and archives of organisations hold of their own assistants, their tools, and the names of their secrets."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.tool import Tool, ToolSecret
from models.core.personal_export import Owner, add_csv, add_json_lines, batches

FEW = 50
OWNERS: tuple[Owner, ...] = ("person", "organisation")


def _versions(account_id: str) -> Iterator[Mapping[str, Any]]:
    columns = [each for each in AssistantVersion.__table__.columns if each.name != "created_by"]
    query: Select[*tuple[Any, ...]] = (
        select(*columns, Assistant.version.label("current"), Assistant.published_as, Assistant.budget)
        .add_columns(Assistant.spent, Assistant.deleted_at)
        .join(Assistant, Assistant.id == AssistantVersion.assistant_id)
        .where(Assistant.account_id == account_id)
    )
    return batches(query, AssistantVersion.assistant_id, AssistantVersion.version, size=FEW)


def _tools(account_id: str) -> Iterator[Mapping[str, Any]]:
    return batches(select(Tool.__table__).where(Tool.account_id == account_id), Tool.id, size=FEW)


def _secrets(account_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        ToolSecret.name, ToolSecret.host, ToolSecret.hint, ToolSecret.created_at
    ).where(ToolSecret.account_id == account_id)
    return batches(query, ToolSecret.name)


add_json_lines(
    "assistants.jsonl",
    "The assistants of the account, each version on a line.",
    {
        "assistant_id": "id of the assistant",
        "version": "version",
        "current": "its current version",
        "name": "name",
        "description": "description",
        "instructions": "system text",
        "context": "what it should know",
        "tools": "names of tools, and functions",
        "mcp_servers": "MCP servers whose tools it uses",
        "model": "model",
        "model_params": "settings of the model",
        "variables": "variables of the instructions",
        "metadata": "your metadata",
        "published_as": "its name in the store",
        "budget": "the most that it spends, in credits",
        "spent": "what it spent, in credits",
        "created_at": "when the version was made",
        "deleted_at": "when the assistant was deleted",
    },
    _versions,
    owners=OWNERS,
)
add_json_lines(
    "tools.jsonl",
    "Tools that are registered for the assistants.",
    {
        "id": "id",
        "name": "name",
        "description": "description",
        "parameters": "JSON Schema of its arguments",
        "url": "address",
        "method": "HTTP method",
        "headers": "names of secrets by header",
        "timeout_seconds": "seconds",
        "retries": "repetitions of a failed request",
        "created_at": "when",
        "updated_at": "last change",
    },
    _tools,
    owners=OWNERS,
)
add_csv(
    "tool_secrets.csv",
    "Secrets of the tools, without their values.",
    {"name": "name", "host": "where it is sent", "hint": "its last four characters", "created_at": "when"},
    _secrets,
    owners=OWNERS,
)
