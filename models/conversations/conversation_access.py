"""Which conversations somebody may see and take part in: those of the projects that they may see or change."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, select, tuple_

from models.conversations.conversation import ProjectConversation
from models.core.db import db
from models.core.errors import Forbidden, NotFound
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import check_project_role, own_project, reachable_accounts
from models.projects.project_ids import fits
from models.projects.project_listing import Before
from models.threads import Thread
from models.turns import ACTIVE, Turn

QUEUED = (*ACTIVE, "queued")


class FoundConversation(NamedTuple):
    """A conversation with the project and workspace that it is about, and its thread."""

    conversation: ProjectConversation
    project: Project
    workspace: Workspace
    thread: Thread


def own_conversation(
    caller: ProjectCaller, id: str, capability: str = "see_projects", *, lock: bool = False
) -> FoundConversation:
    """A conversation of a project that the caller may see or, with another capability, change. `lock`: its row. Raises NotFound, Forbidden."""
    query = (
        select(ProjectConversation, Project, Workspace, Thread)
        .join(Project, Project.id == ProjectConversation.project_id)
        .join(Workspace, Workspace.id == ProjectConversation.workspace_id)
        .join(Thread, Thread.id == ProjectConversation.thread_id)
        .where(ProjectConversation.id == id)
    )
    if lock:
        query = query.with_for_update(of=ProjectConversation)
    query = query.execution_options(populate_existing=True)
    row = db.session.execute(query).one_or_none() if fits(id) else None
    if row is None:
        raise conversation_not_found()
    try:
        own_project(caller, row[1].id, capability)
    except NotFound:
        raise conversation_not_found() from None
    return FoundConversation(*row)


def conversations_of(
    caller: ProjectCaller, *, limit: int, offset: int = 0, project_id: str | None = None
) -> Sequence[FoundConversation]:
    """The conversations of people that the caller may see, in all accounts that their key reaches or in one project, the last changed
    first. Accounts whose single sign-on the key lacks are left out. Raises NotFound and Forbidden for the project."""
    query = _listed().order_by(ProjectConversation.updated_at.desc(), ProjectConversation.id.desc())
    if project_id is not None:
        query = query.where(ProjectConversation.project_id == own_project(caller, project_id).id)
    else:
        query = query.where(Project.account_id.in_(_open_accounts(caller)))
    rows = db.session.execute(query.limit(limit).offset(offset)).all()
    return [FoundConversation(*row) for row in rows]


def conversations_page(project: Project, limit: int, before: Before = None) -> Sequence[FoundConversation]:
    """The conversations of people in a project, the last changed first, before the one with this time and id."""
    query = _listed().where(ProjectConversation.project_id == project.id)
    key = ProjectConversation.updated_at, ProjectConversation.id
    if before is not None:
        query = query.where(tuple_(*key) < tuple_(*before))
    rows = db.session.execute(query.order_by(key[0].desc(), key[1].desc()).limit(limit)).all()
    return [FoundConversation(*row) for row in rows]


def open_turn_of(conversation: ProjectConversation) -> Turn | None:
    """The turn of the conversation that is active, else the one that has waited longest."""
    query = select(Turn).where(Turn.subject_id == conversation.thread_id, Turn.state.in_(QUEUED))
    query = query.order_by(Turn.state == "queued", Turn.created_at, Turn.id).limit(1)
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def conversation_not_found() -> NotFound:
    """The error for a conversation of another account, or none at all."""
    return NotFound("There is no such conversation.")


def _listed() -> Select[*tuple[Any, ...]]:
    return (
        select(ProjectConversation, Project, Workspace, Thread)
        .join(Project, Project.id == ProjectConversation.project_id)
        .join(Workspace, Workspace.id == ProjectConversation.workspace_id)
        .join(Thread, Thread.id == ProjectConversation.thread_id)
        .where(ProjectConversation.purpose == "chat", Project.deleted_at.is_(None))
    )


def _open_accounts(caller: ProjectCaller) -> list[str]:
    found = []
    for account_id in reachable_accounts(caller):
        try:
            check_project_role(caller, account_id, "see_projects")
        except (NotFound, Forbidden):
            continue
        found.append(account_id)
    return found
