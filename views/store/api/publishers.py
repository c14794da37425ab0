"""JSON API of publishers: list, create, validate an id, edit, link to an organisation, avatars (contract 2.7, 2.9)."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Annotated, Any, Concatenate, Literal, ParamSpec

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts import User
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.core.files import files
from models.store import Publisher, publishers
from models.store.catalogue import pictures
from views.store.pages.limits import count_change
from views.web import error_bodies
from views.web.body import BadJson, Missing, read_json
from views.web.error_bodies import ApiBodyError, ApiError, door
from views.web.format import iso
from views.web.guards import audit, caller_account, limiter, require_cookie_user, settings
from views.web.operation import Answers, Operation, ResponseModel, query

bp = Blueprint("publishers_api", __name__)

P = ParamSpec("P")
TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
TEXTS = ("name", "email", "bio", "avatar_url")
COLUMNS = ("id", "name", "email", "verified", "bio", "avatar_url", "user_id", "org_id", "created_by")


def created(answer: Response) -> bool:
    """Whether the request created something. Rejected requests do not count towards the limit."""
    return answer.status_code == 201


def signed_in(
    view: Callable[Concatenate[User, P], ResponseReturnValue],
) -> Callable[P, ResponseReturnValue]:
    """Pass the session's user to the view. Raises DomainError (401) without one."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return view(require_cookie_user(), *args, **kwargs)

    return guarded


Email = Annotated[str, Field(description="Shown on the public page", max_length=254)] | None
Bio = Annotated[str, Field(description="Plain text", max_length=1000)] | None
AvatarUrl = (
    Annotated[str, Field(description="An https:// URL, or one returned by POST /api/upload/avatar")] | None
)
PublisherName = Annotated[str, Field(description="2 to 50 characters", min_length=2, max_length=50)]


class PublisherBody(BaseModel):
    """A value that is not a string counts as absent."""

    id: str = Field(description="3 to 30 characters: a-z, 0-9 and hyphens, not at the ends")
    name: PublisherName
    email: Email = None
    bio: Bio = None
    avatar_url: AvatarUrl = None
    org_id: Missing[str] = Field(None, description="The organisation that owns it; you by default")


class PublisherEdit(BaseModel):
    name: Missing[PublisherName] = None
    email: Email = None
    bio: Bio = None
    avatar_url: AvatarUrl = None


class PublisherOwner(BaseModel):
    org_id: str = Field(description="An organisation that you own or administer")


class AvatarForm(BaseModel):
    avatar: bytes = Field(description="A still JPEG, PNG or WebP, at most 5 MB")


class PublisherRow(ResponseModel):
    id: str
    name: str
    email: Email
    verified: bool = Field(description="Set by the operator of this server")
    bio: Bio
    avatar_url: AvatarUrl
    user_id: str | None = Field(description="Its owner; null if an organisation owns it")
    org_id: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    ownershipType: Literal["user", "organization"]


class CountedPublisher(PublisherRow):
    agentCount: int
    organizationName: Missing[str] = None


class PublisherIdCheck(ResponseModel):
    valid: bool
    error: str | None


class KeptAvatar(ResponseModel):
    avatar_url: str


DOOR = door(body_error=ApiError)
ACCESS: Answers = {
    403: "You are neither owner nor admin of its organisation",
    404: "Publisher not found, or not yours",
    429: "Too many changes today",
}


def _create_error(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, BadJson):
        # the contract answers invalid JSON with 500
        return jsonify(error="Internal server error"), 500
    return error_bodies.format_error(error)


def _edit_error(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error=error_bodies.BAD_BODY), 400
        case Invalid(fields=fields) if fields:
            return jsonify(error=error.message, details=fields), 400
    return error_bodies.format_error(error)


