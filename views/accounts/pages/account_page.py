"""The profile tab `account`: name, how pages look, and the external identities that sign the user in."""

from typing import cast

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import account_settings
from models.accounts.account_settings import OF_ORGANISATION, identities_of, identity_id
from models.accounts.credentials import NAME_LENGTH, lock_browser
from models.accounts.data_exports import latest_export
from models.accounts.email_changes import pending_change
from models.accounts.sessions import Session
from models.accounts.users import OAuthAccount, User
from models.core.db import db, now
from models.core.errors import Invalid
from models.core.time_zones import time_zones
from models.orgs import memberships
from views.accounts.pages.blueprint import bp
from views.accounts.pages.email_change_page import email_refusal
from views.accounts.pages.profile import tab
from views.accounts.pages.sign_in_providers import configured, name_of
from views.web.guards import audit, cookie_user, current_session, limiter, login_required
from views.web.htmx import render, see_other, toast
from views.web.viewer_locale import browser_zone, number_languages

FIELDS = ("name", "theme", "time_zone", "number_language")
THEMES = [("system", "Same as the system"), ("light", "Light"), ("dark", "Dark")]


def _user() -> User:
    return cast(User, cookie_user())


@tab("account")
@login_required
def account_settings_page() -> ResponseReturnValue:
    """Show the user's name, how pages look to them, and the ways to sign in."""
    return _page({field: getattr(_user(), field) or "" for field in FIELDS})


@bp.post("/profile/account")
@login_required
@limiter.limit("30/minute")
def save_account() -> ResponseReturnValue:
    """Save the name, the theme, the time zone and the language of numbers; what is not sent stays."""
    before = {field: getattr(_user(), field) for field in FIELDS}
    entered = {field: request.form.get(field, before[field] or "") for field in FIELDS}
    try:
        changed = account_settings.save_settings(_user(), **entered)
    except Invalid as error:
        return _page(entered, errors=error.fields, status=422)
    if changed:
        audit(
            "user.changed",
            _user().id,
            user=_user(),
            before={field: before[field] for field in changed},
            after=changed,
        )
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("profile.profile", tab="account"))


@bp.get("/profile/sign-ins/<identifier>/revocation")
@login_required
def ask_disconnect(identifier: str) -> ResponseReturnValue:
    """Ask to disconnect an identity, in a dialog or, without JavaScript, a page."""
    row = account_settings.own_identity(_user(), identifier)
    return render(
        "accounts/disconnect.html",
        partial="accounts/_disconnect.html",
        identifier=identifier,
        provider=name_of(row.provider),
        email=_user().email,
    )


@bp.post("/profile/sign-ins/<identifier>/revocation")
@login_required
def disconnect(identifier: str) -> ResponseReturnValue:
    """Disconnect one of the user's identities."""
    lock_browser(cast(Session, current_session()))
    row = account_settings.disconnect(_user(), identifier)
    before = {"provider": row.provider, "subject": row.provider_account_id}
    audit("identity.removed", _user().id, user=_user(), before=before)
    provider = name_of(row.provider)
    db.session.commit()
    toast(f"{provider} disconnected.")
    return see_other(url_for("profile.profile", tab="account"))


def _page(
    entered: dict[str, str], *, errors: dict[str, str] | None = None, status: int = 200
) -> ResponseReturnValue:
    rows = identities_of(_user())
    connected = {row.provider for row in rows}
    orgs = {org.id: org.name for org, _ in memberships(_user().id)}
    return render(
        "accounts/account.html",
        partial="accounts/_account_form.html" if errors else None,
        entered=entered,
        name_length=NAME_LENGTH,
        shown_name=_user().display_name,
        themes=THEMES,
        zones=time_zones(),
        browser_zone=browser_zone(),
        languages=number_languages(),
        email=_user().email,
        change=pending_change(_user(), now()),
        refusal=email_refusal(_user()),
        sign_ins=[_sign_in(row, orgs) for row in rows],
        connectable=[each for each in configured() if each.id not in connected],
        export=latest_export(_user()),
        now=now(),
        errors=errors or {},
        status=status,
    )


def _sign_in(row: OAuthAccount, orgs: dict[str, str]) -> dict[str, str | bool]:
    """A connected identity as its row on the page."""
    org_id = row.provider.removeprefix(OF_ORGANISATION) if row.provider.startswith(OF_ORGANISATION) else ""
    subject = row.provider_account_id.rpartition("#")[2]
    return {
        "id": identity_id(row),
        "name": f"Single sign-on of {orgs.get(org_id, 'an organisation')}"
        if org_id
        else name_of(row.provider),
        "subject": subject,
        "managed": bool(org_id),
    }
