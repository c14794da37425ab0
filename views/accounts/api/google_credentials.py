"""Google's ID tokens, which web clients of projects send instead of a key (fastest contract 2.4): checked here with Google's keys."""

import time
from typing import Any

from authlib.integrations.base_client import OAuthError
from authlib.oidc.core import CodeIDToken
from flask import current_app
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from requests import RequestException

from models.accounts.signing_in import Identity, sign_in_identity
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden, Invalid
from views.accounts.pages.oauth import openid_identity
from views.accounts.pages.sign_in_providers import configured
from views.web.guards import audit, settings

ISSUERS = ["https://accounts.google.com", "accounts.google.com"]
KEYS_SECONDS = 3600
"""How long Google's keys are used before they are asked for again, whatever a credential names."""
LEEWAY = 60
MAX_LENGTH = 8 << 10
_FETCHED = "stoa_keys_fetched"


class CredentialRefused(DomainError):
    """Google did not issue this token for this server, it has expired, or its e-mail address is not verified."""

    status = 401


def google_user(credential: str, code: str) -> User:
    """The user of an ID token of Google, created if they are new. Waits for the network at most once an hour: commits before. Flushes.
    Raises CredentialRefused with this code, `auth_error` if Google's keys cannot be had, and Forbidden for a deleted account."""
    db.session.commit()
    identity = _identity(credential, code)
    try:
        found = sign_in_identity(identity, now(), free_credits=settings().stoa_free_credits)
    except Invalid as error:
        raise CredentialRefused(error.message, code=code) from None
    if found is None:
        raise CredentialRefused("Google has not verified the e-mail address of this account.", code=code)
    user, new = found
    if user.deleted_at is not None:
        raise Forbidden("This account is about to be deleted. To keep it, sign in with a browser first.")
    if new:
        audit("user.created", user.id, user=user, after={"by": "google"})
    return user


def _identity(credential: str, code: str) -> Identity:
    if "google" not in {each.id for each in configured()}:
        raise CredentialRefused("This server has no sign-in with Google. Send a key instead.", code=code)
    client = current_app.extensions["authlib.integrations.flask_client"].create_client("google")
    try:
        keys = _keys(client)
    except (RequestException, OAuthError, RuntimeError, ValueError) as error:
        message = "Google could not be asked for its keys. Try again in a moment."
        raise CredentialRefused(message, code="auth_error") from error
    try:
        return openid_identity("google", _claims(client.client_id, keys, credential), with_issuer=False)
    except Invalid as error:
        raise CredentialRefused(error.message, code=code) from None
    except (JoseError, ValueError, LookupError, TypeError, AttributeError) as error:
        message = "Google did not issue this credential for this server, or it has expired. Sign in again."
        raise CredentialRefused(message, code=code) from error


def _keys(client: Any) -> Any:
    """Google's keys, read once an hour: a credential that names another key causes no request."""
    fetched = client.server_metadata.get(_FETCHED)
    stale = fetched is None or time.monotonic() - fetched > KEYS_SECONDS
    keys = client.fetch_jwk_set(force=stale)
    if stale:
        client.server_metadata[_FETCHED] = time.monotonic()
    return keys


def _claims(client_id: str, keys: Any, credential: str) -> dict[str, Any]:
    """The claims of a valid token. Raises JoseError and what malformed tokens cause."""
    if len(credential) > MAX_LENGTH:
        raise ValueError("too long")
    registry = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    token = jwt.decode(credential, KeySet.import_key_set(keys), registry=registry)
    options: Any = {
        "iss": {"essential": True, "values": ISSUERS},
        "aud": {"essential": True, "value": client_id},
    }
    claims = CodeIDToken(token.claims, token.header, options, {"client_id": client_id})
    claims.validate(leeway=LEEWAY)
    return dict(claims)