@bp.get("/api/publishers")
@Operation(
    tag="Publishers", caller="cookie", answers={200: ("The publishers", list[CountedPublisher])}, door=DOOR
)
@signed_in
def list_publishers(user: User) -> ResponseReturnValue:
    """List your publishers.

    Your own, and those of organisations that you own or administer.
    """
    rows = publishers.managed(user)
    return jsonify([publisher_row(row.publisher, row.agents, row.organisation) for row in rows])


@bp.post("/api/publishers")
@limiter.limit("120/minute;1000/day", key_func=caller_account, deduct_when=created)
@limiter.limit("600/minute", key_func=caller_account)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherBody,
    answers={
        201: ("The publisher", CountedPublisher),
        400: "An invalid id or name, or an id that is taken",
        403: "You are neither owner nor admin of the organisation",
        404: "Organisation not found, or not yours",
        409: "The account has reached its limit of publishers",
        429: "Too many changes today",
        500: "The body is not JSON",
    },
    door=door(_create_error, body_error=ApiError),
)
@signed_in
def create(user: User) -> ResponseReturnValue:
    """Create a publisher.

    The avatar_url is stored as given; pages show it if it is an https:// URL or an uploaded picture.
    """
    # the contract fixes the order of these checks
    body = _texts("id", "org_id", *TEXTS)
    problem = publishers.id_format_problem(body["id"] or "")
    if problem:
        raise Invalid(problem, status=400)
    profile = publishers.lenient_profile(body["name"] or "", body["email"], body["bio"], body["avatar_url"])
    count_change(user)
    publisher = publishers.create(
        user,
        body["id"] or "",
        profile,
        publishers.clean_line(body["org_id"]),
        limit=settings().stoa_publishers_per_account,
    )
    audit(
        "publisher.created",
        publisher.id,
        user=user,
        after=publishers.audit_fields(publisher),
        org_id=publisher.org_id,
    )
    db.session.commit()
    return jsonify(publisher_row(publisher, 0)), 201


@bp.get("/api/publishers/validate")
@limiter.limit("600/minute")
@Operation(
    tag="Publishers",
    parameters=[query("id", "The id", required=True)],
    answers={200: ("Whether it is available", PublisherIdCheck), 400: ("No id given", PublisherIdCheck)},
    door=DOOR,
)
def validate() -> ResponseReturnValue:
    """Check whether an id is available."""
    publisher_id = request.args.get("id", "")
    if not publisher_id:
        return jsonify(valid=False, error="Publisher ID is required"), 400
    problem = publishers.id_problem(publisher_id)
    return jsonify(valid=problem is None, error=problem)


@bp.patch("/api/publishers/<publisher_id>")
@limiter.limit("60/minute", key_func=caller_account)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherEdit,
    answers={
        200: ("The publisher", CountedPublisher),
        **ACCESS,
        400: ("An invalid value; details by key", ApiBodyError),
    },
    door=door(_edit_error),
)
@signed_in
def edit(user: User, publisher_id: str) -> ResponseReturnValue:
    """Edit a publisher.

    Absent keys stay unchanged; null clears a value.
    """
    count_change(user)
    publisher = publishers.accessible(user, publisher_id, lock=True)
    value = read_json(allow_nul=True)
    wrong = (
        [key for key in TEXTS if key in value and not isinstance(value[key], str | None)]
        if isinstance(value, dict)
        else ["body"]
    )
    if wrong:
        raise DomainError(f"Expected a string or null for: {', '.join(wrong)}")
    before = publishers.audit_fields(publisher)
    texts = {key: value[key] if key in value else getattr(publisher, key) for key in TEXTS}
    profile = publishers.profile(**{**texts, "name": texts["name"] or ""}, current=publisher)
    publishers.edit(publisher, profile)
    after = publishers.audit_fields(publisher)
    if after != before:
        audit(
            "publisher.edited", publisher.id, user=user, before=before, after=after, org_id=publisher.org_id
        )
    db.session.commit()
    return jsonify(publisher_row(publisher, publishers.count_agents(publisher.id)))


