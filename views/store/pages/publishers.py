"""Publisher pages: list, create (three steps), edit, transfer, and the public page."""

from dataclasses import dataclass, replace
from typing import Any, cast

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage, MultiDict

from models.accounts import User
from models.core.db import db
from models.core.errors import Conflict, DomainError, Invalid
from models.core.files import files
from models.store import Publisher, publishers
from models.store.catalogue import pictures
from models.store.publishers import PublisherProfile
from models.store.publishing import takedowns
from models.store.statistics import agent_costs
from views.store.pages import previews
from views.store.pages.limits import count_change
from views.web.guards import audit, caller_address, cookie_user, limiter, login_required, settings
from views.web.htmx import render, see_other, toast, wants_fragment

bp = Blueprint("publishers", __name__)

STEPS = ("Owner", "Name", "Picture and bio")
OWNER, IDENTITY, PROFILE = 1, 2, 3
FIELDS = ("org", "publisher", "name", "email", "bio", "avatar_url")
LABELS = {
    "org": "Owner",
    "publisher": "Publisher id",
    "name": "Name",
    "email": "E-mail",
    "bio": "Bio",
    "avatar": "Picture",
}


@dataclass(frozen=True)
class PublisherDraft:
    """The values entered so far. `org` is an organisation's id, empty for the user; `avatar_url` is an uploaded picture."""

    org: str = ""
    publisher: str = ""
    name: str = ""
    email: str = ""
    bio: str = ""
    avatar_url: str = ""

    @classmethod
    def read(cls, values: MultiDict[str, str]) -> "PublisherDraft":
        """Read a draft from a form or query string. Only a picture stored on this server is accepted."""
        draft = cls(**{name: values.get(name, "").strip() for name in FIELDS})
        own = pictures.ADDRESS.fullmatch(draft.avatar_url)
        return replace(draft, avatar_url=draft.avatar_url if own else "")

    def address(self, step: int) -> str:
        """URL of an earlier step, with the values of the first two."""
        entered: dict[str, Any] = {
            "org": self.org,
            "publisher": self.publisher,
            "name": self.name,
            "step": step,
        }
        return url_for("publishers.new", **{name: value for name, value in entered.items() if value})


# -- list ----------------------------------------------------------------------------------------------------


@bp.get("/publishers")
@login_required
def mine() -> ResponseReturnValue:
    """List the publishers that the user can manage."""
    return render("store/publishers.html", rows=publishers.managed(_user()))


# -- create --------------------------------------------------------------------------------------------------


@bp.get("/publishers/new")
@login_required
@limiter.limit("240/minute", key_func=lambda: _caller())
def new() -> ResponseReturnValue:
    """Show the requested step, or the first one with errors. htmx receives only the check of the id."""
    draft = PublisherDraft.read(request.args)
    if wants_fragment():
        problem = publishers.id_problem(draft.publisher) if draft.publisher else None
        return render("store/_id_check.html", partial="store/_id_check.html", draft=draft, problem=problem)
    step = {"2": IDENTITY, "3": PROFILE}.get(request.args.get("step", ""), OWNER)
    errors = _owner_errors(draft) if step > OWNER else {}
    if step > IDENTITY:
        errors |= _identity_errors(draft)
    if errors:
        step = OWNER if "org" in errors else IDENTITY
    return _form(draft, step, errors)


@bp.post("/publishers/new")
@login_required
@limiter.limit("30/minute;200/day", key_func=lambda: _caller())
def create() -> ResponseReturnValue:
    """Create the publisher, or show the form with all errors."""
    draft = PublisherDraft.read(request.form)
    errors = _owner_errors(draft) | _identity_errors(draft)
    address, refused = _uploaded(request.files.get("avatar"), draft.avatar_url)
    draft = replace(draft, avatar_url=address or "")
    profile, wrong = _checked(draft.name, draft.email, draft.bio, draft.avatar_url)
    errors = {**wrong, **errors, **refused}
    if profile is not None and not errors:
        try:
            count_change(_user())
            publisher = publishers.create(
                _user(),
                draft.publisher,
                profile,
                draft.org or None,
                limit=settings().stoa_publishers_per_account,
            )
        except Invalid as error:  # the id was taken since it was checked
            db.session.rollback()
            return _form(draft, PROFILE, {"publisher": error.message})
        audit(
            "publisher.created",
            publisher.id,
            user=_user(),
            after=publishers.audit_fields(publisher),
            org_id=publisher.org_id,
        )
        db.session.commit()
        toast(f"@{publisher.id} created. Publish its first agent.")
        return see_other(url_for("publishers.page", publisher_id=publisher.id))
    return _form(draft, PROFILE, errors)


