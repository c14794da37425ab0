"""Request guards: authentication, roles, CSRF and origin checks, rate limits, security headers.

Two ways to authenticate (contract 1.2): an API key in a header (`key_user`) and the browser's session cookie
(`cookie_user`); each route accepts what its contract names. Cookie routes are protected against CSRF: forms by a token
(Flask-WTF), every unsafe method by its origin.
"""

import ipaddress
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, cast
from urllib.parse import urlsplit

from flask import (
    Flask,
    Response,
    current_app,
    g,
    has_request_context,
    jsonify,
    make_response,
    redirect,
    request,
    session,
    url_for,
)
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from flask_limiter import Limiter
from flask_login import LoginManager
from flask_wtf import CSRFProtect

from models.accounts import credentials
from models.accounts.api_keys import KeyExpired, check_use
from models.accounts.bans import AccountSuspended
from models.accounts.credentials import Credential
from models.accounts.key_format import PresentedKey, present
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.audit_log import SYSTEM, AuditActor, record
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden
from models.core.settings import Settings
from models.ledger import Account
from views.web.failed_keys import TooManyFailedKeys, seconds_to_wait
from views.web.htmx import toast, wants_fragment
from views.web.operation import current_operation
from views.web.rate_limits import MachineStorage

P = ParamSpec("P")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self' https:; frame-ancestors 'self'; base-uri 'none'; manifest-src 'self'"
)
COOKIE = "next-auth.session-token"
SECURE_COOKIE = "__Secure-next-auth.session-token"
# The only cookie used with browsers on https: sibling domains can neither set nor replace it.
HOST_COOKIE = "__Host-next-auth.session-token"
COOKIES = (HOST_COOKIE, SECURE_COOKIE, COOKIE)
FLOW_COOKIE = "stoa-flow"
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
JSON_DOORS = ("/api/", "/v1/", "/v1beta/", "/oauth/", "/.well-known/", "/managed/")
KEY_DOORS = ("/api/v1/", "/v1/", "/v1beta/", "/scim/", "/oauth/")
"""Routes that ignore cookies, so that other origins may call them."""
SIGNED_LINKS = frozenset({"billing_emails.unsubscribe"})
"""Endpoints whose URL is signed and authorises the request: mail providers send POST without an origin (RFC 8058)."""
LOGOUT_ALL = "/api/user/sessions/logout-all"

OPEN_TO_SUSPENDED = frozenset(
    {
        # public pages and files
        *("static", "assets.stylesheet", "avatars.avatar"),
        *("pages.landing", "pages.usage", "pages.api_keys", "pages.docs", "pages.favicon", "pages.robots"),
        *(
            "docs.page",
            "docs.area",
            "docs.openapi",
            *("launcher.download", "launcher.page"),
            "store.browse",
            "store.picture",
            "publishers.page",
            "publishers.card",
        ),
        *("agent.newest", "agent.latest", "agent.page", "agent.definition", "agent.card"),
        *("versions.versions", "versions.choose", "versions.difference"),
        *("feeds.everything", "feeds.of_publisher", "feeds.sitemap", "feeds.part"),
        *("agents_api.agents", "agents_api.metrics", "agents_api.version", "agents_api.spawned"),
        *("store_api.definition_types", "store_api.definition_schema"),
        *("billing.pricing", "plans_api.listed", "plans_api.plan"),
        *("referrals.moved", "referrals.invitation", "referrals_api.invitation"),
        *(
            "gateway_api.healthz",
            "gateway_responses.response_socket",
            "health.readyz",
            "health.prometheus",
            "health.alive",
        ),
        # sign-out, and sign-in to another account; a banned account is rejected at the end of the flow
        *("accounts.signout", "accounts_api.cli_logout"),
        *("accounts.login", "accounts.send_link", "accounts.link_sent", "accounts.link", "accounts.use_link"),
        *("accounts.passkey_options", "accounts.use_passkey"),
        *("accounts.start", "accounts.callback", "accounts.providers", "accounts.csrf_token"),
        *("orgs.start_sso", "orgs.sso_callback"),
        *(
            "accounts_api.authorization_server",
            "accounts_api.device_authorization",
            "accounts_api.token",
            "accounts_api.revocation",
        ),
        *("projects_api.issue_device_code", "projects_api.client_token", "projects_api.sign_in_with_google"),
        "accounts.browser_session",
        "billing_emails.unsubscribe",
        *("accounts.signin", "accounts.signin_page", "accounts_api.cli_code", "accounts_api.cli_status"),
    }
)
"""Endpoints that treat the credential of a banned account as absent. All others reject it."""


