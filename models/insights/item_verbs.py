"""What people and clients do with action items: write, dismiss, snooze, assign and reopen them (fastest contract 3.13)."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import select

from models.conversations.engines.store_agent import store_agent
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.insights.action_item import (
    ITEM_SOURCES,
    MAX_DESCRIPTION,
    MAX_FILES,
    MAX_PROMPT,
    MAX_REASON,
    MAX_TITLE,
    SEVERITIES,
    STORED_TYPES,
    ActionItem,
)
from models.insights.item_finding import FoundItem
from models.insights.item_listing import ListedItem, computed_items, seen_projects, source_of
from models.insights.item_storing import upsert_item
from models.orgs import can, membership
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import own_project, own_workspace
from models.projects.project_ids import fits
from models.projects.snapshots.manifest_text import MAX_PATH

BY_HAND = "hand"
"""The analyser of items that people and clients write: no analysis resolves them."""
MAX_SNOOZE = timedelta(days=366)
MAX_AGENT = 200
Unset = Literal["unset"]


class OwnedItem(NamedTuple):
    """A stored item that the caller may see or change, and where it is."""

    project: Project
    workspace: Workspace
    item: ActionItem


@dataclass(frozen=True)
class NewItem:
    """An item that a person writes, or that a client brings from elsewhere (`source` is `manual` or `import`)."""

    workspace_id: str
    type: str
    title: str
    severity: str = "info"
    description: str = ""
    files: Sequence[str] = ()
    prompt: str = ""
    source: str = "manual"
    fingerprint: str = ""


@dataclass(frozen=True)
class ItemChanges:
    """What changes; `unset` leaves as it is, None takes away. `status` is `pending` (reopen) or `dismissed`."""

    status: str | Unset = "unset"
    reason: str | None = None
    snoozed_until: datetime | Unset | None = "unset"
    assignee_id: str | Unset | None = "unset"
    assigned_agent: str | Unset | None = "unset"


def own_item(
    caller: ProjectCaller, id: str, capability: str = "see_projects", *, lock: bool = False
) -> OwnedItem:
    """A stored item that the caller may see or change. `lock`: its row until the transaction ends. Raises NotFound, Forbidden."""
    query = select(ActionItem).where(ActionItem.id == id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = db.session.scalars(query).one_or_none() if fits(id) else None
    if found is None:
        raise item_not_found()
    try:
        project, workspace = own_workspace(caller, found.workspace_id, capability)
    except NotFound:
        raise item_not_found() from None
    return OwnedItem(project, workspace, found)


def kept_item(caller: ProjectCaller, id: str) -> OwnedItem:
    """The item to work on, locked; a computed one is stored first, once for its id. Raises NotFound, Forbidden, Invalid (400
    `invalid_state`) for a drift, which a sync mends."""
    source = source_of(id)
    if source is None:
        return own_item(caller, id, "edit_projects", lock=True)
    found = next((each for each in computed_items(seen_projects(caller), source) if each.id == id), None)
    if found is None:
        raise item_not_found()
    project, workspace = own_workspace(caller, found.workspace.id, "edit_projects")
    if found.type == "drift":
        raise Invalid("A sync mends a drift, no run does.", code="invalid_state", status=400)
    stored = upsert_item(workspace, _as_found(found), analyser=source)
    return OwnedItem(project, workspace, stored)


def create_item(caller: ProjectCaller, new: NewItem) -> OwnedItem:
    """Write an item. One with the fingerprint of another of its workspace brings that up to date. Flushes. Raises NotFound, Forbidden,
    Invalid (422)."""
    project, workspace = own_workspace(caller, new.workspace_id, "edit_projects")
    _check(new)
    mark = f"{new.source}-{new.fingerprint}" if new.fingerprint else f"{new.source}-{secrets.token_hex(10)}"
    found = FoundItem(
        new.source,
        new.type,
        new.severity,
        new.title.strip(),
        description=new.description,
        files=new.files,
        prompt=new.prompt,
        fingerprint=mark,
    )
    item = upsert_item(workspace, found, analyser=BY_HAND, source=new.source, created_by=caller.user_id)
    return OwnedItem(project, workspace, item)


def dismiss_item(caller: ProjectCaller, id: str, reason: str | None = None) -> None:
    """Dismiss an item for good. Those that are computed come and go with their cause: nothing happens. Flushes. Raises NotFound, Forbidden,
    Invalid (400 `invalid_state`) while a run works on it."""
    if source_of(id) is None:
        change_item(caller, id, ItemChanges(status="dismissed", reason=reason))


def change_item(caller: ProjectCaller, id: str, changes: ItemChanges) -> OwnedItem:
    """Change an item. Locks it, flushes. Raises NotFound, Forbidden, Invalid (422; 400 `invalid_state`), NeedsClient (422) for an agent with
    code of its own."""
    owned = own_item(caller, id, "edit_projects", lock=True)
    item, moment = owned.item, now()
    if changes.status != "unset":
        _set_status(item, caller, changes.status, changes.reason)
    if changes.snoozed_until != "unset":
        item.snoozed_until = _checked_time(changes.snoozed_until, moment)
    if changes.assignee_id != "unset":
        item.assignee_id = _checked_person(owned.project, changes.assignee_id)
        item.assigned_agent = None if changes.assignee_id else item.assigned_agent
    if changes.assigned_agent != "unset":
        item.assigned_agent = _checked_agent(changes.assigned_agent)
        item.assignee_id = None if item.assigned_agent else item.assignee_id
    item.updated_at = moment
    db.session.flush()
    return owned


def item_in(project: Project, id: str) -> OwnedItem:
    """A stored item of a project whose access is checked. Raises NotFound."""
    query = (
        select(ActionItem, Workspace)
        .join(Workspace, Workspace.id == ActionItem.workspace_id)
        .where(ActionItem.id == id, ActionItem.project_id == project.id, Workspace.deleted_at.is_(None))
    )
    row = db.session.execute(query).one_or_none() if fits(id) else None
    if row is None:
        raise item_not_found()
    return OwnedItem(project, row[1], row[0])


def item_not_found() -> NotFound:
    """The error for an item of another account, or none at all."""
    return NotFound("There is no such action item.")


def assignable(project: Project, user_id: str) -> bool:
    """Whether a person may be given items of the project: they see it."""
    if project.account_id == user_id:
        return True
    member = membership(user_id, project.account_id)
    return member is not None and can(member, "see_projects")


def checked_project(caller: ProjectCaller, id: str) -> Project:
    """A project whose items the caller may see. Raises NotFound, Forbidden."""
    return own_project(caller, id)


def _set_status(item: ActionItem, caller: ProjectCaller, status: str, reason: str | None) -> None:
    if status == item.status and status != "dismissed":
        return
    if item.status == "running":
        raise Invalid("A run works on the item. Stop it first.", code="invalid_state", status=400)
    if status == "dismissed":
        text = (reason or "").strip()
        if len(text) > MAX_REASON:
            raise Invalid(f"'reason' has at most {MAX_REASON} characters.")
        if item.status != "dismissed" or text:
            item.dismissed_reason = text or None
        item.status, item.dismissed_by, item.resolved_at = "dismissed", caller.user_id, None
        item.snoozed_until = None
    elif status == "pending":
        if item.status in ("ready", "applied"):
            raise Invalid(
                f"The item is {item.status}: what its run made decides about it.",
                code="invalid_state",
                status=400,
            )
        item.status, item.dismissed_reason, item.dismissed_by, item.resolved_at = "pending", None, None, None
    else:
        raise Invalid("'status' must be pending or dismissed.")


def _checked_time(value: datetime | None, moment: datetime) -> datetime | None:
    if value is not None and not moment < value <= moment + MAX_SNOOZE:
        raise Invalid("'snoozed_until' must be in the future, within a year.")
    return value


def _checked_person(project: Project, user_id: str | None) -> str | None:
    if user_id is not None and not (fits(user_id) and assignable(project, user_id)):
        raise Invalid("'assignee_id' must be the id of a person who sees the project.")
    return user_id


def _checked_agent(name: str | None) -> str | None:
    """The reference of an agent that is published, and that the server can run. Raises Invalid (422), NeedsClient (422)."""
    if name is None:
        return None
    if not 0 < len(name.strip()) <= MAX_AGENT:
        raise Invalid(f"'assigned_agent' must be the name of an agent, with at most {MAX_AGENT} characters.")
    store_agent(name.strip())
    return name.strip()


def _check(new: NewItem) -> None:
    """Raises Invalid (422)."""
    for name, value, words in (
        ("type", new.type, STORED_TYPES),
        ("severity", new.severity, SEVERITIES),
        ("source", new.source, ITEM_SOURCES[1:]),
    ):
        if value not in words:
            raise Invalid(f"'{name}' must be one of {', '.join(words)}.", fields={name: "Choose one."})
    if not new.title.strip():
        raise Invalid("'title' must not be empty.", fields={"title": "Enter a title."})
    for name, text, most in (
        ("title", new.title, MAX_TITLE),
        ("description", new.description, MAX_DESCRIPTION),
        ("suggested_prompt", new.prompt, MAX_PROMPT),
        ("fingerprint", new.fingerprint, 150),
    ):
        if len(text) > most:
            message = f"'{name}' has at most {most:,} characters."
            raise Invalid(message, fields={name: f"Write at most {most:,} characters."})
    if len(new.files) > MAX_FILES or any(not 0 < len(each) <= MAX_PATH for each in new.files):
        raise Invalid(
            f"'affected_files' has at most {MAX_FILES} paths, each with at most {MAX_PATH:,} characters."
        )


def _as_found(item: ListedItem) -> FoundItem:
    data: dict[str, Any] = dict(item.action_data)
    return FoundItem(
        item.type,
        item.type,
        item.severity,
        item.title,
        description=item.description or "",
        files=item.files,
        prompt=str(data.get("suggested_prompt") or ""),
        metadata=data.get("metadata") or {},
        fingerprint=item.id,
    )
