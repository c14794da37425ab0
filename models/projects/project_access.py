"""Who may see, change and manage projects: the person whose account they belong to, or members of the organisation by role."""

from typing import NamedTuple

from sqlalchemy import select

from models.accounts.sessions import Session
from models.core.db import db, now
from models.core.errors import Forbidden, NotFound
from models.ledger import Account
from models.orgs import can, check_session, membership, memberships, org_by_id
from models.orgs.sso_keys import check_key
from models.projects.project import Project
from models.projects.project_ids import fits
from models.projects.snapshots.snapshot import Snapshot
from models.projects.workspaces.workspace import Workspace

FORBIDDEN = {
    "see_projects": "Your role in the organisation does not show its projects.",
    "edit_projects": "Your role in the organisation does not change its projects. Ask an admin to make you a member.",
    "manage_projects": "Only owners and admins of the organisation delete projects and read their secret variables.",
}


class ProjectCaller(NamedTuple):
    """Who calls with a key or a signed-in browser: the person, the account that they act for, and their session, which may be limited to
    an organisation's projects."""

    user_id: str
    account: Account
    session: Session


def check_project_role(caller: ProjectCaller, account_id: str, capability: str) -> None:
    """Raise NotFound unless the account's projects are the caller's to see, and Forbidden unless their role has the capability
    (`models/orgs/roles.py`) or, for organisations with single sign-on, the key or browser is not signed in (`org_sso`)."""
    org_id = caller.session.org_id
    if account_id == caller.user_id and org_id is None:
        return
    member = membership(caller.user_id, account_id) if org_id in (None, account_id) else None
    if member is None or not can(member, "see_projects"):
        raise project_not_found()
    if org_id is None and (org := org_by_id(account_id)) is not None:
        if caller.session.type == "web":
            check_session(org, caller.session, now())
        else:
            check_key(org, caller.session)
    if not can(member, capability):
        raise Forbidden(FORBIDDEN[capability])


def own_project(
    caller: ProjectCaller,
    id: str,
    capability: str = "see_projects",
    *,
    lock: bool = False,
    deleted: bool = False,
) -> Project:
    """A project that the caller may see or change. `lock`: its row until the transaction ends. `deleted`: also if it is deleted. Raises
    NotFound, Forbidden."""
    query = select(Project).where(Project.id == id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = db.session.scalars(query).one_or_none() if fits(id) else None
    if found is None:
        raise project_not_found()
    check_project_role(caller, found.account_id, capability)
    if found.deleted_at is not None and not deleted:
        raise project_not_found()
    return found


def own_workspace(
    caller: ProjectCaller, id: str, capability: str = "see_projects", *, lock: bool = False
) -> tuple[Project, Workspace]:
    """A workspace that the caller may see or change, and its project. `lock`: the workspace's row. Raises NotFound, Forbidden."""
    found = db.session.get(Workspace, id) if fits(id) else None
    if found is None:
        raise workspace_not_found()
    try:
        project = own_project(caller, found.project_id, capability)
    except NotFound:
        raise workspace_not_found() from None
    if lock:
        found = locked_workspace(found.id)
    if found.deleted_at is not None:
        raise workspace_not_found()
    return project, found


def own_snapshot(caller: ProjectCaller, id: str) -> tuple[Project, Snapshot]:
    """A snapshot that the caller may see, and its project. Ids that clients compute may be in several projects: the newest of those
    that the caller sees. Raises NotFound."""
    query = (
        select(Project, Snapshot)
        .join(Snapshot, Snapshot.project_id == Project.id)
        .where(Snapshot.id == id, Project.deleted_at.is_(None))
        .where(Project.account_id.in_(reachable_accounts(caller)))
        .order_by(Snapshot.created_at.desc())
        .limit(1)
    )
    row = db.session.execute(query).one_or_none() if fits(id) else None
    if row is None:
        raise NotFound("There is no such snapshot.")
    check_project_role(caller, row[0].account_id, "see_projects")
    return row[0], row[1]


def locked_workspace(id: str) -> Workspace:
    """The workspace, its row locked until the transaction ends: moves of its head wait for each other."""
    query = select(Workspace).where(Workspace.id == id).with_for_update(key_share=True)
    return db.session.scalars(query.execution_options(populate_existing=True)).one()


def project_not_found() -> NotFound:
    """The error for a project of another account, or none at all."""
    return NotFound("There is no such project.")


def workspace_not_found() -> NotFound:
    """The error for a workspace of another account, or none at all."""
    return NotFound("There is no such workspace.")


def reachable_accounts(caller: ProjectCaller) -> list[str]:
    """The accounts whose projects the caller may see: that of the key's organisation alone, or the caller's own and those of their
    organisations."""

    if caller.session.org_id is not None:
        member = membership(caller.user_id, caller.session.org_id)
        return [caller.session.org_id] if member and can(member, "see_projects") else []
    mine = [org.id for org, member in memberships(caller.user_id) if can(member, "see_projects")]
    return [caller.user_id, *mine]