def caller_account() -> str:
    """Rate limit key of the caller: the signed-in user, else the address."""
    user = cookie_user()
    return user.id if user else caller_address()


def caller_address() -> str:
    """Rate limit key of the caller: the IPv4 address, or the /64 network of an IPv6 address."""
    return network_of(request.remote_addr)


def network_of(address: str | None) -> str:
    """Rate limit key of an address: itself, or the /64 network of an IPv6 address."""
    address = address or "unknown"
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


login_manager = LoginManager()
csrf = CSRFProtect()
limiter = Limiter(
    caller_address,
    strategy="moving-window",
    headers_enabled=True,
    retry_after="delta-seconds",
    # If Redis or the disk fails, each process counts on its own: sign-in still works and is still limited.
    in_memory_fallback_enabled=True,
    swallow_errors=True,
)


def init_app(app: Flask, before_reading: Callable[[], None]) -> None:
    """Install request ids, authentication, CSRF protection, rate limits and security headers.

    `before_reading` runs for each request before its body is read.
    """
    settings = cast(Settings, app.extensions["settings"])
    uri = settings.ratelimit_storage_uri
    options: dict[str, Any] = {}
    if uri.startswith(MachineStorage.STORAGE_SCHEME[0]):
        options = {"path": str(settings.data_dir / "rate_limits.db")}
    elif not uri.startswith("memory"):
        options = {"socket_connect_timeout": 1, "socket_timeout": 1}
    app.session_interface = _FlowCookie()
    app.config.update(
        RATELIMIT_STORAGE_URI=uri,
        RATELIMIT_STORAGE_OPTIONS=options,
        SESSION_PROTECTION=None,
        # Flask-Login looks for its own cookie before calling our request loader.
        REMEMBER_COOKIE_NAME="stoa-unused",
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    app.before_request(_identify_request)
    # before the rate limits, whose keys identify the caller and must not raise
    app.before_request(_reject_credentials)
    app.before_request(before_reading)
    app.before_request(_reject_cross_site)
    app.extensions["audit_actor"] = _audit_actor
    login_manager.init_app(app)
    csrf.init_app(app)
    app.after_request(_drop_needless_retry_after)  # registered first, so it runs after the limiter's
    limiter.init_app(app)
    app.after_request(_set_session_cookie)
    app.after_request(_set_security_headers)


def settings() -> Settings:
    """The settings of the current application."""
    return cast(Settings, current_app.extensions["settings"])


def request_id() -> str:
    """The id of this request, shown in errors and in the log."""
    return cast(str, g.request_id)


# -- authentication ------------------------------------------------------------------------------------------


KEY_HEADERS = ("x-codebuff-api-key", "x-api-key", "api-key", "x-goog-api-key")
"""Headers that contain only a key, in order of precedence, before `Authorization`."""
_KEY_FIELDS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in KEY_HEADERS)
_VENDOR_FIELDS = _KEY_FIELDS[1:]
"""Those of the vendors' SDKs, whose users may have another key or a placeholder there."""
OWN_KEY = re.compile(
    r"sk_(live|test)_[0-9A-Za-z]+|(cb-pat-)?[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]{43}",
    re.ASCII,
)
"""Format of API keys, browser and command line tokens."""


class AmbiguousCredentials(DomainError):
    """Two headers of the request name different keys."""

    status = 401
    code = "ambiguous_credentials"

    def __init__(self) -> None:
        super().__init__("The request has two different API keys in its headers. Send one of them.")


def api_key(environ: Mapping[str, Any] | None = None) -> str | None:
    """The API key of the request (default: Flask's current one): from `KEY_HEADERS`, else `Authorization: Bearer …`.

    For keys in Stoa's format the scheme may have any case and spacing, be repeated or missing, and the header may be
    repeated, as happens when users paste it. Anything else counts as no key (contract 1.2 A). What clients send in `x-api-key`,
    `api-key` or `x-goog-api-key` because their SDK needs some text gives way to a key in Stoa's format in `Authorization`.
    """
    environ = request.environ if environ is None else environ
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    for name in _KEY_FIELDS:
        if key := environ.get(name, "").strip():
            own = _own_key(key)
            if own is None and authorization and name in _VENDOR_FIELDS:
                own = _own_key(authorization)
            return own or key
    if own := _own_key(authorization):
        return own
    return authorization[7:].strip() or None if authorization.startswith("Bearer ") else None


