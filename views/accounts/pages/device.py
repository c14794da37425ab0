"""Approval of device logins from the command line: `/onboard` (contract 1.4)."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import device_requests, devices
from models.accounts.devices import CODE_LIFETIME, DeviceCode, DeviceCodeStatus
from models.core.db import db, now
from views.accounts.pages.blueprint import bp
from views.web.guards import audit, cookie_credential, cookie_user, from_browser, limiter, settings
from views.web.htmx import render, see_other

_LOOPBACK = {"127.0.0.1", "::1"}


@dataclass(frozen=True)
class DeviceFacts:
    """What is known about a command line that asks to be signed in. `short` is the code to compare, `text` what a form names it by;
    `client` is its own claim, and `id` what it calls its device, if it says so."""

    short: str
    text: str
    id: str | None
    client: str | None
    address: str | None
    requested_at: datetime

    @property
    def from_here(self) -> bool:
        """Whether it has the address of the browser that shows this. IPv4 and IPv6 of this machine are the same."""
        here = request.remote_addr
        return self.address is not None and (self.address == here or {self.address, here} <= _LOOPBACK)


def facts_of(code: DeviceCode | None) -> DeviceFacts | None:
    """The facts about a code of this server, expired or not; None for any other."""
    status = devices.code_status(settings().secret_key, code, now())
    if code is None or status is DeviceCodeStatus.INVALID:
        return None
    asked = device_requests.find(code.hash)
    issued = datetime.fromtimestamp(int(code.expires_at) / 1000, UTC) - CODE_LIFETIME
    client, address = (asked.client, asked.address) if asked else (None, None)
    return DeviceFacts(code.short, code.text, code.fingerprint_id, client, address, issued)


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
    return device_page(devices.code_status_for(secret, code, user, now()), code, request.full_path)


@bp.post("/onboard")
@limiter.limit("30/minute")
def connect() -> ResponseReturnValue:
    """Connect the command line after approval. Sent twice, it connects once."""
    text = request.form.get("auth_code", "")
    if cookie_user() is None:
        return redirect(url_for("pages.landing"), 303)
    response = _connect(_parse_code(text))
    return see_other(url_for("accounts.onboard", auth_code=text)) if from_browser() else response


@bp.post("/onboard/refusal")
@limiter.limit("30/minute")
def refuse() -> ResponseReturnValue:
    """Refuse the command line, which learns it with its next poll. Sent twice, it refuses once."""
    user, text = cookie_user(), request.form.get("auth_code", "")
    if user is None:
        return redirect(url_for("pages.landing"), 303)
    code = _parse_code(text)
    if devices.refuse(settings().secret_key, code, user, now()) is DeviceCodeStatus.DONE and code:
        audit("device.refused", user.id, user=user, after={"fingerprint": code.fingerprint_id})
    db.session.commit()
    return see_other(url_for("accounts.onboard", auth_code=text))


def device_page(outcome: DeviceCodeStatus, code: DeviceCode | None, next_path: str) -> Response:
    """The page of a code: its status, and approval if it is READY."""
    return render(
        "accounts/device.html",
        outcome=outcome.name,
        device=facts_of(code),
        next_path=next_path,
        user=cookie_user(),
        field="auth_code",
        approve_url=url_for("accounts.connect"),
        refuse_url=url_for("accounts.refuse"),
        payers=[],
        lasts=None,
    )


def _connect(code: DeviceCode | None) -> Response:
    by = cookie_credential()
    assert by is not None, "both callers check the session"
    user = by.user
    limit = settings().stoa_cli_sessions_per_account
    outcome = devices.connect(settings().secret_key, code, by, now(), limit=limit)
    if outcome is DeviceCodeStatus.DONE and code:
        audit("device.connected", user.id, user=user, after={"fingerprint": code.fingerprint_id})
    db.session.commit()
    return device_page(outcome, code, "")


def _parse_code(text: str) -> DeviceCode | None:
    code = None if "\0" in text else devices.read_code(text)
    return code if code and len(code.fingerprint_id) <= devices.FINGERPRINT_LENGTH else None
