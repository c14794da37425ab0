"""JSON of publishers: list, make, check an id, edit, link to an organisation, and avatars (contract 2.7 and 2.9)."""

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
from views.web.guards import audit, caller_address, cookie_user, limiter, settings
from views.web.operation import Answers, Operation, ResponseModel, query

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
    """Hand the user of the cookie to the view. Raises DomainError without one: 401."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        user = cookie_user()
        if user is None:
            raise DomainError("Unauthorized", status=401)
        return view(user, *args, **kwargs)

    return guarded


Email = Annotated[str, Field(description="Shown on its page", max_length=254)] | None
Bio = Annotated[str, Field(description="Plain text", max_length=1000)] | None
AvatarUrl = (
    Annotated[str, Field(description="An https:// address, or what POST /api/upload/avatar answered")] | None
)
PublisherName = Annotated[str, Field(description="2 to 50 characters", min_length=2, max_length=50)]


class PublisherBody(BaseModel):
    """What can be made of it is read by hand: what is no text counts as left out."""

    id: str = Field(description="3 to 30 of a-z, 0-9 and hyphens, none at the ends")
    name: PublisherName
    email: Email = None
    bio: Bio = None
    avatar_url: AvatarUrl = None
    org_id: Missing[str] = Field(None, description="The organisation that shall own it; else you do")


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
    verified: bool = Field(description="Set by the operators of this server")
    bio: Bio
    avatar_url: AvatarUrl
    user_id: str | None = Field(description="Its owner; null when an organisation owns it")
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
    403: "A plain member of its organisation",
    404: "No such publisher, or somebody else's",
    429: "Too many changes today",
}


def _words_of_creating(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, BadJson):
        # the contract's answer to what is no JSON
        return jsonify(error="Internal server error"), 500
    return error_bodies.format_error(error)


def _words_of_editing(error: Exception) -> ResponseReturnValue | None:
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
    """The publishers I may change.

    My own, and those of organisations that I own or administer.
    """
    rows = publishers.managed(user)
    return jsonify([_row(row.publisher, row.agents, row.organisation) for row in rows])


@bp.post("/api/publishers")
@limiter.limit("120/minute;1000/day", key_func=caller, deduct_when=made)
@limiter.limit("600/minute", key_func=caller)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherBody,
    answers={
        201: ("The publisher", CountedPublisher),
        400: "An id or name against the rules, or an id that is taken",
        403: "A plain member of the organisation",
        404: "No such organisation, or not yours",
        409: "The account has all the publishers it may have",
        429: "Too many changes today",
        500: "The body is no JSON",
    },
    door=door(_words_of_creating, body_error=ApiError),
)
@signed_in
def create(user: User) -> ResponseReturnValue:
    """Make a publisher.

    An avatar_url is kept as it comes; pages show it when it is an https:// address, or a picture kept here.
    """
    # the order of the checks is the contract's
    body = _texts("id", "org_id", *TEXTS)
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
@Operation(
    tag="Publishers",
    parameters=[query("id", "The id", required=True)],
    answers={200: ("Whether, and if not, why", PublisherIdCheck), 400: ("No id given", PublisherIdCheck)},
    door=DOOR,
)
def validate() -> ResponseReturnValue:
    """Whether an id can be taken."""
    wanted = request.args.get("id", "")
    if not wanted:
        return jsonify(valid=False, error="Publisher ID is required"), 400
    problem = publishers.id_problem(wanted)
    return jsonify(valid=problem is None, error=problem)


@bp.patch("/api/publishers/<publisher_id>")
@limiter.limit("60/minute", key_func=caller)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherEdit,
    answers={
        200: ("The publisher", CountedPublisher),
        **ACCESS,
        400: ("A value that cannot be used; details by key", ApiBodyError),
    },
    door=door(_words_of_editing),
)
@signed_in
def edit(user: User, publisher_id: str) -> ResponseReturnValue:
    """Edit a publisher.

    Keys that are left out stay as they are; null empties.
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
        raise DomainError(f"Give text or null for: {', '.join(wrong)}")
    before = publishers.facts(publisher)
    texts = {key: value[key] if key in value else getattr(publisher, key) for key in TEXTS}
    said = publishers.profile(**{**texts, "name": texts["name"] or ""}, standing=publisher)
    publishers.edit(publisher, said)
    after = publishers.facts(publisher)
    if after != before:
        audit("publisher.edited", publisher.id, user=user, before=before, after=after)
    db.session.commit()
    return jsonify(_row(publisher, publishers.count_agents(publisher.id)))


@bp.post("/api/publishers/<publisher_id>/organization")
@limiter.limit("60/minute", key_func=caller)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=PublisherOwner,
    answers={
        200: ("The publisher", PublisherRow),
        **ACCESS,
        400: "No organisation named, or it belongs to one already",
    },
    door=DOOR,
)
@signed_in
def link(user: User, publisher_id: str) -> ResponseReturnValue:
    """Give a publisher to an organisation."""
    try:
        org_id = _texts("org_id")["org_id"]
    except BadJson:
        org_id = None
    if not publishers.line(org_id):
        raise DomainError("Organization ID is required")
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
@Operation(
    tag="Publishers",
    caller="cookie",
    answers={200: ("The publisher", PublisherRow), **ACCESS, 400: "It belongs to no organisation"},
    door=DOOR,
)
@signed_in
def unlink(user: User, publisher_id: str) -> ResponseReturnValue:
    """Take a publisher out of its organisation.

    It belongs to who created it again.
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
    )
    db.session.commit()
    return jsonify(_owned(publisher))


@bp.post("/api/upload/avatar")
@limiter.limit("60/minute;500/day", key_func=caller)
@Operation(
    tag="Publishers",
    caller="cookie",
    body=AvatarForm,
    body_kind="multipart/form-data",
    answers={
        200: ("Its address", KeptAvatar),
        400: "No file, another type, more than 5 MB, or no whole still picture",
        503: "The store of files does not answer",
    },
    door=DOOR,
)
@signed_in
def upload_avatar(user: User) -> ResponseReturnValue:
    """Upload an avatar.

    Redrawn as a WebP of 512 x 512 pixels without metadata, and kept under its SHA-256.
    """
    try:
        file = request.files.get("avatar")
    except RequestEntityTooLarge:
        raise DomainError(pictures.TOO_LARGE) from None
    if file is None or not file.filename:
        raise DomainError("No file provided")
    if file.mimetype not in TYPES:
        raise DomainError("Invalid file type. Only JPEG, PNG, and WebP are allowed.")
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