def single_api_key(environ: Mapping[str, Any]) -> str | None:
    """As `api_key`. Raises AmbiguousCredentials for two different keys in Stoa's format in `Authorization` and another header."""
    authorization = environ.get("HTTP_AUTHORIZATION")
    if authorization and any(map(environ.get, _VENDOR_FIELDS)) and (bearer := _own_key(authorization)):
        others = (_own_key(environ.get(name, "")) for name in _VENDOR_FIELDS)
        if any(other is not None and other != bearer for other in others):
            raise AmbiguousCredentials
    return api_key(environ)


def _own_key(value: str) -> str | None:
    words = {word for word in value.replace(",", " ").split() if word.lower() != "bearer"}
    key = words.pop() if len(words) == 1 else ""
    return key if OWN_KEY.fullmatch(key) else None


def key_credential(token: str | None = None) -> Credential | None:
    """Session row and user of the request's API key (or of `token`, for keys in bodies); None if unknown or expired.

    Raises AccountSuspended for a banned user, except on `OPEN_TO_SUSPENDED` endpoints, and TooManyFailedKeys instead of returning None
    after too many unknown keys. Of keys with an id of their own, raises
    KeyExpired, AddressNotAllowed, and MissingScope without the scope of the route's `Operation`. Records the use, at most every
    five minutes, and commits.
    """
    found = known_key(token)
    if found is None:
        if g.get("key_expired"):
            raise KeyExpired
        _count_failure(token or api_key())
    elif found.key is not None:
        operation = current_operation()
        check_use(found.key, operation.scope if operation else None, request.remote_addr)
    return found


def _count_failure(token: str | None) -> None:
    """Count the unknown key, once in a request. Raises TooManyFailedKeys."""
    if not token:
        return
    if cast(str | None, g.get("failed_key")) != token:
        per_minute = settings().stoa_failed_keys_per_minute
        g.failed_key = token
        g.failed_key_wait = seconds_to_wait(limiter, per_minute, caller_address(), token)
    if g.failed_key_wait is not None:
        raise TooManyFailedKeys(g.failed_key_wait)


def known_key(token: str | None = None) -> Credential | None:
    """Like `key_credential`, whatever the key may do: to know who calls, not to let them in."""
    token = token or api_key()
    if not token:
        return None
    if cast(str | None, g.get("key_token")) != token:
        found, g.key_expired = None, False
        try:
            found = credentials.find(token, now())
        except KeyExpired:
            g.key_expired = True
        except AccountSuspended as suspended:
            g.key_token, g.key_credential = token, None
            _unless_open(suspended)
            return None
        if found and credentials.touch(found.session, now(), ip=request.remote_addr):
            db.session.commit()
        g.key_token, g.key_credential = token, found
    return cast(Credential | None, g.key_credential)


def require_key() -> Credential:
    """The credential of the request's API key. Raises DomainError (401) without one, and as `key_credential` does."""
    found = key_credential()
    if found is None:
        raise DomainError("Missing, unknown or revoked API key.", code="invalid_api_key", status=401)
    return found


def key_caller() -> str:
    """Rate limit key of who calls with an API key: its user, whatever it may do, else the address."""
    found = known_key()
    return found.user.id if found else caller_address()


def key_user(token: str | None = None) -> User | None:
    """The user of the request's API key (or of `token`); None if missing or unknown."""
    found = key_credential(token)
    return found.user if found else None


def personal_key_user(token: str | None = None) -> User | None:
    """Like `key_user`, for routes that change what is the user's own. Raises Forbidden for the key of an organisation: whoever
    used it before it moved to this member knows it."""
    found = key_credential(token)
    if found and found.session.org_id:
        raise Forbidden("This key belongs to an organisation. Use a key of your own account.")
    return found.user if found else None


def key_account(token: str | None = None) -> Account | None:
    """The account that the request's API key (or `token`) acts for and charges; None if missing or unknown."""
    found = key_credential(token)
    return Account.of(found.session) if found else None


