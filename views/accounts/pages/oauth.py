"""Sign-in with GitHub, Google or OpenID Connect (Authlib), and the NextAuth REST API (contract 1.3)."""

import logging
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.flask_client import OAuth
from flask import Flask, Response, current_app, jsonify, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import generate_csrf, validate_csrf
from joserfc.errors import JoseError
from requests import RequestException
from wtforms.validators import ValidationError

from models.accounts.credentials import lock_browser
from models.accounts.signing_in import MAX_TEXT_LENGTH, Identity, attach, clean_email, sign_in_identity
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.settings import Settings
from models.core.strict_models import Missing
from views.accounts.pages.blueprint import bp
from views.accounts.pages.sign_in import (
    complete_sign_in,
    destination,
    mail_identity_link,
    mail_link,
    requested_destination,
)
from views.accounts.pages.sign_in_providers import SignInProvider, configured, name_of
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import (
    audit,
    cookie_credential,
    cookie_user,
    current_session,
    limiter,
    login_required,
    same_origin,
    settings,
    sign_out_browser,
)
from views.web.htmx import render, see_other, toast
from views.web.operation import Operation, ResponseModel

log = logging.getLogger("stoa.accounts")

TIMEOUT = 10  # seconds per request to a provider
# Errors caused by providers and malformed responses, which do not always follow the specification.
FAILURES = (
    OAuthError,
    JoseError,
    RequestException,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
# Error codes of RFC 6749 and OpenID Connect. Any other value is arbitrary text from the query string.
OAUTH_ERRORS = frozenset(
    {
        "access_denied",
        "account_selection_required",
        "bad_verification_code",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "login_required",
        "mismatching_state",
        "missing_token",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
    }
)
PKCE = {"code_challenge_method": "S256", "default_timeout": TIMEOUT}


def init_app(app: Flask) -> None:
    """Register the configured providers."""
    configuration = cast(Settings, app.extensions["settings"])
    oauth = OAuth(app)
    if configuration.github_client_id and configuration.github_client_secret:
        oauth.register(
            "github",
            client_id=configuration.github_client_id,
            client_secret=configuration.github_client_secret.get_secret_value(),
            authorize_url="https://github.com/login/oauth/authorize",
            access_token_url="https://github.com/login/oauth/access_token",  # noqa: S106
            api_base_url="https://api.github.com/",
            client_kwargs={"scope": "read:user user:email", **PKCE},
        )
    if configuration.google_client_id and configuration.google_client_secret:
        oauth.register(
            "google",
            client_id=configuration.google_client_id,
            client_secret=configuration.google_client_secret.get_secret_value(),
            server_metadata_url="https://accounts.google.com/.well-known/openid-configuration",
            client_kwargs={"scope": "openid email profile", **PKCE},
        )
    if configuration.oidc_issuer and configuration.oidc_client_id and configuration.oidc_client_secret:
        oauth.register(
            "oidc",
            client_id=configuration.oidc_client_id,
            client_secret=configuration.oidc_client_secret.get_secret_value(),
            server_metadata_url=f"{configuration.oidc_issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid email profile", **PKCE},
        )


def _client(provider: str) -> Any:
    if provider not in {each.id for each in configured()}:
        raise NotFound("This sign-in method is not available on this server.")
    return current_app.extensions["authlib.integrations.flask_client"].create_client(provider)


# -- redirect and callback -----------------------------------------------------------------------------------


@bp.get("/login/<any(github, google, oidc):provider>")
@limiter.limit("30/minute")
def start(provider: str) -> ResponseReturnValue:
    """Redirect to the provider."""
    try:
        return redirect(_authorize_address(provider, requested_destination()), 302)
    except FAILURES as error:
        return _failed(provider, error)


