"""`/v1/auth`: who is signed in with a client of projects, sign-in with Google, and keys at providers (fastest contract 2.2, 2.4, 2.6)."""

from datetime import datetime

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import device_grants, device_requests, scopes
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden, Invalid
from models.gateway import client_provider_keys
from views.accounts.api.google_credentials import google_user
from views.accounts.api.token_routes import MAX_BYTES
from views.projects.api.device_routes import NO_KEY, IssuedClientToken, token_answer
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import DOOR, WRONG, bp
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import (
    audit,
    from_browser,
    key_caller,
    limiter,
    personal_key_user,
    require_key,
    settings,
)
from views.web.operation import Answers, Operation, ResponseModel, path

LIMIT = "30/minute;200/day"
OWN: Answers = {403: "The key belongs to an organisation"}
UNKNOWN = "The provider is not one of the contract (`VALIDATION_ERROR`)"
PROVIDER = path("provider", f"One of {', '.join(client_provider_keys.VARIABLES)}")


class GoogleCredential(Body):
    credential: Missing[str] = Field(None, description="An ID token of Google")


class ClientProfile(ResponseModel):
    id: str
    email: str
    name: str | None
    picture: str | None


class ClientProfileAnswer(ResponseModel):
    user: ClientProfile


class ClientKeyBody(Body):
    provider: str
    key_value: str = Field(description="The key as the provider shows it. It is not checked there")


class ClientKeyRow(ResponseModel):
    id: str
    user_id: str
    provider: str
    key_name: str = Field(description="Its environment variable")
    key_value: str = Field(description="Masked: twenty bullets and the last four characters")
    created_at: datetime
    updated_at: datetime


class ClientKeyRows(ResponseModel):
    api_keys: list[ClientKeyRow]


class ClientKeyValues(ResponseModel):
    env_vars: dict[str, str]


@bp.get("/auth/me")
@Operation(
    tag="Devices",
    caller="key",
    scope=scopes.ANY,
    answers={200: ("Who is signed in", ClientProfileAnswer)},
    door=DOOR,
)
def client_profile() -> Response:
    """Get the user of a key."""
    user = require_key().user
    return jsonify(user={"id": user.id, "email": user.email, "name": user.name, "picture": user.image})


@bp.post("/auth/google")
@limiter.limit("30/minute")
@Operation(
    tag="Devices",
    body=GoogleCredential,
    max_bytes=MAX_BYTES,
    answers={
        200: ("The token", IssuedClientToken),
        401: "Google did not issue the credential for this server (`INVALID_TOKEN`), or cannot be asked (`AUTH_ERROR`)",
        403: "The account is about to be deleted",
        409: "The account has reached its limit of command line sessions",
        **WRONG,
    },
    door=DOOR,
)
def sign_in_with_google() -> Response:
    """Sign in with an ID token of Google, for thirty days.

    Only tokens for this server's client id are accepted. A user is created if there is none with the verified address.
    """
    credential = read(GoogleCredential).credential
    if not credential:
        raise Invalid("'credential' must be an ID token of Google.")
    user = google_user(credential, "invalid_token")
    client = device_requests.client_of(request.headers.get("User-Agent", ""))
    limit = settings().stoa_cli_sessions_per_account
    found = device_grants.sign_in_client(user, now(), client=client or "Google sign-in", limit=limit)
    audit("user.signed_in", user.id, user=user, after={"by": "google", "client": client})
    db.session.commit()
    return token_answer(found)


@bp.get("/auth/api-keys")
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_READ,
    answers={200: ("The keys, by provider", ClientKeyRows), **OWN},
    door=DOOR,
)
def list_client_keys() -> Response:
    """List the provider keys that clients of projects set, masked."""
    user = _user()
    return jsonify(
        api_keys=[
            {
                "id": each.row.id,
                "user_id": user.id,
                "provider": each.provider,
                "key_name": each.variable,
                "key_value": each.shown,
                "created_at": iso(each.row.created_at),
                "updated_at": iso(each.row.updated_at or each.row.created_at),
            }
            for each in client_provider_keys.client_keys(user.id)
        ]
    )


@bp.post("/auth/api-keys")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=ClientKeyBody,
    max_bytes=MAX_BYTES,
    answers={200: ("It is set", Success), **OWN, **WRONG, 409: "The account has 50 provider keys"},
    door=DOOR,
)
def set_client_key() -> Response:
    """Set your key at a provider, in place of the one that was set before.

    Keys at Anthropic, OpenAI and Google pay for your calls from then on, as other provider keys do. The others only go to the programs
    that your client starts.
    """
    user = _user()
    body = read(ClientKeyBody)
    client_provider_keys.set_client_key(user.id, body.provider, body.key_value, now())
    db.session.commit()
    return jsonify(success=True)


@bp.delete("/auth/api-keys/<provider>")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[PROVIDER],
    answers={200: ("It is gone", Success), **OWN, 422: UNKNOWN},
    door=DOOR,
)
def remove_client_key(provider: str) -> Response:
    """Remove the key at a provider that a client of projects set."""
    client_provider_keys.remove_client_key(_user().id, provider)
    db.session.commit()
    return jsonify(success=True)


@bp.get("/auth/api-keys/values")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Provider keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    answers={
        200: ("The keys by environment variable", ClientKeyValues),
        403: "The key belongs to an organisation, or a browser asks",
        409: "A key cannot be read any more (`DECRYPTION_FAILED`)",
    },
    door=DOOR,
)
def client_key_values() -> Response:
    """Read the provider keys that clients of projects set, for the programs that a command line starts.

    Browsers are refused. Each reading is in the audit log. Programs that call models through this server need none of them.
    """
    user = _user()
    if from_browser():
        raise Forbidden("Browsers cannot read provider keys. Use a command line.")
    found = client_provider_keys.client_secrets(user.id)
    if found:
        audit("provider_key.read", user.id, user=user, after={"variables": sorted(found)})
    db.session.commit()
    response = jsonify(env_vars=found)
    response.headers["Cache-Control"] = "no-store"
    return response


def _user() -> User:
    """The user of a key of their own account. Raises DomainError (401), Forbidden."""
    user = personal_key_user()
    if user is None:
        raise DomainError(NO_KEY, code="invalid_api_key", status=401)
    return user
