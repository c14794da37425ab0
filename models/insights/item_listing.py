"""Lists of action items: those that are stored, and those that sources compute when they are asked (fastest contract 4.9)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Case, ColumnElement, Select, and_, case, or_, select

from models.core.db import db, now
from models.core.errors import Forbidden, NotFound
from models.insights.action_item import OPEN_STATUSES, ActionItem
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import check_project_role, reachable_accounts

MAX_PROJECTS = 200
"""Projects, those that changed last, whose computed items a list over all of them holds."""
ICONS = {
    "security": "shield",
    "test_coverage": "check",
    "refactoring": "lightbulb",
    "build_failure": "alert",
    "drift": "sync",
}
LABELS = {
    "test_coverage": "Add",
    "security": "Fix",
    "build_failure": "Analyze",
    "drift": "Sync",
    "refactoring": "Refactor",
}


class ItemPlace(NamedTuple):
    """Where an item is in a list: by the rank of its severity, then by weight, then the newest first."""

    rank: int
    weight: int
    created_at: datetime
    id: str

    @property
    def key(self) -> tuple[int, int, float, str]:
        """What orders items."""
        return self.rank, -self.weight, -self.created_at.timestamp(), self.id


@dataclass(frozen=True)
class ListedItem:
    """An item of a list. Of a stored one `row` is its row; a computed one has none, and its id begins with the name of its source.
    `weight` orders those of one severity, the greatest first."""

    id: str
    type: str
    severity: str
    project: Project
    workspace: Workspace
    title: str
    description: str | None
    action_type: str
    action_data: Mapping[str, Any]
    created_at: datetime
    row: ActionItem | None = None
    weight: int = 0
    files: Sequence[str] = field(default=())

    @property
    def icon(self) -> str:
        """The name of its icon, of the contract."""
        return ICONS[self.type]

    @property
    def action_label(self) -> str:
        """What its button says."""
        return LABELS[self.type]

    @property
    def place(self) -> ItemPlace:
        """Where it is in lists."""
        return ItemPlace(SEVERITY_RANK[self.severity], self.weight, self.created_at, self.id)


SEVERITY_RANK = {"critical": 0, "warning": 1, "info": 2}
ItemRows = Select[ActionItem, Project, Workspace]
ItemSource = Callable[[Sequence[Project]], Iterable[ListedItem]]
_sources: dict[str, ItemSource] = {}


@dataclass(frozen=True)
class ItemFilter:
    """What of the items is listed. `status` is one of the table's, `open` for all that are not over, or `all`; `snoozed` lists those that
    sleep, which others leave out; `assignee` is a person's id, or `none` for nobody."""

    project_id: str | None = None
    workspace_id: str | None = None
    status: str = "pending"
    type: str | None = None
    severity: str | None = None
    assignee: str | None = None
    snoozed: bool = False
    account_id: str | None = None
    """Those of one account's projects, of all that the caller may see."""
    urgent_for: str | None = None
    """What waits for this person: items of theirs, and critical ones that nobody has."""


def register_item_source(name: str, function: ItemSource) -> None:
    """Let lists hold the items that the function computes of given projects; their ids begin with `<name>-`. It reads a bounded number of
    rows, by statements for all projects together."""
    _sources[name] = function


def items_of(
    caller: ProjectCaller, wanted: ItemFilter, limit: int, after: ItemPlace | None = None
) -> list[ListedItem]:
    """The items of all projects that the caller may see, or of one (whose access the caller of this function has checked), after a place: the
    most severe first, then by weight, then the newest. Of those that are stored at most `limit`; computed ones are in lists of pending
    items."""
    found = _stored(caller, wanted, limit, after)
    if (
        wanted.status in ("pending", "open", "all")
        and not wanted.snoozed
        and wanted.assignee in (None, "none")
        and wanted.urgent_for is None
    ):
        computed = (each for each in computed_items(_projects(caller, wanted)) if _fits(each, wanted))
        found += [each for each in computed if after is None or each.place.key > after.key]
    return sorted(found, key=lambda each: each.place.key)


def computed_items(projects: Sequence[Project], source: str | None = None) -> list[ListedItem]:
    """The items of the sources, or of one of them."""
    if not projects:
        return []
    chosen = [each for name, each in _sources.items() if source in (None, name)]
    return [item for each in chosen for item in each(projects)]


def source_of(id: str) -> str | None:
    """The source whose item has this id; None for the id of a stored one."""
    name = id.partition("-")[0]
    return name if name in _sources and "-" in id else None