@bp.post("/profile/sign-ins/<any(github, google, oidc):provider>")
@limiter.limit("30/minute")
@login_required
def connect_identity(provider: str) -> ResponseReturnValue:
    """Redirect to the provider, to connect an identity there with the signed-in user."""
    user, browser, back = cookie_user(), current_session(), url_for("profile.profile", tab="account")
    assert user
    assert browser
    lock_browser(browser)
    try:
        return see_other(_authorize_address(provider, back, connect_to=user.id))
    except FAILURES as error:
        return _failed(provider, error, back)


def _authorize_address(provider: str, next_path: str, *, connect_to: str | None = None) -> str:
    redirect_uri = settings().base_url + url_for("accounts.callback", provider=provider)
    return authorization_url(_client(provider), redirect_uri, next_path, connect_to=connect_to)


def authorization_url(
    client: Any, redirect_uri: str, next_path: str, *, connect_to: str | None = None, **parameters: str
) -> str:
    """Begin a sign-in: remember its state in the flow cookie and return the provider's URL. Raises one of `FAILURES`.

    `connect_to` is the signed-in user with whom to connect the identity, instead of signing in."""
    # Abandoned sign-ins would fill the cookie.
    for key in [key for key in session if key.startswith("_state_")]:
        session.pop(key)
    authorization = client.create_authorization_url(redirect_uri, **parameters)
    client.save_authorize_data(
        redirect_uri=redirect_uri, where=next_path, connect_to=connect_to, **authorization
    )
    return cast(str, authorization["url"])


@bp.get("/api/auth/callback/<provider>")
@limiter.limit("30/minute")
def callback(provider: str) -> ResponseReturnValue:
    """Handle the provider's callback: exchange the code, find or create the user, sign the browser in.

    Holds no database connection during requests to the provider.
    """
    client = _client(provider)
    state = client.framework.get_state_data(session, request.args.get("state")) or {}
    next_path = destination(state.get("where"))
    try:
        identity = _github(client) if provider == "github" else _openid(client, provider)
        if state.get("connect_to"):
            return _connect(identity, state["connect_to"], next_path)
        found = sign_in_identity(identity, now(), free_credits=settings().stoa_free_credits)
    except (*FAILURES, Invalid) as error:
        db.session.rollback()
        return _failed(provider, error, next_path if state.get("connect_to") else None)
    if found is None:
        return _request_verification(identity, next_path)
    user, new = found
    return complete_sign_in(user, new, provider, next_path)


def _connect(identity: Identity, user_id: str, next_path: str) -> ResponseReturnValue:
    """Connect the identity with the user who asked for it, if this browser is still theirs. Commits."""
    user, browser, provider = cookie_user(), current_session(), name_of(identity.provider)
    if user is None or browser is None or user.id != user_id:
        toast(f"{provider} was not connected: you were signed out meanwhile.", "bad")
        return see_other(url_for("accounts.login", next=next_path))
    lock_browser(browser)
    try:
        attach(user, identity)
    except Conflict:
        db.session.rollback()
        toast(f"This identity at {provider} signs in another account. Disconnect it there first.", "bad")
        return see_other(next_path)
    audit(
        "identity.joined",
        user.id,
        user=user,
        after={"provider": identity.provider, "subject": identity.subject},
    )
    db.session.commit()
    toast(f"{provider} connected.")
    return see_other(next_path)


def _github(client: Any) -> Identity:
    token = client.authorize_access_token()
    response, addresses = client.get("user", token=token), client.get("user/emails", token=token)
    response.raise_for_status()
    addresses.raise_for_status()
    profile = response.json()
    primary = next(each for each in [*addresses.json(), {"primary": True}] if each.get("primary"))
    return Identity(
        provider="github",
        subject=str(profile["id"]) if type(profile["id"]) is int else profile["id"],
        email=primary.get("email") or "",
        verified=primary.get("verified") is True,
        name=_name(profile.get("name")) or _name(profile.get("login")),
        login=_name(profile.get("login")),
        image=_picture(profile.get("avatar_url")),
    )


def _openid(client: Any, provider: str) -> Identity:
    # Subjects are unique per issuer, and the operator may change the issuer later.
    return openid_identity(provider, openid_claims(client), with_issuer=provider == "oidc")


