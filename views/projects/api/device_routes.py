"""`/v1/oauth`: sign-in of clients of projects by a code that is confirmed in the browser (RFC 8628, fastest contract 2.5).

The codes are those of `/oauth` (`models/accounts/device_grants.py`), and are confirmed on the same page. What differs is what the client
gets: one token for thirty days, in the shape of the contract.
"""

from dataclasses import replace
from typing import Any, Literal

from flask import Response, jsonify, request, url_for
from pydantic import BaseModel, Field

from models.accounts import device_grants, device_requests, scopes
from models.accounts.credentials import Credential
from models.accounts.device_grants import ClientToken, GrantRefused
from models.accounts.devices import DeviceCodeStatus
from models.accounts.key_changes import WiderKey
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden, Invalid
from models.core.strict_models import Missing
from views.accounts.api import token_routes
from views.accounts.api.google_credentials import google_user
from views.accounts.api.token_routes import DEVICE_CODE, MAX_BYTES, IssuedDeviceCode
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import DOOR, WRONG, ProjectError, bp
from views.web.body import FORMS, BadJson, Body, parse_text, read, read_bytes
from views.web.code_misses import check_misses, count_miss
from views.web.guards import api_key, audit, key_caller, key_credential, limiter, settings
from views.web.operation import Operation, ResponseModel

TAG = "Devices"
FLAT = replace(token_routes.DOOR, too_large=ProjectError, unsupported_encoding=ProjectError)
"""Errors of the token route, as RFC 6749 shapes them."""
NO_KEY = "Missing, unknown or revoked API key."
REASONS = {
    DeviceCodeStatus.INVALID: ("invalid_code", "There is no such code. Compare it with your terminal."),
    DeviceCodeStatus.EXPIRED: (
        "expired_code",
        "The code has expired. Start the sign-in again in your terminal.",
    ),
}
USED = ("already_used", "The code was confirmed or refused before. Start the sign-in again in your terminal.")


class DeviceStart(BaseModel):
    client_id: Missing[str] = Field(
        None, description="What the approval page calls the client; else its User-Agent"
    )


class ClientTokenBody(BaseModel):
    grant_type: Literal["urn:ietf:params:oauth:grant-type:device_code"]
    device_code: str


class DeviceApproval(Body):
    user_code: Missing[str] = Field(None, description="In any case, with or without its dash")
    credential: Missing[str] = Field(
        None, description="An ID token of Google, instead of the key in the header"
    )


class DeviceDenial(Body):
    user_code: str


class ClientUser(ResponseModel):
    id: str
    email: str


class IssuedClientToken(ResponseModel):
    access_token: str = Field(description="A key of the account, shown once")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds; there is no refresh")
    user: ClientUser


class DeviceApproved(ResponseModel):
    success: Literal[True]
    message: str


@bp.post("/oauth/device")
@limiter.limit("30/minute;300/hour")
@Operation(
    tag=TAG,
    body=DeviceStart,
    max_bytes=MAX_BYTES,
    answers={200: ("The codes", IssuedDeviceCode), 400: "The body is not JSON (`INVALID_JSON`)"},
    door=DOOR,
)
def issue_device_code() -> Response:
    """Start the sign-in of a client of projects.

    The body may be empty, JSON or a form. Open `verification_uri_complete` in a browser, and poll `/v1/oauth/token`.
    """
    name = _text(_fields(), "client_id") or request.headers.get("User-Agent", "")
    client = device_requests.client_of(name)
    device_code, grant = device_grants.issue_grant(
        now(), address=request.remote_addr, client=client, single_token=True
    )
    db.session.commit()
    page = settings().base_url + url_for("accounts.device_grant")
    return _private(
        jsonify(
            device_code=device_code,
            user_code=grant.user_code,
            verification_uri=page,
            verification_uri_complete=f"{page}?code={grant.user_code}",
            expires_in=int(device_grants.CODE_LIFETIME.total_seconds()),
            interval=device_grants.INTERVAL,
        )
    )


@bp.post("/oauth/token")
@limiter.limit("300/minute")
@Operation(
    tag=TAG,
    body=ClientTokenBody,
    max_bytes=MAX_BYTES,
    answers={
        200: ("The token", IssuedClientToken),
        400: "`unsupported_grant_type`, `invalid_request`, `invalid_grant`, `expired_token`, `access_denied`, `slow_down` or "
        "`authorization_pending`",
    },
    door=FLAT,
)
def client_token() -> Response:
    """Get the token of a confirmed device code, once.

    The body is JSON or a form. It is a command line session of the account, for thirty days however it is used.
    """
    try:
        fields = _fields()
    except BadJson as error:
        raise GrantRefused("invalid_request", f"The request body is not valid JSON: {error}.") from None
    if fields.get("grant_type") != DEVICE_CODE:
        raise GrantRefused("unsupported_grant_type", f"'grant_type' must be {DEVICE_CODE}.")
    device_code = _text(fields, "device_code")
    if device_code is None:
        raise GrantRefused("invalid_request", "'device_code' is missing.")
    try:
        found = device_grants.redeem_token(settings().secret_key, device_code, now())
    except GrantRefused as refused:
        if refused.keep:
            db.session.commit()
        raise
    db.session.commit()
    return token_answer(found)


