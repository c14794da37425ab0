"""Signing in through GitHub, Google or an OpenID Connect issuer (Authlib), and the NextAuth REST of contract 1.3."""

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

from models.accounts.signing_in import TEXT_LENGTH, Identity, clean_email, sign_in_identity
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.core.settings import Settings
from models.core.strict_models import Missing
from views.accounts.pages.blueprint import bp
from views.accounts.pages.sign_in import asked_destination, destination, enter, mail_identity_link, mail_link
from views.accounts.pages.sign_in_providers import SignInProvider, configured, name_of
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import (
    audit,
    cookie_credential,
    cookie_user,
    limiter,
    same_origin,
    settings,
    sign_out_browser,
)
from views.web.htmx import render, see_other, toast
from views.web.operation import Operation, ResponseModel

log = logging.getLogger("stoa.accounts")

TIMEOUT = 10  # seconds a provider may take for each answer
# What a provider, or what it sends, can fail with: it speaks for itself, and not always as its documents do.
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
# The codes of RFC 6749 and OpenID Connect. Others are whatever somebody wrote into the address.
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
    """Register the providers the settings name."""
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
        raise NotFound("This server has no such way to sign in.")
    return current_app.extensions["authlib.integrations.flask_client"].create_client(provider)


# -- the way out and back ------------------------------------------------------------------------------------


@bp.get("/login/<any(github, google, oidc):provider>")
@limiter.limit("30/minute")
def start(provider: str) -> ResponseReturnValue:
    """Go to the provider."""
    try:
        return redirect(_authorize_address(provider, asked_destination()), 302)
    except FAILURES as error:
        return _failed(provider, error)


def _authorize_address(provider: str, where: str) -> str:
    client = _client(provider)
    # Ways begun and never ended would fill the cookie.
    for key in [key for key in session if key.startswith("_state_")]:
        session.pop(key)
    back = settings().base_url + url_for("accounts.callback", provider=provider)
    way = client.create_authorization_url(back)
    client.save_authorize_data(redirect_uri=back, where=where, **way)
    return cast(str, way["url"])


@bp.get("/api/auth/callback/<provider>")
@limiter.limit("30/minute")
def callback(provider: str) -> ResponseReturnValue:
    """Come back from the provider: exchange the code, find or make the user, sign the browser in.

    No database connection is held while the provider is asked.
    """
    client = _client(provider)
    begun = client.framework.get_state_data(session, request.args.get("state")) or {}
    where = destination(begun.get("where"))
    try:
        identity = _github(client) if provider == "github" else _openid(client, provider)
        found = sign_in_identity(identity, now(), free_credits=settings().stoa_free_credits)
    except (*FAILURES, Invalid) as error:
        db.session.rollback()
        return _failed(provider, error)
    if found is None:
        return _prove_address(identity, where)
    user, new = found
    return enter(user, new, provider, where)


def _github(client: Any) -> Identity:
    token = client.authorize_access_token()
    person, addresses = client.get("user", token=token), client.get("user/emails", token=token)
    person.raise_for_status()
    addresses.raise_for_status()
    facts = person.json()
    primary = next(each for each in [*addresses.json(), {"primary": True}] if each.get("primary"))
    return Identity(
        provider="github",
        subject=str(facts["id"]) if type(facts["id"]) is int else facts["id"],
        email=primary.get("email") or "",
        verified=primary.get("verified") is True,
        name=_name(facts.get("name")) or _name(facts.get("login")),
        login=_name(facts.get("login")),
        image=_picture(facts.get("avatar_url")),
    )


def _openid(client: Any, provider: str) -> Identity:
    token = client.authorize_access_token()
    claims = dict(token["userinfo"])
    if "email" not in claims:
        more = client.userinfo(token=token)
        if more.get("sub") == claims["sub"]:
            claims |= more
    subject = claims["sub"]
    if provider == "oidc" and isinstance(subject, str) and subject.strip():
        # A subject means something only to its issuer, and the operator may name another issuer one day.
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
    """A name without space around it, None for an empty one; what is no text at all is left to be refused."""
    return value.strip() or None if isinstance(value, str) else value


def _picture(value: Any) -> str | None:
    """The address of a picture. Nobody is kept out for a bad one."""
    fit = isinstance(value, str) and len(value) <= TEXT_LENGTH and value.isprintable()
    return value.strip() or None if fit else None


def _prove_address(identity: Identity, where: str) -> ResponseReturnValue:
    """Mail a link to an address the provider did not verify. The browser keeps nothing of the identity: only the link,
    opened in this browser, joins it."""
    try:
        email = mail_identity_link(identity, where)
    except Invalid as error:
        return _failed(identity.provider, error)
    db.session.commit()
    session["sent_to"] = email
    toast("The provider did not say that this address is yours, so we mail it a link once.", "info")
    return see_other(url_for("accounts.link_sent", next=where))


