"""Publishers: validation of ids and names, access, ownership (contract 2.7, 3.9)."""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import ARRAY, Text, any_, cast, func, select, union, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import defer

from models.accounts import User, write_limits
from models.accounts.signing_in import clean_email
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from models.orgs import Org, administered_org_ids, membership, org_deleted, org_erased
from models.store.catalogue import catalogue
from models.store.catalogue.pictures import ADDRESS
from models.store.publishing import takedowns
from models.store.publishing.takedowns import covers
from models.store.tables import Agent, AgentConfig, Publisher, RemotePicture, Takedown

TAKEN = "This publisher ID is already taken"
BIO_LENGTH = 1000
EMAIL_LENGTH = 254
URL_LENGTH = 2000
RESERVED = frozenset({"new", "private"})
"""Ids that collide with a route, and with the name of runs of private assistants; they count as taken."""
PAGE_SIZE = 50
_VISIBLE = ~covers(Agent.publisher_id, Agent.id)
_TAKEN_DOWN = covers(Publisher.id, "")


@dataclass(frozen=True)
class PublisherProfile:
    """The public profile of a publisher, cleaned."""

    name: str
    email: str | None = None
    bio: str | None = None
    avatar_url: str | None = None


@dataclass(frozen=True)
class ManagedPublisher:
    """A publisher that a user can manage; `agents` is the number of its agents."""

    publisher: Publisher
    agents: int
    organisation: str | None
    taken_down: bool


@dataclass(frozen=True)
class PublisherTotals:
    """Totals of a publisher: agents, versions, completed runs of all time and of the last seven days."""

    agents: int
    versions: int
    runs: int
    weekly_runs: int


# -- validation (3.9) ----------------------------------------------------------------------------------------


def id_format_problem(text: str) -> str | None:
    """The message of the first rule that the id breaks (contract 3.9); None if valid."""
    if not re.fullmatch(r"[a-z0-9-]+", text):
        return "Publisher ID must contain only lowercase letters, numbers, and hyphens"
    if len(text) < 3:
        return "Publisher ID must be at least 3 characters long"
    if len(text) > 30:
        return "Publisher ID must be no more than 30 characters long"
    if text.startswith("-") or text.endswith("-"):
        return "Publisher ID cannot start or end with a hyphen"
    return None


def name_problem(name: str) -> str | None:
    """The message of the first rule that the cleaned name breaks (contract 3.9); None if valid."""
    if not any(letter.isprintable() and not letter.isspace() for letter in name):
        return "Publisher name is required"
    if len(name) < 2:
        return "Publisher name must be at least 2 characters long"
    if len(name) > 50:
        return "Publisher name must be no more than 50 characters long"
    return None


def id_problem(text: str) -> str | None:
    """Why the id is unavailable: the rule it breaks, or that it is taken. None if available."""
    return id_format_problem(text) or (TAKEN if text in RESERVED or find(text) else None)


def profile(
    name: str,
    email: str | None = None,
    bio: str | None = None,
    avatar_url: str | None = None,
    *,
    current: Publisher | None = None,
) -> PublisherProfile:
    """Clean and validate a profile; blank values become None. Raises Invalid (422) with a message per field.

    An avatar is an `https://` URL or a stored picture. The unchanged e-mail address and avatar of `current` are accepted
    without validation, since `lenient_profile` may have stored them.
    """
    cleaned = lenient_profile(name, email, bio, avatar_url)
    problems: dict[str, str] = {}
    if cleaned.email and not (current and cleaned.email == current.email):
        try:
            clean_email(cleaned.email)
        except Invalid as error:
            problems |= error.fields
    if (
        cleaned.avatar_url
        and not (current and cleaned.avatar_url == current.avatar_url)
        and not usable_avatar(cleaned.avatar_url)
    ):
        problems["avatar_url"] = "Enter a URL that starts with https://, or upload a picture."
    if problems:
        raise Invalid(next(iter(problems.values())), fields=problems)
    return cleaned


def mail_to(publisher: Publisher) -> str | None:
    """The publisher's e-mail address if it is valid, which `lenient_profile` does not check."""
    try:
        return clean_email(publisher.email or "")
    except Invalid:
        return None


