"""Keys of an organisation: list, create, revoke, hand over, change team."""

from typing import Any, cast

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.accounts.api_keys import KeyRules
from models.accounts.credentials import PAT_DAYS
from models.accounts.sessions import Session
from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.orgs import org_keys
from models.orgs.org_keys import KeyListed
from models.usage.key_spend import spent_by_key
from views.accounts.pages.security import key_form_errors
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import current_session, limiter, settings
from views.web.htmx import render, see_other, toast
from views.web.key_rules_form import (
    GRACES,
    new_rules_fields,
    rules_fields,
    scope_summary,
    sent_grace,
    sent_rules,
    stored_fields,
)
from views.web.keyset import cursor, cursor_text
from views.web.new_key import keep_new_key
from views.web.org_guards import current_membership, current_org, org_caller, org_page

LIMIT = "120/minute"


@bp.get("/orgs/<slug>/keys")
@org_page()
def keys() -> ResponseReturnValue:
    """List the organisation's keys, the viewer's own without `manage_keys`, with the form for a new one."""
    return _list()


def _list(
    errors: dict[str, str] | None = None, status: int = 200, rules: KeyRules | None = None, **form: str
) -> ResponseReturnValue:
    org, member, moment = current_org(), current_membership(), now()
    new_rules = new_rules_fields(rules, errors=errors or {})
    rows, more = org_keys.org_keys_page(member, cursor())
    response = render(
        "orgs/keys.html",
        partial="orgs/_org_key_form.html" if errors else None,
        rows=rows,
        revoked=org_keys.revoked_org_keys(member),
        rules=new_rules,
        new_rules=new_rules,
        scope_summary=scope_summary,
        spent=spent_by_key(org, moment),
        more=more and url_for("orgs.keys", before=cursor_text(*more)),
        now=moment,
        owner_options=[(owner.user_id, owner.name) for owner in org_keys.key_owners(member)],
        team_options=_team_options(),
        form={"name": "", "days": str(PAT_DAYS), "owner_id": "", "team_id": "", **form},
        errors=errors or {},
        status=status,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _team_options() -> list[tuple[str, str]]:
    teams = org_keys.key_teams(current_membership())
    return [("", "The owner’s team"), *((team.id, team.name) for team in teams)]


@bp.post("/orgs/<slug>/keys")
@org_page()
@limiter.limit("20/minute;200/hour", key_func=org_caller)
def create_org_key() -> ResponseReturnValue:
    """Create a key and show it once, on its page."""
    form = {name: request.form.get(name, "").strip() for name in ("name", "days", "owner_id", "team_id")}
    rules, problems = sent_rules()
    errors = key_form_errors(form["name"], form["days"]) | problems
    if errors:
        return _list(errors, 422, rules, **form)
    try:
        token, row = org_keys.create_org_key(
            current_org(),
            current_membership(),
            by=_session(),
            name=form["name"],
            days=int(form["days"]),
            owner_id=form["owner_id"].replace("\0", "") or None,
            team_id=form["team_id"] or None,
            limit=settings().stoa_keys_per_account,
            now=now(),
            rules=rules,
        )
    except DomainError as error:
        if error.status not in (400, 409):
            raise
        db.session.rollback()
        return _list(getattr(error, "fields", None) or {"name": error.message}, 422, rules, **form)
    db.session.commit()
    keep_new_key(token)
    return see_other(url_for("usage.new_key", key_id=row.session_token))


@bp.get("/orgs/<slug>/keys/<key_id>")
@org_page()
def org_key(key_id: str) -> ResponseReturnValue:
    """Show a key: owner, team, use; with the forms to change them."""
    return _page(org_keys.org_key(current_membership(), key_id))


def _page(
    row: KeyListed,
    errors: dict[str, str] | None = None,
    status: int = 200,
    rules: dict[str, Any] | None = None,
) -> ResponseReturnValue:
    org, moment = current_org(), now()
    heirs = org_keys.heirs(org.id, row.key.user_id)
    return render(
        "orgs/org_key.html",
        row=row,
        rules=rules or stored_fields(row.rules),
        scope_summary=scope_summary,
        spent=spent_by_key(org, moment).get(row.key.session_token, 0),
        now=moment,
        heir_options=[
            (heir.user_id, heir.name + (" (service account)" if heir.service else "")) for heir in heirs
        ],
        team_options=_team_options(),
        errors=errors or {},
        status=status,
    )


@bp.post("/orgs/<slug>/keys/<key_id>/rules")
@org_page()
@limiter.limit(LIMIT, key_func=org_caller)
def change_org_key_rules(key_id: str) -> ResponseReturnValue:
    """Change what a key may do."""
    row = org_keys.org_key(current_membership(), key_id)
    rules, errors = sent_rules()
    if errors:
        return _page(row, status=422, rules=rules_fields(rules, errors=errors))
    org_keys.change_org_key_rules(current_membership(), row, rules, _session(), now())
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("orgs.org_key", key_id=key_id))