def listed(row: ActionItem, project: Project, workspace: Workspace) -> ListedItem:
    """A stored item as lists hold it."""
    data = {
        "suggested_prompt": row.suggested_prompt,
        "affected_files": row.affected_files,
        "metadata": row.metadata_,
    }
    return ListedItem(
        row.id,
        row.type,
        row.severity,
        project,
        workspace,
        row.title,
        row.description,
        "prompt",
        data,
        row.created_at,
        row=row,
        files=row.affected_files,
    )


def seen_projects(
    caller: ProjectCaller, limit: int = MAX_PROJECTS, account_id: str | None = None
) -> list[Project]:
    """The projects that the caller may see, or those of one account of them, those first that changed last."""
    query = select(Project).where(
        Project.account_id.in_(_accounts(caller, account_id)), Project.deleted_at.is_(None)
    )
    return list(db.session.scalars(query.order_by(Project.updated_at.desc(), Project.id).limit(limit)))


def open_accounts(caller: ProjectCaller) -> list[str]:
    """The accounts whose projects the caller may see now: without those whose single sign-on their key lacks."""
    found = []
    for account_id in reachable_accounts(caller):
        try:
            check_project_role(caller, account_id, "see_projects")
        except (NotFound, Forbidden):
            continue
        found.append(account_id)
    return found


def _accounts(caller: ProjectCaller, account_id: str | None) -> list[str]:
    return [each for each in open_accounts(caller) if account_id in (None, each)]


def _projects(caller: ProjectCaller, wanted: ItemFilter) -> list[Project]:
    if wanted.project_id is None:
        return seen_projects(caller, account_id=wanted.account_id)
    found = db.session.get(Project, wanted.project_id)
    return [found] if found is not None else []


def _stored(
    caller: ProjectCaller, wanted: ItemFilter, limit: int, after: ItemPlace | None
) -> list[ListedItem]:
    query = (
        select(ActionItem, Project, Workspace)
        .join(Project, Project.id == ActionItem.project_id)
        .join(Workspace, Workspace.id == ActionItem.workspace_id)
        .where(Project.deleted_at.is_(None), Workspace.deleted_at.is_(None))
    )
    if wanted.project_id is None:
        query = query.where(Project.account_id.in_(_accounts(caller, wanted.account_id)))
    else:
        query = query.where(ActionItem.project_id == wanted.project_id)
    rows = db.session.execute(_after(_narrowed(query, wanted), after).limit(limit))
    return [listed(item, project, workspace) for item, project, workspace in rows]


def _narrowed(query: ItemRows, wanted: ItemFilter) -> ItemRows:
    if wanted.workspace_id is not None:
        query = query.where(ActionItem.workspace_id == wanted.workspace_id)
    if wanted.status == "open":
        query = query.where(ActionItem.status.in_(OPEN_STATUSES))
    elif wanted.status != "all":
        query = query.where(ActionItem.status == wanted.status)
    for column, value in ((ActionItem.type, wanted.type), (ActionItem.severity, wanted.severity)):
        query = query.where(column == value) if value is not None else query
    if wanted.assignee == "none":
        query = query.where(ActionItem.assignee_id.is_(None), ActionItem.assigned_agent.is_(None))
    elif wanted.assignee is not None:
        query = query.where(ActionItem.assignee_id == wanted.assignee)
    query = query.where(~awake() if wanted.snoozed else awake())
    if wanted.urgent_for is not None:
        query = query.where(urgent(wanted.urgent_for))
    return query.order_by(_rank(), ActionItem.created_at.desc(), ActionItem.id)


def awake() -> ColumnElement[bool]:
    """Whether an item does not sleep."""
    return or_(ActionItem.snoozed_until.is_(None), ActionItem.snoozed_until <= now())


def urgent(user_id: str) -> ColumnElement[bool]:
    """Whether an item waits for this person: it is theirs, or critical and nobody's."""
    nobodys = and_(ActionItem.assignee_id.is_(None), ActionItem.assigned_agent.is_(None))
    return or_(ActionItem.assignee_id == user_id, and_(ActionItem.severity == "critical", nobodys))


def _rank() -> Case[int]:
    return case(SEVERITY_RANK, value=ActionItem.severity)


def _after(query: ItemRows, after: ItemPlace | None) -> ItemRows:
    """The rows after a place; stored items have no weight."""
    if after is None:
        return query
    at, here = ActionItem.created_at, _rank() == after.rank
    if after.weight <= 0:
        here = and_(here, or_(at < after.created_at, and_(at == after.created_at, ActionItem.id > after.id)))
    return query.where(or_(_rank() > after.rank, here))


def _fits(item: ListedItem, wanted: ItemFilter) -> bool:
    return (
        wanted.workspace_id in (None, item.workspace.id)
        and wanted.type in (None, item.type)
        and wanted.severity in (None, item.severity)
    )
