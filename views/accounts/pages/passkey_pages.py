"""Passkeys: sign in with one, and on the profile add, rename and remove them."""

from typing import cast

from flask import Response, jsonify, request, session, url_for
from flask.typing import ResponseReturnValue

from models.accounts import passkeys
from models.accounts.credentials import NAME_LENGTH
from models.accounts.passkeys import Passkey, own_passkey
from models.accounts.relying_party import (
    PasskeyCloned,
    PasskeyRefused,
    RelyingParty,
    check_addable,
    relying_party,
    signed_in_recently,
)
from models.accounts.sessions import Session
from models.accounts.user_agents import describe_agent
from models.accounts.users import User
from models.core import mail
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.mail import moment_text
from views.accounts.pages.blueprint import bp
from views.accounts.pages.sign_in import complete_sign_in, destination, login_page
from views.web.guards import (
    audit,
    browser_nonce,
    cookie_user,
    current_session,
    limiter,
    login_required,
    settings,
)
from views.web.htmx import render, see_other, toast


def party() -> RelyingParty | None:
    """This server as a relying party; None where browsers offer no passkeys."""
    return relying_party(settings().base_url, settings().secret_key)


def _party() -> RelyingParty:
    found = party()
    if found is None:
        raise NotFound("Passkeys need a server with a domain name and https.")
    return found


def _user() -> User:
    return cast(User, cookie_user())


def _current() -> Session:
    return cast(Session, current_session())


def _back() -> ResponseReturnValue:
    return see_other(url_for("profile.profile", tab="security"))


# -- sign-in -------------------------------------------------------------------------------------------------


@bp.get("/login/passkey")
@limiter.limit("60/minute")
def passkey_options() -> ResponseReturnValue:
    """Options for the browser's request for a passkey, with a challenge for this browser."""
    from models.accounts.passkey_ceremonies import sign_in_options  # loads a library that few requests need

    challenge = _party().challenge("sign-in", browser_nonce(), now())
    return _options(sign_in_options(_party(), challenge))


@bp.post("/login/passkey")
@limiter.limit("20/minute;120/hour")
def use_passkey() -> ResponseReturnValue:
    """Sign in with what the authenticator answered. The challenge is spent, whatever follows."""
    from models.accounts.passkey_ceremonies import sign_in_passkey

    next_path = destination(request.form.get("next"))
    try:
        answer = _party().spend(_answer(), "sign-in", session.get("browser", ""), now())
        db.session.commit()
        user, passkey = sign_in_passkey(_party(), answer, now=now(), ip=request.remote_addr)
    except PasskeyRefused as error:
        db.session.rollback()
        return login_page(next_path, passkey_error=error.message, status=error.status)
    except PasskeyCloned as error:
        _report_clone(error)
        return login_page(next_path, passkey_error=error.message, status=error.status)
    audit("passkey.used", user.id, user=user, after={"id": passkey.id, "name": passkey.name})
    return complete_sign_in(user, False, "passkey", next_path)


def _report_clone(error: PasskeyCloned) -> None:
    row = error.passkey
    user = db.session.get_one(User, row.user_id)
    counters = {"stored": row.sign_count, "received": error.seen}
    audit("passkey.clone_refused", user.id, user=user, after={"id": row.id, "name": row.name, **counters})
    _notify(user, "cloned", row.name)
    db.session.commit()


def _answer() -> str:
    return request.form.get("credential", "")


def _options(options: dict[str, object]) -> Response:
    response = jsonify(options)
    response.headers["Cache-Control"] = "no-store"
    return response


# -- the profile ---------------------------------------------------------------------------------------------


@bp.get("/profile/passkeys/new")
@login_required
def new_passkey() -> ResponseReturnValue:
    """Show the form for a passkey, or ask to sign in again first."""
    return _form(describe_agent(request.headers.get("User-Agent")) or "")


@bp.get("/profile/passkeys/options")
@login_required
@limiter.limit("30/minute")
def new_passkey_options() -> ResponseReturnValue:
    """Options for the browser's request to make a passkey, with a challenge for this session."""
    from models.accounts.passkey_ceremonies import registration_options

    check_addable(_user(), _current(), now())
    challenge = _party().challenge("add", _current().session_token, now())
    return _options(registration_options(_party(), _user(), challenge))