def openid_claims(client: Any) -> dict[str, Any]:
    """Exchange the code of this request for an ID token. Returns its validated claims, with those of the user info if the
    e-mail address is missing. Raises one of `FAILURES`."""
    token = client.authorize_access_token()
    claims = dict(token["userinfo"])
    if "email" not in claims:
        more = client.userinfo(token=token)
        if more.get("sub") == claims["sub"]:
            claims |= more
    return claims


def openid_identity(provider: str, claims: dict[str, Any], *, with_issuer: bool) -> Identity:
    """The identity in validated claims. Raises Invalid."""
    subject = claims["sub"]
    if with_issuer and isinstance(subject, str) and subject.strip():
        subject = f"{claims['iss']}#{subject}"
    return Identity(
        provider=provider,
        subject=subject,
        email=claims.get("email") or "",
        verified=claims.get("email_verified") is True or claims.get("email_verified") == "true",
        name=_name(claims.get("name")) or _name(claims.get("preferred_username")),
        login=_name(claims.get("preferred_username")),
        image=_picture(claims.get("picture")),
    )


def _name(value: Any) -> Any:
    """Strip a name; None if empty. Leaves values that are not text for `Identity` to reject."""
    return value.strip() or None if isinstance(value, str) else value


def _picture(value: Any) -> str | None:
    """Return the URL of a picture, or None if it is invalid."""
    valid = isinstance(value, str) and len(value) <= MAX_TEXT_LENGTH and value.isprintable()
    return value.strip() or None if valid else None


def _request_verification(identity: Identity, next_path: str) -> ResponseReturnValue:
    """Mail a link to an address that the provider did not verify.

    The identity is stored with the link and not in the browser: only the link, opened in this browser, connects it.
    """
    try:
        email = mail_identity_link(identity, next_path)
    except Invalid as error:
        return _failed(identity.provider, error)
    db.session.commit()
    session["sent_to"] = email
    toast("The provider has not verified this address, so we sent it a link.", "info")
    return see_other(url_for("accounts.link_sent", next=next_path))


def _failed(provider: str, error: Exception, back: str | None = None) -> ResponseReturnValue:
    if isinstance(error, Invalid) and error.status == 400:
        return render(
            "accounts/unusable_identity.html", provider=name_of(provider), reason=error.message, status=400
        )
    toast(failure_message(provider, error), "bad")
    return see_other(back or url_for("accounts.login"))


def failure_message(provider: str, error: Exception) -> str:
    """Log why a sign-in through the provider failed, and return what to tell the user."""
    # Log only the type and a standard code: the message may contain a secret.
    code = getattr(error, "error", "")
    log.warning(
        "sign-in through %s failed: %s %s",
        provider,
        type(error).__name__,
        code if code in OAUTH_ERRORS else "",
    )
    if isinstance(error, Invalid):
        return "The provider sent no e-mail address. Add one there, or sign in by e-mail."
    if isinstance(error, OAuthError) and error.error == "access_denied":
        return "Sign-in was cancelled at the provider."
    if isinstance(error, OAuthError) and error.error == "mismatching_state":
        return "This sign-in has expired. Start again."
    return "The provider could not sign you in. Try again, or sign in by e-mail."


# -- NextAuth's REST -----------------------------------------------------------------------------------------


class ListedProvider(ResponseModel):
    id: str
    name: str
    type: str
    signinUrl: str
    callbackUrl: str


class FormToken(ResponseModel):
    csrfToken: str


class SessionUser(ResponseModel):
    name: str | None
    email: str
    image: str | None
    id: str
    stripe_customer_id: str | None
    stripe_price_id: str | None


class BrowserSession(ResponseModel):
    user: Missing[SessionUser] = None
    expires: Missing[datetime] = None


