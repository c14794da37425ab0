"""What waits for a person in all projects that they see: how much, and what of it is no item (patches, begun syncs, proposed decisions)."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from models.core.db import db, now
from models.insights.action_item import ActionItem
from models.insights.item_listing import awake, urgent
from models.insights.project_decision import ProjectDecision
from models.orgs import Org, OrgMember
from models.orgs.roles import CAN
from models.projects import Project, Workspace
from models.projects.sync.sync_preview import SyncPreview

MOST_COUNTED = 100
"""What is counted at most: beyond it pages say `99+`."""


class BegunSync(NamedTuple):
    """A sync that a person has prepared and not done."""

    project: Project
    workspace: Workspace
    preview_id: str


class ProposedDecisions(NamedTuple):
    """How many decisions of a project wait for a review."""

    project: Project
    waiting: int


def waiting_count(user_id: str, account_id: str | None = None) -> int:
    """How many patches, begun syncs and items wait for a person, and in how many projects decisions do: in their own projects and those of their
    organisations, or in those of one account, whose access the caller has checked. At most MOST_COUNTED. Organisations that enforce single
    sign-on count on their own pages only. One statement."""
    mine = ActionItem.project_id.in_(_projects_of(user_id, account_id))
    ready = select(ActionItem.id).where(mine, ActionItem.status == "ready")
    items = select(ActionItem.id).where(mine, ActionItem.status == "pending", awake(), urgent(user_id))
    open_places = Workspace.deleted_at.is_(None)
    found = [
        each.join(Workspace, Workspace.id == ActionItem.workspace_id).where(open_places).limit(MOST_COUNTED)
        for each in (ready, items)
    ]
    proposed = select(ProjectDecision.project_id).where(
        ProjectDecision.state == "proposed", ProjectDecision.project_id.in_(_projects_of(user_id, account_id))
    )
    begun = (
        select(SyncPreview.workspace_id)
        .join(Workspace, Workspace.id == SyncPreview.workspace_id)
        .where(SyncPreview.project_id.in_(_projects_of(user_id, account_id)), _is_begun(user_id))
    )
    found += [each.distinct().limit(MOST_COUNTED) for each in (proposed, begun)]
    counts = [select(func.count()).select_from(each.subquery()).scalar_subquery() for each in found]
    total = db.session.scalar(select(sum(counts[1:], counts[0]))) or 0
    return min(int(total), MOST_COUNTED)


def begun_syncs(project_ids: Sequence[str], user_id: str, limit: int = 50) -> list[BegunSync]:
    """The syncs that a person has prepared and not done, the newest of each workspace."""
    query = (
        select(Project, Workspace, SyncPreview.id)
        .join(Workspace, Workspace.id == SyncPreview.workspace_id)
        .join(Project, Project.id == SyncPreview.project_id)
        .where(SyncPreview.project_id.in_(project_ids), _is_begun(user_id))
        .order_by(SyncPreview.created_at.desc(), SyncPreview.id)
        .limit(limit)
    )
    newest: dict[str, BegunSync] = {}
    for project, workspace, id in db.session.execute(query) if project_ids else ():
        newest.setdefault(workspace.id, BegunSync(project, workspace, id))
    return list(newest.values())


def proposed_decisions(projects: Sequence[Project]) -> list[ProposedDecisions]:
    """The projects with decisions to review, in the order that they are given in."""
    counted = (
        select(ProjectDecision.project_id, func.count())
        .where(
            ProjectDecision.project_id.in_([each.id for each in projects]),
            ProjectDecision.state == "proposed",
        )
        .group_by(ProjectDecision.project_id)
    )
    counts = {row[0]: int(row[1]) for row in db.session.execute(counted)} if projects else {}
    return [ProposedDecisions(each, counts[each.id]) for each in projects if each.id in counts]


def _is_begun(user_id: str) -> ColumnElement[bool]:
    """Whether a sync was prepared by a person and not done, in a workspace that is there."""
    return and_(
        SyncPreview.user_id == user_id,
        SyncPreview.state == "open",
        SyncPreview.expires_at > now(),
        Workspace.deleted_at.is_(None),
    )


def _projects_of(user_id: str, account_id: str | None) -> Select[str]:
    if account_id is not None:
        return select(Project.id).where(Project.account_id == account_id, Project.deleted_at.is_(None))
    orgs = (
        select(OrgMember.org_id)
        .join(Org, Org.id == OrgMember.org_id)
        .where(
            OrgMember.user_id == user_id,
            OrgMember.role.in_(CAN["see_projects"]),
            Org.deleted_at.is_(None),
            Org.sso_enforced_at.is_(None),
        )
    )
    mine = or_(Project.account_id == user_id, Project.account_id.in_(orgs))
    return select(Project.id).where(mine, Project.deleted_at.is_(None))
