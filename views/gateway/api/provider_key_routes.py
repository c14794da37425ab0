"""`/api/v1/provider-keys`: the caller's own keys at providers, and with `?org=` those of an organisation."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from flask import Blueprint, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import DomainError
from models.gateway import ProviderKey, provider_keys
from models.gateway.provider_key_check import check_new_key
from models.gateway.provider_keys import LAST_PRIORITY, USUAL_PRIORITY, ProviderKeyForm
from models.ledger import Account
from models.orgs import member_org, require
from models.orgs.sso_keys import check_key
from views.gateway.api.model_calls import gateway
from views.web.body import Body, Count, Missing, read
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import caller_address, key_credential, known_user, limiter, personal_key_user
from views.web.operation import Operation, ResponseModel, query

bp = Blueprint("provider_keys_api", __name__)

LIMIT = "30/minute;200/day"
Priority = Annotated[Count, Field(le=LAST_PRIORITY)]
Names = Annotated[list[str], Field(max_length=100)]
FORBIDDEN = (
    "The API key belongs to an organisation, or your role in the organisation does not manage its keys"
)
NO_ORG = "You belong to no such organisation"
NO_KEY = "The account has no such provider key, or you belong to no such organisation"
ORG = [
    query("org", "Id or slug of an organisation, for its provider keys; its owners and admins manage them")
]


class NewProviderKey(Body):
    provider: Literal["anthropic", "gemini", "openai", "openrouter"]
    name: str
    key: str = Field(
        description="The key at the provider. It is checked there, stored encrypted, and never returned"
    )
    models: Names = Field([], description="Patterns such as anthropic/*; empty: all models at this provider")
    apiKeys: Names = Field([], description="Ids of API keys of the account that may use it; empty: all")
    userIds: Names = Field(
        [], description="Ids of members that may use it; empty: all. Of organisations only"
    )
    priority: Priority = Field(USUAL_PRIORITY, description="0 is used first")
    useCredits: bool = Field(False, description="Whether your credits pay when the key fails")


class ProviderKeyEdit(Body):
    """Omitted keys stay."""

    active: Missing[bool] = None
    priority: Missing[Priority] = None
    useCredits: Missing[bool] = None


class ProviderKeyRow(ResponseModel):
    id: str
    provider: str
    name: str
    key: str = Field(description="Masked: the last four characters")
    models: list[str]
    apiKeys: list[str]
    userIds: list[str]
    active: bool
    priority: int
    useCredits: bool
    createdAt: datetime


class ProviderKeyRows(ResponseModel):
    keys: list[ProviderKeyRow]


class ProviderKeyRemoved(ResponseModel):
    success: Literal[True]


def _caller() -> str:
    user = known_user()
    return user.id if user else caller_address()


class _Place(NamedTuple):
    """Who calls, and whose keys they manage: their own, or those of the organisation `?org=`."""

    user_id: str
    account: Account


def _place() -> _Place:
    user, key = personal_key_user(), request.args.get("org")
    if user is None:
        raise DomainError("Unauthorized", status=401)
    if key is None:
        return _Place(user.id, Account(user_id=user.id))
    org, member = member_org(user.id, key.replace("\0", ""))
    caller = key_credential()
    assert caller is not None
    check_key(org, caller.session)
    require(member, "manage_keys", "Only owners and admins manage the keys of the organisation.")
    return _Place(user.id, Account(org_id=org.id))


def _own(key_id: str) -> ProviderKey:
    return provider_keys.provider_key(_place().account, key_id)


def _row(row: ProviderKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "provider": row.provider,
        "name": row.name,
        "key": f"…{row.hint}",
        "models": row.models or [],
        "apiKeys": row.key_ids or [],
        "userIds": row.user_ids or [],
        "active": row.is_active,
        "priority": row.priority,
        "useCredits": row.use_credits,
        "createdAt": iso(row.created_at),
    }


@bp.get("/api/v1/provider-keys")
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_READ,
    parameters=ORG,
    answers={
        200: ("The keys, by provider and order of use", ProviderKeyRows),
        403: FORBIDDEN,
        404: NO_ORG,
    },
    door=door(),
)
def list_own_provider_keys() -> ResponseReturnValue:
    """List your provider keys, or an organisation's, masked."""
    rows = provider_keys.provider_keys(_place().account)
    return jsonify(keys=[_row(row) for row in rows])


@bp.post("/api/v1/provider-keys")
@limiter.limit(LIMIT, key_func=_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=ORG,
    body=NewProviderKey,
    answers={
        201: ("The key", ProviderKeyRow),
        400: "The provider does not accept the key, or a value is invalid",
        403: FORBIDDEN,
        404: NO_ORG,
        409: "The account has 50 provider keys",
    },
    door=door(),
)
def add_own_provider_key() -> ResponseReturnValue:
    """Add a key at a provider, your own or an organisation's, which then pays for calls there.

    The account's calls at the provider cost no credits; it needs some for them to be admitted.
    """
    place = _place()
    body = read(NewProviderKey)
    form = ProviderKeyForm(
        provider=body.provider,
        name=body.name,
        secret=body.key,
        models=body.models,
        user_ids=body.userIds,
        key_ids=body.apiKeys,
        priority=body.priority,
        use_credits=body.useCredits,
    )
    db.session.commit()  # no transaction during the check
    check_new_key(gateway(current_app).routes, form)
    row = provider_keys.add_provider_key(place.account, place.user_id, form)
    db.session.commit()
    return jsonify(_row(row)), 201


@bp.patch("/api/v1/provider-keys/<key_id>")
@limiter.limit("120/minute", key_func=_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=ORG,
    body=ProviderKeyEdit,
    answers={200: ("The key", ProviderKeyRow), 403: FORBIDDEN, 404: NO_KEY},
    door=door(),
)
def edit_own_provider_key(key_id: str) -> ResponseReturnValue:
    """Change the order of a provider key, its fallback, and whether it is in use."""
    row = _own(key_id)
    body = read(ProviderKeyEdit)
    provider_keys.change_provider_key(
        row, active=body.active, priority=body.priority, use_credits=body.useCredits
    )
    db.session.commit()
    return jsonify(_row(row))


@bp.delete("/api/v1/provider-keys/<key_id>")
@limiter.limit("120/minute", key_func=_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=ORG,
    answers={200: ("Removed", ProviderKeyRemoved), 403: FORBIDDEN, 404: NO_KEY},
    door=door(),
)
def remove_own_provider_key(key_id: str) -> ResponseReturnValue:
    """Remove a provider key.

    It pays for no more calls after five seconds.
    """
    provider_keys.remove_provider_key(_own(key_id))
    db.session.commit()
    return jsonify(success=True)