def lenient_profile(
    name: str, email: str | None = None, bio: str | None = None, avatar_url: str | None = None
) -> PublisherProfile:
    """Like `profile`, without validating e-mail and avatar URL, as the contract's POST requires. Check `mail_to` and
    `usable_avatar` before using them. Raises Invalid (400)."""
    name = clean_line(name) or ""
    problem = name_problem(name)
    if problem:
        raise Invalid(problem, fields={"name": problem}, status=400)
    mail, about, avatar = clean_line(email), clean_text(bio), clean_line(avatar_url)
    for field, label, text, limit in (
        ("email", "e-mail address", mail, EMAIL_LENGTH),
        ("bio", "bio", about, BIO_LENGTH),
        ("avatar_url", "avatar URL", avatar, URL_LENGTH),
    ):
        if text and len(text) > limit:
            advice = f"Use at most {limit:,} characters."
            raise Invalid(f"The {label} is too long. {advice}", fields={field: advice}, status=400)
    return PublisherProfile(name, mail, about, avatar)


def clean_text(text: str | None) -> str | None:
    """The text without control and bidirectional characters, line breaks kept. None if blank."""
    unbroken = re.sub(r"\r\n?|[\u2028\u2029]", "\n", text or "").replace("\t", " ")
    cleaned = "".join(each for each in unbroken if each == "\n" or _is_plain(each))
    return unicodedata.normalize("NFC", cleaned).strip() or None


def clean_line(text: str | None) -> str | None:
    """Like `clean_text`, on one line."""
    return re.sub(r"\s+", " ", clean_text(text) or "") or None


def usable_avatar(address: str) -> bool:
    """Whether this is a stored picture, or an `https://` URL without credentials."""
    if ADDRESS.fullmatch(address):
        return True
    if len(address) > URL_LENGTH or not address.isascii() or re.search(r"[\s\\\"'<>]", address):
        return False
    try:
        parts = urlsplit(address)
        return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _is_plain(letter: str) -> bool:
    # zero-width joiners are part of many scripts and emoji
    return letter in "\u200c\u200d" or not unicodedata.category(letter).startswith("C")


# -- queries -------------------------------------------------------------------------------------------------


def find(publisher_id: str) -> Publisher | None:
    """The publisher, without access control; None if unknown."""
    return None if id_format_problem(publisher_id) else db.session.get(Publisher, publisher_id)


def visible(publisher_id: str) -> Publisher:
    """The publisher, for public pages. Raises NotFound and TakenDown."""
    publisher = find(publisher_id)
    if publisher is None:
        raise NotFound("There is no such publisher here")
    takedowns.refuse(publisher.id)
    return publisher


