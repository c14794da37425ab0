"""JSON of accounts: the command line's sign-in, who am I, sessions and personal access tokens.

Contract sections 1.4, 2.1, 2.2 and 2.9, with appendix B 1 and 11 and the changes of our own: tokens are shown once,
lists carry a masked form and a stable id.
"""

from decimal import Decimal
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field

from models.accounts import credentials, devices
from models.accounts.bans import AccountSuspended
from models.accounts.devices import FINGERPRINT_LENGTH, Code
from models.accounts.sessions import Fingerprint, Session
from models.accounts.users import User
from models.db import db, now
from models.errors import Forbidden
from views import errors
from views.api.body import BadBody, BadJson, Body, Missing, Number, parse, read, read_json
from views.format import iso
from views.guards import (
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

bp = Blueprint("accounts_api", __name__)

FIELDS = ("id", "email", "discord_id", "referral_code", "stripe_customer_id", "banned", "referral_link")

Device = Annotated[str, Field(max_length=FINGERPRINT_LENGTH)]


class CodeBody(Body):
    fingerprintId: Device
    referralCode: Missing[str] = None


class LogoutBody(Body):
    authToken: Missing[str] = None
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


def _person() -> str:
    credential = cookie_credential()
    return credential.user.id if credential else caller_address()


@bp.errorhandler(RateLimitExceeded)
def _too_many(error: RateLimitExceeded) -> ResponseReturnValue:
    return jsonify(error="Too many requests. Wait a minute, then try again."), 429


bp.register_error_handler(AccountSuspended, errors.suspended)


@bp.errorhandler(Forbidden)
def _forbidden(error: Forbidden) -> ResponseReturnValue:
    """A key or a command line session in the cookie reads, and makes and ends no credentials."""
    db.session.rollback()
    return jsonify(error=error.message), error.status


# -- the command line signs in (2.1) -------------------------------------------------------------------------


@bp.post("/api/auth/cli/code")
@limiter.limit("30/minute;300/hour")
def cli_code() -> ResponseReturnValue:
    """A signed code and the address to open in a browser. Nothing is written."""
    try:
        body = read(CodeBody)
    except (BadJson, BadBody):
        return jsonify(error="Invalid request body"), 400
    code = devices.issue_code(settings().secret_key, body.fingerprintId, now())
    address = f"{settings().base_url}{url_for('accounts.login')}?auth_code={code.text}"
    if body.referralCode:
        address += f"&referral_code={body.referralCode}"
    return jsonify(
        fingerprintId=code.fingerprint_id,
        fingerprintHash=code.hash,
        expiresAt=int(code.expires_at),
        loginUrl=address,
    )


@bp.get("/api/auth/cli/status")
@limiter.limit("300/minute")
def cli_status() -> ResponseReturnValue:
    """The user and the token of a command line that was let in, once; 401 before that and after."""
    given = [request.args.get(name) for name in ("fingerprintId", "fingerprintHash", "expiresAt")]
    if not all(given):
        return jsonify(error="Invalid query parameters"), 400
    fingerprint_id, fingerprint_hash, expires_at = (str(each) for each in given)
    found = None
    # HEAD would use the token up and not show it.
    if request.method == "GET" and "\0" not in fingerprint_id + fingerprint_hash:
        code = Code(fingerprint_id, expires_at, fingerprint_hash)
        found = devices.collect(settings().secret_key, code, now())
    if found is None:
        return jsonify(error="Authentication failed"), 401
    db.session.commit()
    user, token = found
    answer = jsonify(
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
    answer.headers["Cache-Control"] = "no-store"
    return answer


@bp.post("/api/auth/cli/logout")
@limiter.limit("60/minute")
def cli_logout() -> ResponseReturnValue:
    """End exactly the session of this token, user and device. Success also when there was none."""
    try:
        body = read(LogoutBody)
    except (BadJson, BadBody):
        return jsonify(error="Invalid request body"), 400
    token = api_key() or body.authToken
    if not token:
        return jsonify(error="Unauthorized"), 401
    caller = key_user(token)
    if devices.disconnect(token, body.userId, body.fingerprintId):
        audit("session.revoked", body.userId, user=caller, before={"type": "cli", "by": "cli logout"})
        db.session.commit()
    return jsonify(success=True)


# -- who am I (2.2) ------------------------------------------------------------------------------------------


@bp.get("/api/v1/me")
def me() -> ResponseReturnValue:
    """The caller's own data, exactly the asked fields. Fields are checked before the key is looked up."""
    if not api_key():
        return jsonify(error="Missing or invalid Authorization header"), 401
    asked = request.args.get("fields")
    fields = ["id"] if asked is None else [part for each in asked.split(",") if (part := each.strip())]
    wrong = [field for field in fields if field not in FIELDS]
    if wrong or not fields:
        names = ", ".join(wrong) if fields else "empty"
        return jsonify(error=f"Invalid fields: {names}. Valid fields are: {', '.join(FIELDS)}"), 400
    user = key_user()
    if user is None:
        return jsonify(error="Invalid API key or user not found"), 401
    return jsonify({field: _field(user, field) for field in fields})


def _field(user: User, field: str) -> Any:
    if field == "referral_link":
        return f"{settings().base_url}/referrals/{user.referral_code}" if user.referral_code else None
    return getattr(user, field)


# -- profile, sessions, tokens (2.9) -------------------------------------------------------------------------


@bp.get("/api/user/profile")
def profile() -> ResponseReturnValue:
    """Handle, referral code and auto top-up of the signed-in user."""
    user = cookie_user()
    if user is None:
        return jsonify(error="Unauthorized"), 401
    return jsonify(
        handle=user.handle,
        referral_code=user.referral_code,
        auto_topup_enabled=user.auto_topup_enabled,
        auto_topup_threshold=500 if user.auto_topup_threshold is None else user.auto_topup_threshold,
        auto_topup_amount=2000 if user.auto_topup_amount is None else user.auto_topup_amount,
        auto_topup_blocked_reason=None,
        created_at=iso(user.created_at),
    )


@bp.get("/api/user/sessions")
def list_sessions() -> ResponseReturnValue:
    """Web and command line sessions of the signed-in user, ended ones too."""
    user, here = cookie_user(), current_session()
    if user is None or here is None:
        return jsonify(error="Unauthorized"), 401
    rows = credentials.sessions(user)
    return jsonify(activeSessions=[_session(row, device, here) for row, device in rows])


def _session(row: Session, device: Fingerprint | None, here: Session) -> dict[str, Any]:
    return {
        "id": row.session_token,
        "label": f"••••{row.token_hint[-4:]}",
        "expires": iso(row.expires),
        "isCurrent": row.session_token == here.session_token,
        "fingerprintId": row.fingerprint_id,
        "createdAt": iso(device.created_at) if device else None,
        "sessionType": row.type,
    }


@bp.post(LOGOUT_ALL)
@limiter.limit("30/minute", key_func=_person)
def logout_all() -> ResponseReturnValue:
    """End the other web sessions, and the command line sessions and keys they made. Only from our own pages: `Origin`
    or `Referer` must say so."""
    user, here = cookie_user(), current_session()
    if user is None or here is None:
        return jsonify(error="Unauthorized"), 401
    if not is_own_origin(request.headers.get("Origin") or request.headers.get("Referer")):
        return jsonify(error="Forbidden - not same origin, cannot logout all sessions"), 403
    gone = credentials.revoke_others(user, here)
    audit("session.revoked", user.id, user=user, before=credentials.count_types(gone))
    db.session.commit()
    return jsonify(ok=True)


@bp.delete("/api/sessions")
@limiter.limit("60/minute", key_func=_person)
def revoke() -> ResponseReturnValue:
    """Revoke the caller's sessions and tokens that the body names, raw, by SHA-256 or by listed id (the same), and what
    the revoked web sessions made."""
    user, here = cookie_user(), current_session()
    if user is None or here is None:
        return Response("Unauthorized", 401, mimetype="text/plain")
    try:
        value = read_json()
    except BadJson:
        value = {}
    try:
        body = parse(RevokeBody, value)
    except BadBody:
        return jsonify(error="Invalid request body"), 400
    credentials.lock_browser(here, to_end=True)
    rows = [
        *credentials.revoke(user, body.sessionIds or (), ("web", "cli")),
        *credentials.revoke(user, body.tokenIds or (), ("pat",)),
    ]
    for row in rows:
        audit(
            f"{'token' if row.type == 'pat' else 'session'}.revoked", user.id, user=user, before=_trace(row)
        )
    db.session.commit()
    tokens = sum(row.type == "pat" for row in rows)
    return jsonify(revokedSessions=len(rows) - tokens, revokedTokens=tokens)


@bp.get("/api/api-keys")
def list_keys() -> ResponseReturnValue:
    """Personal access tokens, masked: a token is shown once, when it is made."""
    user = cookie_user()
    if user is None:
        return jsonify(error="Unauthorized"), 401
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
@limiter.limit("20/minute;200/hour", key_func=_person)
def create_key() -> ResponseReturnValue:
    """Make a personal access token of 1 to 365 days; the only answer that ever shows it."""
    user, here = cookie_user(), current_session()
    if user is None or here is None:
        return jsonify(error="Unauthorized"), 401
    try:
        body = read(KeyBody)
    except (BadJson, BadBody):
        return jsonify(error="Invalid request body"), 400
    days = float(body.expiresInDays)
    most = settings().stoa_keys_per_account
    token, row = credentials.create_key(user, by=here, days=days, name=body.name, most=most, now=now())
    audit("token.created", user.id, user=user, after=_trace(row))
    db.session.commit()
    answer = jsonify(token=token, expires=iso(row.expires), message="API Key created successfully")
    answer.headers["Cache-Control"] = "no-store"
    return answer, 201


def _trace(row: Session) -> dict[str, Any]:
    return {"id": row.session_token[:12], "type": row.type, "name": row.name, "expires": iso(row.expires)}
