"""Signing in by a mailed link, where to go afterwards, and what every way of signing in ends with."""

from urllib.parse import parse_qs, urljoin, urlsplit

from flask import g, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded

from models.accounts import devices, magic_links
from models.accounts.credentials import hash_token
from models.accounts.devices import DeviceCode, DeviceCodeStatus
from models.accounts.sessions import LoginLink
from models.accounts.signing_in import Identity, by_email, clean_email, join_identity, sign_in_proven
from models.accounts.users import User
from models.core import mail
from models.core.db import db, now
from models.core.errors import Invalid
from models.core.mail import Email
from views.accounts.pages.blueprint import bp
from views.accounts.pages.sign_in_providers import configured, name_of
from views.web.error_handlers import answer
from views.web.guards import (
    audit,
    browser_nonce,
    cookie_user,
    is_own_origin,
    limiter,
    settings,
    sign_in_browser,
)
from views.web.htmx import render, see_other, toast, wants_fragment


def destination(target: str | None, default: str | None = None) -> str:
    """Where to go after signing in, as a path of ours (contract 1.3).

    An address with `auth_code` goes to `/onboard` with its whole query; another site's goes to `/`; none goes to
    `default`, or to the usage page.
    """
    if not target:
        return default or home()
    front = url_for("pages.landing")
    if "\\" in target or any(ord(char) < 33 for char in target):
        return front
    try:
        parts = urlsplit(urljoin(f"{settings().base_url}/", target))
    except ValueError:
        return front
    if not is_own_origin(f"{parts.scheme}://{parts.netloc}"):
        return front
    if "auth_code" in parse_qs(parts.query):
        return f"{url_for('accounts.onboard')}?{parts.query}"
    path = "/" + parts.path.lstrip("/")
    return f"{path}?{parts.query}" if parts.query else path


def home() -> str:
    """Where one goes after signing in who was on no way elsewhere."""
    return url_for("profile.profile", tab="usage")


def asked_destination() -> str:
    """Where this request wants to go after signing in: `/onboard` for a device's login, else `next`."""
    if "auth_code" in request.args:
        return f"{url_for('accounts.onboard')}?{request.query_string.decode('utf-8', 'replace')}"
    return destination(request.values.get("next") or request.values.get("callbackUrl"))


def device_of(path: str | None) -> DeviceCode | None:
    """The code of the command line that waits at the end of this way, if one does."""
    parts = urlsplit(path or "")
    if parts.path != url_for("accounts.onboard"):
        return None
    texts = parse_qs(parts.query).get("auth_code", [])
    return devices.read_code(texts[0]) if texts else None


@bp.get("/login")
def login() -> ResponseReturnValue:
    """Ways to sign in. With a device's code: what waits for it, and going on as whoever is signed in."""
    where, user = asked_destination(), cookie_user()
    code = device_of(where)
    if "auth_code" in request.args:
        outcome = devices.judge(settings().secret_key, code, now())
        if outcome is not DeviceCodeStatus.READY or user:
            if user:
                outcome = devices.examine(settings().secret_key, code, user, now())
            return render("accounts/device.html", outcome=outcome.name, code=code, where=where, user=user)
    elif user:
        return see_other(where)
    return _login_page(where)


@bp.post("/login")
@limiter.limit("10/minute;60/hour")
def send_link() -> ResponseReturnValue:
    """Mail a link. The answer is the same whether the address has an account or not."""
    where, given = destination(request.form.get("next")), _given_email()
    try:
        email = clean_email(given)
    except Invalid as error:
        return _login_page(where, email=given, error=error.message, status=422)
    mail_link(email, where)
    db.session.commit()
    session["sent_to"] = email
    return see_other(url_for("accounts.link_sent", next=where))


@bp.errorhandler(RateLimitExceeded)
def _too_many(error: RateLimitExceeded) -> ResponseReturnValue:
    """The form again, with what to do; elsewhere the door's own answer."""
    if request.endpoint != "accounts.send_link" or wants_fragment():
        return answer(429, "Too many requests. Wait a minute, then try again.", "too_many_requests")
    sentence = "Too many links were asked for. Use the one you have, or wait 15 minutes."
    return _login_page(
        destination(request.form.get("next")), email=_given_email(), error=sentence, status=429
    )


@bp.get("/login/sent")
def link_sent() -> ResponseReturnValue:
    """Look into your mailbox."""
    where = destination(request.args.get("next"))
    return render(
        "accounts/link_sent.html",
        email=session.get("sent_to"),
        where=where,
        console=settings().smtp_url is None,
    )


