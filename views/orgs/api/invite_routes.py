"""Invitations to an organisation, and adding several members at once (contract 2.8)."""

from datetime import datetime

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db, now
from models.core.errors import Invalid
from models.core.strict_models import Body
from models.orgs import bulk_members, invite_answers, invite_listing, invites
from models.orgs.invite_mails import person_name
from views.orgs.api.orgs_api_blueprint import bp
from views.web.body import parse, read, read_json
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel, path
from views.web.org_guards import check_sign_on, current_org, enter_org, org_route, signed_in

EMAIL = path("email", "E-mail address, URL-encoded; upper and lower case are the same")
TOKEN = path("token", "Token of the link in the e-mail")
ROLES = ", ".join(invites.INVITED_ROLES)


class InvitationBody(Body):
    email: str = Field(max_length=320)
    role: str = Field(description=ROLES)


class MembersBody(Body):
    invitations: list[InvitationBody] = Field(description="People with an account", max_length=500)


class InvitationListed(ResponseModel):
    id: str
    email: str
    role: str
    invited_by_name: str
    created_at: datetime
    expires_at: datetime


class InvitationsAnswer(ResponseModel):
    invitations: list[InvitationListed]


class InviteDone(ResponseModel):
    success: bool


class SkippedMember(ResponseModel):
    email: str
    reason: str = Field(description="`User not found` or `Already a member`")


class AddedMembers(ResponseModel):
    success: bool
    added: int
    skipped: list[SkippedMember]


class OrgInvitationShown(ResponseModel):
    organization_name: str
    organization_slug: str
    email: str
    role: str
    inviter_name: str
    expires_at: datetime


class OrgInvitationAnswer(ResponseModel):
    invitation: OrgInvitationShown


class JoinedOrg(ResponseModel):
    id: str
    name: str
    slug: str
    role: str


class JoinedAnswer(ResponseModel):
    success: bool
    organization: JoinedOrg


@bp.get("/api/orgs/<org_id>/invitations")
@Operation(
    tag="Members",
    caller="cookie",
    answers={200: ("Not yet answered, expired ones included", InvitationsAnswer), 404: "Not a member"},
    door=door(),
)
@org_route()
def invitations() -> ResponseReturnValue:
    """List the open invitations of an organisation."""
    return jsonify(
        invitations=[
            {
                "id": row.id,
                "email": row.email,
                "role": row.role,
                "invited_by_name": person_name(by),
                "created_at": iso(row.created_at),
                "expires_at": iso(row.expires_at),
            }
            for row, by in invite_listing.open_invites(current_org().id)
        ]
    )


@bp.post("/api/orgs/<org_id>/invitations")
@Operation(
    tag="Members",
    caller="cookie",
    body=InvitationBody,
    answers={
        201: ("Invited; the e-mail is on its way", InviteDone),
        400: "Not an address, or a role that is not invited",
        403: "You may not invite",
        404: "Not a member",
        409: "A member already, or an open invitation, expired ones included",
        429: "Too many e-mails today to this address, or of this organisation",
    },
    door=door(),
)
@org_route("manage_members")
def invite_by_mail() -> ResponseReturnValue:
    """Invite somebody by e-mail."""
    body = read(InvitationBody)
    invites.invite(current_org(), body.email, body.role, signed_in(), now())
    db.session.commit()
    return jsonify(success=True), 201


@bp.delete("/api/orgs/<org_id>/invitations/<email>")
@Operation(
    tag="Members",
    caller="cookie",
    parameters=[EMAIL],
    answers={
        200: ("Withdrawn, or there was none", InviteDone),
        403: "You may not invite",
        404: "Not a member",
    },
    door=door(),
)
@org_route("manage_members")
def withdraw_invitation(email: str) -> ResponseReturnValue:
    """Withdraw an invitation."""
    invites.withdraw(current_org(), email, now())
    db.session.commit()
    return jsonify(success=True)


@bp.post("/api/orgs/<org_id>/invitations/<email>/resend")
@Operation(
    tag="Members",
    caller="cookie",
    parameters=[EMAIL],
    answers={
        200: ("Sent again with a new link, for seven days", InviteDone),
        403: "You may not invite",
        404: "Not a member, or no open invitation",
        429: "Too many e-mails today to this address, or of this organisation",
    },
    door=door(),
)
@org_route("manage_members")
def resend_invitation(email: str) -> ResponseReturnValue:
    """Send an invitation again."""
    invites.resend(current_org(), email, signed_in(), now())
    db.session.commit()
    return jsonify(success=True)


@bp.post("/api/orgs/<org_id>/invitations/bulk")
@Operation(
    tag="Members",
    caller="cookie",
    body=MembersBody,
    answers={
        201: ("Added those with an account", AddedMembers),
        400: "No list, an empty one, or a role that does not exist",
        403: "You may not add members",
        404: "Not a member",
    },
    door=door(),
)
def add_members(org_id: str) -> ResponseReturnValue:
    """Add several people who have an account, without asking them."""
    require_cookie_user()
    body = read_json()
    listed = body.get("invitations") if isinstance(body, dict) else None
    if not isinstance(listed, list) or not listed:  # the contract checks this before the membership
        raise Invalid("Invalid invitations array", status=400)
    enter_org(org_id, "manage_members")
    entries = [(each.email, each.role) for each in parse(MembersBody, body).invitations]
    result = bulk_members.add_many(current_org(), signed_in().id, entries)
    db.session.commit()
    return jsonify(success=True, added=result.added, skipped=[each._asdict() for each in result.skipped]), 201


@bp.get("/api/invites/<token>")
@Operation(
    tag="Members",
    parameters=[TOKEN],
    answers={
        200: ("The open invitation", OrgInvitationAnswer),
        404: "Unknown, declined or withdrawn",
        410: "Expired or accepted",
    },
    door=door(),
)
@limiter.limit("60/minute")
def invitation(token: str) -> ResponseReturnValue:
    """Show an invitation."""
    row, org = invite_answers.shown(token, now())
    return jsonify(
        invitation={
            "organization_name": org.name,
            "organization_slug": org.slug,
            "email": row.email,
            "role": row.role,
            "inviter_name": person_name(invite_answers.sender_of(row)),
            "expires_at": iso(row.expires_at),
        }
    )


@bp.post("/api/invites/<token>")
@Operation(
    tag="Members",
    caller="cookie",
    parameters=[TOKEN],
    answers={
        200: ("You are a member now", JoinedAnswer),
        403: "The invitation is for another address, or yours is not verified",
        404: "Unknown, expired, or answered already",
        409: "You are a member already",
    },
    door=door(),
)
@limiter.limit("60/minute")
def accept_invitation(token: str) -> ResponseReturnValue:
    """Accept an invitation."""
    user, found = require_cookie_user(), invite_answers.find(token)
    if found:
        check_sign_on(found[1])
    org, member = invite_answers.accept(token, user, now())
    db.session.commit()
    return jsonify(
        success=True, organization={"id": org.id, "name": org.name, "slug": org.slug, "role": member.role}
    )
