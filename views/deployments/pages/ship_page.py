"""What is live of a project, deploying a snapshot, the history, one deployment with its log, rolling back, taking offline."""

from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, DomainError
from models.deployments import Deployment
from models.deployments import deployment_listing as listing
from models.deployments import deployment_running as running
from models.deployments.deployed_process import process_folder
from models.deployments.deployment import SHOWN
from models.deployments.deployment_adapter import DeploymentHealth, adapters
from models.deployments.deployment_setting import setting_of
from models.deployments.process_adapter import not_offered, state_now
from models.deployments.process_log import read_output
from models.deployments.site_addresses import site_hosts, site_of
from models.deployments.site_traffic import TrafficDay, traffic_of
from models.projects import Project, Snapshot, Workspace
from models.projects.project_listing import people_of, snapshots_named, snapshots_page, workspaces_named
from views.deployments.pages.ship_blueprint import (
    STATES,
    TRIGGERS,
    ship_form,
    ship_page,
    shown_workspace,
    viewed_deployment,
)
from views.projects.pages.project_blueprint import asked, entered, viewed_project, viewer, viewer_may
from views.web.guards import settings
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text

LISTED, CHOICES = 20, 30
SHOWN_DAYS = 7
"""Days whose traffic is shown."""


@ship_page("")
def ship(project_id: str) -> ResponseReturnValue:
    """What a workspace of the project shows the world, and its deployments. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    workspace, every = shown_workspace(project)
    rows, next_href = _history(project, workspace)
    live = listing.live_deployment(workspace.id) if workspace else None
    deployed_site = site_of(workspace) if workspace else None
    snapshots = _choices(project, workspace)
    named = snapshots_named(project.id, (each.snapshot_id for each in [*rows, *([live] if live else [])]))
    return render(
        "deployments/ship.html",
        project=project,
        workspace=workspace,
        workspaces=every,
        setting=setting_of(project.id, workspace.id) if workspace else None,
        adapters=adapters(),
        hosts=site_hosts(),
        no_programs=not_offered() if workspace else "",
        deployed_site=deployed_site,
        live=live,
        health=_health(live),
        traffic=_traffic(workspace) if workspace and deployed_site else [],
        behind=listing.snapshots_behind(live, workspace) if live and workspace else None,
        deployments=rows,
        next_href=next_href,
        first=not asked("before"),
        snapshots=snapshots,
        named=named,
        people=people_of(each.user_id for each in rows),
        **_words(),
    )


def _traffic(workspace: Workspace) -> list[TrafficDay]:
    """The last days with requests, the newest first."""
    return [each for each in traffic_of(workspace, SHOWN_DAYS) if each.requests or each.refused]


@ship_form("/deployments")
def deploy_snapshot(project_id: str) -> ResponseReturnValue:
    """Deploy a snapshot. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace, _ = shown_workspace(project, entered("workspace"))
    try:
        row = running.start_deployment(
            viewer(), workspace.id if workspace else "", snapshot_id=entered("snapshot") or None
        )
    except running.NoSnapshot as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("deployments.ship", project_id=project_id))
    db.session.commit()
    if row.state == "live":
        toast("It is live.")
        return see_other(url_for("deployments.ship", project_id=project.id, workspace=row.workspace_id))
    if row.state == "failed":
        toast("It failed: the log says why.", "bad")
    return see_other(url_for("deployments.deployment", project_id=project.id, deployment_id=row.id))


@ship_page("/deployments/<deployment_id>")
def deployment(project_id: str, deployment_id: str) -> ResponseReturnValue:
    """One deployment with its log, which follows one that is under way. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    row = viewed_deployment(project, deployment_id)
    return render(
        "deployments/deployment.html",
        partial="deployments/_deployment.html",
        project=project,
        row=row,
        under_way=listing.is_under_way(row),
        lines=listing.log_lines(row, limit=running.MAX_LINES),
        health=_health(row if row.state in SHOWN else None),
        output=read_output(process_folder(settings(), row.id)) if row.adapter == "process" else None,
        follows=row.adapter == "process" and (row.state in SHOWN or listing.is_under_way(row)),
        snapshot=snapshots_named(project.id, [row.snapshot_id]).get(row.snapshot_id),
        workspace=workspaces_named(project.id, [row.workspace_id]).get(row.workspace_id),
        person=people_of([row.user_id]).get(row.user_id or ""),
        adapters=adapters(),
        **_words(),
    )


@ship_form("/deployments/<deployment_id>/release")
def release(project_id: str, deployment_id: str) -> ResponseReturnValue:
    """Make an earlier deployment the live one. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    row = viewed_deployment(project, deployment_id, "edit_projects")
    try:
        released = running.release_again(viewer(), row.id)
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("deployments.ship", project_id=project_id, workspace=row.workspace_id))
    db.session.commit()
    if listing.is_under_way(released):
        return see_other(url_for("deployments.deployment", project_id=project_id, deployment_id=released.id))
    toast("It is live again.")
    return see_other(url_for("deployments.ship", project_id=project_id, workspace=row.workspace_id))


@ship_page("/offline")
def ask_offline(project_id: str) -> ResponseReturnValue:
    """Ask whether to take the site of a workspace offline. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace, _ = shown_workspace(project)
    return render(
        "deployments/offline.html",
        partial="deployments/_offline.html",
        project=project,
        workspace=workspace,
    )


@ship_form("/offline")
def take_offline(project_id: str) -> ResponseReturnValue:
    """Let the site of a workspace show nothing. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace, _ = shown_workspace(project, entered("workspace"))
    if workspace is not None:
        running.take_offline(viewer(), workspace.id)
    db.session.commit()
    toast("The site is offline. Release any deployment to bring it back.")
    return see_other(url_for("deployments.ship", project_id=project.id, workspace=workspace and workspace.id))


def _choices(project: Project, workspace: Workspace | None) -> list[Snapshot]:
    """The newest snapshots, and the head of the workspace if it is older."""
    newest = list(snapshots_page(project.id, CHOICES))
    head = workspace.current_snapshot_id if workspace else None
    if head is None or any(each.id == head for each in newest):
        return newest
    return [*snapshots_named(project.id, [head]).values(), *newest]


def _history(project: Project, workspace: Workspace | None) -> tuple[list[Deployment], str | None]:
    """The deployments of this page, and the address of the older ones."""
    if workspace is None:
        return [], None
    rows = list(listing.deployments_page(project.id, LISTED + 1, workspace_id=workspace.id, before=cursor()))
    if len(rows) <= LISTED:
        return rows, None
    before = cursor_text(rows[LISTED - 1].started_at, rows[LISTED - 1].id)
    href = url_for("deployments.ship", project_id=project.id, workspace=workspace.id, before=before)
    return rows[:LISTED], href


def _health(live: Deployment | None) -> DeploymentHealth | None:
    if live is None:
        return None
    found = adapters().get(live.adapter)
    try:
        return found.health(live) if found else DeploymentHealth(None, "This server no longer deploys there.")
    except DomainError:
        return DeploymentHealth(False, "Its files cannot be read right now.")


def _words() -> dict[str, Any]:
    return {
        "states": STATES,
        "state_now": state_now,
        "triggers": TRIGGERS,
        "may_edit": viewer_may("edit_projects"),
    }