def cookie_token() -> str | None:
    """The raw, unverified token of the session cookie; None without one.

    On https, browsers must use the `__Host-` cookie; the contract's names are accepted from other clients only.
    """
    if not _https():
        return request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    names = (HOST_COOKIE,) if from_browser() or HOST_COOKIE in request.cookies else (SECURE_COOKIE, COOKIE)
    return next(filter(None, map(request.cookies.get, names)), None)


def session_key() -> PresentedKey:
    """What model calls of a page are made with: the session of whoever is signed in."""
    return present(cookie_token() or "")


def cookie_credential() -> Credential | None:
    """Session row and user of the session cookie (contract 1.2 B); None when signed out.

    Any session type is accepted; creating and ending credentials additionally requires a browser's
    (`credentials.lock_browser`). A web session older than a day is extended to 30 days from now: the expiry is committed and
    the cookie sent again. Banned users: see `key_credential`.
    """
    if "cookie_credential" not in g:
        g.cookie_credential = None  # for the suspension page
        g.cookie_credential = _read_cookie()
    return cast(Credential | None, g.cookie_credential)


def cookie_user() -> User | None:
    """The user of the session cookie; None when signed out."""
    found = cookie_credential()
    return found.user if found else None


def require_cookie_user() -> User:
    """The user of the session cookie. Raises DomainError (401) when signed out."""
    user = cookie_user()
    if user is None:
        raise DomainError("Unauthorized", status=401)
    return user


def current_account() -> Account:
    """The signed-in user's own account. Only for views that require sign-in."""
    user = cookie_user()
    assert user is not None, "not signed in"
    return Account(user_id=user.id)


def cookie_or_key_user() -> User | None:
    """The user of the cookie, or else of the key (`cookie→key`)."""
    return cookie_user() or key_user()


def known_user() -> User | None:
    """The user of the cookie, or else of the key, whatever that may do."""
    if user := cookie_user():
        return user
    found = known_key()
    return found.user if found else None


def current_session() -> Session | None:
    """The session row of the cookie."""
    found = cookie_credential()
    return found.session if found else None


@login_manager.request_loader  # type: ignore[untyped-decorator]
def _load_user(_request: Any) -> User | None:
    return cookie_user()


def _read_cookie() -> Credential | None:
    token = cookie_token()
    if not token:
        return None
    current_time = now()
    try:
        found = credentials.find_browser(token, current_time)
    except AccountSuspended as suspended:
        g.suspended_browser = suspended.session
        _unless_open(suspended)
        return None
    if found is None:
        g.signed_out = True
        db.session.commit()
        return None
    extended = credentials.slide(found.session, current_time)
    touched = credentials.touch(
        found.session, current_time, ip=request.remote_addr, user_agent=request.headers.get("User-Agent")
    )
    if touched or extended:
        db.session.commit()
    if extended:
        g.signed_in = (token, found.session.expires)
    return found


def _unless_open(suspended: AccountSuspended) -> None:
    if request.endpoint is not None and request.endpoint not in OPEN_TO_SUSPENDED:
        raise suspended


def _reject_credentials() -> None:
    """Reject requests with a credential of a banned account, or with two different keys."""
    if request.endpoint is not None and request.endpoint not in OPEN_TO_SUSPENDED:
        single_api_key(request.environ)
        cookie_credential()
        known_key()


# -- browser sign-in and sign-out ----------------------------------------------------------------------------


def sign_in_browser(user: User) -> Session:
    """Open a web session for `user` and set its cookie. Flushes; the view commits.

    Takes back the user's deletion of the account. Discards the browser's previous session, flow state and CSRF tokens, which prevents session fixation.
    """
    previous = cookie_credential()
    if previous and previous.session.type == "web":
        credentials.close(previous.session)
    deleted = user.deleted_at is not None
    token, row = credentials.open_web(
        user, now(), ip=request.remote_addr, user_agent=request.headers.get("User-Agent")
    )
    _clear_flow()
    if deleted:
        audit("user.restored", user.id, user=user)
        toast("You keep your account: its deletion is cancelled. Make new keys where you need them.")
    g.signed_in = (token, row.expires)
    g.cookie_credential = Credential(row, user)
    g.pop("_login_user", None)
    g.pop("csrf_token", None)
    return row


