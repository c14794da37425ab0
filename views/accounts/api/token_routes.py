"""OAuth for clients that sign in by device grant (RFC 8414, 8628, 6749, 7009): metadata, device codes, tokens, revocation.

As `/login` of Claude Code expects it: form-encoded, without client ids or scopes. Unknown parameters are ignored.
"""

from typing import Literal
from urllib.parse import urlsplit

from flask import Response, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import BaseModel, ConfigDict, Field

from models.accounts import access_tokens, device_grants, device_requests
from models.accounts.device_grants import GrantRefused, Tokens
from models.core.db import db, now
from models.core.strict_models import Missing
from views.accounts.api.account_routes import bp
from views.web.error_bodies import door
from views.web.guards import audit, limiter, settings
from views.web.operation import Operation, ResponseModel

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
REFRESH = "refresh_token"
FORM = "application/x-www-form-urlencoded"
MAX_BYTES = 16 << 10


class OAuthError(ResponseModel):
    """RFC 6749, 5.2."""

    error: str = Field(description="The code, such as `authorization_pending`")
    error_description: Missing[str] = None


class AuthorizationServer(ResponseModel):
    """RFC 8414."""

    issuer: str
    device_authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    grant_types_supported: list[str]
    response_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]


class DeviceCodeBody(BaseModel):
    surface: Missing[str] = Field(None, description="The client that signs in, such as `claude_code`")


class IssuedDeviceCode(ResponseModel):
    """RFC 8628, 3.2."""

    device_code: str
    user_code: str = Field(description="To compare, or to type")
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int = Field(description="Seconds between polls")


class TokenBody(BaseModel):
    grant_type: Literal["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"]
    device_code: Missing[str] = None
    refresh_token: Missing[str] = None


class IssuedTokens(ResponseModel):
    model_config = ConfigDict(extra="forbid")

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str = Field(description="To be used once")
    email: str = Field(description="Of the account that confirmed the code")


class RevocationBody(BaseModel):
    token: str = Field(description="An access or refresh token")
    token_type_hint: Missing[str] = None


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case GrantRefused():
            return jsonify(error=error.code, error_description=error.message), error.status
        case RateLimitExceeded():
            return jsonify(error="slow_down", error_description="Too many requests. Wait a minute."), 429
    return None


DOOR = door(_error_response, error=OAuthError, body_error=OAuthError)


@bp.get("/.well-known/oauth-authorization-server")
@Operation(tag="Sign-in", answers={200: ("The metadata", AuthorizationServer)}, door=DOOR)
def authorization_server() -> ResponseReturnValue:
    """Get the metadata of the authorization server.

    For clients that sign in with a device code. The addresses are those of the host that was called.
    """
    origin = _origin()
    return jsonify(
        issuer=origin,
        device_authorization_endpoint=origin + url_for("accounts_api.device_authorization"),
        token_endpoint=origin + url_for("accounts_api.token"),
        revocation_endpoint=origin + url_for("accounts_api.revocation"),
        grant_types_supported=[DEVICE_CODE, REFRESH],
        response_types_supported=[],
        token_endpoint_auth_methods_supported=["none"],
    )


def _origin() -> str:
    """This server as the client reaches it: clients use no addresses of another origin."""
    configured = settings().base_url
    return configured if urlsplit(configured).netloc == request.host else request.host_url.rstrip("/")


@bp.post("/oauth/device_authorization")
@limiter.limit("30/minute;300/hour")
@Operation(
    tag="Sign-in",
    body=DeviceCodeBody,
    body_kind=FORM,
    max_bytes=MAX_BYTES,
    answers={200: ("The codes", IssuedDeviceCode)},
    door=DOOR,
)
def device_authorization() -> ResponseReturnValue:
    """Start a sign-in with a device code.

    Open `verification_uri_complete` in a browser, and poll the token endpoint.
    """
    moment = now()
    client = device_requests.client_of(request.headers.get("User-Agent", ""))
    device_code, grant = device_grants.issue_grant(
        moment, address=request.remote_addr, client=client, surface=_field("surface") or ""
    )
    db.session.commit()
    page = settings().base_url + url_for("accounts.device_grant")
    return _private(
        jsonify(
            device_code=device_code,
            user_code=grant.user_code,
            verification_uri=page,
            verification_uri_complete=f"{page}?user_code={grant.user_code}",
            expires_in=int(device_grants.CODE_LIFETIME.total_seconds()),
            interval=device_grants.INTERVAL,
        )
    )


@bp.post("/oauth/token")
@limiter.limit("300/minute")
@Operation(
    tag="Sign-in",
    body=TokenBody,
    body_kind=FORM,
    max_bytes=MAX_BYTES,
    answers={
        200: ("The tokens", IssuedTokens),
        400: "`authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`, `invalid_request` or "
        "`unsupported_grant_type`",
        401: "`invalid_grant`: the refresh token was used before, or the sign-in has ended. Sign in again",
    },
    door=DOOR,
)
def token() -> ResponseReturnValue:
    """Get tokens for a confirmed device code, or new ones for a refresh token.

    An access token is a key of the account, for an hour. A refresh token is used once; using an old one ends the sign-in.
    """
    try:
        return _private(_tokens())
    except GrantRefused as refused:
        if refused.keep:
            db.session.commit()
        raise


def _tokens() -> Response:
    kind, secret, moment = _field("grant_type"), settings().secret_key, now()
    match kind:
        case None:
            raise GrantRefused("invalid_request", "'grant_type' is missing.")
        case "urn:ietf:params:oauth:grant-type:device_code":
            found = device_grants.redeem_grant(secret, _required("device_code"), moment)
        case "refresh_token":
            found = device_grants.refresh_tokens(secret, _required("refresh_token"), moment)
        case _:
            raise GrantRefused("unsupported_grant_type", f"Supported are {DEVICE_CODE} and {REFRESH}.")
    db.session.commit()
    return _token_answer(found)


def _token_answer(found: Tokens) -> Response:
    return jsonify(
        access_token=found.access,
        token_type="Bearer",  # noqa: S106
        expires_in=int(access_tokens.LIFETIME.total_seconds()),
        refresh_token=found.refresh,
        email=found.email,
    )


@bp.post("/oauth/revoke")
@limiter.limit("60/minute")
@Operation(
    tag="Sign-in",
    body=RevocationBody,
    body_kind=FORM,
    max_bytes=MAX_BYTES,
    answers={200: ("Revoked, or unknown", None), 400: "`invalid_request`: no token"},
    door=DOOR,
)
def revocation() -> ResponseReturnValue:
    """Revoke a token.

    Ends the sign-in, so that all its tokens are refused at once.
    """
    ended = device_grants.revoke_token(settings().secret_key, _required("token"), now())
    if ended is not None:
        audit("session.revoked", ended.user.id, user=ended.user, before={"type": "cli", "by": "revocation"})
    db.session.commit()
    return _private(Response(status=200))


def _field(name: str) -> str | None:
    value = request.form.get(name)
    return value if value and "\0" not in value else None


def _required(name: str) -> str:
    value = _field(name)
    if value is None:
        raise GrantRefused("invalid_request", f"'{name}' is missing.")
    return value


def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