@bp.get("/orgs/<slug>/keys/<key_id>/rotation")
@org_page()
def ask_org_key_rotation(key_id: str) -> ResponseReturnValue:
    """Ask how long the old secret of a key is to work."""
    return render(
        "accounts/rotate_key.html",
        partial="accounts/_rotate_key.html",
        row=org_keys.org_key(current_membership(), key_id).key,
        graces=GRACES,
        action=url_for("orgs.rotate_org_key", key_id=key_id),
        back=url_for("orgs.org_key", key_id=key_id),
    )


@bp.post("/orgs/<slug>/keys/<key_id>/rotation")
@org_page()
@limiter.limit("20/minute;200/hour", key_func=org_caller)
def rotate_org_key(key_id: str) -> ResponseReturnValue:
    """Give a key a new secret, and show it once, on its page."""
    row = org_keys.org_key(current_membership(), key_id)
    token = org_keys.rotate_org_key(current_membership(), row, grace=sent_grace(), by=_session(), now=now())
    db.session.commit()
    keep_new_key(token)
    return see_other(url_for("usage.new_key", key_id=key_id))


@bp.post("/orgs/<slug>/keys/<key_id>/owner")
@org_page("manage_keys")
@limiter.limit(LIMIT, key_func=org_caller)
def move_org_key(key_id: str) -> ResponseReturnValue:
    """Give a key to a service account or another person."""
    row = org_keys.org_key(current_membership(), key_id)
    try:
        heir = org_keys.move_org_key(current_membership(), row, request.form.get("owner", ""), _session())
    except Invalid as error:
        return _page(row, error.fields, 422)
    db.session.commit()
    toast(f"The key belongs to {heir.name} now.")
    return see_other(url_for("orgs.org_key", key_id=key_id))


@bp.post("/orgs/<slug>/keys/<key_id>/team")
@org_page()
@limiter.limit(LIMIT, key_func=org_caller)
def set_key_team(key_id: str) -> ResponseReturnValue:
    """Change a key's team."""
    row = org_keys.org_key(current_membership(), key_id)
    team_id = request.form.get("team_id", "") or None
    org_keys.set_key_team(current_org(), current_membership(), row, team_id, _session())
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("orgs.org_key", key_id=key_id))


@bp.get("/orgs/<slug>/keys/<key_id>/revocation")
@org_page()
def ask_org_key_end(key_id: str) -> ResponseReturnValue:
    """Ask to revoke a key."""
    row = org_keys.org_key(current_membership(), key_id)
    return render("orgs/org_key_end.html", partial="orgs/_org_key_end.html", row=row)


@bp.post("/orgs/<slug>/keys/<key_id>/revocation")
@org_page()
@limiter.limit(LIMIT, key_func=org_caller)
def revoke_org_key(key_id: str) -> ResponseReturnValue:
    """Revoke a key."""
    org_keys.revoke_org_key(org_keys.org_key(current_membership(), key_id), _session())
    db.session.commit()
    toast("Key revoked.")
    return see_other(url_for("orgs.keys"))


def _session() -> Session:
    return cast(Session, current_session())
