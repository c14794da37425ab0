"""The profile tabs `security` and `api-keys`: list and revoke sessions and API keys, create keys."""

from datetime import timedelta
from typing import Any, cast

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import credentials
from models.accounts.api_keys import KeyRules, audited_rules, keys_by_id
from models.accounts.credentials import NAME_LENGTH, PAT_DAYS
from models.accounts.key_changes import change_rules, own_key, revoked_keys, rotate
from models.accounts.key_format import is_test_key
from models.accounts.passkeys import passkeys_of
from models.accounts.sessions import NEVER, Session
from models.accounts.user_agents import describe_agent
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import NotFound
from models.orgs import check_session, memberships, record_org
from models.orgs.org_keys import create_org_key, orgs_to_pay
from models.usage.key_spend import spent_by_own_keys
from views.accounts.pages.blueprint import bp
from views.accounts.pages.passkey_pages import party
from views.accounts.pages.profile import tab
from views.web import format
from views.web.guards import audit, cookie_user, current_session, limiter, login_required, settings
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
from views.web.new_key import keep_new_key

bp.add_app_template_filter(describe_agent, "browser_words")
bp.add_app_template_filter(is_test_key, "of_test_key")

CONFIRM_WORD = "confirm"
LASTS = "never"
ORG_LASTS = "A key that an organisation pays for lasts at most 365 days."
EXPIRY_OPTIONS = [
    *((str(days), f"{days} days") for days in (7, 30, 90, 180)),
    ("365", "1 year"),
    (LASTS, "Never"),
]
TYPE_NAMES = {"web": "browser", "cli": "command line", "pat": "API key"}


def _user() -> User:
    return cast(User, cookie_user())


def _current() -> Session:
    return cast(Session, current_session())


# -- sessions ------------------------------------------------------------------------------------------------


@tab("security")
@login_required
def security() -> ResponseReturnValue:
    """List the user's browser and command line sessions."""
    rows = credentials.sessions(_user())
    live = [(row, device) for row, device in rows if row.expires > now()]
    return render(
        "accounts/security.html",
        web=[row for row, _ in live if row.type == "web"],
        cli=[(row, device) for row, device in live if row.type == "cli"],
        current=current_session(),
        passkeys=passkeys_of(_user()),
        passkeys_available=party() is not None,
    )


@bp.get("/profile/sessions/<identifier>/revocation")
@login_required
def ask_session_end(identifier: str) -> ResponseReturnValue:
    """Ask to end a session, in a dialog or, without JavaScript, a page."""
    row = _owned(identifier, ("web", "cli"))
    return render("accounts/end_session.html", partial="accounts/_end_session.html", row=row)


@bp.post("/profile/sessions/<identifier>/revocation")
@login_required
def end_session(identifier: str) -> ResponseReturnValue:
    """End one of the user's sessions."""
    credentials.lock_browser(_current(), to_end=True)
    row = _owned(identifier, ("web", "cli"))
    gone = credentials.revoke(_user(), [row.session_token], (row.type,))
    audit("session.revoked", _user().id, user=_user(), before=credentials.count_by_type(gone))
    db.session.commit()
    toast(f"Signed out: {_describe(gone)}.")
    return see_other(url_for("profile.profile", tab="security"))


@bp.get("/profile/sessions/web/revocation")
@login_required
def ask_web_end() -> ResponseReturnValue:
    """Ask to end all other web sessions."""
    return render("accounts/end_web.html", partial="accounts/_end_web.html")


@bp.post("/profile/sessions/web/revocation")
@login_required
def end_web() -> ResponseReturnValue:
    """End the user's other web sessions, their command line sessions and, unless `keep_keys`, their keys."""
    keep_keys = "keep_keys" in request.form
    gone = credentials.revoke_others(_user(), _current(), keep_keys=keep_keys)
    audit("session.revoked", _user().id, user=_user(), before=credentials.count_by_type(gone))
    db.session.commit()
    toast(f"Signed out everywhere else: {_describe(gone)}.")
    return see_other(url_for("profile.profile", tab="security"))


@bp.get("/profile/sessions/cli/revocation")
@login_required
def ask_cli_end() -> ResponseReturnValue:
    """Ask to end all command line sessions; the user must type a word."""
    return _cli_dialog()


@bp.post("/profile/sessions/cli/revocation")
@login_required
def end_cli() -> ResponseReturnValue:
    """End all of the user's command line sessions if the word was typed."""
    typed = request.form.get("typed", "")
    if typed.strip().lower() != CONFIRM_WORD:
        return _cli_dialog(typed=typed, error=f"Type the word {CONFIRM_WORD}.", status=422)
    credentials.lock_browser(_current(), to_end=True)
    gone = credentials.revoke_all(_user(), "cli")
    audit("session.revoked", _user().id, user=_user(), before=credentials.count_by_type(gone))
    db.session.commit()
    toast(f"Signed out: {_describe(gone)}.")
    return see_other(url_for("profile.profile", tab="security"))


