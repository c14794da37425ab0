"""Bodies and answers of the routes of action items, in the shapes of the fastest contract (3.13)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.insights.item_listing import ListedItem
from views.web.body import Body, Instant, Missing
from views.web.format import iso
from views.web.operation import ResponseModel

Severity = Literal["info", "warning", "critical"]


class NewItemBody(Body):
    workspace_id: str
    type: str = Field(description="`refactoring`, `security`, `test_coverage` or `build_failure`")
    title: str
    severity: Missing[str] = Field(None, description="`info` (the default), `warning` or `critical`")
    description: Missing[str] = None
    affected_files: Missing[list[str]] = Field(None, max_length=50, description="At most 50 paths")
    suggested_prompt: Missing[str] = Field(None, description="What an agent is asked to do")
    source: Missing[str] = Field(None, description="`manual` (the default), or `import` from another tool")
    fingerprint: Missing[str] = Field(
        None, description="What you know it by: sent again, it changes the item and makes no other"
    )


class ItemChangeBody(Body):
    status: Missing[str] = Field(None, description="`pending` reopens it, `dismissed` ends it")
    reason: str | None = Field(None, description="Why it is dismissed")
    snoozed_until: Instant | None = Field(None, description="Until then lists leave it out; null wakes it")
    assignee_id: str | None = Field(None, description="A person who sees the project; null for nobody")
    assigned_agent: str | None = Field(None, description="An agent of the store; null for none")


class DismissalBody(Body):
    reason: str | None = Field(None, description="Why; kept with the item")


class ItemObject(ResponseModel):
    id: str = Field(description="`drift-…` and `deploy-…` are computed, others are stored")
    type: Literal["drift", "refactoring", "security", "test_coverage", "build_failure"]
    severity: Severity
    workspace_id: str
    workspace_name: str
    project_id: str
    project_name: str
    title: str
    description: Missing[str] = None
    icon: str
    action_label: str
    action_type: Literal["navigate", "prompt", "sync"]
    action_data: dict[str, Any]
    created_at: datetime
    status: Literal["pending", "running", "ready", "applied", "dismissed", "resolved"]
    source: Literal["computed", "analysis", "import", "manual"]
    rule: str | None = Field(description="What found it, such as `ruff:S608`")
    assignee_id: str | None
    assigned_agent: str | None
    snoozed_until: datetime | None
    dismissed_reason: str | None
    resolved_at: datetime | None = Field(description="When an analysis no longer found it")
    updated_at: datetime


class ItemList(ResponseModel):
    items: list[ItemObject] = Field(description="The most severe first, then those with the most drift")


class ItemAnswer(ResponseModel):
    item: ItemObject


class AnalysisQueued(ResponseModel):
    queued: bool = Field(description="False if the same files are analysed already")
    manifest_hash: str


def item_json(item: ListedItem) -> dict[str, Any]:
    """An `ItemObject`."""
    row = item.row
    described = {"description": item.description} if item.description else {}
    return {
        "id": item.id,
        "type": item.type,
        "severity": item.severity,
        "workspace_id": item.workspace.id,
        "workspace_name": item.workspace.name,
        "project_id": item.project.id,
        "project_name": item.project.name,
        "title": item.title,
        **described,
        "icon": item.icon,
        "action_label": item.action_label,
        "action_type": item.action_type,
        "action_data": dict(item.action_data),
        "created_at": iso(item.created_at),
        "status": row.status if row else "pending",
        "source": row.source if row else "computed",
        "rule": row.rule if row else None,
        "assignee_id": row.assignee_id if row else None,
        "assigned_agent": row.assigned_agent if row else None,
        "snoozed_until": iso(row.snoozed_until) if row else None,
        "dismissed_reason": row.dismissed_reason if row else None,
        "resolved_at": iso(row.resolved_at) if row else None,
        "updated_at": iso(row.updated_at if row else item.created_at),
    }


def items_json(items: Sequence[ListedItem]) -> list[dict[str, Any]]:
    """The `items` of an `ItemList`."""
    return [item_json(each) for each in items]