def _form(draft: PublisherDraft, step: int, errors: dict[str, str]) -> ResponseReturnValue:
    return render(
        "store/publisher_new.html",
        draft=draft,
        step=step,
        steps=STEPS,
        errors=errors,
        summary=_summary(errors),
        organisations=publishers.organisations(_user()),
        status=422 if errors else 200,
    )


def _owner_errors(draft: PublisherDraft) -> dict[str, str]:
    known = {"", *(org.id for org in publishers.organisations(_user()))}
    return {} if draft.org in known else {"org": "Choose yourself or an organisation that you administer."}


def _identity_errors(draft: PublisherDraft) -> dict[str, str]:
    found = {
        "publisher": publishers.id_problem(draft.publisher) if draft.publisher else "Enter an id.",
        "name": publishers.name_problem(publishers.clean_line(draft.name) or ""),
    }
    return {field: problem for field, problem in found.items() if problem}


# -- edit ----------------------------------------------------------------------------------------------------


@bp.get("/publishers/<publisher_id>/edit")
@login_required
def edit(publisher_id: str) -> ResponseReturnValue:
    """Show the forms for profile and owner."""
    publisher = publishers.accessible(_user(), publisher_id)
    return _edit_page(publisher, profile=_profile(publisher))


@bp.post("/publishers/<publisher_id>/edit")
@login_required
@limiter.limit("60/minute", key_func=lambda: _caller())
def save(publisher_id: str) -> ResponseReturnValue:
    """Save the profile. A new picture replaces the old one."""
    publishers.accessible(_user(), publisher_id)
    address, errors = _uploaded(request.files.get("avatar"))
    count_change(_user())
    publisher = publishers.accessible(_user(), publisher_id, lock=True)
    current = None if "no_avatar" in request.form else publisher.avatar_url
    name, email, bio = (request.form.get(field, "") for field in ("name", "email", "bio"))
    profile, wrong = _checked(name, email, bio, address or current, publisher)
    if profile is None or errors:
        db.session.rollback()
        return _edit_page(
            publisher, profile=PublisherProfile(name, email, bio, current), errors={**wrong, **errors}
        )
    before = publishers.audit_fields(publisher)
    publishers.edit(publisher, profile)
    after = publishers.audit_fields(publisher)
    if after != before:
        audit(
            "publisher.edited",
            publisher.id,
            user=_user(),
            before=before,
            after=after,
            org_id=publisher.org_id,
        )
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("publishers.edit", publisher_id=publisher.id))


def _edit_page(
    publisher: Publisher, *, profile: PublisherProfile, errors: dict[str, str] | None = None
) -> ResponseReturnValue:
    return render(
        "store/publisher_edit.html",
        publisher=publisher,
        profile=profile,
        errors=errors or {},
        summary=_summary(errors or {}),
        owner=publishers.owner(publisher),
        down=takedowns.find(publisher.id),
        choices=[(org.id, org.name) for org in publishers.organisations(_user())],
        status=422 if errors else 200,
    )


@bp.get("/publishers/<publisher_id>/owner")
@login_required
def ask_release(publisher_id: str) -> ResponseReturnValue:
    """Ask to remove the publisher from its organisation, in a dialog or on its own page."""
    publisher = publishers.accessible(_user(), publisher_id)
    if publisher.org_id is None:
        raise Conflict("This publisher does not belong to an organisation.")
    return render(
        "store/publisher_release.html",
        partial="store/_publisher_release.html",
        publisher=publisher,
        owner=publishers.owner(publisher),
        down=takedowns.find(publisher.id),
        creator=publishers.creator(publisher),
    )