def _describe(rows: list[Session]) -> str:
    """Describe sessions by type: “1 browser, 2 command lines”."""
    counts = credentials.count_by_type(rows)
    texts = [
        f"{counts[type_]} {name}{'' if counts[type_] == 1 else 's'}"
        for type_, name in TYPE_NAMES.items()
        if type_ in counts
    ]
    return ", ".join(texts) or "nothing else was signed in"


def _cli_dialog(typed: str = "", error: str | None = None, status: int = 200) -> ResponseReturnValue:
    return render(
        "accounts/end_cli.html",
        partial="accounts/_end_cli.html",
        typed=typed,
        error=error,
        word=CONFIRM_WORD,
        status=status,
    )


# -- API keys ------------------------------------------------------------------------------------------------


@tab("api-keys")
@login_required
def api_keys() -> ResponseReturnValue:
    """List the user's API keys, masked, with the form for a new one."""
    return _keys_page()


@bp.post("/profile/keys")
@login_required
@limiter.limit("20/minute;200/hour", key_func=lambda: _rate_limit_key())
def create_key() -> ResponseReturnValue:
    """Create an API key that pays from the user's own account or an organisation, and show it once, on its page."""
    form = {name: request.form.get(name, "").strip() for name in ("name", "days", "org")}
    lasts = form["days"] == LASTS
    rules, problems = sent_rules()
    errors = key_form_errors(form["name"], "1" if lasts else form["days"]) | problems
    payer = next(((org, member) for org, member in orgs_to_pay(_user().id) if org.id == form["org"]), None)
    if form["org"] and payer is None:
        errors["org"] = "Choose one of your organisations."
    elif payer and not form["name"]:
        errors["name"] = "Name it, so that your organisation knows what it is for."
    elif payer and lasts:
        errors["days"] = ORG_LASTS
    if errors:
        return _keys_page(**form, rules=rules, errors=errors, status=422)
    limit = settings().stoa_keys_per_account
    if payer:
        check_session(payer[0], _current(), now())
        token, row = create_org_key(
            *payer,
            by=_current(),
            name=form["name"],
            days=int(form["days"]),
            limit=limit,
            now=now(),
            rules=rules,
        )
    else:
        token, row = credentials.create_key(
            _user(),
            by=_current(),
            days=None if lasts else int(form["days"]),
            name=form["name"] or None,
            limit=limit,
            now=now(),
            rules=rules,
        )
    audit("token.created", _user().id, user=_user(), after={"id": row.session_token[:12], "name": row.name})
    db.session.commit()
    keep_new_key(token)
    return see_other(url_for("usage.new_key", key_id=row.session_token))


@bp.get("/profile/keys/<identifier>")
@login_required
def edit_key(identifier: str) -> ResponseReturnValue:
    """Show the form for the name and the expiry of a key and whether it is in use, in a dialog or, without JavaScript, a page."""
    row = _owned(identifier, ("pat",))
    rules = stored_fields(keys_by_id([identifier]).get(identifier))
    return _edit_dialog(row, row.name or "", row.disabled_at is None, "", rules)


@bp.post("/profile/keys/<identifier>")
@login_required
@limiter.limit("60/minute", key_func=lambda: _rate_limit_key())
def change_key(identifier: str) -> ResponseReturnValue:
    """Rename an API key, switch it off or on, and change when it expires (`days` from now, `never`, or empty: as before)."""
    row, name, on = _owned(identifier, ("pat",)), request.form.get("name", "").strip(), "on" in request.form
    days, moment = request.form.get("days", "").strip(), now()
    key = keys_by_id([identifier]).get(identifier) if "rules" in request.form else None
    rules, problems = sent_rules() if key else (None, {})
    errors = key_form_errors(name, "1" if days in ("", LASTS) else days) | problems
    if row.org_id is not None and not name:
        errors["name"] = "Name it, so that your organisation knows what it is for."
    if row.org_id is not None and days == LASTS:
        errors["days"] = ORG_LASTS
    if errors:
        return _edit_dialog(
            row, name, on, days, rules_fields(rules, errors=errors) if rules else None, errors
        )
    if days and row.org_id is not None:
        for org, _ in memberships(_user().id):
            if org.id == row.org_id:
                check_session(org, _current(), moment)
    expires = NEVER if days == LASTS else moment + timedelta(days=int(days)) if days else None
    before = _key_facts(row) | audited_rules(key)
    row = credentials.change_key(
        _user(), identifier, name=name or None, on=on, expires=expires, by=_current(), now=moment
    )
    if rules:
        change_rules(key, rules, moment)
    after = _key_facts(row) | audited_rules(key)
    if after != before:
        if row.org_id is not None:
            record_org(row.org_id, "key.changed", row.name or row.token_hint, before=before, after=after)
        audit("token.changed", _user().id, user=_user(), before=before, after=after)
    db.session.commit()
    toast("Key saved." if on else "Key saved. It is switched off.")
    return see_other(url_for("profile.profile", tab="api-keys"))


def _key_facts(row: Session) -> dict[str, Any]:
    expires = "never" if row.expires == NEVER else format.iso(row.expires)
    return {"id": row.session_token[:12], "name": row.name, "on": row.disabled_at is None, "expires": expires}


