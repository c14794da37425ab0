"""Settings of single sign-on: domains, the identity provider, groups, enforcement and whom it would lock out."""

from typing import Any

import requests
from flask import make_response, request, url_for
from flask.typing import ResponseReturnValue

from models.core import outgoing
from models.core.db import db, now
from models.core.errors import Invalid
from models.orgs.directory import create_scim_token, directory_states, revoke_scim_token, scim_tokens
from models.orgs.domain_checks import pauses_at
from models.orgs.domains import (
    add_domain,
    domains,
    has_record,
    owned_domain,
    prove,
    proven_domains,
    remove_domain,
)
from models.orgs.single_sign_on import (
    GRANTED_ROLES,
    SsoForm,
    check_form,
    emergency_of,
    enforce,
    make_optional,
    remove_group,
    remove_sso,
    save_sso,
    set_group,
    sso_groups,
    sso_of,
)
from models.orgs.sso_sign_in import invited_guests, locked_out
from models.orgs.teams import org_teams
from views.orgs.pages.orgs_blueprint import bp
from views.orgs.pages.sso_sign_in import callback_url, metadata_url
from views.web.form_tokens import HIDDEN_FIELDS
from views.web.guards import current_session, limiter, settings
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_org, org_page, signed_in

FIELDS = ("issuer", "client_id", "client_secret", "group_claim", "default_role", "default_team_id")


@bp.get("/orgs/<slug>/settings/sso")
@org_page("manage_sso")
def sso_settings() -> ResponseReturnValue:
    """Show the settings, with the state of each member should sign-on be enforced."""
    return _page()


def _page(
    form: dict[str, Any] | None = None,
    errors: dict[str, str] | None = None,
    status: int = 200,
    new_token: str | None = None,
) -> ResponseReturnValue:
    org, session = current_org(), current_session()
    sso = sso_of(org.id)
    entered = {name: getattr(sso, name, None) or "" for name in FIELDS}
    entered |= {"client_secret": "", "joins": sso.joins if sso else True}
    teams = org_teams(org.id)
    return render(
        "orgs/sso_settings.html",
        org=org,
        sso=sso,
        domains=domains(org.id),
        pauses_at=pauses_at,
        groups=sso_groups(org.id),
        teams=[team for team in teams if not team.is_default],
        team_names={team.id: team.name for team in teams},
        roles=GRANTED_ROLES,
        form={"domain": "", "group": "", "role": "", "team_id": "", **entered, **(form or {})},
        errors=errors or {},
        callback=callback_url(org.id),
        sign_in=settings().base_url + url_for("orgs.start_sso", slug=org.slug),
        people=locked_out(org.id) if sso else [],
        guests=invited_guests(org.id) if sso else 0,
        tokens=scim_tokens(org.id),
        new_token=new_token,
        directory=directory_states(org.id, proven_domains(org.id)),
        scim_url=f"{settings().base_url}/scim/v2/{org.id}",
        emergency_until=emergency_of(org, session, now()) if session else None,
        status=status,
    )


def _entered(name: str) -> str:
    return request.form.get(name, "").replace("\0", "").strip()


def _back(message: str) -> ResponseReturnValue:
    db.session.commit()
    toast(message)
    return see_other(url_for("orgs.sso_settings"))


def _refused(error: Invalid) -> ResponseReturnValue:
    db.session.rollback()
    form: dict[str, Any] = {name: value for name, value in request.form.items() if name not in HIDDEN_FIELDS}
    if "issuer" in form:
        form["joins"] = "joins" in form
    return _page({**form, "client_secret": ""}, error.fields, status=422)


# -- domains -------------------------------------------------------------------------------------------------


@bp.post("/orgs/<slug>/settings/domains")
@org_page("manage_sso")
def name_domain() -> ResponseReturnValue:
    """Name a domain, to be proven."""
    try:
        row = add_domain(current_org().id, _entered("domain")[:300])
    except Invalid as error:
        return _refused(error)
    return _back(f"Now publish the TXT record of {row.domain}, then check it here.")


@bp.post("/orgs/<slug>/settings/domains/<id>/proof")
@org_page("manage_sso")
@limiter.limit("20/minute")
def prove_domain(id: str) -> ResponseReturnValue:
    """Look for the TXT record of a domain; if it is there, the domain is proven."""
    row = owned_domain(current_org().id, id)
    name, value = row.record_name, row.record_value
    db.session.commit()  # no connection is held while DNS answers
    if not has_record(settings(), name, value):
        toast(f"No TXT record {name} with {value} yet. DNS changes can take an hour.", "bad")
        return see_other(url_for("orgs.sso_settings"))
    prove(owned_domain(current_org().id, id), "dns", now())
    return _back(f"{row.domain} is proven.")


