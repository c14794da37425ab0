"""JSON API of accounts: device login, the current user, sessions and API keys.

Contract sections 1.4, 2.1, 2.2 and 2.9, with appendix B 1 and 11, and two changes: tokens are shown once, and lists
have a masked token and a stable id.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import credentials, device_requests, devices, scopes
from models.accounts.devices import FINGERPRINT_LENGTH, DeviceCode
from models.accounts.sessions import Fingerprint, Session
from models.accounts.users import User
from models.accounts.write_limits import WriteLimitExceeded
from models.billing.topups import auto_topup
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden
from models.ledger import Account
from views.web import error_bodies
from views.web.body import BadJson, Body, InvalidBody, Missing, Number, parse, read, read_json
from views.web.error_bodies import BAD_BODY, ApiError, ServerError, SuspendedError, door
from views.web.format import iso
from views.web.guards import (
    LOGOUT_ALL,
    api_key,
    audit,
    caller_address,
    cookie_credential,
    cookie_user,
    current_session,
    is_own_origin,
    key_user,
    limiter,
    settings,
)
from views.web.operation import Operation, ResponseModel, query

bp = Blueprint("accounts_api", __name__)

FIELDS = ("id", "email", "discord_id", "referral_code", "stripe_customer_id", "banned", "referral_link")

Device = Annotated[str, Field(max_length=FINGERPRINT_LENGTH)]


class CodeBody(Body):
    fingerprintId: Device
    referralCode: Missing[str] = None


class LogoutBody(Body):
    authToken: Missing[str] = Field(None, description="The key, instead of the header")
    userId: str
    fingerprintId: str
    fingerprintHash: str


class KeyBody(Body):
    name: Missing[Annotated[str, Field(min_length=1, max_length=credentials.NAME_LENGTH)]] = None
    expiresInDays: Annotated[Number, Field(ge=1, le=365)] = Decimal(credentials.PAT_DAYS)


Ids = Annotated[list[str], Field(max_length=10_000, fail_fast=True)]


class RevokeBody(Body):
    sessionIds: Missing[Ids] = None
    tokenIds: Missing[Ids] = None


class SignInCode(ResponseModel):
    fingerprintId: str
    fingerprintHash: str = Field(description="64 hex")
    expiresAt: int = Field(description="Milliseconds since 1970")
    loginUrl: str = Field(description="Open it in a browser")


class SignedInUser(ResponseModel):
    id: str
    name: str | None
    email: str
    authToken: str = Field(description="The key")
    fingerprintId: str
    fingerprintHash: str


class SignInStatus(ResponseModel):
    user: SignedInUser
    message: str


class SignedOut(ResponseModel):
    success: bool


class Me(ResponseModel):
    """Exactly the requested fields."""

    id: Missing[str] = None
    email: Missing[str] = None
    discord_id: str | None = None
    referral_code: str | None = None
    stripe_customer_id: str | None = None
    banned: Missing[bool] = None
    referral_link: str | None = None


class OwnProfile(ResponseModel):
    handle: str | None
    referral_code: str | None
    auto_topup_enabled: bool
    auto_topup_threshold: int
    auto_topup_amount: int
    auto_topup_blocked_reason: str | None
    created_at: datetime


class ListedSession(ResponseModel):
    id: str = Field(description="SHA-256 of the token")
    label: str
    expires: datetime
    isCurrent: bool
    fingerprintId: str | None
    createdAt: datetime | None
    sessionType: Literal["web", "cli"]


class ListedSessions(ResponseModel):
    activeSessions: list[ListedSession]


class OthersSignedOut(ResponseModel):
    ok: bool


class Revocation(ResponseModel):
    revokedSessions: int
    revokedTokens: int


class ListedToken(ResponseModel):
    id: str = Field(description="Stable; accepted by DELETE /api/sessions")
    token: str = Field(description="Masked")
    expires: datetime
    createdAt: datetime | None
    type: Literal["pat"]
    name: str | None


class ListedTokens(ResponseModel):
    tokens: list[ListedToken]


class CreatedKey(ResponseModel):
    token: str = Field(description="The key, shown only in this response")
    expires: datetime
    message: str


def _rate_limit_key() -> str:
    credential = cookie_credential()
    return credential.user.id if credential else caller_address()


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson() | InvalidBody():
            return jsonify(error=BAD_BODY), 400
        case WriteLimitExceeded():
            return None  # not in the contract
    return error_bodies.format_error(error)


DOOR = door(_error_response, body_error=ApiError)


# -- device login (2.1) --------------------------------------------------------------------------------------


@bp.post("/api/auth/cli/code")
@limiter.limit("30/minute;300/hour")
@Operation(
    tag="Sign-in", body=CodeBody, answers={200: ("The code and the URL to open", SignInCode)}, door=DOOR
)
def cli_code() -> ResponseReturnValue:
    """Start a device login."""
    body = read(CodeBody)
    moment = now()
    code = devices.issue_code(settings().secret_key, body.fingerprintId, moment)
    client = device_requests.client_of(request.headers.get("User-Agent", ""))
    device_requests.remember(code.hash, moment, address=request.remote_addr, client=client)
    db.session.commit()
    login_url = f"{settings().base_url}{url_for('accounts.login')}?auth_code={code.text}"
    if body.referralCode:
        login_url += f"&referral_code={body.referralCode}"
    return jsonify(
        fingerprintId=code.fingerprint_id,
        fingerprintHash=code.hash,
        expiresAt=int(code.expires_at),
        loginUrl=login_url,
    )


@bp.get("/api/auth/cli/status")
@limiter.limit("300/minute")
@Operation(
    tag="Sign-in",
    parameters=[
        query("fingerprintId", "As sent", required=True),
        query("fingerprintHash", "As returned", required=True),
        query("expiresAt", "As returned", required=True),
    ],
    answers={
        200: ("Signed in", SignInStatus),
        400: "A parameter is missing",
        401: "Not signed in yet, expired or already collected",
        403: (
            "The account is suspended, or the sign-in was refused in the browser",
            SuspendedError | ApiError,
        ),
    },
    door=DOOR,
)
def cli_status() -> ResponseReturnValue:
    """Get the status of a device login.

    Only the first 200 has the token.
    """
    values = [request.args.get(name) for name in ("fingerprintId", "fingerprintHash", "expiresAt")]
    if not all(values):
        raise DomainError("Invalid query parameters")
    fingerprint_id, fingerprint_hash, expires_at = (str(each) for each in values)
    found = None
    # HEAD would collect the token without returning it.
    if request.method == "GET" and "\0" not in fingerprint_id + fingerprint_hash:
        code = DeviceCode(fingerprint_id, expires_at, fingerprint_hash)
        found = devices.collect(settings().secret_key, code, now())
    if found is None:
        raise DomainError("Authentication failed", status=401)
    db.session.commit()
    user, token = found
    response = jsonify(
        user={
            "id": user.id,
            "name": user.name,
            "email": user.email,
            "authToken": token,
            "fingerprintId": fingerprint_id,
            "fingerprintHash": fingerprint_hash,
        },
        message="Authentication successful!",
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/api/auth/cli/logout")
@limiter.limit("60/minute")
@Operation(
    tag="Sign-in",
    caller="key",
    scope=scopes.ANY,
    body=LogoutBody,
    answers={200: ("Signed out, or was already", SignedOut), 401: "No key"},
    door=DOOR,
)
def cli_logout() -> ResponseReturnValue:
    """Sign out the command line.

    Ends the session of this token, user and device.
    """
    body = read(LogoutBody)
    token = api_key() or body.authToken
    if not token:
        raise DomainError("Unauthorized", status=401)
    caller = key_user(token)
    if devices.disconnect(token, body.userId, body.fingerprintId):
        audit("session.revoked", body.userId, user=caller, before={"type": "cli", "by": "cli logout"})
        db.session.commit()
    return jsonify(success=True)


# -- the current user (2.2) ----------------------------------------------------------------------------------


@bp.get("/api/v1/me")
@Operation(
    tag="Accounts",
    caller="key",
    scope=scopes.ANY,
    parameters=[query("fields", f"Comma-separated list of: {', '.join(FIELDS)}. Default: id")],
    answers={200: ("The requested fields", Me), 400: "Unknown fields"},
    door=DOOR,
)
def me() -> ResponseReturnValue:
    """Get the current user.

    Fields are validated before the key is looked up.
    """
    if not api_key():
        raise DomainError("Missing or invalid Authorization header", status=401)
    requested = request.args.get("fields")
    fields = (
        ["id"] if requested is None else [part for each in requested.split(",") if (part := each.strip())]
    )
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        names = ", ".join(unknown) if fields else "empty"
        raise DomainError(f"Invalid fields: {names}. Valid fields are: {', '.join(FIELDS)}")
    user = key_user()
    if user is None:
        raise DomainError("Invalid API key or user not found", status=401)
    return jsonify({field: _field(user, field) for field in fields})


def _field(user: User, field: str) -> Any:
    if field == "referral_link":
        return f"{settings().base_url}/referrals/{user.referral_code}" if user.referral_code else None
    return getattr(user, field)


# -- profile, sessions, tokens (2.9) -------------------------------------------------------------------------


@bp.get("/api/user/profile")
@Operation(tag="Accounts", caller="cookie", answers={200: ("The profile", OwnProfile)}, door=DOOR)
def profile() -> ResponseReturnValue:
    """Get your profile.

    Handle, referral code and automatic top-up. Without a payment method that can be charged, automatic top-up is switched
    off.
    """
    user, _ = _signed_in()
    db.session.commit()  # no transaction while Stripe is asked
    blocked = auto_topup.blocked_reason(Account(user_id=user.id))
    return jsonify(
        handle=user.handle,
        referral_code=user.referral_code,
        auto_topup_enabled=bool(user.auto_topup_enabled) and blocked is None,
        auto_topup_threshold=500 if user.auto_topup_threshold is None else user.auto_topup_threshold,
        auto_topup_amount=2000 if user.auto_topup_amount is None else user.auto_topup_amount,
        auto_topup_blocked_reason=blocked,
        created_at=iso(user.created_at),
    )


@bp.get("/api/user/sessions")
@Operation(tag="Accounts", caller="cookie", answers={200: ("The sessions", ListedSessions)}, door=DOOR)
def list_sessions() -> ResponseReturnValue:
    """List your browser and command line sessions.

    Includes expired sessions.
    """
    user, current = _signed_in()
    rows = credentials.sessions(user)
    return jsonify(activeSessions=[_session(row, device, current) for row, device in rows])


def _session(row: Session, device: Fingerprint | None, current: Session) -> dict[str, Any]:
    return {
        "id": row.session_token,
        "label": f"••••{row.token_hint[-4:]}",
        "expires": iso(row.expires),
        "isCurrent": row.session_token == current.session_token,
        "fingerprintId": row.fingerprint_id,
        "createdAt": iso(device.created_at) if device else None,
        "sessionType": row.type,
    }


@bp.post(LOGOUT_ALL)
@limiter.limit("30/minute", key_func=_rate_limit_key)
@Operation(
    tag="Accounts",
    caller="cookie",
    answers={
        200: ("Signed out", OthersSignedOut),
        403: "Called without an Origin or Referer of this server, or with a key in the cookie",
    },
    door=DOOR,
)
def logout_all() -> ResponseReturnValue:
    """Sign out everywhere else.

    Ends your other browser sessions, and the command line sessions and keys they created.
    """
    user, current = _signed_in()
    if not is_own_origin(request.headers.get("Origin") or request.headers.get("Referer")):
        raise Forbidden("Forbidden - not same origin, cannot logout all sessions")
    revoked = credentials.revoke_others(user, current)
    audit("session.revoked", user.id, user=user, before=credentials.count_by_type(revoked))
    db.session.commit()
    return jsonify(ok=True)


@bp.delete("/api/sessions")
@limiter.limit("60/minute", key_func=_rate_limit_key)
@Operation(
    tag="Accounts",
    caller="cookie",
    body=RevokeBody,
    answers={
        200: ("How many were revoked", Revocation),
        401: ("Not signed in", str),
        403: "Called with a key in the cookie",
    },
    door=DOOR,
)
def revoke() -> ResponseReturnValue:
    """Revoke sessions and keys.

    The body identifies them by raw token or by id, the token's SHA-256. Revoking a browser session also revokes the
    command line sessions and keys it created.
    """
    user, current = cookie_user(), current_session()
    if user is None or current is None:
        return Response("Unauthorized", 401, mimetype="text/plain")
    try:
        value = read_json()
    except BadJson:
        value = {}
    body = parse(RevokeBody, value)
    credentials.lock_browser(current, to_end=True)
    rows = [
        *credentials.revoke(user, body.sessionIds or (), ("web", "cli")),
        *credentials.revoke(user, body.tokenIds or (), ("pat",)),
    ]
    for row in rows:
        audit(
            f"{'token' if row.type == 'pat' else 'session'}.revoked",
            user.id,
            user=user,
            before=_audit_fields(row),
        )
    db.session.commit()
    tokens = sum(row.type == "pat" for row in rows)
    return jsonify(revokedSessions=len(rows) - tokens, revokedTokens=tokens)


@bp.get("/api/api-keys")
@Operation(tag="Accounts", caller="cookie", answers={200: ("The keys", ListedTokens)}, door=DOOR)
def list_keys() -> ResponseReturnValue:
    """List your keys, masked."""
    user, _ = _signed_in()
    rows = credentials.keys(user)
    return jsonify(
        tokens=[
            {
                "id": row.session_token,
                "token": row.token_hint,
                "expires": iso(row.expires),
                "createdAt": None,
                "type": "pat",
                "name": row.name,
            }
            for row in rows
        ]
    )


@bp.post("/api/api-keys")
@limiter.limit("20/minute;200/hour", key_func=_rate_limit_key)
@Operation(
    tag="Accounts",
    caller="cookie",
    body=KeyBody,
    answers={
        201: ("The key", CreatedKey),
        403: "Called with a key in the cookie",
        409: ("The account has reached its limit of keys", ServerError),
    },
    door=DOOR,
)
def create_key() -> ResponseReturnValue:
    """Create a key.

    The key is shown only in this response.
    """
    user, current = _signed_in()
    body = read(KeyBody)
    days = float(body.expiresInDays)
    limit = settings().stoa_keys_per_account
    token, row = credentials.create_key(user, by=current, days=days, name=body.name, limit=limit, now=now())
    audit("token.created", user.id, user=user, after=_audit_fields(row))
    db.session.commit()
    response = jsonify(token=token, expires=iso(row.expires), message="API Key created successfully")
    response.headers["Cache-Control"] = "no-store"
    return response, 201


def _signed_in() -> tuple[User, Session]:
    """Return the signed-in user and session. Raises DomainError (401)."""
    user, current = cookie_user(), current_session()
    if user is None or current is None:
        raise DomainError("Unauthorized", status=401)
    return user, current


def _audit_fields(row: Session) -> dict[str, Any]:
    return {"id": row.session_token[:12], "type": row.type, "name": row.name, "expires": iso(row.expires)}