def _edit_dialog(
    row: Session,
    name: str,
    on: bool,
    days: str,
    rules: dict[str, Any] | None,
    errors: dict[str, str] | None = None,
) -> ResponseReturnValue:
    present = "never" if row.expires == NEVER else format.date(row.expires)
    options = [(each, text) for each, text in EXPIRY_OPTIONS if row.org_id is None or each != LASTS]
    return render(
        "accounts/edit_key.html",
        partial="accounts/_edit_key.html",
        row=row,
        name=name,
        on=on,
        days=days,
        expiry_options=[("", f"As now: {present}"), *options],
        expired=row.expires <= now(),
        rules=rules,
        errors=errors or {},
        status=422 if errors else 200,
    )


@bp.get("/profile/keys/<identifier>/rotation")
@login_required
def ask_key_rotation(identifier: str) -> ResponseReturnValue:
    """Ask how long the old secret of an API key is to work, in a dialog or, without JavaScript, a page."""
    return render(
        "accounts/rotate_key.html",
        partial="accounts/_rotate_key.html",
        row=_owned(identifier, ("pat",)),
        graces=GRACES,
        action=url_for("accounts.rotate_key", identifier=identifier),
        back=url_for("profile.profile", tab="api-keys"),
    )


@bp.post("/profile/keys/<identifier>/rotation")
@login_required
@limiter.limit("20/minute;200/hour", key_func=lambda: _rate_limit_key())
def rotate_key(identifier: str) -> ResponseReturnValue:
    """Give an API key a new secret, and show it once, on its page."""
    credentials.lock_browser(_current())
    key = own_key(_user(), identifier)
    token = rotate(key, grace=sent_grace(), now=now())
    row = key.session
    if row.org_id is not None:
        record_org(row.org_id, "key.rotated", row.name or row.token_hint, after={"key": row.token_hint})
    audit("token.rotated", _user().id, user=_user(), after={"id": row.session_token[:12], "name": row.name})
    db.session.commit()
    keep_new_key(token)
    return see_other(url_for("usage.new_key", key_id=row.session_token))


@bp.get("/profile/keys/<identifier>/revocation")
@login_required
def ask_key_end(identifier: str) -> ResponseReturnValue:
    """Ask to revoke an API key, in a dialog or, without JavaScript, a page."""
    row = _owned(identifier, ("pat",))
    return render("accounts/revoke_key.html", partial="accounts/_revoke_key.html", row=row)


@bp.post("/profile/keys/<identifier>/revocation")
@login_required
def revoke_key(identifier: str) -> ResponseReturnValue:
    """Revoke one of the user's API keys."""
    credentials.lock_browser(_current(), to_end=True)
    row = _owned(identifier, ("pat",))
    if row.org_id is not None:
        record_org(row.org_id, "key.revoked", row.name or row.token_hint, before={"key": row.token_hint})
    credentials.revoke(_user(), [row.session_token], ("pat",))
    audit("token.revoked", _user().id, user=_user(), before={"id": row.session_token[:12], "name": row.name})
    db.session.commit()
    toast("Key revoked.")
    return see_other(url_for("profile.profile", tab="api-keys"))


def _keys_page(
    *,
    name: str = "",
    days: str = str(PAT_DAYS),
    org: str = "",
    rules: KeyRules | None = None,
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> ResponseReturnValue:
    rows = credentials.keys(_user())
    new_rules = new_rules_fields(rules, errors=errors or {})
    response = render(
        "accounts/api_keys.html",
        partial="accounts/_key_form.html" if errors else None,
        keys=rows,
        rules_of=keys_by_id([row.session_token for row in rows]),
        revoked=revoked_keys(_user().id),
        rules=new_rules,
        new_rules=new_rules,
        scope_summary=scope_summary,
        spent=spent_by_own_keys(_user().id, rows, now()),
        payers={org.id: org for org, _ in memberships(_user().id)},
        payer_options=[("", "Your own account"), *((org.id, org.name) for org, _ in orgs_to_pay(_user().id))],
        org=org,
        now=now(),
        name=name,
        days=days,
        expiry_options=EXPIRY_OPTIONS,
        errors=errors or {},
        status=status,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def key_form_errors(name: str, days: str) -> dict[str, str]:
    """What is wrong with the name and the days of a new key, by field."""
    errors = {}
    if len(name) > NAME_LENGTH or not name.isprintable():
        errors["name"] = f"Use at most {NAME_LENGTH} ordinary characters."
    if not (days.isascii() and days.isdigit() and len(days) <= 3 and 1 <= int(days) <= 365):
        errors["days"] = "Enter 1 to 365 days."
    return errors


def _rate_limit_key() -> str:
    user = cookie_user()
    return user.id if user else "anonymous"


def _owned(identifier: str, types: tuple[str, ...]) -> Session:
    row = credentials.find_owned(_user(), identifier, types)
    if row is None:
        raise NotFound("This session or key does not exist.")
    return row