def sign_out_browser() -> None:
    """Delete the session row and the cookie. Flushes; the view commits."""
    found = cookie_credential()
    row = found.session if found else cast(Session | None, g.get("suspended_browser"))
    if row:
        credentials.close(row)
    _clear_flow()
    g.pop("signed_in", None)
    g.pop("_login_user", None)
    g.pop("csrf_token", None)
    g.cookie_credential = None
    g.signed_out = True


def browser_nonce() -> str:
    """A random id of this browser, in the flow cookie until the browser is closed; independent of the user."""
    return cast(str, session.setdefault("browser", secrets.token_urlsafe(16)))


def _clear_flow() -> None:
    nonce = session.get("browser")
    session.clear()
    if nonce:
        session["browser"] = nonce


def _set_session_cookie(response: Response) -> Response:
    secure = _https()
    name = HOST_COOKIE if secure else COOKIE
    signed_in = g.get("signed_in")
    if signed_in:
        token, expires = signed_in
        response.set_cookie(
            name, token, expires=expires, path="/", secure=secure, httponly=True, samesite="Lax"
        )
    elif g.get("signed_out"):
        for each in COOKIES:
            if each in request.cookies:
                response.delete_cookie(each, path="/", secure=each != COOKIE, httponly=True, samesite="Lax")
    return response


class _FlowCookie(SecureCookieSessionInterface):
    """Flask's session, for unfinished flows such as sign-in, with the same name prefix and flags as the session cookie.

    It is saved last, so it also marks responses to authenticated users as uncacheable for shared proxies.
    """

    def get_cookie_name(self, app: Flask) -> str:
        return f"__Host-{FLOW_COOKIE}" if _https() else FLOW_COOKIE

    def get_cookie_secure(self, app: Flask) -> bool:
        return _https()

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        super().save_session(app, session, response)
        known = g.get("cookie_credential") or g.get("key_credential")
        caching = response.cache_control
        if (known or "Set-Cookie" in response.headers) and not caching.no_store:
            caching.public, caching.s_maxage, caching.private = False, None, True


def _https() -> bool:
    """Whether browsers use https, as configured or reported by a trusted proxy for this request."""
    return request.is_secure or settings().base_url.startswith("https://")


# -- authorisation -------------------------------------------------------------------------------------------


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Decorator: require sign-in. Redirects to `/login` and back; a fragment receives 401 with `HX-Redirect`."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return view(*args, **kwargs) if cookie_user() else to_login()

    return guarded


def to_login() -> Response:
    """Redirect to sign-in, and afterwards back to the current page."""
    return_url = request.full_path.rstrip("?") if request.method == "GET" else path_of(request.referrer)
    if wants_fragment():
        return_url = path_of(request.headers.get("HX-Current-URL"))
        response = make_response("", 401)
        response.headers["HX-Redirect"] = _login_address(return_url)
        response.headers["HX-Reswap"] = "none"
        return response
    return cast(Response, redirect(_login_address(return_url), 302 if request.method == "GET" else 303))


def _login_address(return_url: str) -> str:
    return url_for("accounts.login", next=return_url or None)


def path_of(url: str | None) -> str:
    """Path and query of a URL of this server; empty for any other."""
    if not url or not is_own_origin(url):
        return ""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}".rstrip("?")


def is_admin(user: User | None) -> bool:
    """Whether the user is an operator: a verified e-mail address in STOA_ADMINS."""
    return _verified_in(user, settings().stoa_admins)


def is_auditor(user: User | None) -> bool:
    """Whether the user sees the operators' pages and changes nothing: a verified e-mail address in STOA_AUDITORS, and no operator."""
    return _verified_in(user, settings().stoa_auditors) and not is_admin(user)


def _verified_in(user: User | None, addresses: frozenset[str]) -> bool:
    return bool(user and user.email_verified is not None and user.email.lower() in addresses)


def admin_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Decorator: require an operator, or for requests that change nothing an auditor. JSON routes return 403 otherwise (contract
    1.8); pages redirect to sign-in."""
    return _for_operators(view, SAFE)


def operator_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """As `admin_required`, for forms of changes: auditors do not see them."""
    return _for_operators(view, frozenset())


def _for_operators(
    view: Callable[P, ResponseReturnValue], auditors: frozenset[str]
) -> Callable[P, ResponseReturnValue]:
    """`auditors` are the methods that auditors may use."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        user = cookie_user()
        auditor = is_auditor(user)
        if is_admin(user) or (auditor and request.method in auditors):
            return view(*args, **kwargs)
        if request.path.startswith(JSON_DOORS):
            return jsonify(error="Forbidden - not an admin"), 403
        if user is None:
            return to_login()
        if auditor:
            raise Forbidden("You see the operators’ pages as an auditor. Only operators make changes.")
        raise Forbidden("This page is for the operators of this server.")

    return guarded


