"""`/v1/infrastructure/credentials`: tokens of providers, verified and sealed (fastest contract 3.15)."""

from datetime import datetime
from typing import Any

import orjson
from flask import Response, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.deployments import provider_credential
from models.deployments.credential_checks import verify_credential
from models.projects.project_access import check_project_role
from views.deployments.api.deployments_api_blueprint import INFRASTRUCTURE, NOT_YOURS, bp
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    ORG,
    WRONG,
    chosen_account,
    project_caller,
)
from views.web.body import Body, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, path

VERIFICATIONS = "20/minute;200/day"
"""How often a person may have a provider asked about a token."""


class NewCredential(Body):
    provider: str = Field(description="`railway` or `cloudflare`")
    api_token: str
    metadata: Any = Field(None, description="An object, or its JSON as text; by default as it was")


class CredentialObject(ResponseModel):
    id: str
    user_id: str | None = Field(description="Who set it")
    provider: str
    last_four: str = Field(description="The last characters of the token")
    metadata: str | None = Field(description="JSON as text")
    created_at: datetime
    updated_at: datetime


class CredentialList(ResponseModel):
    credentials: list[CredentialObject]


class CredentialStored(Success):
    id: str


@bp.get("/infrastructure/credentials")
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ORG],
    answers={200: ("By provider, never the tokens", CredentialList), **NOT_YOURS},
    door=DOOR,
)
def list_credentials() -> Response:
    """List the credentials of providers."""
    caller = project_caller()
    rows = provider_credential.credentials_of(caller, chosen_account(caller))
    return jsonify(
        credentials=[
            {
                "id": row.id,
                "user_id": row.user_id,
                "provider": row.provider,
                "last_four": row.last_four,
                "metadata": None if row.about is None else orjson.dumps(row.about).decode(),
                "created_at": iso(row.created_at),
                "updated_at": iso(row.updated_at),
            }
            for row in rows
        ]
    )


@bp.post("/infrastructure/credentials")
@limiter.limit(VERIFICATIONS, key_func=key_caller)
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=NewCredential,
    answers={
        200: ("It replaced the one before", CredentialStored),
        201: ("It is the first of the provider", CredentialStored),
        **NOT_YOURS,
        **WRONG,
        400: "The provider does not accept the token (`INVALID_CREDENTIALS`), is unknown or does not answer (`VALIDATION_FAILED`), or"
        " the body is not JSON (`INVALID_JSON`)",
    },
    door=DOOR,
)
def store_credential() -> ResponseReturnValue:
    """Store a token of a provider, which is asked whether it is right.

    In an organisation only owners and admins set it. It is stored encrypted and never shown again.
    """
    caller = project_caller()
    account = chosen_account(caller)
    check_project_role(caller, account.id, "manage_projects")
    body = read(NewCredential)
    metadata = _metadata(body.metadata)
    provider_credential.check_credential(caller, account, body.provider, body.api_token, metadata)
    db.session.rollback()  # no transaction is open while the provider is asked
    said = verify_credential(body.provider, body.api_token)
    row, new = provider_credential.store_credential(
        caller, account, body.provider, body.api_token, {**said, **(metadata or {})}
    )
    db.session.commit()
    return jsonify(success=True, id=row.id), 201 if new else 200


@bp.delete("/infrastructure/credentials/<provider>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[path("provider", "`railway` or `cloudflare`"), ORG],
    answers={200: ("It is gone", Success), **NOT_YOURS},
    door=DOOR,
)
def remove_credential(provider: str) -> Response:
    """Forget the token of a provider."""
    caller = project_caller()
    provider_credential.remove_credential(caller, chosen_account(caller), provider)
    db.session.commit()
    return jsonify(success=True)


def _metadata(value: Any) -> dict[str, Any] | None:
    """The object, sent as it is or as text. Raises Invalid (422)."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = False
    if value is None or isinstance(value, dict):
        return value
    raise Invalid("'metadata' must be an object, or the JSON of one as text.")
