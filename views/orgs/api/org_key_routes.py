"""Keys of organisations: list, create, hand over, change team, revoke."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, cast

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import Session
from models.accounts.credentials import PAT_DAYS
from models.core.db import db, now
from models.orgs import org_keys
from models.orgs.org_keys import KeyListed
from models.usage.key_spend import spent_by_key
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OrgSuccess, bp
from views.orgs.api.team_routes import LIMIT, Label
from views.web.body import Body, Missing, Number, read
from views.web.format import iso
from views.web.guards import current_session, limiter, settings
from views.web.keyset import cursor, cursor_text
from views.web.operation import Operation, ResponseModel, query
from views.web.org_guards import current_membership, current_org, org_caller, org_route


class OrgKeyOwner(ResponseModel):
    id: str
    name: str
    isServiceAccount: bool


class OrgKeyRow(ResponseModel):
    id: str = Field(description="The public id of the key, or its SHA-256 for the older kind")
    name: str | None
    token: str = Field(description="Masked")
    owner: OrgKeyOwner
    teamId: str | None = Field(description="null: the owner's team")
    createdAt: datetime
    expires: datetime
    lastUsedAt: datetime | None
    disabledAt: datetime | None


class OrgKeyCounted(OrgKeyRow):
    creditsThisMonth: int = Field(description="Since the month began by the organisation's clock")


class OrgKeys(ResponseModel):
    keys: list[OrgKeyCounted]
    before: str | None = Field(description="The `before` of the next page; null on the last")


class CreatedOrgKey(OrgKeyRow):
    secret: str = Field(description="The key, shown only in this response")


class NewOrgKey(Body):
    name: Label
    expiresInDays: Annotated[Number, Field(ge=1, le=365)] = Decimal(PAT_DAYS)
    ownerId: Missing[str] = Field(
        None, description="A service account, for owners and admins; by default you"
    )
    teamId: str | None = None


class OrgKeyEdit(Body):
    """Omitted keys stay."""

    ownerId: Missing[str] = Field(None, description="For owners and admins; the secret stays the same")
    teamId: str | None = None


FORBIDDEN = "Your role does not allow this, or a key is in the cookie"


@bp.get("/api/orgs/<org_id>/keys")
@Operation(
    tag="Teams and keys",
    caller="cookie",
    parameters=[query("before", "`before` of the previous page")],
    answers={
        200: ("Up to 50 keys, newest first", OrgKeys),
        **MEMBERS,
        422: "`before` is not from a previous page",
    },
    door=DOOR,
)
@org_route()
def list_org_keys() -> ResponseReturnValue:
    """List the keys of an organisation, masked.

    Owners and admins see all, others their own.
    """
    rows, more = org_keys.org_keys_page(current_membership(), cursor())
    spent = spent_by_key(current_org(), now())
    return jsonify(
        keys=[{**_row(row), "creditsThisMonth": spent.get(row.key.session_token, 0)} for row in rows],
        before=cursor_text(*more) if more else None,
    )


@bp.post("/api/orgs/<org_id>/keys")
@limiter.limit("20/minute;200/hour", key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=NewOrgKey,
    answers={
        201: ("The key", CreatedOrgKey),
        400: "Invalid name",
        403: FORBIDDEN,
        404: "Organisation, service account or team not found",
        409: "The owner has reached its limit of keys, or is switched off",
    },
    door=DOOR,
)
@org_route()
def create_org_key() -> ResponseReturnValue:
    """Create a key that acts for the organisation: it pays for its calls.

    The key is shown only in this response.
    """
    body = read(NewOrgKey)
    token, key = org_keys.create_org_key(
        current_org(),
        current_membership(),
        by=_session(),
        name=body.name,
        days=float(body.expiresInDays),
        owner_id=body.ownerId,
        team_id=body.teamId or None,
        limit=settings().stoa_keys_per_account,
        now=now(),
    )
    db.session.commit()
    row = org_keys.org_key(current_membership(), key.session_token)
    response = jsonify({**_row(row), "secret": token})
    response.headers["Cache-Control"] = "no-store"
    return response, 201


@bp.patch("/api/orgs/<org_id>/keys/<key_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=OrgKeyEdit,
    answers={
        200: ("The key", OrgKeyRow),
        400: "The new owner makes no calls",
        403: FORBIDDEN,
        404: "Organisation, key or team not found",
    },
    door=DOOR,
)
@org_route()
def edit_org_key(key_id: str) -> ResponseReturnValue:
    """Give a key to a service account or another member, or change its team."""
    org, member = current_org(), current_membership()
    row = org_keys.org_key(member, key_id)
    body = read(OrgKeyEdit)
    if "teamId" in body.model_fields_set:
        org_keys.set_key_team(org, member, row, body.teamId or None, _session())
    if body.ownerId is not None:
        org_keys.move_org_key(member, row, body.ownerId, _session())
    db.session.commit()
    return jsonify(_row(org_keys.org_key(member, key_id)))


@bp.delete("/api/orgs/<org_id>/keys/<key_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("Revoked", OrgSuccess), 403: FORBIDDEN, 404: "Organisation or key not found"},
    door=DOOR,
)
@org_route()
def revoke_org_key(key_id: str) -> ResponseReturnValue:
    """Revoke a key.

    Owners and admins revoke any key, others their own.
    """
    org_keys.revoke_org_key(org_keys.org_key(current_membership(), key_id), _session())
    db.session.commit()
    return jsonify(success=True)


def _row(row: KeyListed) -> dict[str, Any]:
    key = row.key
    return {
        "id": key.session_token,
        "name": key.name,
        "token": key.token_hint,
        "owner": {"id": key.user_id, "name": row.owner, "isServiceAccount": row.service is not None},
        "teamId": key.team_id,
        "createdAt": iso(key.created_at),
        "expires": iso(key.expires),
        "lastUsedAt": iso(key.last_used_at) if key.last_used_at else None,
        "disabledAt": iso(key.disabled_at) if key.disabled_at else None,
    }


def _session() -> Session:
    return cast(Session, current_session())