@bp.get("/login/link/<token>")
@limiter.limit("60/minute")
def link(token: str) -> ResponseReturnValue:
    """A button, and nothing else: scanners that open every address in a mail must not use the link up."""
    found = magic_links.find(token, now())
    if found is None:
        return _dead_link()
    if (refused := _refuse_somebody_else(found)) is not None:
        return refused
    identity = magic_links.identity_of(found)
    here = identity is not None and magic_links.begun_in(found, session.get("browser"))
    response = render(
        "accounts/confirm_identity.html" if here else "accounts/confirm_link.html",
        email=found.email,
        token=token,
        code=device_of(found.next),
        identity=identity,
        provider=name_of(identity.provider) if identity else None,
        new=by_email(found.email) is None,
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/login/link/<token>")
@limiter.limit("60/minute")
def use_link(token: str) -> ResponseReturnValue:
    """Sign in with a link, once. One that was mailed for an outside identity joins it, in the browser where that began;
    no other way of signing in does."""
    found = magic_links.use(token, now())
    if found is None:
        return _dead_link()
    if (refused := _refuse_somebody_else(found)) is not None:
        db.session.rollback()
        return refused
    identity, free = magic_links.identity_of(found), settings().stoa_free_credits
    if identity is None or not magic_links.begun_in(found, session.get("browser")):
        user, new = sign_in_proven(found.email, now(), free_credits=free)
        signed_in = enter(user, new, "link", found.next or home())
        if identity:
            toast(f"{name_of(identity.provider)} was not connected: that is done where it was begun.", "info")
        return signed_in
    user, new = join_identity(found.email, identity, now(), free_credits=free)
    facts = {"provider": identity.provider, "subject": identity.subject}
    audit("identity.joined", user.id, user=user, after=facts)
    return enter(user, new, "link", found.next or home())


def _refuse_somebody_else(found: LoginLink) -> ResponseReturnValue | None:
    """A link for an outside identity joins nothing in the browser of somebody else, and is not used up there."""
    identity, user = magic_links.identity_of(found), cookie_user()
    if identity is None or user is None or user.email == found.email:
        return None
    return render(
        "accounts/other_account.html",
        email=found.email,
        user=user,
        provider=name_of(identity.provider),
        status=409,
    )


def enter(user: User, new: bool, way: str, where: str) -> ResponseReturnValue:
    """The end of every way of signing in: a session, a line in the audit log, the commit, the redirect."""
    sign_in_browser(user)
    if new:
        audit("user.created", user.id, user=user, after={"by": way})
    audit("user.signed_in", user.id, user=user, after={"by": way})
    db.session.commit()
    return see_other(where)


def mail_link(email: str, where: str) -> None:
    """Make a link for a clean address and enqueue its mail, both in this transaction.

    Raises RateLimitExceeded for more than five in a quarter of an hour, whatever way they were asked for.
    """
    _mail("login_link", f"Sign in to Stoa on {_host()}", email, where)


def mail_identity_link(identity: Identity, where: str) -> str:
    """Mail an address that its provider did not verify a link that joins exactly this identity; the clean address.

    Raises Invalid for no address, else as `mail_link`.
    """
    email = clean_email(identity.email)
    subject = f"Connect {name_of(identity.provider)} to Stoa on {_host()}?"
    _mail("identity_link", subject, email, where, identity)
    return email


def _mail(template: str, subject: str, email: str, where: str, identity: Identity | None = None) -> None:
    g.mailed_to = email
    _count_mail()
    path = magic_links.issue(
        email,
        identity=identity,
        browser=browser_nonce() if identity else None,
        next=where,
        now=now(),
        ip=request.remote_addr,
    )
    facts = {
        "address": settings().base_url + path,
        "host": _host(),
        "code": device_of(where),
        "email": email,
        "identity": identity,
        "provider": name_of(identity.provider) if identity else None,
    }
    message = Email(
        to=email,
        subject=subject,
        text=render_template(f"emails/{template}.txt", **facts),
        html=render_template(f"emails/{template}.html", **facts),
    )
    mail.send(settings(), message)


def _host() -> str:
    return urlsplit(settings().base_url).netloc


@limiter.shared_limit("5/15 minutes", scope="mailed link", key_func=lambda: hash_token(g.mailed_to))
def _count_mail() -> None:
    """Nobody's mailbox is filled from here."""


def _given_email() -> str:
    return request.form.get("email", "")[:320]


def _login_page(
    where: str, *, email: str = "", error: str | None = None, status: int = 200
) -> ResponseReturnValue:
    return render(
        "accounts/login.html",
        partial="accounts/_login_form.html" if request.method == "POST" else None,
        providers=configured(),
        where=where,
        code=device_of(where),
        email=email,
        error=error,
        status=status,
    )


def _dead_link() -> ResponseReturnValue:
    return render("accounts/dead_link.html", status=410)
