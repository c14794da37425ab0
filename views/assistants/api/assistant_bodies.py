"""Bodies and answers of the routes of assistants."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from models.assistants import AssistantVersion, SavedAssistant
from models.assistants.assistant_fields import FIELDS
from views.assistants.api.assistant_caller import moment_text
from views.store.pages.agent import agent_address
from views.web.body import Body, Missing
from views.web.guards import settings
from views.web.operation import ResponseModel

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
TOOLS = "At most 128 names of registered tools and OpenAI function definitions, 64 KiB in all; also as a string that holds the JSON array"


class AssistantChanges(Body):
    """Omitted keys stay."""

    model_config = STRICT

    name: Missing[str] = Field(None, description="1 to 255 characters")
    instructions: Missing[str] = Field(
        None, description="System text, at most 64 KiB; `{{name}}` is replaced by the variable"
    )
    description: str | None = None
    tools: Missing[Any] = Field(None, description=TOOLS)
    mcp_servers: Missing[list[Any]] = Field(
        None, description="`{name, url, headers: {header: name of a secret}, allowed_tools}`, at most 8"
    )
    context: str | None = Field(None, description="What it should know, at most 256 KiB")
    model: str | None = Field(None, description="The model unless a thread or request names another")
    model_params: Missing[dict[str, Any]] = Field(
        None, description="temperature, top_p, max_tokens, reasoning_effort, response_format, …"
    )
    variables: Missing[dict[str, Any]] = Field(
        None,
        description="`{type: string|number|boolean|enum, required, default, description, values}` by name",
    )
    metadata: Missing[dict[str, Any]] = Field(None, description="At most 16 texts by key")
    budget: int | None = Field(
        None, description="The most that its turns spend in total, in credits; null: no limit"
    )

    def fields(self) -> dict[str, Any]:
        """The sent fields of a version."""
        return {name: getattr(self, name) for name in FIELDS if name in self.model_fields_set}


class NewAssistant(AssistantChanges):
    name: str = Field(description="1 to 255 characters")
    instructions: str = Field(
        description="System text, at most 64 KiB; `{{name}}` is replaced by the variable"
    )
    org_id: Missing[str] = Field(None, description="Id or slug of the organisation that owns it")


class DuplicateName(Body):
    model_config = STRICT

    name: Missing[str] = Field(None, description="By default that of the original, with (copy)")


class AssistantContent(ResponseModel):
    name: str
    description: str | None
    instructions: str
    tools: list[Any]
    mcp_servers: list[Any]
    model: str | None
    model_params: dict[str, Any]
    variables: dict[str, Any]
    metadata: dict[str, Any]


class ListedAssistant(AssistantContent):
    """All but its context."""

    id: str
    user_id: str | None = Field(description="Who made it")
    org_id: str | None
    version: int
    agent_id: str = Field(description="How its runs and calls name it: `private/<id>@<version>`")
    published_as: str | None = Field(description="`publisher/agent@version` in the store")
    published_url: str | None = Field(description="Its page there")
    budget: int | None = Field(description="Credits")
    spent: int = Field(description="Credits")
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class AssistantAnswer(ListedAssistant):
    context: str | None


class AssistantList(ResponseModel):
    data: list[ListedAssistant]
    next_cursor: str | None


class VersionRow(ResponseModel):
    version: int
    name: str
    description: str | None
    model: str | None
    created_by: str | None
    created_at: datetime


class VersionList(ResponseModel):
    data: list[VersionRow]
    next_cursor: str | None


class VersionAnswer(AssistantContent):
    id: str = Field(description="The assistant")
    context: str | None
    version: int
    created_by: str | None
    created_at: datetime


def assistant_json(found: SavedAssistant, *, listed: bool = False) -> dict[str, Any]:
    """An `AssistantAnswer`; `listed`: without the context."""
    row = found.assistant
    return {
        "id": row.id,
        **_content_json(found.version, listed),
        "user_id": row.user_id,
        "org_id": None if row.account_id == row.user_id else row.account_id,
        "version": found.version.version,
        "agent_id": found.agent_id,
        "published_as": row.published_as,
        "published_url": settings().base_url + agent_address(row.published_as) if row.published_as else None,
        "budget": row.budget,
        "spent": row.spent,
        "created_at": moment_text(row.created_at),
        "updated_at": moment_text(row.updated_at),
        "deleted_at": moment_text(row.deleted_at),
    }


def version_json(version: AssistantVersion) -> dict[str, Any]:
    """A `VersionAnswer`."""
    return {"id": version.assistant_id, **_content_json(version), **_made(version)}


def version_row(version: AssistantVersion) -> dict[str, Any]:
    """A `VersionRow`."""
    row = {name: getattr(version, name) for name in ("name", "description", "model")}
    return {**row, **_made(version)}


def _made(version: AssistantVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "created_by": version.created_by,
        "created_at": moment_text(version.created_at),
    }


def _content_json(version: AssistantVersion, listed: bool = False) -> dict[str, Any]:
    names = [name for name in FIELDS if name != "metadata" and not (listed and name == "context")]
    return {**{name: getattr(version, name) for name in names}, "metadata": version.metadata_}
