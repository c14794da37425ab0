"""How a workspace deploys: where to, from which folder, under which name, and whether by itself."""

import re
from collections.abc import Mapping
from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.deployments.build_planning import BuildCommands, commands_of
from models.deployments.deployment_adapter import adapters
from models.deployments.deployment_setting import DeploymentSetting, save_settings, setting_of
from models.deployments.process_adapter import not_offered
from models.deployments.provider_credential import credential_of
from models.deployments.site_addresses import first_name, name_site, site_hosts, site_of
from models.deployments.static_adapter import FOLDERS
from models.projects import Project, Workspace
from models.projects.snapshots.snapshot_making import snapshot_in
from views.deployments.pages.ship_blueprint import ship_form, ship_page, shown_workspace
from views.projects.pages.project_blueprint import (
    entered,
    problems_of,
    viewed_project,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast

COMMANDS = ("install_command", "build_command", "start_command")
TEXTS = ("adapter", "folder", "webhook_url", "health_path", *COMMANDS)
FIELDS = (*TEXTS, "build_hosts", "site_name")
SWITCHES = ("auto_deploy", "run_checks")


@ship_page("/settings")
def ship_settings(project_id: str) -> ResponseReturnValue:
    """The settings of a workspace's deployments. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    workspace, _ = shown_workspace(project)
    return _page(project, workspace, _saved(project, workspace), {})


@ship_form("/settings")
def save_ship_settings(project_id: str) -> ResponseReturnValue:
    """Save them. 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace, _ = shown_workspace(project, entered("workspace"))
    values = {name: entered(name).strip() for name in FIELDS} | {name: entered(name) for name in SWITCHES}
    if workspace is None:
        return see_other(url_for("deployments.ship", project_id=project.id))
    changes: dict[str, Any] = {name: values[name] or None for name in TEXTS}
    changes["build_hosts"] = re.split(r"[\s,]+", values["build_hosts"])
    secret = entered("webhook_secret").strip()
    try:
        save_settings(
            viewer(),
            workspace.id,
            {**changes, **{name: bool(values[name]) for name in SWITCHES}}
            | (
                {"webhook_secret": secret}
                if secret
                else {"webhook_secret": None}
                if entered("forget_secret")
                else {}
            ),
        )
        if values["site_name"] and site_hosts() is not None:
            name_site(viewer(), workspace.id, values["site_name"])
    except (Invalid, Conflict) as error:
        db.session.rollback()
        field = "site_name" if isinstance(error, Conflict) else "adapter"
        problems = (
            dict(error.fields) if isinstance(error, Invalid) and error.fields else problems_of(error, field)
        )
        return _page(project, workspace, values, problems)
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("deployments.ship_settings", project_id=project.id, workspace=workspace.id))


def _saved(project: Project, workspace: Workspace | None) -> Mapping[str, str]:
    if workspace is None:
        return dict.fromkeys((*FIELDS, *SWITCHES), "")
    setting = setting_of(project.id, workspace.id)
    site = site_of(workspace)
    return {
        **{name: getattr(setting, name) or "" for name in TEXTS},
        "build_hosts": " ".join(setting.build_hosts),
        "site_name": site.name if site else first_name(project, workspace),
        "auto_deploy": "1" if setting.auto_deploy else "",
        "run_checks": "1" if setting.run_checks else "",
    }


def _page(
    project: Project, workspace: Workspace | None, values: Mapping[str, str], errors: Mapping[str, str]
) -> ResponseReturnValue:
    _, every = shown_workspace(project, workspace.id if workspace else None)
    setting = setting_of(project.id, workspace.id) if workspace else None
    no_programs = not_offered()
    return render(
        "deployments/ship_settings.html",
        partial="deployments/_ship_settings_form.html" if errors else None,
        status=422 if errors else 200,
        project=project,
        workspace=workspace,
        workspaces=every,
        values=values,
        errors=errors,
        places=[
            (name, _title(name, project))
            for name in adapters()
            if name != "process" or not no_programs or values["adapter"] == name
        ],
        no_programs=no_programs,
        found=_found(project, workspace),
        folders=[each for each in FOLDERS if each != "."],
        hosts=site_hosts(),
        has_secret=_has_secret(setting),
        may_edit=viewer_may("edit_projects"),
    )


def _found(project: Project, workspace: Workspace | None) -> BuildCommands:
    """What the files at the head of the workspace say of how they are built and started."""
    head = workspace.current_snapshot_id if workspace else None
    snapshot = snapshot_in(project.id, head) if head else None
    return commands_of(project.account_id, snapshot.manifest_hash if snapshot else None)


def _title(name: str, project: Project) -> str:
    offered = adapters()[name].capabilities
    missing = offered.provider and credential_of(project.account_id, offered.provider) is None
    return f"{offered.title} (needs a credential)" if missing else offered.title


def _has_secret(setting: DeploymentSetting | None) -> bool:
    return setting is not None and setting.webhook_sealed is not None
