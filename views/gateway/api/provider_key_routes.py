"""`/api/v1/provider-keys`: the caller's own keys at providers."""

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Blueprint, current_app, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import User, scopes
from models.core.db import db
from models.core.errors import DomainError
from models.gateway import ProviderKey, provider_keys
from models.gateway.provider_key_check import check_new_key
from models.gateway.provider_keys import LAST_PRIORITY, USUAL_PRIORITY, ProviderKeyForm
from models.ledger import Account
from views.gateway.api.model_calls import gateway
from views.web.body import Body, Count, Missing, read
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import caller_address, known_user, limiter, personal_key_user
from views.web.operation import Operation, ResponseModel

bp = Blueprint("provider_keys_api", __name__)

LIMIT = "30/minute;200/day"
Priority = Annotated[Count, Field(le=LAST_PRIORITY)]
Names = Annotated[list[str], Field(max_length=100)]
FORBIDDEN = "The key belongs to an organisation"


class NewProviderKey(Body):
    provider: Literal["anthropic", "gemini", "openai", "openrouter"]
    name: str
    key: str = Field(
        description="The key at the provider. It is checked there, stored encrypted, and never returned"
    )
    models: Names = Field([], description="Patterns such as anthropic/*; empty: all models at this provider")
    apiKeys: Names = Field([], description="Ids of your API keys that may use it; empty: all")
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


def _user() -> User:
    user = personal_key_user()
    if user is None:
        raise DomainError("Unauthorized", status=401)
    return user


def _own(key_id: str) -> ProviderKey:
    return provider_keys.provider_key(Account(user_id=_user().id), key_id)


def _row(row: ProviderKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "provider": row.provider,
        "name": row.name,
        "key": f"…{row.hint}",
        "models": row.models or [],
        "apiKeys": row.key_ids or [],
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
    answers={200: ("Your keys, by provider and order of use", ProviderKeyRows), 403: FORBIDDEN},
    door=door(),
)
def list_own_provider_keys() -> ResponseReturnValue:
    """List your provider keys, masked."""
    rows = provider_keys.provider_keys(Account(user_id=_user().id))
    return jsonify(keys=[_row(row) for row in rows])


@bp.post("/api/v1/provider-keys")
@limiter.limit(LIMIT, key_func=_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=NewProviderKey,
    answers={
        201: ("The key", ProviderKeyRow),
        400: "The provider does not accept the key, or a value is invalid",
        403: FORBIDDEN,
        409: "You have 50 provider keys",
    },
    door=door(),
)
def add_own_provider_key() -> ResponseReturnValue:
    """Add a key of your own at a provider, which then pays for your calls there.

    Your calls at the provider cost no credits; you need some for them to be admitted.
    """
    user_id = _user().id
    body = read(NewProviderKey)
    form = ProviderKeyForm(
        provider=body.provider,
        name=body.name,
        secret=body.key,
        models=body.models,
        key_ids=body.apiKeys,
        priority=body.priority,
        use_credits=body.useCredits,
    )
    db.session.commit()  # no transaction during the check
    check_new_key(gateway(current_app).routes, form)
    row = provider_keys.add_provider_key(Account(user_id=user_id), user_id, form)
    db.session.commit()
    return jsonify(_row(row)), 201


@bp.patch("/api/v1/provider-keys/<key_id>")
@limiter.limit("120/minute", key_func=_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=ProviderKeyEdit,
    answers={200: ("The key", ProviderKeyRow), 403: FORBIDDEN, 404: "No such key of yours"},
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
    answers={200: ("Removed", ProviderKeyRemoved), 403: FORBIDDEN, 404: "No such key of yours"},
    door=door(),
)
def remove_own_provider_key(key_id: str) -> ResponseReturnValue:
    """Remove a provider key.

    It pays for no more calls after five seconds.
    """
    provider_keys.remove_provider_key(_own(key_id))
    db.session.commit()
    return jsonify(success=True)
