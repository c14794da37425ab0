"""Who may enter, and what every answer carries: identification, roles, origin checks, limits, security headers.

Two ways to be known (contract 1.2): an API key in a header (`key_user`) and the browser's session cookie
(`cookie_user`). A route takes the one its contract names. Cookie doors are guarded against other sites: forms by
a token (Flask-WTF), and everything that changes something by the origin the browser tells.
"""

import ipaddress
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, cast
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, jsonify, make_response, redirect, request, session, url_for
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from flask_limiter import Limiter
from flask_login import LoginManager
from flask_wtf import CSRFProtect

from models.accounts import credentials
from models.accounts.bans import AccountSuspended
from models.accounts.credentials import Credential
from models.accounts.sessions import Session
from models.accounts.users import User
from models.admin import record
from models.core.db import db, now
from models.core.errors import Forbidden
from models.core.settings import Settings
from models.ledger import Account
from views.web.htmx import wants_fragment
from views.web.rate_limits import MachineStorage

P = ParamSpec("P")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self' https:; frame-ancestors 'self'; base-uri 'none'; manifest-src 'self'"
)
COOKIE = "next-auth.session-token"
SECURE_COOKIE = "__Secure-next-auth.session-token"
# On https browsers get and give this one alone: no neighbour under the same domain can plant or replace it.
HOST_COOKIE = "__Host-next-auth.session-token"
COOKIES = (HOST_COOKIE, SECURE_COOKIE, COOKIE)
FLOW_COOKIE = "stoa-flow"
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
JSON_DOORS = ("/api/", "/v1/")
KEY_DOORS = ("/api/v1/", "/v1/")
"""Where a cookie counts for nothing, so that other sites may call."""
LOGOUT_ALL = "/api/user/sessions/logout-all"

OPEN_TO_SUSPENDED = frozenset(
    {
        # public pages and files, where nobody has to be known
        *("static", "look.stylesheet", "avatars.avatar"),
        *("pages.landing", "pages.usage", "pages.api_keys", "pages.docs", "pages.favicon", "pages.robots"),
        *(
            "docs.page",
            "docs.openapi",
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
        *("referrals.moved", "referrals.invitation", "referrals_api.invitation"),
        *("gateway_api.healthz", "health.readyz", "health.figures"),
        # the way out, and the way in for another account; a banned one is refused at its end
        *("accounts.signout", "accounts_api.cli_logout"),
        *("accounts.login", "accounts.send_link", "accounts.link_sent", "accounts.link", "accounts.use_link"),
        *("accounts.start", "accounts.callback", "accounts.providers", "accounts.csrf_token"),
        "accounts.browser_session",
        *("accounts.signin", "accounts.signin_page", "accounts_api.cli_code", "accounts_api.cli_status"),
    }
)
"""Endpoints where a credential of a banned account counts as none. Everywhere else it is refused."""


def caller_address() -> str:
    """Who calls, for limits: the IPv4 address, or the /64 an IPv6 address lies in."""
    address = request.remote_addr or "unknown"
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
    # When Redis, or the disk, is away each process counts for itself: people still sign in, and are still limited.
    in_memory_fallback_enabled=True,
    swallow_errors=True,
)


