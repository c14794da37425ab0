"""Members of organisations (contract 2.8)."""

from datetime import datetime
from typing import Literal

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db, now
from models.orgs import members
from models.orgs.offboarding import offboard
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OWNERS_AND_ADMINS, OrgSuccess, bp
from views.web.body import Body, read
from views.web.format import iso
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import current_org, org_caller, org_route, signed_in

Role = Literal["owner", "admin", "member", "billing", "viewer"]


class OrgPerson(ResponseModel):
    id: str
    name: str | None
    email: str


class OrgMemberListed(ResponseModel):
    user: OrgPerson
    role: Role
    joined_at: datetime


class OrgMembers(ResponseModel):
    members: list[OrgMemberListed]


class NewMember(Body):
    email: str = Field(description="Of an existing user")
    role: Role


class MemberRole(Body):
    role: Role


@bp.get("/api/orgs/<org_id>/members")
@Operation(
    tag="Members",
    caller="cookie",
    answers={200: ("The members, first joined first", OrgMembers), **MEMBERS},
    door=DOOR,
)
@org_route()
def list_members() -> ResponseReturnValue:
    """List the members of an organisation.

    Service accounts are none.
    """
    return jsonify(
        members=[
            {
                "user": {"id": user.id, "name": user.name, "email": user.email},
                "role": member.role,
                "joined_at": iso(member.joined_at),
            }
            for member, user in members.people(current_org())
        ]
    )


@bp.post("/api/orgs/<org_id>/members")
@limiter.limit("30/minute;500/day", key_func=org_caller)
@Operation(
    tag="Members",
    caller="cookie",
    body=NewMember,
    answers={
        201: ("Added", OrgSuccess),
        400: "An unknown role",
        409: "The user is a member",
        **OWNERS_AND_ADMINS,
        404: "Organisation or user not found",
    },
    door=DOOR,
)
@org_route("manage_members")
def add_member() -> ResponseReturnValue:
    """Add an existing user to an organisation.

    Only owners make owners. To invite somebody who has no account, POST /api/orgs/{orgId}/invitations.
    """
    body = read(NewMember)
    members.add(current_org(), signed_in().id, body.email, body.role)
    db.session.commit()
    return jsonify(success=True), 201


@bp.patch("/api/orgs/<org_id>/members/<user_id>")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Members",
    caller="cookie",
    body=MemberRole,
    answers={
        200: ("Changed", OrgSuccess),
        400: "An unknown role",
        409: "No owner would be left",
        **OWNERS_AND_ADMINS,
        404: "Organisation or member not found",
    },
    door=DOOR,
)
@org_route("manage_members")
def change_role(user_id: str) -> ResponseReturnValue:
    """Change the role of a member.

    Only owners change roles of owners and make owners. An organisation keeps at least one owner.
    """
    members.change_role(current_org(), signed_in().id, user_id, read(MemberRole).role)
    db.session.commit()
    return jsonify(success=True)


@bp.delete("/api/orgs/<org_id>/members/<user_id>")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Members",
    caller="cookie",
    answers={
        200: ("Removed", OrgSuccess),
        409: "No owner would be left",
        **OWNERS_AND_ADMINS,
        404: "Organisation or member not found",
    },
    door=DOOR,
)
@org_route()
def remove_member(user_id: str) -> ResponseReturnValue:
    """Remove a member, or leave.

    Everybody may leave; owners and admins remove others, and only owners remove owners. Ends the member's keys of the
    organisation and withdraws open invitations of the address.
    """
    offboard(current_org(), signed_in().id, user_id, {}, now())
    db.session.commit()
    return jsonify(success=True)
