"""What operators do to an account, each with a reason and an entry of the audit log: grants, revocations, bans, sign-in links."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import ledger
from models.accounts import bans, magic_links
from models.accounts.users import User
from models.admin.account_review import ReviewedAccount, reviewed_account
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger import CreditLedger
from views.admin.pages.admin_blueprint import bp, entered_reason, operating_user
from views.billing.pages.billing_blueprint import requested_credits
from views.web import format
from views.web.format import iso
from views.web.guards import audit, limiter, operator_required, settings
from views.web.htmx import render, see_other, toast

MOST_CREDITS = 100_000_000
MOST_DAYS = 3650
LIMIT = "60 per minute"


@dataclass(frozen=True)
class Act:
    """A form: its heading, explanation and button."""

    name: str
    title: str
    text: str
    verb: str
    danger: bool = True
    help: str = "Kept in the audit log."


@bp.get("/accounts/<id>/grants")
@operator_required
def ask_grant(id: str) -> ResponseReturnValue:
    """The form for a grant."""
    return _grant_form(reviewed_account(id))


@bp.post("/accounts/<id>/grants")
@operator_required
@limiter.limit(LIMIT)
def grant(id: str) -> ResponseReturnValue:
    """Grant credits to the account, of type `admin` or an organisation's. Form: `credits`, `days` until they expire, `reason`."""
    found = reviewed_account(id)
    try:
        credits, days, reason = _grant_fields()
    except Invalid as invalid:
        return _grant_form(found, invalid.fields)
    kind = "organization" if found.org else "admin"
    granted = ledger.grant(
        found.account,
        credits,
        kind,
        operation_id=f"{kind}-{id}-{ledger.compact_id()}",
        description=reason,
        expires_at=now() + timedelta(days=days) if days else None,
    )
    after = {"operation_id": granted.operation_id, "credits": credits, "type": kind, "days": days}
    audit("billing.grant", id, user=operating_user(), after=after | {"reason": reason})
    db.session.commit()
    toast(f"Granted {format.number(credits)} {'credit' if credits == 1 else 'credits'} to {found.detail}.")
    return _back(id)


@bp.get("/accounts/<id>/grants/<path:operation_id>/revocation")
@operator_required
def ask_revocation(id: str, operation_id: str) -> ResponseReturnValue:
    """The form to revoke what is left of a grant."""
    found = reviewed_account(id)
    return _revocation_form(found, _grant_of(found, operation_id))


@bp.post("/accounts/<id>/grants/<path:operation_id>/revocation")
@operator_required
@limiter.limit(LIMIT)
def revoke(id: str, operation_id: str) -> ResponseReturnValue:
    """Revoke what is left of a grant. Form: `reason`."""
    found = reviewed_account(id)
    granted = _grant_of(found, operation_id)
    try:
        reason = entered_reason()
        revoked = ledger.revoke(operation_id, reason)
    except (Invalid, Conflict) as error:
        fields = getattr(error, "fields", None) or {"reason": error.message}
        return _revocation_form(found, granted, fields)
    before = {"operation_id": operation_id, "credits": revoked}
    audit("billing.revoke", id, user=operating_user(), before=before, after={"reason": reason})
    db.session.commit()
    toast(f"Revoked {format.number(revoked)} {'credit' if revoked == 1 else 'credits'} of {found.detail}.")
    return _back(id)


@bp.get("/accounts/<id>/ban")
@operator_required
def ask_ban(id: str) -> ResponseReturnValue:
    """The form to ban a person."""
    found, _ = _person(id)
    return _ban_form(found)


@bp.post("/accounts/<id>/ban")
@operator_required
@limiter.limit(LIMIT)
def ban(id: str) -> ResponseReturnValue:
    """Ban a person, or change the reason. Form: `reason`, shown to them."""
    found, user = _person(id)
    if user.id == operating_user().id:
        raise Conflict("You cannot ban yourself.")
    try:
        reason = entered_reason()
    except Invalid as invalid:
        return _ban_form(found, invalid.fields)
    before = _ban_of(user)
    if bans.ban(user, reason, now()):
        refused = bans.credentials_of(user, now())
        after = _ban_of(user) | {"refused": refused}
        audit("user.banned", id, user=operating_user(), before=before, after=after)
        db.session.commit()
    toast(f"{user.email} is banned.")
    return _back(id)


@bp.get("/accounts/<id>/ban/removal")
@operator_required
def ask_unban(id: str) -> ResponseReturnValue:
    """The form to lift a ban."""
    found, _ = _person(id)
    return _unban_form(found)


@bp.post("/accounts/<id>/ban/removal")
@operator_required
@limiter.limit(LIMIT)
def unban(id: str) -> ResponseReturnValue:
    """Lift a ban. Form: `reason`."""
    found, user = _person(id)
    try:
        reason = entered_reason()
    except Invalid as invalid:
        return _unban_form(found, invalid.fields)
    before = _ban_of(user)
    if bans.unban(user):
        after = _ban_of(user) | {"because": reason}
        audit("user.unbanned", id, user=operating_user(), before=before, after=after)
        db.session.commit()
    toast(f"{user.email} is not banned any more. Browsers must sign in again.")
    return _back(id)


