"""Service accounts of an organisation: list, create, change, switch off, delete."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Conflict, DomainError, Invalid
from models.orgs import ServiceAccount, org_keys, service_accounts
from models.orgs.teams import org_teams
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in

LIMIT = "120/minute"


@bp.get("/orgs/<slug>/service-accounts")
@org_page()
def services() -> ResponseReturnValue:
    """List the service accounts."""
    return _list()


def _list(errors: dict[str, str] | None = None, status: int = 200, **form: str) -> ResponseReturnValue:
    return render(
        "orgs/service_accounts.html",
        partial="orgs/_service_form.html" if errors else None,
        services=service_accounts.service_accounts(current_org()),
        team_options=_team_options(),
        form={"name": "", "team_id": "", **form},
        errors=errors or {},
        status=status,
    )


def _team_options() -> list[tuple[str, str]]:
    return [("" if team.is_default else team.id, team.name) for team in org_teams(current_org().id)]


@bp.post("/orgs/<slug>/service-accounts")
@org_page("manage_keys")
@limiter.limit(LIMIT, key_func=org_caller)
def create_service() -> ResponseReturnValue:
    """Create a service account, then open it."""
    form = _form()
    try:
        account = service_accounts.create_service_account(
            current_org(), signed_in().id, form["name"], form["team_id"] or None
        )
    except (Conflict, Invalid) as error:
        return _list(_errors(error), 422, **form)
    db.session.commit()
    toast(f"Created the service account {account.name}.")
    return see_other(url_for("orgs.service", user_id=account.user_id))


@bp.get("/orgs/<slug>/service-accounts/<user_id>")
@org_page("manage_keys")
def service(user_id: str) -> ResponseReturnValue:
    """Show a service account with its keys."""
    return _page(service_accounts.service_account_of(current_org(), user_id))


def _page(
    account: ServiceAccount, errors: dict[str, str] | None = None, status: int = 200, **form: str
) -> ResponseReturnValue:
    keys, _ = org_keys.org_keys_page(current_membership(), owner_id=account.user_id)
    return render(
        "orgs/service.html",
        partial="orgs/_service_settings.html" if errors else None,
        account=account,
        keys=keys,
        now=now(),
        team_options=_team_options(),
        form={"name": account.name, "team_id": account.team_id or "", **form},
        errors=errors or {},
        status=status,
    )


@bp.post("/orgs/<slug>/service-accounts/<user_id>")
@org_page("manage_keys")
@limiter.limit(LIMIT, key_func=org_caller)
def edit_service(user_id: str) -> ResponseReturnValue:
    """Change name and team of a service account."""
    account, form = service_accounts.service_account_of(current_org(), user_id), _form()
    try:
        service_accounts.edit_service_account(current_org(), account, form["name"], form["team_id"] or None)
    except (Conflict, Invalid) as error:
        errors = _errors(error)
        return _page(service_accounts.service_account_of(current_org(), user_id), errors, 422, **form)
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("orgs.service", user_id=user_id))


@bp.post("/orgs/<slug>/service-accounts/<user_id>/state")
@org_page("manage_keys")
@limiter.limit(LIMIT, key_func=org_caller)
def switch_service(user_id: str) -> ResponseReturnValue:
    """Switch a service account and its keys off, or on again."""
    account = service_accounts.service_account_of(current_org(), user_id)
    on = request.form.get("on") == "1"
    service_accounts.switch_service_account(account, on, now())
    db.session.commit()
    toast(f"{account.name} is on." if on else f"{account.name} is off: calls with its keys are refused.")
    return see_other(url_for("orgs.service", user_id=user_id))


@bp.get("/orgs/<slug>/service-accounts/<user_id>/removal")
@org_page("manage_keys")
def ask_service_removal(user_id: str) -> ResponseReturnValue:
    """Ask to delete a service account."""
    account = service_accounts.service_account_of(current_org(), user_id)
    keys, _ = org_keys.org_keys_page(current_membership(), owner_id=account.user_id)
    return render(
        "orgs/service_removal.html", partial="orgs/_service_removal.html", account=account, keys=len(keys)
    )


@bp.post("/orgs/<slug>/service-accounts/<user_id>/removal")
@org_page("manage_keys")
@limiter.limit(LIMIT, key_func=org_caller)
def delete_service(user_id: str) -> ResponseReturnValue:
    """Delete a service account."""
    account = service_accounts.service_account_of(current_org(), user_id)
    gone = service_accounts.delete_service_account(account, now())
    db.session.commit()
    toast(f"Deleted {account.name} and {gone} key{'' if gone == 1 else 's'}.")
    return see_other(url_for("orgs.services"))


def _form() -> dict[str, str]:
    return {name: request.form.get(name, "").replace("\0", "") for name in ("name", "team_id")}


def _errors(error: DomainError) -> dict[str, str]:
    db.session.rollback()
    return getattr(error, "fields", None) or {"name": error.message}