@bp.post("/api/publishers/<publisher_id>/organization")
@limiter.limit("60/minute", key_func=caller_account)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherOwner,
    answers={
        200: ("The publisher", PublisherRow),
        **ACCESS,
        400: "No organisation given, or already linked to one",
    },
    door=DOOR,
)
@signed_in
def link(user: User, publisher_id: str) -> ResponseReturnValue:
    """Link a publisher to an organisation."""
    try:
        org_id = _texts("org_id")["org_id"]
    except BadJson:
        org_id = None
    if not publishers.clean_line(org_id):
        raise DomainError("Organization ID is required")
    count_change(user)
    publisher = publishers.link(user, publisher_id, str(publishers.clean_line(org_id)))
    audit(
        "publisher.linked",
        publisher.id,
        user=user,
        before={"user_id": user.id},
        after={"org_id": publisher.org_id},
        org_id=publisher.org_id,
    )
    db.session.commit()
    return jsonify(_owned(publisher))


@bp.delete("/api/publishers/<publisher_id>/organization")
@limiter.limit("60/minute", key_func=caller_account)
@Operation(
    tag="Publishers",
    caller="cookie",
    answers={200: ("The publisher", PublisherRow), **ACCESS, 400: "Not linked to an organisation"},
    door=DOOR,
)
@signed_in
def unlink(user: User, publisher_id: str) -> ResponseReturnValue:
    """Unlink a publisher from its organisation.

    Its creator owns it again.
    """
    count_change(user)
    before = publishers.accessible(user, publisher_id, lock=True).org_id
    publisher = publishers.unlink(user, publisher_id)
    audit(
        "publisher.unlinked",
        publisher.id,
        user=user,
        before={"org_id": before},
        after={"user_id": publisher.user_id},
        org_id=before,
    )
    db.session.commit()
    return jsonify(_owned(publisher))


@bp.post("/api/upload/avatar")
@limiter.limit("60/minute;500/day", key_func=caller_account)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=AvatarForm,
    body_kind="multipart/form-data",
    answers={
        200: ("Its URL", KeptAvatar),
        400: "No file, an unsupported type, more than 5 MB, or not a valid still picture",
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
@signed_in
def upload_avatar(user: User) -> ResponseReturnValue:
    """Upload an avatar.

    Re-encoded as a WebP of 512 x 512 pixels without metadata, and stored under its SHA-256.
    """
    try:
        file = request.files.get("avatar")
    except RequestEntityTooLarge:
        raise DomainError(pictures.TOO_LARGE) from None
    if file is None or not file.filename:
        raise DomainError("No file provided")
    if file.mimetype not in TYPES:
        raise DomainError("Invalid file type. Only JPEG, PNG, and WebP are allowed.")
    db.session.commit()  # release the connection while the picture is decoded and stored
    address = pictures.store(files(settings()), file.stream.read(pictures.MAX_BYTES + 1))
    return jsonify(avatar_url=address)


def _texts(*names: str) -> dict[str, str | None]:
    """The string values of these keys, None for others or if the body is not an object. Raises BadJson."""
    value = read_json(allow_nul=True)
    given = value if isinstance(value, dict) else {}
    return {name: given[name] if isinstance(given.get(name), str) else None for name in names}


def _owned(publisher: Publisher) -> dict[str, Any]:
    columns = {name: getattr(publisher, name) for name in COLUMNS}
    moments = {"created_at": iso(publisher.created_at), "updated_at": iso(publisher.updated_at)}
    return {**columns, **moments, "ownershipType": "organization" if publisher.org_id else "user"}


def publisher_row(publisher: Publisher, agents: int, organisation: str | None = None) -> dict[str, Any]:
    """A `CountedPublisher` of the contract."""
    names = {"organizationName": organisation} if organisation else {}
    return {**_owned(publisher), "agentCount": agents, **names}