@bp.post("/orgs/<slug>/settings/domains/<id>/removal")
@org_page("manage_sso")
def drop_domain(id: str) -> ResponseReturnValue:
    """Remove a domain."""
    row = owned_domain(current_org().id, id)
    remove_domain(row)
    return _back(f"{row.domain} is removed.")


# -- the identity provider -----------------------------------------------------------------------------------


@bp.post("/orgs/<slug>/settings/sso")
@org_page("manage_sso")
@limiter.limit("20/minute")
def save_provider() -> ResponseReturnValue:
    """Save the identity provider once its issuer has answered."""
    values = {name: _entered(name) for name in FIELDS}
    form = SsoForm(**values, joins="joins" in request.form)
    org = current_org()
    try:
        check_form(form, has_secret=sso_of(org.id) is not None)
        db.session.commit()  # no connection is held while the issuer answers
        _discover(form.issuer)
        save_sso(org.id, form, settings().secret_key)
    except Invalid as error:
        return _refused(error)
    return _back("Saved. Sign in through it once to see that it works.")


def _discover(issuer: str) -> None:
    """Raise Invalid with field `issuer` unless the issuer describes itself with what sign-in needs."""
    try:
        with outgoing.guarded(requests.Session(), settings()) as session:
            answer = session.get(metadata_url(issuer), headers={"Accept": "application/json"})
        answer.raise_for_status()
        found = answer.json()
        named = str(found["issuer"])
        missing = {"authorization_endpoint", "token_endpoint", "jwks_uri"} - found.keys()
    except outgoing.OutgoingRefused as error:
        reason = f"This issuer cannot be used: {error}."
    except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
        reason = f"No description of an OpenID Connect issuer is at {metadata_url(issuer)}."
    else:
        if named.rstrip("/") != issuer.rstrip("/"):
            reason = f"The issuer calls itself {named[:200]}. Enter it like that."
        elif missing:
            reason = f"The description of the issuer lacks {', '.join(sorted(missing))}."
        else:
            return
    raise Invalid(reason, fields={"issuer": reason})


@bp.post("/orgs/<slug>/settings/sso/removal")
@org_page("manage_sso")
def drop_provider() -> ResponseReturnValue:
    """Remove the identity provider; enforcement ends."""
    remove_sso(current_org())
    return _back("Single sign-on is removed. Members sign in with their own accounts.")


# -- groups and enforcement ----------------------------------------------------------------------------------


@bp.post("/orgs/<slug>/settings/sso/groups")
@org_page("manage_sso")
def map_group() -> ResponseReturnValue:
    """Say what a group grants."""
    values = (_entered(name) for name in ("group", "role", "team_id"))
    try:
        set_group(current_org().id, *values)
    except Invalid as error:
        return _refused(error)
    return _back("Saved. It counts from the next sign-in, or the next change that the directory sends.")


@bp.post("/orgs/<slug>/settings/sso/groups/removal")
@org_page("manage_sso")
def unmap_group() -> ResponseReturnValue:
    """Let a group grant nothing."""
    remove_group(current_org().id, _entered("group"))
    return _back("The group grants nothing any more.")


@bp.post("/orgs/<slug>/settings/sso/enforcement")
@org_page("manage_sso")
def set_enforcement() -> ResponseReturnValue:
    """Enforce single sign-on (`enforced`), or make it optional."""
    org, session = current_org(), current_session()
    if "enforced" not in request.form or session is None:
        make_optional(org)
        return _back("Single sign-on is optional: every session of a member opens the organisation.")
    enforce(org, session, now())
    return _back(f"{org.name} now opens only through its identity provider.")


# -- the directory -------------------------------------------------------------------------------------------


@bp.post("/orgs/<slug>/settings/scim-tokens")
@org_page("manage_sso")
@limiter.limit("20/hour")
def new_scim_token() -> ResponseReturnValue:
    """Make a token for the directory and show it once: in the answer itself, which is not cached."""
    token = create_scim_token(current_org().id, signed_in().email)
    db.session.commit()
    response = make_response(_page(new_token=token))
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/orgs/<slug>/settings/scim-tokens/removal")
@org_page("manage_sso")
def drop_scim_token() -> ResponseReturnValue:
    """Revoke a token of the directory."""
    revoke_scim_token(current_org().id, _entered("token"))
    return _back("The token is revoked.")
