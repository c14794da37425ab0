"""Repositories of organisations (contract 2.8, 3.10)."""

from datetime import datetime
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db
from models.orgs import OrgRepo, org_repos
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OWNERS_AND_ADMINS, OrgSuccess, bp
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import current_org, org_caller, org_route, signed_in


class RepoApprover(ResponseModel):
    name: str | None
    email: str


class OrgRepoListed(ResponseModel):
    id: str
    repository_url: str = Field(description="In its normal form")
    repository_name: str
    repo_owner: str | None
    approved_by: str = Field(description="User id")
    approved_at: datetime
    is_active: bool = Field(description="Whether the organisation pays for calls from it")
    approver: RepoApprover


class OrgRepos(ResponseModel):
    repositories: list[OrgRepoListed]


class OrgRepoRow(ResponseModel):
    id: str
    org_id: str
    repo_url: str = Field(description="In its normal form")
    repo_name: str
    repo_owner: str | None
    approved_by: str = Field(description="User id")
    approved_at: datetime
    is_active: bool


class NewOrgRepo(Body):
    repository_url: str = Field(description="On github.com, gitlab.com or bitbucket.org; SSH form too")
    repository_name: Missing[str] = Field(None, description="By default the name in the URL")


class OrgRepoEdit(Body):
    isActive: bool


@bp.get("/api/orgs/<org_id>/repos")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: ("The repositories by owner and name", OrgRepos), **MEMBERS},
    door=DOOR,
)
@org_route()
def list_repositories() -> ResponseReturnValue:
    """List the repositories of an organisation."""
    return jsonify(
        repositories=[
            {
                "id": repo.id,
                "repository_url": repo.repo_url,
                "repository_name": repo.repo_name,
                "repo_owner": repo.repo_owner,
                "approved_by": repo.approved_by,
                "approved_at": iso(repo.approved_at),
                "is_active": repo.is_active,
                "approver": {"name": approver.name, "email": approver.email},
            }
            for repo, approver in org_repos.repositories(current_org())
        ]
    )


@bp.post("/api/orgs/<org_id>/repos")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Organisations",
    caller="cookie",
    body=NewOrgRepo,
    answers={
        201: ("The repository, active", OrgRepoRow),
        400: "No URL of a repository, or another host",
        409: "It was added already, or there are too many",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_repos")
def add_repository() -> ResponseReturnValue:
    """Add a repository whose calls the organisation pays for.

    The URL is stored as https, in lower case, with owner and name only.
    """
    body = read(NewOrgRepo)
    repo = org_repos.add(current_org(), signed_in(), body.repository_url, body.repository_name or "")
    db.session.commit()
    return jsonify(_row(repo)), 201


@bp.patch("/api/orgs/<org_id>/repos/<repo_id>")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Organisations",
    caller="cookie",
    body=OrgRepoEdit,
    answers={
        200: ("Changed", OrgSuccess),
        **OWNERS_AND_ADMINS,
        404: "Organisation or repository not found",
    },
    door=DOOR,
)
@org_route("manage_repos")
def switch_repository(repo_id: str) -> ResponseReturnValue:
    """Let the organisation pay for calls from a repository, or not."""
    body = read(OrgRepoEdit)
    org_repos.switch(org_repos.repository(current_org(), repo_id), body.isActive)
    db.session.commit()
    return jsonify(success=True)


@bp.delete("/api/orgs/<org_id>/repos/<repo_id>")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={
        200: ("Removed", OrgSuccess),
        **OWNERS_AND_ADMINS,
        404: "Organisation or repository not found",
    },
    door=DOOR,
)
@org_route("manage_repos")
def remove_repository(repo_id: str) -> ResponseReturnValue:
    """Remove a repository."""
    org_repos.remove(org_repos.repository(current_org(), repo_id))
    db.session.commit()
    return jsonify(success=True)


def _row(repo: OrgRepo) -> dict[str, Any]:
    return {
        "id": repo.id,
        "org_id": repo.org_id,
        "repo_url": repo.repo_url,
        "repo_name": repo.repo_name,
        "repo_owner": repo.repo_owner,
        "approved_by": repo.approved_by,
        "approved_at": iso(repo.approved_at),
        "is_active": repo.is_active,
    }