def _failed(provider: str, error: Exception) -> ResponseReturnValue:
    if isinstance(error, Invalid) and error.status == 400:
        return render(
            "accounts/unusable_identity.html", provider=name_of(provider), reason=error.message, status=400
        )
    if isinstance(error, Invalid):
        words = "The provider gave no e-mail address. Add one there, or sign in by e-mail."
    elif isinstance(error, OAuthError) and error.error == "access_denied":
        words = "Signing in was cancelled at the provider."
    elif isinstance(error, OAuthError) and error.error == "mismatching_state":
        words = "That way of signing in has ended. Start again from here."
    else:
        words = "The provider could not sign you in. Try again, or sign in by e-mail."
    # Only the kind: a provider's words may repeat a code or a token.
    code = getattr(error, "error", "")
    log.warning(
        "sign-in through %s failed: %s %s",
        provider,
        type(error).__name__,
        code if code in OAUTH_ERRORS else "",
    )
    toast(words, "bad")
    return see_other(url_for("accounts.login"))


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
    """Ways to sign in."""
    base = settings().base_url
    ways = [*configured(), SignInProvider("email", "Email", "mail", "email")]
    return jsonify(
        {
            way.id: {
                "id": way.id,
                "name": way.name,
                "type": way.type,
                "signinUrl": base + url_for("accounts.signin", provider=way.id),
                "callbackUrl": base + url_for("accounts.callback", provider=way.id),
            }
            for way in ways
        }
    )


@bp.get("/api/auth/csrf")
@Operation(tag="Sign-in", answers={200: ("The token", FormToken)}, door=door())
def csrf_token() -> ResponseReturnValue:
    """A token for the sign-in forms.

    Its secret half is a cookie.
    """
    return _fresh(jsonify(csrfToken=generate_csrf()))


@bp.get("/api/auth/session")
@Operation(tag="Sign-in", answers={200: ("Empty when signed out", BrowserSession)}, door=door())
def who() -> ResponseReturnValue:
    """The browser's session."""
    found = cookie_credential()
    if found is None:
        return _fresh(jsonify({}))
    user = found.user
    names = ("name", "email", "image", "id", "stripe_customer_id", "stripe_price_id")
    facts = {name: getattr(user, name) for name in names}
    return _fresh(jsonify(user=facts, expires=iso(found.session.expires)))


@bp.get("/api/auth/signin")
@bp.get("/api/auth/signin/<provider>")
def signin_page(provider: str | None = None) -> ResponseReturnValue:
    """The page to sign in on."""
    return redirect(url_for("accounts.login", next=asked_destination()), 302)


@bp.post("/api/auth/signin/<provider>")
@limiter.limit("30/minute")
def signin(provider: str) -> ResponseReturnValue:
    """Where to go to sign in, as JSON with `json=true`, else by redirect."""
    if not _from_our_form():
        return _go(url_for("accounts.login"))
    if provider == "email":
        return _signin_by_email()
    try:
        return _go(_authorize_address(provider, asked_destination()))
    except FAILURES as error:
        _failed(provider, error)
        return _go(url_for("accounts.login"))


def _signin_by_email() -> ResponseReturnValue:
    try:
        email = clean_email(request.form.get("email", ""))
    except Invalid:
        return _go(url_for("accounts.login"))
    mail_link(email, asked_destination())
    db.session.commit()
    session["sent_to"] = email
    return _go(url_for("accounts.link_sent"))


@bp.post("/api/auth/signout")
@limiter.limit("60/minute")
def signout() -> ResponseReturnValue:
    """End the browser's session: its row, its cookie, its flow state."""
    where = destination(request.form.get("callbackUrl") or request.form.get("next"), url_for("pages.landing"))
    if where.startswith(f"{url_for('accounts.onboard')}?"):
        where = f"{url_for('accounts.login')}?{urlsplit(where).query}"
    if not _from_our_form():
        return _go(where)
    user = cookie_user()
    sign_out_browser()
    if user:
        audit("user.signed_out", user.id, user=user)
    db.session.commit()
    return _go(where)


def _from_our_form() -> bool:
    try:
        validate_csrf(request.form.get("csrfToken") or request.form.get("csrf_token"))
    except ValidationError:
        return False
    return same_origin()


def _go(address: str) -> ResponseReturnValue:
    """On to an address, which is a path when it is ours; NextAuth's client wants it whole."""
    if request.form.get("json") == "true":
        return _fresh(jsonify(url=settings().base_url + address if address.startswith("/") else address))
    return see_other(address)


def _fresh(response: Response) -> Response:
    response.headers["Cache-Control"] = "private, no-store"
    return response
