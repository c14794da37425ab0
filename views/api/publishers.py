"""JSON of publishers: list, make, check an id, edit, link to an organisation, and avatars (contract 2.7 and 2.9)."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts import User
from models.accounts.bans import AccountSuspended
from models.db import db
from models.errors import DomainError, Invalid
from models.files import files
from models.store import Publisher, pictures, publishers
from views import errors
from views.api.body import BadJson, read_json
from views.api.refusals import refusal
from views.format import iso
from views.guards import audit, caller_address, cookie_user, limiter, settings
from views.store.limits import count_change

bp = Blueprint("publishers_api", __name__)

P = ParamSpec("P")
TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
TEXTS = ("name", "email", "bio", "avatar_url")
COLUMNS = ("id", "name", "email", "verified", "bio", "avatar_url", "user_id", "org_id", "created_by")


def made(answer: Response) -> bool:
    """Whether the request made something: what was refused does not use up a limit."""
    return answer.status_code == 201


def caller() -> str:
    """Whom limits count: the person, else the address."""
    user = cookie_user()
    return user.id if user else caller_address()


def signed_in(
    view: Callable[Concatenate[User, P], ResponseReturnValue],
) -> Callable[P, ResponseReturnValue]:
    """Hand the user of the cookie to the view; 401 without one. A refusal of the domain is `{"error": …}`."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        user = cookie_user()
        if user is None:
            return jsonify(error="Unauthorized"), 401
        return view(user, *args, **kwargs)

    return guarded


bp.register_error_handler(AccountSuspended, errors.suspended)


@bp.errorhandler(DomainError)
def _refused(error: DomainError) -> ResponseReturnValue:
    db.session.rollback()
    return refusal(error)


@bp.errorhandler(RateLimitExceeded)
def _too_many(error: RateLimitExceeded) -> ResponseReturnValue:
    return jsonify(error="Too many requests. Wait a minute, then try again."), 429


@bp.get("/api/publishers")
@signed_in
def list_publishers(user: User) -> ResponseReturnValue:
    """The publishers that the caller owns, or administers through an organisation."""
    rows = publishers.managed(user)
    return jsonify([_row(row.publisher, row.agents, row.organisation) for row in rows])


@bp.post("/api/publishers")
@limiter.limit("120/minute;1000/day", key_func=caller, deduct_when=made)
@limiter.limit("600/minute", key_func=caller)
@signed_in
def create(user: User) -> ResponseReturnValue:
    """Make a publisher. The order of the checks is the contract's."""
    try:
        body = _texts("id", "org_id", *TEXTS)
    except BadJson:
        # the contract's answer to what is no JSON
        return jsonify(error="Internal server error"), 500
    problem = publishers.wrong_id(body["id"] or "")
    if problem:
        raise Invalid(problem, status=400)
    said = publishers.lenient_profile(body["name"] or "", body["email"], body["bio"], body["avatar_url"])
    count_change(user)
    made = publishers.create(
        user,
        body["id"] or "",
        said,
        publishers.line(body["org_id"]),
        most=settings().stoa_publishers_per_account,
    )
    audit("publisher.created", made.id, user=user, after=publishers.facts(made))
    db.session.commit()
    return jsonify(_row(made, 0)), 201


@bp.get("/api/publishers/validate")
@limiter.limit("600/minute")
def validate() -> ResponseReturnValue:
    """Whether an id can be taken, and if not, why."""
    wanted = request.args.get("id", "")
    if not wanted:
        return jsonify(valid=False, error="Publisher ID is required"), 400
    problem = publishers.id_problem(wanted)
    return jsonify(valid=problem is None, error=problem)


