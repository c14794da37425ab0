"""The hosts that the checks of a project may fetch packages from."""

from typing import Any

from flask import Response, jsonify
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.projects import Project
from models.projects.project import MAX_CHECK_HOSTS
from models.projects.project_access import own_project
from models.runners.check_hosts import found_checks, set_check_hosts
from views.insights.api.insights_api_blueprint import bp
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    PROJECT_ID,
    WRONG,
    project_caller,
)
from views.web.body import Body, read
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel


class CheckHostsBody(Body):
    hosts: list[str] = Field(
        max_length=100,
        description=f"At most {MAX_CHECK_HOSTS} names, such as `packages.example.com`, or `*.example.com` for all below it; none: offline",
    )


class PlannedCheck(ResponseModel):
    kind: str
    command: str
    note: str = Field(description="What it needs that the files may not have; empty if nothing")


class CheckHosts(ResponseModel):
    hosts: list[str] = Field(description="Those that the project allows")
    suggested: list[str] = Field(
        description="Those that the installs of its main workspace fetch from; not allowed by being suggested"
    )
    checks: list[PlannedCheck] = Field(description="The checks of its main workspace, in their order")


@bp.get("/projects/<project_id>/check-hosts")
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("The hosts", CheckHosts), **NOT_YOURS, 503: "The files are not available at the moment"},
    door=DOOR,
)
def get_check_hosts(project_id: str) -> Response:
    """Get the hosts that installs of a project may reach while checks run, and what its checks are."""
    return jsonify(_answer(own_project(project_caller(), project_id)))


@bp.put("/projects/<project_id>/check-hosts")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    body=CheckHostsBody,
    answers={
        200: ("The hosts", CheckHosts),
        **NOT_YOURS,
        **WRONG,
        503: "The files are not available at the moment",
    },
    door=DOOR,
)
def put_check_hosts(project_id: str) -> Response:
    """Allow these hosts, and no others, to the installs of a project's checks; build, typecheck and test stay offline.

    In an organisation owners and admins do this.
    """
    caller = project_caller()
    own_project(caller, project_id, "manage_projects")
    project = set_check_hosts(caller, project_id, read(CheckHostsBody).hosts)
    answer = _answer(project)
    db.session.commit()
    return jsonify(answer)


def _answer(project: Project) -> dict[str, Any]:
    found = found_checks(project)
    return {
        "hosts": list(project.check_hosts),
        "suggested": found.hosts,
        "checks": [{"kind": each.kind, "command": each.command, "note": each.note} for each in found.checks],
    }
