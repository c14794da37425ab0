"""Invitations to an organisation (contract 2.8)."""

from datetime import datetime

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db, now
from models.core.strict_models import Body
from models.orgs import invite_listing, invites
from models.orgs.invite_mails import person_name
from views.orgs.api.orgs_api_blueprint import bp
from views.web.body import read
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel, path
from views.web.org_guards import current_org, org_route, signed_in

EMAIL = path("email", "E-mail address, URL-encoded; upper and lower case are the same")
TOKEN = path("token", "Token of the link in the e-mail")
ROLES = ", ".join(invites.INVITED_ROLES)


class InvitationBody(Body):
    email: str = Field(max_length=320)
    role: str = Field(description=ROLES)


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
    tag="Organisations",
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
    tag="Organisations",
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
    tag="Organisations",
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
    tag="Organisations",
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


@bp.get("/api/invites/<token>")
@Operation(
    tag="Organisations",
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
    row, org = invites.shown(token, now())
    return jsonify(
        invitation={
            "organization_name": org.name,
            "organization_slug": org.slug,
            "email": row.email,
            "role": row.role,
            "inviter_name": person_name(invites.sender_of(row)),
            "expires_at": iso(row.expires_at),
        }
    )


@bp.post("/api/invites/<token>")
@Operation(
    tag="Organisations",
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
    org, member = invites.accept(token, require_cookie_user(), now())
    db.session.commit()
    return jsonify(
        success=True, organization={"id": org.id, "name": org.name, "slug": org.slug, "role": member.role}
    )