@bp.patch("/api/publishers/<publisher_id>")
@limiter.limit("60/minute", key_func=caller)
@signed_in
def edit(user: User, publisher_id: str) -> ResponseReturnValue:
    """Change name, e-mail, bio or avatar; keys that are left out stay, null empties."""
    count_change(user)
    publisher = publishers.accessible(user, publisher_id, lock=True)
    try:
        value = read_json(allow_nul=True)
    except BadJson:
        return jsonify(error="Invalid request body"), 400
    wrong = (
        [key for key in TEXTS if key in value and not isinstance(value[key], str | None)]
        if isinstance(value, dict)
        else ["body"]
    )
    if wrong:
        return jsonify(error=f"Give text or null for: {', '.join(wrong)}"), 400
    before = publishers.facts(publisher)
    texts = {key: value[key] if key in value else getattr(publisher, key) for key in TEXTS}
    try:
        said = publishers.profile(**{**texts, "name": texts["name"] or ""}, standing=publisher)
    except Invalid as error:
        return jsonify(error=error.message, details=error.fields), 400
    publishers.edit(publisher, said)
    after = publishers.facts(publisher)
    if after != before:
        audit("publisher.edited", publisher.id, user=user, before=before, after=after)
    db.session.commit()
    return jsonify(_row(publisher, publishers.count_agents(publisher.id)))


@bp.post("/api/publishers/<publisher_id>/organization")
@limiter.limit("60/minute", key_func=caller)
@signed_in
def link(user: User, publisher_id: str) -> ResponseReturnValue:
    """Give a personal publisher to an organisation."""
    try:
        org_id = _texts("org_id")["org_id"]
    except BadJson:
        org_id = None
    if not publishers.line(org_id):
        return jsonify(error="Organization ID is required"), 400
    count_change(user)
    publisher = publishers.link(user, publisher_id, str(publishers.line(org_id)))
    audit(
        "publisher.linked",
        publisher.id,
        user=user,
        before={"user_id": user.id},
        after={"org_id": publisher.org_id},
    )
    db.session.commit()
    return jsonify(_owned(publisher))


@bp.delete("/api/publishers/<publisher_id>/organization")
@limiter.limit("60/minute", key_func=caller)
@signed_in
def unlink(user: User, publisher_id: str) -> ResponseReturnValue:
    """Take a publisher out of its organisation: it is again of who created it."""
    count_change(user)
    before = publishers.accessible(user, publisher_id, lock=True).org_id
    publisher = publishers.unlink(user, publisher_id)
    audit(
        "publisher.unlinked",
        publisher.id,
        user=user,
        before={"org_id": before},
        after={"user_id": publisher.user_id},
    )
    db.session.commit()
    return jsonify(_owned(publisher))


@bp.post("/api/upload/avatar")
@limiter.limit("60/minute;500/day", key_func=caller)
@signed_in
def upload_avatar(user: User) -> ResponseReturnValue:
    """Keep an avatar, redrawn; its address on this server."""
    try:
        file = request.files.get("avatar")
    except RequestEntityTooLarge:
        return jsonify(error=pictures.TOO_LARGE), 400
    if file is None or not file.filename:
        return jsonify(error="No file provided"), 400
    if file.mimetype not in TYPES:
        return jsonify(error="Invalid file type. Only JPEG, PNG, and WebP are allowed."), 400
    db.session.commit()  # gives the connection back while the picture is decoded and kept
    address = pictures.keep(files(settings()), file.stream.read(pictures.MOST_BYTES + 1))
    return jsonify(avatar_url=address)


def _texts(*names: str) -> dict[str, str | None]:
    """These keys of the body where they are text, else None; also for a body that is no object. Raises BadJson."""
    value = read_json(allow_nul=True)
    given = value if isinstance(value, dict) else {}
    return {name: given[name] if isinstance(given.get(name), str) else None for name in names}


def _owned(publisher: Publisher) -> dict[str, Any]:
    columns = {name: getattr(publisher, name) for name in COLUMNS}
    moments = {"created_at": iso(publisher.created_at), "updated_at": iso(publisher.updated_at)}
    return {**columns, **moments, "ownershipType": "organization" if publisher.org_id else "user"}


def _row(publisher: Publisher, agents: int, organisation: str | None = None) -> dict[str, Any]:
    names = {"organizationName": organisation} if organisation else {}
    return {**_owned(publisher), "agentCount": agents, **names}
