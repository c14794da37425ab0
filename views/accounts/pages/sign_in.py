"""Sign-in by e-mail link, the redirect target after sign-in, and the final step of every sign-in method."""

from urllib.parse import parse_qs, urljoin, urlsplit

from flask import g, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded

from models.accounts import devices, magic_links
from models.accounts.credentials import hash_token
from models.accounts.devices import DeviceCode, DeviceCodeStatus
from models.accounts.relying_party import relying_party
from models.accounts.sessions import LoginLink
from models.accounts.signing_in import Identity, by_email, clean_email, join_identity, sign_in_verified_email
from models.accounts.users import User
from models.core import mail
from models.core.db import db, now
from models.core.errors import Invalid
from models.core.mail import Email
from models.orgs.single_sign_on import any_sso, sso_of_address
from views.accounts.pages.blueprint import bp
from views.accounts.pages.device import device_page, facts_of
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
    """Return the local path to redirect to after sign-in (contract 1.3).

    A target with `auth_code` becomes `/onboard` with its whole query, another site becomes `/`, and a missing target
    becomes `default` or the usage page.
    """
    if not target:
        return default or home()
    landing = url_for("pages.landing")
    if "\\" in target or any(ord(char) < 33 for char in target):
        return landing
    try:
        parts = urlsplit(urljoin(f"{settings().base_url}/", target))
    except ValueError:
        return landing
    if not is_own_origin(f"{parts.scheme}://{parts.netloc}"):
        return landing
    if "auth_code" in parse_qs(parts.query):
        return f"{url_for('accounts.onboard')}?{parts.query}"
    path = "/" + parts.path.lstrip("/")
    return f"{path}?{parts.query}" if parts.query else path


def home() -> str:
    """Return the default path after sign-in."""
    return url_for("profile.profile", tab="usage")


def requested_destination() -> str:
    """Return the path this request asks for after sign-in: `/onboard` for a device login, else `next`."""
    if "auth_code" in request.args:
        return f"{url_for('accounts.onboard')}?{request.query_string.decode('utf-8', 'replace')}"
    return destination(request.values.get("next") or request.values.get("callbackUrl"))


def device_code_of(path: str | None) -> DeviceCode | None:
    """Return the device code in a path to `/onboard`, if any."""
    parts = urlsplit(path or "")
    if parts.path != url_for("accounts.onboard"):
        return None
    texts = parse_qs(parts.query).get("auth_code", [])
    return devices.read_code(texts[0]) if texts else None


@bp.get("/login")
def login() -> ResponseReturnValue:
    """Show the sign-in methods. With a device code: its status, and approval as the signed-in user.

    `email` fills in the address. With `again` a signed-in user signs in anew, which some changes require."""
    next_path, user = requested_destination(), cookie_user()
    code = device_code_of(next_path)
    if "auth_code" in request.args:
        outcome = devices.code_status(settings().secret_key, code, now())
        if outcome is not DeviceCodeStatus.READY or user:
            if user:
                outcome = devices.code_status_for(settings().secret_key, code, user, now())
            return device_page(outcome, code, next_path)
    elif user and "again" not in request.args:
        return see_other(next_path)
    return login_page(next_path, email=request.args.get("email", user.email if user else "")[:320])


@bp.post("/login")
@limiter.limit("10/minute;60/hour")
def send_link() -> ResponseReturnValue:
    """Mail a link, or lead to the identity provider of the address's organisation unless the form asks for a link.

    The response is the same whether or not the address has an account.
    """
    next_path, entered = destination(request.form.get("next")), _form_email()
    try:
        email = clean_email(entered)
    except Invalid as error:
        return login_page(next_path, email=entered, error=error.message, status=422)
    org = sso_of_address(email) if request.form.get("way") != "link" else None
    if org is not None:
        return see_other(url_for("orgs.start_sso", slug=org.slug, next=next_path, login_hint=email))
    mail_link(email, next_path)
    db.session.commit()
    session["sent_to"] = email
    return see_other(url_for("accounts.link_sent", next=next_path))


@bp.errorhandler(RateLimitExceeded)
def _too_many(error: RateLimitExceeded) -> ResponseReturnValue:
    """Show the form again with an error; other routes answer in their own format."""
    if request.endpoint != "accounts.send_link" or wants_fragment():
        return answer(429, "Too many attempts. Wait a minute, then try again.", "too_many_requests")
    message = "Too many links requested. Use the latest link, or wait 15 minutes."
    return login_page(destination(request.form.get("next")), email=_form_email(), error=message, status=429)


@bp.get("/login/sent")
def link_sent() -> ResponseReturnValue:
    """Ask the user to check their e-mail."""
    next_path = destination(request.args.get("next"))
    return render(
        "accounts/link_sent.html",
        email=session.get("sent_to"),
        next_path=next_path,
        console=settings().smtp_url is None,
    )