@bp.get("/accounts/<id>/sign-in-links")
@operator_required
def ask_link(id: str) -> ResponseReturnValue:
    """The form for a sign-in link."""
    found, _ = _person(id)
    return _link_form(found)


@bp.post("/accounts/<id>/sign-in-links")
@operator_required
@limiter.limit("10 per minute")
def create_link(id: str) -> ResponseReturnValue:
    """Make a sign-in link for a person and show it once. Form: `reason`."""
    found, user = _person(id)
    if user.banned:
        raise Conflict(f"{user.email} is banned. Lift the ban first.")
    try:
        reason = entered_reason()
    except Invalid as invalid:
        return _link_form(found, invalid.fields)
    path = magic_links.issue(user.email, now=now(), ip=request.remote_addr)
    expires = iso(now() + magic_links.LIFETIME)
    audit("user.sign_in_link", id, user=operating_user(), after={"reason": reason, "expires": expires})
    db.session.commit()
    response = render(
        "admin/sign_in_link.html",
        partial="admin/_sign_in_link.html",
        reviewed=found,
        link=settings().base_url + path,
        minutes=int(magic_links.LIFETIME.total_seconds()) // 60,
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


# -- forms ---------------------------------------------------------------------------------------------------


def _grant_form(found: ReviewedAccount, errors: dict[str, str] | None = None) -> ResponseReturnValue:
    text = f"{found.title} gets them at once." + (
        " They first clear the account’s debt." if found.user else ""
    )
    act = Act(
        "grant", "Grant credits", text, "Grant", danger=False, help="The account sees it on its statement."
    )
    return _form(act, found, url_for(".grant", id=found.account.id), errors)


def _revocation_form(
    found: ReviewedAccount, granted: CreditLedger, errors: dict[str, str] | None = None
) -> ResponseReturnValue:
    text = f"{found.title} loses the {format.number(granted.balance)} credits that are left of it. Calls in flight finish."
    act = Act("revoke", "Revoke this grant?", text, "Revoke", help="The account sees it on its statement.")
    address = url_for(".revoke", id=found.account.id, operation_id=granted.operation_id)
    return _form(act, found, address, errors)


def _ban_form(found: ReviewedAccount, errors: dict[str, str] | None = None) -> ResponseReturnValue:
    text = "Their browsers, command lines and keys are rejected at once. Calls in flight finish and are billed; agents stay in the store."
    act = Act("ban", f"Ban {found.detail}?", text, "Ban", help="The person sees it.")
    return _form(act, found, url_for(".ban", id=found.account.id), errors)


def _unban_form(found: ReviewedAccount, errors: dict[str, str] | None = None) -> ResponseReturnValue:
    text = "Keys and command lines work again. Browsers must sign in again."
    act = Act("unban", f"Lift the ban of {found.detail}?", text, "Lift the ban", danger=False)
    return _form(act, found, url_for(".unban", id=found.account.id), errors)


def _link_form(found: ReviewedAccount, errors: dict[str, str] | None = None) -> ResponseReturnValue:
    text = "Whoever opens the link is signed in as this person. It works once, within 15 minutes. Give it to nobody else."
    act = Act("link", f"Sign-in link for {found.detail}", text, "Make the link", danger=False)
    return _form(act, found, url_for(".create_link", id=found.account.id), errors)


def _form(
    act: Act, found: ReviewedAccount, address: str, errors: dict[str, str] | None
) -> ResponseReturnValue:
    return render(
        "admin/account_act.html",
        partial="admin/_account_act.html",
        act=act,
        address=address,
        back=url_for(".account", id=found.account.id),
        values={name: request.form.get(name, "") for name in ("credits", "days", "reason")},
        errors=errors or {},
        status=422 if errors else 200,
    )


def _grant_fields() -> tuple[int, int | None, str]:
    """Credits, days until they expire (None: never) and reason. Raises Invalid with all wrong fields."""
    errors: dict[str, str] = {}
    credits, reason, days = 0, "", request.form.get("days", "").strip()
    try:
        credits = requested_credits(request.form.get("credits"), 1, MOST_CREDITS)
    except Invalid as invalid:
        errors |= invalid.fields
    try:
        reason = entered_reason()
    except Invalid as invalid:
        errors |= invalid.fields
    if days and not (days.isascii() and days.isdigit() and len(days) <= 4 and 1 <= int(days) <= MOST_DAYS):
        errors["days"] = f"Enter 1 to {MOST_DAYS} days, or nothing."
    if errors:
        raise Invalid("Some fields are invalid.", fields=errors)
    return credits, int(days) if days else None, reason


# -- lookups -------------------------------------------------------------------------------------------------


def _grant_of(found: ReviewedAccount, operation_id: str) -> CreditLedger:
    for granted in ledger.grants_of(found.account):
        if granted.operation_id == operation_id:
            return granted
    raise NotFound("This account has no such grant with credits left.")


def _person(id: str) -> tuple[ReviewedAccount, User]:
    """A person who signs in. Raises NotFound for organisations and service accounts."""
    found = reviewed_account(id)
    if found.user is None or not found.signs_in:
        raise NotFound("There is no person with this id.")
    return found, found.user


def _ban_of(user: User) -> dict[str, Any]:
    return {"banned": user.banned, "reason": user.banned_reason}


def _back(id: str) -> ResponseReturnValue:
    return see_other(url_for(".account", id=id))
