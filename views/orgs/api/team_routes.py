"""Teams of organisations: list, create, change, delete; their people."""

from datetime import datetime
from typing import Annotated, Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db
from models.orgs import OrgTeam, team_editing
from models.orgs.team_editing import LABEL_LENGTH, MAX_PATTERNS, PATTERN_LENGTH
from views.orgs.api.member_routes import OrgPerson
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OWNERS_AND_ADMINS, OrgSuccess, bp
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import current_org, org_caller, org_route

LIMIT = "120/minute"
Label = Annotated[str, Field(min_length=1, max_length=LABEL_LENGTH)]
Patterns = Annotated[
    list[Annotated[str, Field(max_length=PATTERN_LENGTH)]], Field(max_length=MAX_PATTERNS, fail_fast=True)
]


class TeamRow(ResponseModel):
    id: str
    name: str
    isDefault: bool = Field(description="Whoever is in no other team belongs to it")
    models: list[str] | None = Field(description="Patterns of the models it may use; null allows all")
    repositoryIds: list[str] | None = Field(description="Its calls must come from one of them; null: any")
    createdAt: datetime


class TeamCounted(TeamRow):
    memberCount: int
    keyCount: int


class OrgTeams(ResponseModel):
    teams: list[TeamCounted]


class TeamDetail(TeamRow):
    members: list[OrgPerson]


class NewTeam(Body):
    name: Label
    models: Patterns | None = Field(None, description="Such as openai/gpt-4o or anthropic/*")


class TeamEdit(Body):
    """Omitted keys stay."""

    name: Missing[Label] = None
    models: Patterns | None = None
    repositoryIds: Annotated[list[str], Field(max_length=1000, fail_fast=True)] | None = None


class TeamPersonBody(Body):
    userId: str


@bp.get("/api/orgs/<org_id>/teams")
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("The teams, the default one first", OrgTeams), **MEMBERS},
    door=DOOR,
)
@org_route()
def list_teams() -> ResponseReturnValue:
    """List the teams of an organisation."""
    return jsonify(
        teams=[
            {**_row(team), "memberCount": people, "keyCount": keys}
            for team, people, keys in team_editing.teams_listed(current_org())
        ]
    )


@bp.post("/api/orgs/<org_id>/teams")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=NewTeam,
    answers={
        201: ("The team", TeamRow),
        400: "Invalid name or models",
        409: "The name is taken, or there are too many",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_teams")
def create_team() -> ResponseReturnValue:
    """Create a team."""
    body = read(NewTeam)
    team = team_editing.create_team(current_org(), body.name, body.models)
    db.session.commit()
    return jsonify(_row(team)), 201


@bp.get("/api/orgs/<org_id>/teams/<team_id>")
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("The team", TeamDetail), 404: "Organisation or team not found"},
    door=DOOR,
)
@org_route()
def get_team(team_id: str) -> ResponseReturnValue:
    """Get a team with its members."""
    team = team_editing.team_of(current_org(), team_id)
    people = [
        {"id": user.id, "name": user.name, "email": user.email} for user, _ in team_editing.team_people(team)
    ]
    return jsonify({**_row(team), "members": people})


@bp.patch("/api/orgs/<org_id>/teams/<team_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=TeamEdit,
    answers={
        200: ("The team", TeamRow),
        400: "Invalid name, models or repositories",
        409: "The name is taken",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_teams")
def edit_team(team_id: str) -> ResponseReturnValue:
    """Change a team: its name, models and repositories."""
    team = team_editing.team_of(current_org(), team_id)
    body = read(TeamEdit)
    now = {"name": team.name, "models": team.models, "repositoryIds": _row(team)["repositoryIds"]}
    values = now | body.model_dump(include=body.model_fields_set)
    team_editing.edit_team(
        team, name=values["name"], models=values["models"], repository_ids=values["repositoryIds"]
    )
    db.session.commit()
    return jsonify(_row(team))


@bp.delete("/api/orgs/<org_id>/teams/<team_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("Deleted", OrgSuccess), 409: "It is the default team", **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("manage_teams")
def delete_team(team_id: str) -> ResponseReturnValue:
    """Delete a team.

    Its members and keys fall to their other teams, or the default one; its budgets end.
    """
    team_editing.delete_team(team_editing.team_of(current_org(), team_id))
    db.session.commit()
    return jsonify(success=True)


@bp.post("/api/orgs/<org_id>/teams/<team_id>/members")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=TeamPersonBody,
    answers={
        201: ("Added", OrgSuccess),
        409: "A member of the team already, or the default team",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_teams")
def add_team_member(team_id: str) -> ResponseReturnValue:
    """Add a member of the organisation to a team."""
    team = team_editing.team_of(current_org(), team_id)
    team_editing.add_to_team(team, read(TeamPersonBody).userId)
    db.session.commit()
    return jsonify(success=True), 201


@bp.delete("/api/orgs/<org_id>/teams/<team_id>/members/<user_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("Removed", OrgSuccess), **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("manage_teams")
def remove_team_member(team_id: str, user_id: str) -> ResponseReturnValue:
    """Remove a member from a team."""
    team_editing.remove_from_team(team_editing.team_of(current_org(), team_id), user_id)
    db.session.commit()
    return jsonify(success=True)


def _row(team: OrgTeam) -> dict[str, Any]:
    ids = [repo.id for repo in team_editing.team_repositories(team)] if team.repositories_only else None
    return {
        "id": team.id,
        "name": team.name,
        "isDefault": team.is_default,
        "models": team.models,
        "repositoryIds": ids,
        "createdAt": iso(team.created_at),
    }