def accessible(user: User, publisher_id: str, *, lock: bool = False) -> Publisher:
    """The publisher, for users who can manage it: its owner, or owners and admins of its organisation.

    `lock` locks its row until the transaction ends; lock it before the rows of its agents. Raises Forbidden for other
    members of the organisation and NotFound for everybody else (contract 2.7).
    """
    query = select(Publisher).where(Publisher.id == publisher_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = None if id_format_problem(publisher_id) else db.session.scalars(query).one_or_none()
    if found is None:
        raise _not_found()
    refusal = _refusal(user, found)
    if refusal:
        raise refusal
    return found


def can_manage(user: User | None, publisher: Publisher) -> bool:
    """Whether the user can manage the publisher: `accessible` for a loaded row. One statement for an organisation's
    publisher, otherwise none."""
    return user is not None and _refusal(user, publisher) is None


def _refusal(user: User, publisher: Publisher) -> DomainError | None:
    if publisher.org_id is None:
        return None if publisher.user_id == user.id else _not_found()
    member = membership(user.id, publisher.org_id)
    if member is None:
        return _not_found()
    return None if member.role in ("owner", "admin") else Forbidden("Insufficient permissions")


def _not_found() -> NotFound:
    return NotFound(
        "Publisher not found",
        details="You have no publisher with this id. GET /api/publishers lists yours; create one at /publishers/new.",
    )


def managed(user: User) -> list[ManagedPublisher]:
    """The publishers that the user can manage, oldest first."""
    count = select(func.count(AgentConfig.id.distinct())).where(AgentConfig.publisher_id == Publisher.id)
    rows = db.session.execute(
        select(Publisher, count.scalar_subquery(), Org.name, _TAKEN_DOWN)
        .outerjoin(Org, Org.id == Publisher.org_id)
        .where((Publisher.user_id == user.id) | Publisher.org_id.in_(administered_org_ids(user.id)))
        .order_by(Publisher.created_at, Publisher.id)
    )
    return [ManagedPublisher(*row) for row in rows]


def of_org(org_id: str) -> list[ManagedPublisher]:
    """The publishers of an organisation, oldest first. For its members."""
    count = select(func.count(AgentConfig.id.distinct())).where(AgentConfig.publisher_id == Publisher.id)
    rows = db.session.execute(
        select(Publisher, count.scalar_subquery(), Org.name, _TAKEN_DOWN)
        .join(Org, Org.id == Publisher.org_id)
        .where(Publisher.org_id == org_id)
        .order_by(Publisher.created_at, Publisher.id)
    )
    return [ManagedPublisher(*row) for row in rows]


@org_deleted.connect
def _keep_owners(org: Org) -> None:
    """An organisation that owns publishers cannot be deleted. Raises Conflict."""
    owned = db.session.scalars(
        select(Publisher.id).where(Publisher.org_id == org.id).order_by(Publisher.id)
    ).all()
    if owned:
        raise Conflict(
            "Organization owns publishers. Transfer or unlink them first",
            details=f"Publishers: {', '.join(owned[:10])}. Edit each at /publishers/<id>/edit.",
        )


@org_erased.connect
def _return_to_creators(org_id: str) -> None:
    """Publishers that were linked while it was being deleted belong to their creators."""
    rows = update(Publisher).where(Publisher.org_id == org_id)
    db.session.execute(rows.values(user_id=Publisher.created_by, org_id=None))


def count_agents(publisher_id: str) -> int:
    """The number of agents it has published."""
    query = select(func.count(AgentConfig.id.distinct())).where(AgentConfig.publisher_id == publisher_id)
    return db.session.execute(query).scalar_one()


def totals(publisher_id: str) -> PublisherTotals:
    """The totals of a publisher, without agents that are taken down. One statement."""
    sums = [func.coalesce(func.sum(each), 0) for each in (Agent.versions, Agent.runs, Agent.weekly_runs)]
    query = select(func.count(), *sums).where(Agent.publisher_id == publisher_id, _VISIBLE)
    row = db.session.execute(query).one()
    return PublisherTotals(*(int(each) for each in row))


def agents(publisher_id: str, after: str | None = None) -> tuple[list[Agent], str | None]:
    """One page of the publisher's agents by id, without those taken down, and the `after` of the next page (None on the
    last)."""
    query = select(Agent).where(Agent.publisher_id == publisher_id, _VISIBLE).order_by(Agent.id)
    query = query.options(defer(Agent.readme), defer(Agent.durations)).limit(PAGE_SIZE + 1)
    start = clean_line(after)
    if start:
        query = query.where(Agent.id > start)
    rows = list(db.session.scalars(query))
    return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None


def pictures_in_use(addresses: Collection[str]) -> set[str]:
    """The addresses among these that are a publisher's avatar, uploaded or fetched. One statement."""
    candidates = cast(list(addresses), ARRAY(Text))
    query = union(
        select(Publisher.avatar_url).where(Publisher.avatar_url == any_(candidates)),
        select(RemotePicture.picture).where(RemotePicture.picture == any_(candidates)),
    )
    return {address for address in db.session.scalars(query) if address}


def hides_picture(picture: str) -> bool:
    """Whether only publishers that were taken down use the picture at this address. One statement."""
    down = (
        select(Takedown).join(Publisher, Publisher.id == Takedown.publisher_id).where(Takedown.agent_id == "")
    )
    others = select(Publisher.id).where(Publisher.picture == picture, ~_TAKEN_DOWN)
    # takedowns are few; other publishers are only searched if one of them uses this picture
    hidden = down.where(Publisher.picture == picture).exists() & ~others.exists()
    return db.session.scalars(select(hidden)).one()


def organisations(user: User) -> list[Org]:
    """The organisations that the user owns or administers, by name."""
    return list(
        db.session.scalars(
            select(Org).where(Org.id.in_(administered_org_ids(user.id))).order_by(Org.name, Org.id)
        )
    )


def creator(publisher: Publisher) -> User:
    """Who created it; its owner again after it leaves its organisation."""
    return db.session.get_one(User, publisher.created_by)


def owner(publisher: Publisher) -> str:
    """The name of the user or organisation that owns it."""
    if publisher.org_id is not None:
        return db.session.get_one(Org, publisher.org_id).name
    found = db.session.get_one(User, publisher.user_id)
    return found.display_name


# -- changes -------------------------------------------------------------------------------------------------


def create(
    user: User,
    publisher_id: str,
    profile: PublisherProfile,
    org_id: str | None = None,
    *,
    limit: int | None = None,
) -> Publisher:
    """Create a publisher owned by the user, or by an organisation that they own or administer. Flushes.

    `limit` is the maximum number a user has created (None: no limit); exact under the lock of `publish.count_change`.
    Raises, in the contract's order, Invalid (400) for the id, NotFound and Forbidden for the organisation, WriteLimitExceeded
    (409) for the limit, and Invalid (400) if the id is taken, concurrently too.
    """
    problem = id_format_problem(publisher_id)
    if problem:
        raise Invalid(problem, fields={"id": problem}, status=400)
    if org_id:
        member = membership(user.id, org_id)
        if member is None:
            raise NotFound(
                "Organization not found",
                details="You are not a member of an organization with this id. Omit org_id to own the publisher yourself.",
            )
        if member.role not in ("owner", "admin"):
            raise Forbidden("Insufficient permissions")
    if limit is not None:
        count = db.session.scalar(select(func.count()).where(Publisher.created_by == user.id)) or 0
        if count >= limit:
            remedy = "Publish under an existing one"
            raise write_limits.limit_reached(
                count, "Publishers created by this account", limit, remedy, "STOA_PUBLISHERS_PER_ACCOUNT"
            )
    publisher = None
    if publisher_id not in RESERVED:
        publisher = db.session.scalars(
            insert(Publisher)
            .values(
                id=publisher_id,
                name=profile.name,
                email=profile.email,
                bio=profile.bio,
                avatar_url=profile.avatar_url,
                user_id=None if org_id else user.id,
                org_id=org_id or None,
                created_by=user.id,
            )
            .on_conflict_do_nothing(index_elements=[Publisher.id])
            .returning(Publisher)
        ).one_or_none()
    if publisher is None:
        raise Invalid(TAKEN, fields={"id": TAKEN}, status=400)
    return publisher


def edit(publisher: Publisher, profile: PublisherProfile) -> None:
    """Update the profile. After a rename, its agents are found by the new name at once. Flushes."""
    renamed = publisher.name != profile.name
    publisher.name, publisher.email = profile.name, profile.email
    publisher.bio, publisher.avatar_url = profile.bio, profile.avatar_url
    db.session.flush()
    if renamed:
        catalogue.refresh(publisher.id)


def link(user: User, publisher_id: str, org_id: str) -> Publisher:
    """Transfer a user's publisher to an organisation (contract 2.7). Locks its row, flushes.

    Raises as `accessible` does, Forbidden if the user neither owns nor administers the organisation, and Invalid (400) if
    the publisher already belongs to one.
    """
    publisher = accessible(user, publisher_id, lock=True)
    member = membership(user.id, org_id)
    if member is None or member.role not in ("owner", "admin"):
        raise Forbidden("Insufficient permissions for target organization")
    if publisher.org_id is not None:
        raise Invalid("Publisher is already linked to an organization", status=400)
    if publisher.user_id is None:
        raise Invalid("Publisher must be user-owned to link to organization", status=400)
    publisher.user_id, publisher.org_id = None, org_id
    db.session.flush()
    return publisher


def unlink(user: User, publisher_id: str) -> Publisher:
    """Return an organisation's publisher to its creator (contract 2.7). Locks its row, flushes.

    Raises as `accessible` does, and Invalid (400) if it does not belong to an organisation.
    """
    publisher = accessible(user, publisher_id, lock=True)
    if publisher.org_id is None:
        raise Invalid("Publisher is not linked to an organization", status=400)
    publisher.user_id, publisher.org_id = publisher.created_by, None
    db.session.flush()
    return publisher


def verify(publisher_id: str, verified: bool = True) -> bool:
    """Set or clear the verified mark; returns whether it changed. Flushes. Raises NotFound."""
    publisher = find(publisher_id)
    if publisher is None:
        raise NotFound(f"There is no publisher {publisher_id}.")
    changed = publisher.verified != verified
    publisher.verified = verified
    db.session.flush()
    return changed


def audit_fields(publisher: Publisher) -> dict[str, str | bool | None]:
    """The fields that the audit log records before and after a change."""
    names = ("name", "email", "bio", "avatar_url", "verified", "user_id", "org_id")
    return {name: getattr(publisher, name) for name in names}
