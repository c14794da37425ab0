"""Provider keys of an organisation: list, add, switch, remove."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError
from models.orgs import members, provider_keys
from models.orgs.org_keys import org_keys_page
from models.orgs.provider_keys import PROVIDERS, OrgProviderKey, ProviderKeyForm
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in


@bp.get("/orgs/<slug>/provider-keys")
@org_page("manage_keys")
def provider_key_list() -> ResponseReturnValue:
    """List the provider keys, masked, with the form for a new one."""
    return _page(ProviderKeyForm("openrouter", "", ""), {})


def _page(form: ProviderKeyForm, errors: dict[str, str]) -> ResponseReturnValue:
    org = current_org()
    people = [(row.user.id, row.user.display_name) for row in members.people_page(org).people]
    keys, _ = org_keys_page(current_membership())
    named = [(row.key.session_token, f"{row.key.name or row.key.token_hint} ({row.owner})") for row in keys]
    response = render(
        "orgs/provider_keys.html",
        partial="orgs/_provider_key_form.html" if errors else None,
        rows=provider_keys.provider_keys(org),
        titles=PROVIDERS,
        people=people,
        names=dict(people),
        org_keys=named,
        key_names=dict(named),
        form=form,
        errors=errors,
        status=422 if errors else 200,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/orgs/<slug>/provider-keys")
@org_page("manage_keys")
@limiter.limit("30/minute;200/day", key_func=org_caller)
def add_provider_key() -> ResponseReturnValue:
    """Store a provider key, encrypted."""
    values: dict[str, Any] = {
        name: request.form.get(name, "").replace("\0", "") for name in ("provider", "name", "secret")
    }
    form = ProviderKeyForm(
        **values,
        models=request.form.get("models", "").replace("\0", "").split(),
        user_ids=request.form.getlist("user_ids"),
        key_ids=request.form.getlist("key_ids"),
    )
    try:
        row = provider_keys.add_provider_key(current_org(), signed_in().id, form)
    except DomainError as error:
        db.session.rollback()
        if error.status not in (400, 409):
            raise
        return _page(form, getattr(error, "fields", None) or {"name": error.message})
    db.session.commit()
    toast(f"{row.name} pays for calls at {PROVIDERS[row.provider]} now.")
    return see_other(url_for("orgs.provider_key_list"))


@bp.post("/orgs/<slug>/provider-keys/<key_id>/activity")
@org_page("manage_keys")
@limiter.limit("120/minute", key_func=org_caller)
def switch_provider_key(key_id: str) -> ResponseReturnValue:
    """Let the key pay for calls (`active=1`), or not."""
    row = _own(key_id)
    provider_keys.switch_provider_key(row, request.form.get("active") == "1")
    db.session.commit()
    toast(f"{row.name} is {'active' if row.is_active else 'inactive'}.")
    return see_other(url_for("orgs.provider_key_list"))


@bp.get("/orgs/<slug>/provider-keys/<key_id>/removal")
@org_page("manage_keys")
def ask_provider_key_removal(key_id: str) -> ResponseReturnValue:
    """Ask to remove a provider key."""
    return render(
        "orgs/provider_key_removal.html",
        partial="orgs/_provider_key_removal.html",
        row=_own(key_id),
        titles=PROVIDERS,
    )


@bp.post("/orgs/<slug>/provider-keys/<key_id>/removal")
@org_page("manage_keys")
@limiter.limit("120/minute", key_func=org_caller)
def remove_provider_key(key_id: str) -> ResponseReturnValue:
    """Remove a provider key."""
    row = _own(key_id)
    provider_keys.remove_provider_key(row)
    db.session.commit()
    toast(f"{row.name} removed.")
    return see_other(url_for("orgs.provider_key_list"))


def _own(key_id: str) -> OrgProviderKey:
    return provider_keys.provider_key(current_org(), key_id)
