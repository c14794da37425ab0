"""Approval of device logins from the command line: `/onboard` (contract 1.4)."""

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
    """Show a device code's status and ask for approval.

    The contract connects on GET. In a browser, that would let anyone who sends a link to a signed-in user call models
    as that user (RFC 8628, section 5.4), so browsers get a button. Other clients hold the cookie itself and keep the
    contract's GET.
    """
    user = cookie_user()
    if user is None:
        return redirect(url_for("pages.landing"), 302)
    text = request.args.get("auth_code")
    if not text:
        return render("accounts/welcome.html")
    code, secret = _parse_code(text), settings().secret_key
    if request.method == "GET" and not from_browser():
        return _connect(code)
    outcome = devices.code_status_for(secret, code, user, now())
    return render(
        "accounts/device.html", outcome=outcome.name, code=code, next_path=request.full_path, user=user
    )


@bp.post("/onboard")
@limiter.limit("30/minute")
def connect() -> ResponseReturnValue:
    """Connect the command line after approval."""
    if cookie_user() is None:
        return redirect(url_for("pages.landing"), 303)
    return _connect(_parse_code(request.form.get("auth_code", "")))


def _connect(code: devices.DeviceCode | None) -> ResponseReturnValue:
    by = cookie_credential()
    assert by is not None, "both callers check the session"
    user = by.user
    limit = settings().stoa_cli_sessions_per_account
    outcome = devices.connect(settings().secret_key, code, by, now(), limit=limit)
    if outcome is DeviceCodeStatus.DONE and code:
        audit("device.connected", user.id, user=user, after={"fingerprint": code.fingerprint_id})
    db.session.commit()
    return render("accounts/device.html", outcome=outcome.name, code=code, next_path="", user=user)


def _parse_code(text: str) -> devices.DeviceCode | None:
    code = None if "\0" in text else devices.read_code(text)
    return code if code and len(code.fingerprint_id) <= devices.FINGERPRINT_LENGTH else None