@bp.get("/api/auth/providers")
@Operation(
    tag="Sign-in", answers={200: ("The configured providers by name", dict[str, ListedProvider])}, door=door()
)
def providers() -> ResponseReturnValue:
    """List sign-in methods."""
    base = settings().base_url
    methods = [*configured(), SignInProvider("email", "Email", "mail", "email")]
    return jsonify(
        {
            method.id: {
                "id": method.id,
                "name": method.name,
                "type": method.type,
                "signinUrl": base + url_for("accounts.signin", provider=method.id),
                "callbackUrl": base + url_for("accounts.callback", provider=method.id),
            }
            for method in methods
        }
    )


@bp.get("/api/auth/csrf")
@Operation(tag="Sign-in", answers={200: ("The token", FormToken)}, door=door())
def csrf_token() -> ResponseReturnValue:
    """Get a CSRF token for the sign-in forms.

    A cookie holds its secret.
    """
    return _no_store(jsonify(csrfToken=generate_csrf()))


@bp.get("/api/auth/session")
@Operation(tag="Sign-in", answers={200: ("Empty when signed out", BrowserSession)}, door=door())
def browser_session() -> ResponseReturnValue:
    """Get the browser's session."""
    found = cookie_credential()
    if found is None:
        return _no_store(jsonify({}))
    user = found.user
    names = ("name", "email", "image", "id", "stripe_customer_id", "stripe_price_id")
    fields = {name: getattr(user, name) for name in names}
    return _no_store(jsonify(user=fields, expires=iso(found.session.expires)))


@bp.get("/api/auth/signin")
@bp.get("/api/auth/signin/<provider>")
def signin_page(provider: str | None = None) -> ResponseReturnValue:
    """Redirect to the sign-in page."""
    return redirect(url_for("accounts.login", next=requested_destination()), 302)


@bp.post("/api/auth/signin/<provider>")
@limiter.limit("30/minute")
def signin(provider: str) -> ResponseReturnValue:
    """Start a sign-in: return its URL as JSON with `json=true`, else redirect."""
    if not _from_our_form():
        return _redirect_or_url(url_for("accounts.login"))
    if provider == "email":
        return _signin_by_email()
    try:
        return _redirect_or_url(_authorize_address(provider, requested_destination()))
    except FAILURES as error:
        _failed(provider, error)
        return _redirect_or_url(url_for("accounts.login"))


def _signin_by_email() -> ResponseReturnValue:
    try:
        email = clean_email(request.form.get("email", ""))
    except Invalid:
        return _redirect_or_url(url_for("accounts.login"))
    mail_link(email, requested_destination())
    db.session.commit()
    session["sent_to"] = email
    return _redirect_or_url(url_for("accounts.link_sent"))


@bp.post("/api/auth/signout")
@limiter.limit("60/minute")
def signout() -> ResponseReturnValue:
    """Sign the browser out: delete its session, cookie and flow state."""
    next_path = destination(
        request.form.get("callbackUrl") or request.form.get("next"), url_for("pages.landing")
    )
    if next_path.startswith(f"{url_for('accounts.onboard')}?"):
        next_path = f"{url_for('accounts.login')}?{urlsplit(next_path).query}"
    if not _from_our_form():
        return _redirect_or_url(next_path)
    user = cookie_user()
    sign_out_browser()
    if user:
        audit("user.signed_out", user.id, user=user)
    db.session.commit()
    return _redirect_or_url(next_path)


def _from_our_form() -> bool:
    try:
        validate_csrf(request.form.get("csrfToken") or request.form.get("csrf_token"))
    except ValidationError:
        return False
    return same_origin()


def _redirect_or_url(address: str) -> ResponseReturnValue:
    """Redirect to a local path or an external URL; with `json=true`, return the absolute URL (NextAuth)."""
    if request.form.get("json") == "true":
        return _no_store(jsonify(url=settings().base_url + address if address.startswith("/") else address))
    return see_other(address)


def _no_store(response: Response) -> Response:
    response.headers["Cache-Control"] = "private, no-store"
    return response
