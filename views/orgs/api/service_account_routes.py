"""Service accounts of organisations: list, create, change, switch off, delete."""

from datetime import datetime
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db, now
from models.orgs import ServiceAccount, service_accounts
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OWNERS_AND_ADMINS, OrgSuccess, bp
from views.orgs.api.team_routes import LIMIT, Label
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import current_org, org_caller, org_route, signed_in


class ServiceAccountRow(ResponseModel):
    id: str = Field(description="User id, as in the usage")
    name: str
    teamId: str | None = Field(description="null: the default team")
    createdAt: datetime
    disabledAt: datetime | None = Field(description="Since when calls with its keys are refused")


class ServiceAccountCounted(ServiceAccountRow):
    keyCount: int
    lastUsedAt: datetime | None


class ServiceAccounts(ResponseModel):
    serviceAccounts: list[ServiceAccountCounted]


class NewServiceAccount(Body):
    name: Label
    teamId: str | None = None


class ServiceAccountEdit(Body):
    """Omitted keys stay."""

    name: Missing[Label] = None
    teamId: str | None = None
    disabled: Missing[bool] = Field(None, description="Whether calls with its keys are refused")


@bp.get("/api/orgs/<org_id>/service-accounts")
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("The service accounts by name", ServiceAccounts), **MEMBERS},
    door=DOOR,
)
@org_route()
def list_service_accounts() -> ResponseReturnValue:
    """List the service accounts of an organisation."""
    return jsonify(
        serviceAccounts=[
            {
                **_row(each.account),
                "keyCount": each.keys,
                "lastUsedAt": iso(each.last_used_at) if each.last_used_at else None,
            }
            for each in service_accounts.service_accounts(current_org())
        ]
    )


@bp.post("/api/orgs/<org_id>/service-accounts")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=NewServiceAccount,
    answers={
        201: ("The service account", ServiceAccountRow),
        400: "Invalid name",
        409: "The name is taken, or there are too many",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_keys")
def create_service_account() -> ResponseReturnValue:
    """Create a service account.

    It never signs in and takes no seat; its keys make calls that the organisation pays for.
    """
    body = read(NewServiceAccount)
    account = service_accounts.create_service_account(
        current_org(), signed_in().id, body.name, body.teamId or None
    )
    db.session.commit()
    return jsonify(_row(account)), 201


@bp.patch("/api/orgs/<org_id>/service-accounts/<user_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    body=ServiceAccountEdit,
    answers={
        200: ("The service account", ServiceAccountRow),
        400: "Invalid name",
        409: "The name is taken",
        **OWNERS_AND_ADMINS,
    },
    door=DOOR,
)
@org_route("manage_keys")
def edit_service_account(user_id: str) -> ResponseReturnValue:
    """Change name and team of a service account, or switch it off or on."""
    account = service_accounts.service_account_of(current_org(), user_id)
    body = read(ServiceAccountEdit)
    name = body.name if body.name is not None else account.name
    team_id = body.teamId or None if "teamId" in body.model_fields_set else account.team_id
    service_accounts.edit_service_account(current_org(), account, name, team_id)
    if body.disabled is not None:
        service_accounts.switch_service_account(account, not body.disabled, now())
    db.session.commit()
    return jsonify(_row(account))


@bp.delete("/api/orgs/<org_id>/service-accounts/<user_id>")
@limiter.limit(LIMIT, key_func=org_caller)
@Operation(
    tag="Teams and keys",
    caller="cookie",
    answers={200: ("Deleted; its keys stop", OrgSuccess), **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("manage_keys")
def delete_service_account(user_id: str) -> ResponseReturnValue:
    """Delete a service account.

    What it spent stays in the usage under its name.
    """
    account = service_accounts.service_account_of(current_org(), user_id)
    service_accounts.delete_service_account(account, now())
    db.session.commit()
    return jsonify(success=True)


def _row(account: ServiceAccount) -> dict[str, Any]:
    return {
        "id": account.user_id,
        "name": account.name,
        "teamId": account.team_id,
        "createdAt": iso(account.created_at),
        "disabledAt": iso(account.disabled_at) if account.disabled_at else None,
    }
