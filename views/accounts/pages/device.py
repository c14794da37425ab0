"""Letting a command line in: `/onboard` (contract 1.4)."""

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import devices
from models.accounts.devices import DeviceCodeStatus
from models.core.db import db, now
from views.accounts.pages.blueprint import bp
from views.web.guards import audit, cookie_credential, cookie_user, from_browser, limiter, settings
from views.web.htmx import render


@bp.get("/onboard")
@limiter.limit("60/minute")
def onboard() -> ResponseReturnValue:
    """Say what the code would do, and in a browser ask before doing it.

    The contract connects at once. A page that does so lets anybody who sends a signed-in user a link call models as
    that user (RFC 8628, section 5.4), so browsers get a button. Whoever calls without a browser holds the cookie
    itself and is not to be tricked; there the contract's plain GET stays.
    """
    user = cookie_user()
    if user is None:
        return redirect(url_for("pages.landing"), 302)
    text = request.args.get("auth_code")
    if not text:
        return render("accounts/welcome.html")
    code, secret = _readable(text), settings().secret_key
    if request.method == "GET" and not from_browser():
        return _connect(code)
    outcome = devices.examine(secret, code, user, now())
    return render("accounts/device.html", outcome=outcome.name, code=code, where=_here(), user=user)


@bp.post("/onboard")
@limiter.limit("30/minute")
def connect() -> ResponseReturnValue:
    """Let the command line in: the answer to the button."""
    if cookie_user() is None:
        return redirect(url_for("pages.landing"), 303)
    return _connect(_readable(request.form.get("auth_code", "")))


def _connect(code: devices.DeviceCode | None) -> ResponseReturnValue:
    by = cookie_credential()
    assert by is not None, "both ways here were guarded"
    user = by.user
    most = settings().stoa_cli_sessions_per_account
    outcome = devices.connect(settings().secret_key, code, by, now(), most=most)
    if outcome is DeviceCodeStatus.DONE and code:
        audit("device.connected", user.id, user=user, after={"fingerprint": code.fingerprint_id})
    db.session.commit()
    return render("accounts/device.html", outcome=outcome.name, code=code, where="", user=user)


def _here() -> str:
    return request.full_path


def _readable(text: str) -> devices.DeviceCode | None:
    code = None if "\0" in text else devices.read_code(text)
    return code if code and len(code.fingerprint_id) <= devices.FINGERPRINT_LENGTH else None