@bp.post("/oauth/device/authorize")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=DeviceApproval,
    max_bytes=MAX_BYTES,
    answers={
        200: ("The client is signed in", DeviceApproved),
        400: "`INVALID_CODE`, `EXPIRED_CODE`, `ALREADY_USED`, or the body is not JSON (`INVALID_JSON`)",
        401: "No key and no credential (`UNAUTHORIZED`), or Google did not issue it for this server (`INVALID_CREDENTIAL`)",
        403: "The key has scopes, or is one of an organisation",
        409: "The account has reached its limit of command line sessions",
        422: WRONG[422],
        429: "Ten codes in a quarter of an hour did not exist (`TOO_MANY_CODES`)",
    },
    door=DOOR,
)
def authorize_device() -> Response:
    """Confirm a device code with a key of your own account, or an ID token of Google.

    People confirm codes on the page `/device`. What a key or a command line session confirms ends with it, and not later.
    """
    caller = key_credential()
    if caller is None and api_key():
        raise DomainError(NO_KEY, code="invalid_api_key", status=401)
    body, moment = read(DeviceApproval), now()
    user, by = _approver(caller, body.credential)
    code = _user_code(body.user_code)
    check_misses(user.id)
    limit = settings().stoa_cli_sessions_per_account
    outcome = device_grants.approve_grant(settings().secret_key, code, user, moment, by=by, limit=limit)
    if outcome is not DeviceCodeStatus.DONE:
        if outcome is DeviceCodeStatus.INVALID:
            count_miss(user.id)
        reason, message = REASONS.get(outcome, USED)
        raise DomainError(message, code=reason)
    grant = device_grants.find_grant(code)
    audit("device.connected", user.id, user=user, after={"client": grant.client if grant else None})
    db.session.commit()
    return jsonify(success=True, message="Device authorized. Return to your terminal.")


@bp.post("/oauth/device/deny")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=DeviceDenial,
    max_bytes=MAX_BYTES,
    answers={200: ("Refused, or there is no such code", Success), **WRONG},
    door=DOOR,
)
def deny_device() -> Response:
    """Refuse a device code. Its client learns it with its next poll.

    The answer is the same for a code that does not exist.
    """
    caller = key_credential()
    if caller is None:
        raise DomainError(NO_KEY, code="invalid_api_key", status=401)
    code = _user_code(read(DeviceDenial).user_code)
    if device_grants.refuse_grant(code, now(), single_token=True) is DeviceCodeStatus.DONE:
        audit("device.refused", caller.user.id, user=caller.user, after={"user_code": code[:40]})
    db.session.commit()
    return jsonify(success=True)


def token_answer(found: ClientToken) -> Response:
    """A token of a client of projects, as the contract answers it."""
    return _private(
        jsonify(
            access_token=found.access,
            token_type="Bearer",  # noqa: S106
            expires_in=found.seconds,
            user={"id": found.user.id, "email": found.user.email},
        )
    )


def _approver(caller: Credential | None, credential: str | None) -> tuple[User, Session | None]:
    """Who confirms a code, and with which credential of ours. Raises DomainError (401), Forbidden, WiderKey."""
    if caller is None:
        if not credential:
            raise DomainError(NO_KEY, code="invalid_api_key", status=401)
        return google_user(credential, "invalid_credential"), None
    if caller.key is not None:
        raise WiderKey(
            "A key with scopes cannot sign in a device, which may do everything. Confirm the code on /device."
        )
    if caller.session.org_id is not None:
        raise Forbidden("This key belongs to an organisation. Use a key of your own account.")
    return caller.user, caller.session


def _user_code(text: str | None) -> str:
    if text is None or not text.strip():
        raise Invalid("'user_code' must be the code that the client shows, such as CVSD-9030.")
    return text


def _fields() -> dict[str, Any]:
    """The body, JSON or a form; nothing for an empty one. Raises BadJson."""
    if request.mimetype in FORMS:
        return request.form.to_dict()
    raw = read_bytes()
    found = parse_text(raw.decode(errors="replace")) if raw.strip() else {}
    return found if isinstance(found, dict) else {}


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value and "\0" not in value else None


def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
