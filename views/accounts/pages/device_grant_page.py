"""Confirmation of the code of an OAuth device grant: `/device`."""

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import device_grants
from models.accounts.device_grants import DeviceGrant
from models.accounts.devices import DeviceCodeStatus
from models.core.db import db, now
from models.core.errors import Forbidden
from models.orgs import Org, can, member_org
from models.orgs.org_keys import orgs_to_pay
from views.accounts.pages.blueprint import bp
from views.accounts.pages.device import DeviceFacts
from views.web.code_misses import check_misses, count_miss
from views.web.guards import audit, cookie_credential, cookie_user, limiter, login_required, settings
from views.web.htmx import render, see_other
from views.web.org_guards import check_sign_on, signed_in


@bp.get("/device")
@login_required
@limiter.limit("30/minute")
def device_grant() -> ResponseReturnValue:
    """Ask for a code, or show who asks with it and ask to confirm. A code in the address is only filled in."""
    entered = request.args.get("user_code") or request.args.get("code") or ""
    code = entered.replace("\0", "").strip()
    if not code:
        return _code_form()
    user = signed_in()
    check_misses(user.id)
    grant = device_grants.find_grant(code)
    if grant is None:
        count_miss(user.id)
        return _code_form(
            code, "There is no such code. Compare it with your terminal, or start the sign-in again there."
        )
    return _page(device_grants.grant_status(grant, now()), grant)


@bp.post("/device")
@login_required
@limiter.limit("30/minute")
def confirm_grant() -> ResponseReturnValue:
    """Sign the client in. Sent twice, it does so once."""
    code, user, by = _code(), signed_in(), cookie_credential()
    assert by is not None, "login_required"
    check_misses(user.id)
    org = _payer(request.form.get("payer", "").replace("\0", ""))
    limit = settings().stoa_cli_sessions_per_account
    outcome = device_grants.confirm_grant(
        settings().secret_key, code, by, now(), org_id=org.id if org else None, limit=limit
    )
    if outcome is DeviceCodeStatus.DONE:
        grant = device_grants.find_grant(code)
        client = grant.client if grant else None
        audit(
            "device.connected", user.id, user=user, after={"client": client}, org_id=org.id if org else None
        )
    elif outcome is DeviceCodeStatus.INVALID:
        count_miss(user.id)
    db.session.commit()
    return see_other(url_for("accounts.device_grant", user_code=code))


@bp.post("/device/refusal")
@login_required
@limiter.limit("30/minute")
def refuse_grant() -> ResponseReturnValue:
    """Refuse the client, which learns it with its next poll. Sent twice, it refuses once."""
    code, user = _code(), signed_in()
    if device_grants.refuse_grant(code, now()) is DeviceCodeStatus.DONE:
        audit("device.refused", user.id, user=user, after={"user_code": code})
    db.session.commit()
    return see_other(url_for("accounts.device_grant", user_code=code))


def _code() -> str:
    return request.form.get("user_code", "").replace("\0", "")[:40]


def _payer(org_id: str) -> Org | None:
    """The organisation that is to pay, of the signed-in user. Raises NotFound, Forbidden, SsoRequired."""
    if not org_id:
        return None
    org, member = member_org(signed_in().id, org_id)
    check_sign_on(org)
    if not can(member, "spend"):
        raise Forbidden("Your role makes no calls, so it cannot let the organisation pay.")
    return org


def _page(outcome: DeviceCodeStatus, grant: DeviceGrant) -> Response:
    user = signed_in()
    orgs = [(org.id, org.name) for org, _ in orgs_to_pay(user.id)]
    facts = DeviceFacts(grant.user_code, grant.user_code, None, grant.client, grant.address, grant.created_at)
    return render(
        "accounts/device.html",
        outcome=outcome.name,
        device=facts,
        next_path=request.full_path,
        user=cookie_user(),
        field="user_code",
        approve_url=url_for("accounts.confirm_grant"),
        refuse_url=url_for("accounts.refuse_grant"),
        payers=[("", "Your own account"), *orgs] if orgs else [],
        lasts="for 30 days" if grant.single_token else None,
    )


def _code_form(code: str = "", error: str | None = None) -> Response:
    return render("accounts/device_code.html", code=code, error=error, status=404 if error else 200)
