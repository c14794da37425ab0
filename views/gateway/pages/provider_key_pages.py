"""Provider keys of a person (`/provider-keys`) and of an organisation: list, add, edit, remove."""

from typing import Any

from flask import Blueprint, current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import credentials
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.gateway import provider_keys
from models.gateway.provider_key_check import check_new_key
from models.gateway.provider_keys import (
    LAST_PRIORITY,
    PROVIDERS,
    TITLES,
    USUAL_PRIORITY,
    ProviderKey,
    ProviderKeyForm,
)
from models.orgs import members
from models.orgs.org_keys import org_keys_page
from views.gateway.api.model_calls import gateway
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import (
    account_page_for,
    current_membership,
    current_org,
    org_caller,
    signed_in,
    viewed_account,
)

bp = Blueprint("provider_keys", __name__)


@bp.get("/provider-keys")
@bp.get("/orgs/<slug>/provider-keys")
@account_page_for("manage_keys")
def provider_key_list() -> ResponseReturnValue:
    """List the provider keys, masked, with the form for a new one."""
    return _page(ProviderKeyForm("", "", ""), {})


@bp.post("/provider-keys")
@bp.post("/orgs/<slug>/provider-keys")
@account_page_for("manage_keys")
@limiter.limit("30/minute;200/day", key_func=org_caller)
def add_provider_key() -> ResponseReturnValue:
    """Check a provider key at the provider, and store it encrypted."""
    values: dict[str, Any] = {name: _text(name) for name in ("provider", "name", "secret")}
    form = ProviderKeyForm(
        **values,
        models=_text("models").split(),
        user_ids=request.form.getlist("user_ids"),
        key_ids=request.form.getlist("key_ids"),
        priority=_priority(),
        use_credits="use_credits" in request.form,
    )
    account, by_id = viewed_account(), signed_in().id
    db.session.commit()  # no transaction during the check
    try:
        check_new_key(gateway(current_app).routes, form)
        row = provider_keys.add_provider_key(account, by_id, form)
    except DomainError as error:
        db.session.rollback()
        if error.status not in (400, 409):
            raise
        return _page(form, getattr(error, "fields", None) or {"name": error.message})
    db.session.commit()
    toast(f"{row.name} pays for calls at {PROVIDERS[row.provider]} now.")
    return see_other(url_for("provider_keys.provider_key_list"))


@bp.get("/provider-keys/<key_id>")
@bp.get("/orgs/<slug>/provider-keys/<key_id>")
@account_page_for("manage_keys")
def edit_provider_key(key_id: str) -> ResponseReturnValue:
    """Show the form for the order of a key, its fallback, and whether it is in use."""
    row = _own(key_id)
    return _edit(row, str(row.priority), row.use_credits, row.is_active, {})


@bp.post("/provider-keys/<key_id>")
@bp.post("/orgs/<slug>/provider-keys/<key_id>")
@account_page_for("manage_keys")
@limiter.limit("120/minute", key_func=org_caller)
def change_provider_key(key_id: str) -> ResponseReturnValue:
    """Change the order of a key, its fallback, and whether it is in use."""
    row, entered = _own(key_id), (_text("priority"), "use_credits" in request.form, "active" in request.form)
    try:
        if (priority := _priority()) is None:
            raise provider_keys.bad_priority()
        provider_keys.change_provider_key(row, active=entered[2], priority=priority, use_credits=entered[1])
    except Invalid as error:
        db.session.rollback()
        return _edit(_own(key_id), *entered, error.fields)
    db.session.commit()
    toast(f"{row.name} saved.")
    return see_other(url_for("provider_keys.provider_key_list"))


@bp.get("/provider-keys/<key_id>/removal")
@bp.get("/orgs/<slug>/provider-keys/<key_id>/removal")
@account_page_for("manage_keys")
def ask_provider_key_removal(key_id: str) -> ResponseReturnValue:
    """Ask to remove a provider key."""
    return render(
        "gateway/provider_key_removal.html",
        partial="gateway/_provider_key_removal.html",
        row=_own(key_id),
        titles=TITLES,
        providers=PROVIDERS,
    )


@bp.post("/provider-keys/<key_id>/removal")
@bp.post("/orgs/<slug>/provider-keys/<key_id>/removal")
@account_page_for("manage_keys")
@limiter.limit("120/minute", key_func=org_caller)
def remove_provider_key(key_id: str) -> ResponseReturnValue:
    """Remove a provider key."""
    row = _own(key_id)
    provider_keys.remove_provider_key(row)
    db.session.commit()
    toast(f"{row.name} removed.")
    return see_other(url_for("provider_keys.provider_key_list"))


def _page(form: ProviderKeyForm, errors: dict[str, str]) -> ResponseReturnValue:
    account = viewed_account()
    people, keys = _choices() if account.org_id else ([], _own_keys())
    response = render(
        "gateway/provider_keys.html",
        partial="gateway/_provider_key_form.html" if errors else None,
        rows=provider_keys.provider_keys(account),
        titles=TITLES,
        providers=PROVIDERS,
        people=people,
        names=dict(people),
        keys=keys,
        key_names=dict(keys),
        form=form,
        errors=errors,
        last_priority=LAST_PRIORITY,
        status=422 if errors else 200,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _choices() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The members and the keys of the organisation, by id."""
    people = [(row.user.id, row.user.display_name) for row in members.people_page(current_org()).people]
    rows, _ = org_keys_page(current_membership())
    keys = [(row.key.session_token, f"{row.key.name or row.key.token_hint} ({row.owner})") for row in rows]
    return people, keys


def _own_keys() -> list[tuple[str, str]]:
    """The keys that the viewer's own account pays for, by id."""
    rows = [row for row in credentials.keys(signed_in()) if row.org_id is None]
    return [(row.session_token, str(row.name or row.token_hint)) for row in rows]


def _edit(
    row: ProviderKey, priority: str, use_credits: bool, active: bool, errors: dict[str, str]
) -> ResponseReturnValue:
    return render(
        "gateway/edit_provider_key.html",
        partial="gateway/_edit_provider_key.html",
        row=row,
        titles=TITLES,
        priority=priority,
        use_credits=use_credits,
        active=active,
        last_priority=LAST_PRIORITY,
        errors=errors,
        status=422 if errors else 200,
    )


def _text(name: str) -> str:
    return request.form.get(name, "").replace("\0", "")


def _priority() -> int | None:
    """The entered order, None if it is no number; what was left out is the usual one."""
    text = _text("priority").strip()
    if not text:
        return USUAL_PRIORITY
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _own(key_id: str) -> ProviderKey:
    return provider_keys.provider_key(viewed_account(), key_id)