# -- cross-site requests -------------------------------------------------------------------------------------


def is_own_origin(url: str | None) -> bool:
    """Whether a URL or origin is this server's, as configured or as requested."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return False
    own = (urlsplit(settings().base_url), urlsplit(request.host_url))
    return bool(parts.netloc) and any(parts[:2] == site[:2] for site in own)


def from_browser() -> bool:
    """Whether a browser sent the request, by its fetch metadata or user agent."""
    return "Sec-Fetch-Site" in request.headers or "Mozilla/" in request.headers.get("User-Agent", "")


def same_origin() -> bool:
    """Whether the request is not cross-site, by `Sec-Fetch-Site` or else `Origin`; without both it is not from a browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return not origin or is_own_origin(origin)


def _reject_cross_site() -> ResponseReturnValue | None:
    """Unsafe methods with a cookie must be same-origin; forms also need a CSRF token."""
    if request.method in SAFE or request.endpoint is None or request.path.startswith(KEY_DOORS):
        return None
    if request.endpoint in SIGNED_LINKS:
        return None
    json_door = request.path.startswith(JSON_DOORS)
    has_cookie = any(each in request.cookies for each in COOKIES)
    if (has_cookie or not json_door) and not same_origin():
        if json_door:
            # The contract fixes this message (2.9).
            suffix = ", cannot logout all sessions" if request.path == LOGOUT_ALL else ""
            return jsonify(error=f"Forbidden - not same origin{suffix}"), 403
        raise Forbidden("The request came from another site. Open the page on this server and try again.")
    if not json_door:
        csrf.protect()
    return None


# -- audit log and headers -----------------------------------------------------------------------------------


def audit(
    action: str,
    subject: str,
    *,
    user: User | None,
    before: Any = None,
    after: Any = None,
    org_id: str | None = None,
) -> None:
    """Write to the audit log in the current transaction; `org_id` is the organisation it happened in. Never pass a secret."""
    record(
        action,
        subject,
        actor=user.email if user else "anonymous",
        actor_id=user.id if user else None,
        before=before,
        after=after,
        ip=request.remote_addr,
        request_id=request_id(),
        org_id=org_id,
    )


def _audit_actor() -> AuditActor:
    """Who acts in this request, for the audit log: `g.audit_actor`, else the user of the cookie, else of the key."""
    if not has_request_context():
        return SYSTEM
    if known := cast(AuditActor | None, g.get("audit_actor")):
        return known
    user = known_user()
    ip = request.remote_addr
    return AuditActor(
        user.email or user.id if user else "anonymous", user.id if user else None, ip, request_id()
    )


def _identify_request() -> None:
    g.request_id = uuid.uuid4().hex


def _drop_needless_retry_after(response: Response) -> Response:
    """Remove the `Retry-After` that the limiter adds to every response of a limited route, except on 429 and 503."""
    if response.status_code not in (429, 503):
        response.headers.pop("Retry-After", None)
    return response


def common_headers(request_id: str, *, https: bool) -> list[tuple[str, str]]:
    """The headers of every response. Views do not set them, except `Referrer-Policy` on some pages."""
    return [("X-Request-Id", request_id), *(_COMMON_HEADERS_HTTPS if https else _COMMON_HEADERS)]


_COMMON_HEADERS = (
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
)
_COMMON_HEADERS_HTTPS = (*_COMMON_HEADERS, ("Strict-Transport-Security", "max-age=31536000"))


def _set_security_headers(response: Response) -> Response:
    headers = response.headers
    for name, value in common_headers(g.get("request_id", ""), https=_https()):
        headers.setdefault(name, value)
    if request.path.startswith("/api/auth/cli/"):
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        headers["Access-Control-Allow-Headers"] = "Content-Type"
    if response.mimetype == "text/html":
        headers.setdefault("Content-Security-Policy", CSP)
    return response