@bp.post("/publishers/<publisher_id>/owner")
@login_required
@limiter.limit("60/minute", key_func=lambda: _caller())
def transfer(publisher_id: str) -> ResponseReturnValue:
    """Transfer the publisher to the given organisation, or without one back to its creator."""
    user, org_id = _user(), publishers.clean_line(request.form.get("org"))
    count_change(user)
    before = publishers.audit_fields(publishers.accessible(user, publisher_id, lock=True))
    if org_id:
        publisher = publishers.link(user, publisher_id, org_id)
    else:
        publisher = publishers.unlink(user, publisher_id)
    audit(
        "publisher.linked" if org_id else "publisher.unlinked",
        publisher.id,
        user=user,
        before={name: before[name] for name in ("user_id", "org_id")},
        after={"user_id": publisher.user_id, "org_id": publisher.org_id},
        org_id=publisher.org_id or str(before["org_id"]),
    )
    db.session.commit()
    toast(f"@{publisher.id} now belongs to {publishers.owner(publisher)}.")
    still = publisher.org_id is not None or publisher.user_id == user.id
    return see_other(
        url_for("publishers.edit", publisher_id=publisher.id) if still else url_for("publishers.mine")
    )


# -- public --------------------------------------------------------------------------------------------------


@bp.get("/publishers/<publisher_id>")
def page(publisher_id: str) -> ResponseReturnValue:
    """Show the publisher with its totals and agents. `?after=` is the id of the last agent of the previous page."""
    publisher = publishers.visible(publisher_id)
    agents, after = publishers.agents(publisher.id, request.args.get("after"))
    return render(
        "store/publisher.html",
        partial="store/_publisher_agents.html",
        publisher=publisher,
        agents=agents,
        after=after,
        mail_to=publishers.mail_to(publisher),
        costs=agent_costs.of_agents(publisher.id, agents),
        totals=publishers.totals(publisher.id) if not wants_fragment() else None,
        mine=publishers.can_manage(cookie_user(), publisher),
        card_digest=previews.digest(*_card(publisher)),
    )


@bp.get("/publishers/<publisher_id>/card.png")
@limiter.limit("120/minute")
def card(publisher_id: str) -> ResponseReturnValue:
    """The preview image (OpenGraph) of a publisher without a picture."""
    publisher = publishers.visible(publisher_id)
    shown = _card(publisher)
    db.session.rollback()
    return previews.answer(previews.card(*shown, fallback=f"@{publisher_id}"), previews.digest(*shown))


def _card(publisher: Publisher) -> tuple[str, str, str, str]:
    over = "Verified publisher" if publisher.verified else "Publisher"
    return over, publisher.name, publisher.bio or "", f"@{publisher.id}"


# -- shared --------------------------------------------------------------------------------------------------


def _user() -> User:
    return cast(User, cookie_user())


def _caller() -> str:
    user = cookie_user()
    return user.id if user else caller_address()


def _profile(publisher: Publisher) -> PublisherProfile:
    return PublisherProfile(publisher.name, publisher.email, publisher.bio, publisher.avatar_url)


def _checked(
    name: str, email: str, bio: str, avatar_url: str | None, current: Publisher | None = None
) -> tuple[PublisherProfile | None, dict[str, str]]:
    """Validate the fields: the profile, or the error of each field. An avatar that cannot be shown is dropped; the
    e-mail address of `current` is accepted unchanged."""
    shown = avatar_url if publishers.usable_avatar(avatar_url or "") else None
    try:
        return publishers.profile(name, email, bio, shown, current=current), {}
    except Invalid as error:
        return None, error.fields


def _summary(errors: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(field, label, errors[field]) for field, label in LABELS.items() if field in errors]


def _uploaded(file: FileStorage | None, earlier: str = "") -> tuple[str | None, dict[str, str]]:
    """Store the uploaded picture, or look up the one of an earlier attempt: its address, and errors. Ends the
    transaction."""
    if not earlier and (file is None or not file.filename):
        return None, {}
    db.session.commit()  # release the connection while the picture is decoded and stored
    try:
        if file is not None and file.filename:
            return pictures.store(files(settings()), file.stream.read(pictures.MAX_BYTES + 1)), {}
        if pictures.read(files(settings()), earlier.rpartition("/")[2]) is None:
            return None, {"avatar": "The uploaded picture has expired. Choose it again."}
    except DomainError as error:
        return earlier or None, {"avatar": error.message}
    return earlier, {}