@bp.get("/login/link/<token>")
@limiter.limit("60/minute")
def link(token: str) -> ResponseReturnValue:
    """Show a button that uses the link: mail scanners, which open every URL, must not use it."""
    found = magic_links.find(token, now())
    if found is None:
        return _dead_link()
    if (rejected := _reject_other_account(found)) is not None:
        return rejected
    identity = magic_links.identity_of(found)
    same_browser = identity is not None and magic_links.requested_by(found, session.get("browser"))
    response = render(
        "accounts/confirm_identity.html" if same_browser else "accounts/confirm_link.html",
        email=found.email,
        token=token,
        device=facts_of(device_code_of(found.next)),
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
    """Sign in with a link, once. An identity's link also connects the identity, in the browser that requested it."""
    found = magic_links.use(token, now())
    if found is None:
        return _dead_link()
    if (rejected := _reject_other_account(found)) is not None:
        db.session.rollback()
        return rejected
    identity, free = magic_links.identity_of(found), settings().stoa_free_credits
    if identity is None or not magic_links.requested_by(found, session.get("browser")):
        user, new = sign_in_verified_email(found.email, now(), free_credits=free)
        signed_in = complete_sign_in(user, new, "link", found.next or home())
        if identity:
            provider = name_of(identity.provider)
            toast(
                f"{provider} was not connected. Open the link in the browser where you requested it.", "info"
            )
        return signed_in
    user, new = join_identity(found.email, identity, now(), free_credits=free)
    after = {"provider": identity.provider, "subject": identity.subject}
    audit("identity.joined", user.id, user=user, after=after)
    return complete_sign_in(user, new, "link", found.next or home())


def _reject_other_account(found: LoginLink) -> ResponseReturnValue | None:
    """Return an error page for an external identity's link opened while another user is signed in, else None.

    The link stays usable.
    """
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


def complete_sign_in(user: User, new: bool, method: str, next_path: str) -> ResponseReturnValue:
    """Open a session, write the audit log, commit and redirect. Every sign-in method ends here."""
    sign_in_browser(user)
    if new:
        audit("user.created", user.id, user=user, after={"by": method})
    audit("user.signed_in", user.id, user=user, after={"by": method})
    db.session.commit()
    return see_other(next_path)


def mail_link(email: str, next_path: str) -> None:
    """Create a link for a normalised address and enqueue its mail in this transaction.

    Raises RateLimitExceeded after five links to one address in 15 minutes, across all routes.
    """
    _mail("login_link", f"Sign in to Stoa on {_host()}", email, next_path)


def mail_identity_link(identity: Identity, next_path: str) -> str:
    """Mail a link that connects exactly this identity to its unverified address. Returns the normalised address.

    Raises Invalid for an invalid address, and RateLimitExceeded as `mail_link` does.
    """
    email = clean_email(identity.email)
    subject = f"Connect {name_of(identity.provider)} to Stoa on {_host()}?"
    _mail("identity_link", subject, email, next_path, identity)
    return email


def _mail(template: str, subject: str, email: str, next_path: str, identity: Identity | None = None) -> None:
    limit_mail_to(email)
    path = magic_links.issue(
        email,
        identity=identity,
        browser=browser_nonce() if identity else None,
        next=next_path,
        now=now(),
        ip=request.remote_addr,
    )
    context = {
        "url": settings().base_url + path,
        "host": _host(),
        "code": device_code_of(next_path),
        "email": email,
        "identity": identity,
        "provider": name_of(identity.provider) if identity else None,
    }
    message = Email(
        to=email,
        subject=subject,
        text=render_template(f"emails/{template}.txt", **context),
        html=render_template(f"emails/{template}.html", **context),
    )
    mail.send(settings(), message)


def _host() -> str:
    return urlsplit(settings().base_url).netloc


def limit_mail_to(email: str) -> None:
    """Count a mail to this address. Raises RateLimitExceeded after five in 15 minutes, across all routes."""
    g.mailed_to = email
    _limit_mail()


@limiter.shared_limit("5/15 minutes", scope="mailed link", key_func=lambda: hash_token(g.mailed_to))
def _limit_mail() -> None:
    """Count a mail against the rate limit of its recipient."""


def _form_email() -> str:
    return request.form.get("email", "")[:320]


def login_page(
    next_path: str,
    *,
    email: str = "",
    error: str | None = None,
    passkey_error: str | None = None,
    status: int = 200,
) -> ResponseReturnValue:
    """The page with the sign-in methods, with what is wrong with the address or the passkey."""
    browser_nonce()  # challenges of passkeys are bound to it
    return render(
        "accounts/login.html",
        partial="accounts/_login_form.html" if request.method == "POST" else None,
        providers=configured(),
        passkeys=relying_party(settings().base_url, settings().secret_key) is not None,
        passkey_error=passkey_error,
        again=cookie_user() is not None,
        next_path=next_path,
        device=facts_of(device_code_of(next_path)),
        email=email,
        error=error,
        by_link=request.values.get("way") == "link" or not any_sso(),
        status=status,
    )


def _dead_link() -> ResponseReturnValue:
    return render("accounts/dead_link.html", status=410)