def init_app(app: Flask, before_reading: Callable[[], None]) -> None:
    """Give every request an id, recognise people, refuse other sites' requests, and secure every answer.

    `before_reading` is called for each request, before anything reads its body.
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
        # Flask-Login would look for its own cookie before asking for ours.
        REMEMBER_COOKIE_NAME="stoa-unused",
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    app.before_request(_identify_request)
    app.before_request(_refuse_suspended)  # before limits, which ask who calls and must not fail
    app.before_request(before_reading)
    app.before_request(_refuse_other_sites)
    login_manager.init_app(app)
    csrf.init_app(app)
    app.after_request(_wait_only_when_told)  # before the limiter's own, since they run backwards
    limiter.init_app(app)
    app.after_request(_keep_signed_in)
    app.after_request(_secure)


def settings() -> Settings:
    """The settings of the running application."""
    return cast(Settings, current_app.extensions["settings"])


def request_id() -> str:
    """The id of this request, shown in error answers and in the log."""
    return cast(str, g.request_id)


# -- who it is -----------------------------------------------------------------------------------------------


KEY_HEADERS = ("x-codebuff-api-key", "x-api-key", "api-key", "x-goog-api-key")
"""Headers that hold nothing but a key, in the order in which they are looked at; `Authorization` is the last."""
_KEY_FIELDS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in KEY_HEADERS)
OUR_KEY = re.compile(r"(cb-pat-)?[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]{43}", re.ASCII)
"""What a personal token, a browser's or a command line's looks like."""


def api_key(environ: Mapping[str, Any] | None = None) -> str | None:
    """The API key of the request (of Flask's, without one), the same at every door: in one of `KEY_HEADERS`, else `Authorization: Bearer …`.

    Before what looks like a key of ours the scheme may be written in any case and spacing, twice, as happens to who
    pastes it into a field for the key, or not at all, and the whole header may come twice. Anything else counts as no
    key (contract 1.2 A).
    """
    environ = request.environ if environ is None else environ
    for name in _KEY_FIELDS:
        if key := environ.get(name, "").strip():
            return _key_of_ours(key) or key
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if ours := _key_of_ours(authorization):
        return ours
    return authorization[7:].strip() or None if authorization.startswith("Bearer ") else None


def _key_of_ours(value: str) -> str | None:
    words = {word for word in value.replace(",", " ").split() if word.lower() != "bearer"}
    key = words.pop() if len(words) == 1 else ""
    return key if OUR_KEY.fullmatch(key) else None


def key_credential(token: str | None = None) -> Credential | None:
    """Row and user of the request's API key (or of `token`, for bodies that carry one); None when unknown.

    Expired keys are unknown. Raises AccountSuspended for a banned user's, except where `OPEN_TO_SUSPENDED` says so.
    Notes the use, at most every five minutes, and commits that note.
    """
    token = token or api_key()
    if not token:
        return None
    if cast(str | None, g.get("key_token")) != token:
        try:
            found = credentials.find(token, now())
        except AccountSuspended as suspended:
            g.key_token, g.key_credential = token, None
            _unless_open(suspended)
            return None
        if found and credentials.touch(found.session, now()):
            db.session.commit()
        g.key_token, g.key_credential = token, found
    return cast(Credential | None, g.key_credential)


def key_user(token: str | None = None) -> User | None:
    """The user of the request's API key (or of `token`); None without one or with an unknown one."""
    found = key_credential(token)
    return found.user if found else None


def key_account(token: str | None = None) -> Account | None:
    """The account that the request's API key (or `token`) acts for and is charged to; None for an unknown key."""
    found = key_credential(token)
    return Account.of(found.session) if found else None


def cookie_token() -> str | None:
    """The raw token in the browser's session cookie, whatever it is worth; None without one.

    On https the contract's names count from programs only, which choose their cookies themselves.
    """
    if not _https():
        return request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    names = (HOST_COOKIE,) if from_browser() or HOST_COOKIE in request.cookies else (SECURE_COOKIE, COOKIE)
    return next(filter(None, map(request.cookies.get, names)), None)


def cookie_credential() -> Credential | None:
    """Row and user of the browser's session cookie (contract 1.2 B); None when signed out.

    Any type of session counts; what makes or ends credentials asks for a browser's besides
    (`credentials.lock_browser`). A web session slides to 30 days from now once it is a day old; the new expiry is
    committed and the cookie sent again. A banned user counts as `key_credential` tells.
    """
    if "cookie_credential" not in g:
        g.cookie_credential = None  # for the page that tells a suspension
        g.cookie_credential = _read_cookie()
    return cast(Credential | None, g.cookie_credential)


def cookie_user() -> User | None:
    """The user of the browser's session cookie; None when signed out."""
    found = cookie_credential()
    return found.user if found else None


def current_account() -> Account:
    """The account that the signed-in browser acts for: all that its pages show is asked by this one. A browser's is the
    person's own; a key of an organisation in the cookie acts for that.

    Only for views that know that somebody is signed in.
    """
    found = cookie_credential()
    assert found is not None, "nobody is signed in"
    return Account.of(found.session)


def cookie_or_key_user() -> User | None:
    """The user of the cookie, else of the key (`cookie→key`)."""
    return cookie_user() or key_user()


def current_session() -> Session | None:
    """The row of the browser's own session."""
    found = cookie_credential()
    return found.session if found else None


@login_manager.request_loader  # type: ignore[untyped-decorator]
def _load(_request: Any) -> User | None:
    return cookie_user()


def _read_cookie() -> Credential | None:
    token = cookie_token()
    if not token:
        return None
    moment = now()
    try:
        found = credentials.find_browser(token, moment)
    except AccountSuspended as suspended:
        g.suspended_browser = suspended.session
        _unless_open(suspended)
        return None
    if found is None:
        g.signed_out = True
        db.session.commit()
        return None
    slid = credentials.slide(found.session, moment)
    if credentials.touch(found.session, moment) or slid:
        db.session.commit()
    if slid:
        g.signed_in = (token, found.session.expires)
    return found


def _unless_open(suspended: AccountSuspended) -> None:
    if request.endpoint is not None and request.endpoint not in OPEN_TO_SUSPENDED:
        raise suspended


def _refuse_suspended() -> None:
    """Nothing is done, or shown, for a banned account."""
    if request.endpoint is not None and request.endpoint not in OPEN_TO_SUSPENDED:
        cookie_credential()
        key_credential()


# -- signing in and out of the browser -----------------------------------------------------------------------


def sign_in_browser(user: User) -> Session:
    """Open a web session for `user` and send its cookie with this answer. Flushes; the view commits.

    What the browser held before is dropped, so that nobody can plant it: its web session, flow state, form tokens.
    """
    before = cookie_credential()
    if before and before.session.type == "web":
        credentials.close(before.session)
    token, row = credentials.open_web(user, now())
    _forget_flow()
    g.signed_in = (token, row.expires)
    g.cookie_credential = Credential(row, user)
    g.pop("_login_user", None)
    g.pop("csrf_token", None)
    return row


def sign_out_browser() -> None:
    """Delete the browser's session row and its cookie. Flushes; the view commits."""
    found = cookie_credential()
    row = found.session if found else cast(Session | None, g.get("suspended_browser"))
    if row:
        credentials.close(row)
    _forget_flow()
    g.pop("signed_in", None)
    g.pop("_login_user", None)
    g.pop("csrf_token", None)
    g.cookie_credential = None
    g.signed_out = True


def browser_nonce() -> str:
    """What tells this browser from others until it is closed, whoever signs in: random, kept in the flow cookie."""
    return cast(str, session.setdefault("browser", secrets.token_urlsafe(16)))


def _forget_flow() -> None:
    nonce = session.get("browser")
    session.clear()
    if nonce:
        session["browser"] = nonce


def _keep_signed_in(response: Response) -> Response:
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
    """Flask's session: what a browser has begun and not ended. Named and guarded as the cookie that signs it in.

    It is written last of all, so here is also seen to it that no proxy keeps for others what was meant for one.
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
    """Whether browsers come by https: as configured, or as a trusted proxy says of this request."""
    return request.is_secure or settings().base_url.startswith("https://")


# -- who may enter -------------------------------------------------------------------------------------------


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Only for the signed in. Others go to `/login` and come back; a fragment answers 401 with `HX-Redirect`."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return view(*args, **kwargs) if cookie_user() else to_login()

    return guarded


def to_login() -> Response:
    """Send the visitor to sign in, and afterwards back to the page they look at."""
    here = request.full_path.rstrip("?") if request.method == "GET" else _path_of(request.referrer)
    if wants_fragment():
        here = _path_of(request.headers.get("HX-Current-URL"))
        response = make_response("", 401)
        response.headers["HX-Redirect"] = _login_address(here)
        response.headers["HX-Reswap"] = "none"
        return response
    return cast(Response, redirect(_login_address(here), 302 if request.method == "GET" else 303))


def _login_address(here: str) -> str:
    return url_for("accounts.login", next=here or None)


def _path_of(url: str | None) -> str:
    if not url or not is_own_origin(url):
        return ""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}".rstrip("?")


def is_admin(user: User | None) -> bool:
    """Whether the user operates this server: a verified e-mail address that STOA_ADMINS names."""
    return bool(user and user.email_verified is not None and user.email.lower() in settings().stoa_admins)


def admin_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Only for operators. JSON answers 403 to everybody else (contract 1.8); pages send the signed out to sign in."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if is_admin(cookie_user()):
            return view(*args, **kwargs)
        if request.path.startswith(JSON_DOORS):
            return jsonify(error="Forbidden - not an admin"), 403
        if cookie_user() is None:
            return to_login()
        raise Forbidden("This page is for the operators of this server.")

    return guarded


# -- other sites ---------------------------------------------------------------------------------------------


def is_own_origin(url: str | None) -> bool:
    """Whether an address or origin lies on this server, as configured or as the browser reached it."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return False
    own = (urlsplit(settings().base_url), urlsplit(request.host_url))
    return bool(parts.netloc) and any(parts[:2] == site[:2] for site in own)


def from_browser() -> bool:
    """Whether a browser sent this: its fetch metadata, or the name every browser gives itself."""
    return "Sec-Fetch-Site" in request.headers or "Mozilla/" in request.headers.get("User-Agent", "")


def same_origin() -> bool:
    """Whether no other site caused this request: `Sec-Fetch-Site`, else `Origin`; neither comes from no browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return not origin or is_own_origin(origin)


def _refuse_other_sites() -> ResponseReturnValue | None:
    """Changing something with a cookie needs our own page; a form needs its token besides."""
    if request.method in SAFE or request.endpoint is None or request.path.startswith(KEY_DOORS):
        return None
    json_door = request.path.startswith(JSON_DOORS)
    has_cookie = any(each in request.cookies for each in COOKIES)
    if (has_cookie or not json_door) and not same_origin():
        if json_door:
            # The contract words this one refusal itself (2.9).
            ending = ", cannot logout all sessions" if request.path == LOGOUT_ALL else ""
            return jsonify(error=f"Forbidden - not same origin{ending}"), 403
        raise Forbidden("This came from another site. Open the page here and try again.")
    if not json_door:
        csrf.protect()
    return None


# -- what is written down ------------------------------------------------------------------------------------


def audit(action: str, subject: str, *, user: User | None, before: Any = None, after: Any = None) -> None:
    """A line in the audit log, in this request's transaction. Never give it a secret."""
    record(
        action,
        subject,
        actor=user.email if user else "anonymous",
        actor_id=user.id if user else None,
        before=before,
        after=after,
        ip=request.remote_addr,
        request_id=request_id(),
    )


def _identify_request() -> None:
    g.request_id = uuid.uuid4().hex


def _wait_only_when_told(response: Response) -> Response:
    """The limiter says `Retry-After` on every answer of a limited route; only a refusal means it."""
    if response.status_code not in (429, 503):
        response.headers.pop("Retry-After", None)
    return response


def frame(request_id: str, *, https: bool) -> list[tuple[str, str]]:
    """The headers that every answer carries. No view sets them, but for `Referrer-Policy` of some pages."""
    return [("X-Request-Id", request_id), *(_FRAME_HTTPS if https else _FRAME)]


_FRAME = (
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
)
_FRAME_HTTPS = (*_FRAME, ("Strict-Transport-Security", "max-age=31536000"))


def _secure(response: Response) -> Response:
    headers = response.headers
    for name, value in frame(g.get("request_id", ""), https=_https()):
        headers.setdefault(name, value)
    if request.path.startswith("/api/auth/cli/"):
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        headers["Access-Control-Allow-Headers"] = "Content-Type"
    if response.mimetype == "text/html":
        headers.setdefault("Content-Security-Policy", CSP)
    return response
