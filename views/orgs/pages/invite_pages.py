"""Pages of invitations: an organisation's list, inviting one or many, and answering an invitation."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.orgs import SsoRequired, invite_answers, invite_listing, invites, membership
from models.orgs.invite_lists import MAX_LINES, read_list
from models.orgs.invite_mails import invite_url, person_name
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import cookie_user, limiter, login_required
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import check_sign_on, current_org, org_page, signed_in, sso_required

MAX_LIST = 100_000
"""Characters of a list; 500 lines need a third."""
ROLE_NAMES = [(role, role.capitalize()) for role in invites.INVITED_ROLES]


@bp.get("/orgs/<slug>/invites")
@org_page()
def invite_list() -> ResponseReturnValue:
    """List the organisation's invitations with their timelines: open ones, or all."""
    return render("orgs/invites.html", partial="orgs/_invites.html", **listed_invites())


def listed_invites() -> dict[str, Any]:
    """Values of `orgs/_invites.html` for the current organisation, by the query parameters `show` and `before`."""
    everything = request.args.get("show") == "all"
    page = invite_listing.invite_page(current_org().id, all=everything, before=cursor())
    last = page.rows[-1].invite if page.more else None
    return {
        "invites": page.rows,
        "all_invites": everything,
        "invites_before": cursor_text(last.created_at, last.id) if last else None,
        "now": now(),
    }


@bp.get("/orgs/<slug>/invites/new")
@org_page("manage_members")
def new_invites() -> ResponseReturnValue:
    """Forms to invite one person, or a list."""
    return _new_page()


@bp.post("/orgs/<slug>/invites/new")
@org_page("manage_members")
@limiter.limit("60/minute")
def send_invites() -> ResponseReturnValue:
    """Invite one person (`email`) or a list (`addresses`, `file`), and show what became of each line, with the links.

    The links are shown only here, so the result is the answer itself; sent again, it says that all are invited already."""
    single, role = "email" in request.form, request.form.get("role", "")
    text = request.form.get("email", "")[:320] if single else _list_text()
    try:
        results = invites.invite_many(current_org(), read_list(text), role, signed_in(), now())
    except Invalid as error:
        errors = error.fields
        if single and "addresses" in errors:
            errors = {"email": "Enter an address like name@example.org."}
        return _new_page(text, role, single=single, errors=errors, status=422)
    if single and results[0].outcome != "invited":
        return _new_page(text, role, single=True, errors={"email": PROBLEMS[results[0].outcome]}, status=422)
    db.session.commit()
    response = render(
        "orgs/invites_sent.html", results=results, problems=PROBLEMS, invite_url=invite_url, role=role
    )
    response.headers["Cache-Control"] = "no-store"
    return response


PROBLEMS = {
    "member": "Already a member.",
    "pending": "Invited already. Send it again from the list.",
    "invalid": "Not an e-mail address.",
    "role": "This role is not invited. Make a member an owner instead.",
    "limit": "Not sent: too many e-mails in the last 24 hours, to this address or of this organisation.",
}


@bp.post("/orgs/<slug>/invites/<invite_id>/messages")
@org_page("manage_members")
@limiter.limit("60/minute")
def resend_invite(invite_id: str) -> ResponseReturnValue:
    """Send an open invitation again, with a new link."""
    row = invite_listing.owned_invite(current_org().id, invite_id)
    try:
        invites.resend(current_org(), row.email, signed_in(), now())
    except DomainError as error:
        if error.status != 429:
            raise
        toast(error.message, "bad")
        return see_other(_list_address())
    db.session.commit()
    toast(f"Sent again to {row.email}. The earlier link no longer works.")
    return see_other(_list_address())


@bp.post("/orgs/<slug>/invites/<invite_id>/withdrawal")
@org_page("manage_members")
@limiter.limit("60/minute")
def withdraw_invite(invite_id: str) -> ResponseReturnValue:
    """Withdraw an open invitation."""
    row = invite_listing.owned_invite(current_org().id, invite_id)
    if invites.withdraw(current_org(), row.email, now()):
        toast(f"Invitation of {row.email} withdrawn.")
    db.session.commit()
    return see_other(_list_address())


# -- answering -----------------------------------------------------------------------------------------------


@bp.get("/invites/<token>")
@limiter.limit("60/minute")
def invite(token: str) -> ResponseReturnValue:
    """Show an invitation: who invites whom to what, and how to go on."""
    found, user = invite_answers.find(token), cookie_user()
    if found and found[0].state(now()) == "open" and not (user and membership(user.id, found[1].id)):
        invite_answers.note_opened(found[0], now())
        db.session.commit()
    return _invite_page(token)


@bp.post("/invites/<token>/acceptance")
@login_required
@limiter.limit("60/minute")
def accept_invite(token: str) -> ResponseReturnValue:
    """Join the organisation."""
    found = invite_answers.find(token)
    try:
        if found:
            check_sign_on(found[1])
        org, _ = invite_answers.accept(token, signed_in(), now())
    except SsoRequired as required:
        return sso_required(required.org, back=url_for("orgs.invite", token=token))
    except DomainError as error:
        db.session.rollback()
        return _invite_page(token, error)
    db.session.commit()
    toast(f"Welcome to {org.name}.")
    return see_other(url_for("orgs.overview", slug=org.slug))


@bp.post("/invites/<token>/refusal")
@limiter.limit("60/minute")
def decline_invite(token: str) -> ResponseReturnValue:
    """Decline the invitation; needs no account."""
    try:
        invite_answers.decline(token, now())
    except DomainError as error:
        db.session.rollback()
        return _invite_page(token, error)
    db.session.commit()
    return see_other(url_for("orgs.invite", token=token))


def _invite_page(token: str, error: DomainError | None = None) -> ResponseReturnValue:
    found, user = invite_answers.find(token), cookie_user()
    row, org = found or (None, None)
    state = row.state(now()) if row else "unknown"
    status = error.status if error else {"open": 200, "unknown": 404, "declined": 200}.get(state, 410)
    response = render(
        "orgs/invite.html",
        invite=row,
        org=org,
        state=state,
        token=token,
        inviter=person_name(invite_answers.sender_of(row)) if row else None,
        mine=bool(row and user and invite_answers.names(row, user)),
        verified=bool(user and user.email_verified),
        member=bool(org and user and membership(user.id, org.id)),
        status=status,
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


def _list_text() -> str:
    upload = request.files.get("file")
    text = upload.read(MAX_LIST).decode("utf-8", "replace") if upload else ""
    return f"{request.form.get('addresses', '')[:MAX_LIST]}\n{text}".replace("\0", "").strip()


def _new_page(
    text: str = "",
    role: str = "member",
    *,
    single: bool = True,
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> ResponseReturnValue:
    return render(
        "orgs/new_invites.html",
        email=text if single else request.args.get("email", ""),
        addresses="" if single else text,
        role=role,
        single=single,
        errors=errors or {},
        roles=ROLE_NAMES,
        max_lines=MAX_LINES,
        status=status,
    )


def _list_address() -> str:
    return url_for("orgs.invite_list")