@bp.post("/profile/passkeys")
@login_required
@limiter.limit("10/minute;60/hour")
def add_passkey() -> ResponseReturnValue:
    """Store the passkey that the authenticator made. The challenge is spent, whatever follows."""
    from models.accounts import passkey_ceremonies

    name = request.form.get("name", "")
    try:
        check_addable(_user(), _current(), now())
        passkeys.checked_name(name)  # before the challenge is spent
        answer = _party().spend(_answer(), "add", _current().session_token, now())
        db.session.commit()
        row = passkey_ceremonies.add_passkey(_party(), _user(), answer, name=name, by=_current(), now=now())
    except (Invalid, Conflict) as error:
        db.session.rollback()
        fields = getattr(error, "fields", {})
        return _form(name, error=None if fields else error.message, errors=fields, status=error.status)
    audit("passkey.added", _user().id, user=_user(), after={"id": row.id, "name": row.name})
    _notify(_user(), "added", row.name)
    db.session.commit()
    toast(f"Passkey “{row.name}” added. You can sign in with it from now on.")
    return _back()


@bp.get("/profile/passkeys/<identifier>")
@login_required
def edit_passkey(identifier: str) -> ResponseReturnValue:
    """Show the form for the name of a passkey, in a dialog or, without JavaScript, a page."""
    row = own_passkey(_user(), identifier)
    return _edit_dialog(row, row.name)


@bp.post("/profile/passkeys/<identifier>")
@login_required
@limiter.limit("30/minute")
def rename_passkey(identifier: str) -> ResponseReturnValue:
    """Rename one of the user's passkeys."""
    name = request.form.get("name", "")
    try:
        former, row = passkeys.rename_passkey(_user(), identifier, name)
    except Invalid as error:
        db.session.rollback()
        return _edit_dialog(own_passkey(_user(), identifier), name, error.fields["name"], error.status)
    if former != row.name:
        audit("passkey.renamed", _user().id, user=_user(), before={"name": former}, after={"name": row.name})
    db.session.commit()
    toast("Saved.")
    return _back()


@bp.get("/profile/passkeys/<identifier>/removal")
@login_required
def ask_passkey_removal(identifier: str) -> ResponseReturnValue:
    """Ask to remove a passkey, in a dialog or, without JavaScript, a page."""
    row = own_passkey(_user(), identifier)
    return render("accounts/remove_passkey.html", partial="accounts/_remove_passkey.html", passkey=row)


@bp.post("/profile/passkeys/<identifier>/removal")
@login_required
@limiter.limit("30/minute")
def remove_passkey(identifier: str) -> ResponseReturnValue:
    """Remove one of the user's passkeys."""
    row = passkeys.remove_passkey(_user(), identifier, by=_current())
    audit("passkey.removed", _user().id, user=_user(), before={"id": row.id, "name": row.name})
    _notify(_user(), "removed", row.name)
    db.session.commit()
    toast(f"Passkey “{row.name}” removed. Delete it on your device too.")
    return _back()


def _notify(user: User, what: str, name: str) -> None:
    values = {"what": what, "name": name, "at": moment_text(now()), "address": request.remote_addr}
    mail.send(settings(), mail.composed(user.email, "passkey_notice", values))


def _form(
    name: str, *, error: str | None = None, errors: dict[str, str] | None = None, status: int = 200
) -> ResponseReturnValue:
    return render(
        "accounts/new_passkey.html",
        name=name[:NAME_LENGTH],
        name_length=NAME_LENGTH,
        recent=signed_in_recently(_current(), now()),
        available=party() is not None,
        error=error,
        errors=errors or {},
        status=status,
    )


def _edit_dialog(row: Passkey, name: str, error: str | None = None, status: int = 200) -> ResponseReturnValue:
    return render(
        "accounts/edit_passkey.html",
        partial="accounts/_edit_passkey.html",
        passkey=row,
        name=name,
        name_length=NAME_LENGTH,
        error=error,
        status=status,
    )
