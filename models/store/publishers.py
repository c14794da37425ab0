"""Publishers: the rules for their ids and names, who may change one, and whose it is (contract 2.7, 3.9)."""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import ARRAY, Text, any_, cast, func, select, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import defer

from models.accounts import User, write_limits
from models.accounts.signing_in import clean_email
from models.core.db import db
from models.core.errors import DomainError, Forbidden, Invalid, NotFound
from models.orgs import Org, administered_org_ids, membership
from models.store.catalogue import catalogue
from models.store.catalogue.pictures import ADDRESS
from models.store.publishing import takedowns
from models.store.publishing.takedowns import covers
from models.store.tables import Agent, AgentConfig, Publisher, RemotePicture, Takedown

TAKEN = "This publisher ID is already taken"
BIO_LENGTH = 1000
EMAIL_LENGTH = 254
URL_LENGTH = 2000
RESERVED = frozenset({"new"})
"""Ids that an address of ours would hide; they count as taken."""
PAGE = 50
_UP = ~covers(Agent.publisher_id, Agent.id)
_DOWN = covers(Publisher.id, "")


@dataclass(frozen=True)
class PublisherProfile:
    """What a publisher says of itself, cleaned."""

    name: str
    email: str | None = None
    bio: str | None = None
    avatar_url: str | None = None


@dataclass(frozen=True)
class ManagedPublisher:
    """A publisher that somebody may change; `agents` are its distinct agent ids."""

    publisher: Publisher
    agents: int
    organisation: str | None
    taken_down: bool


@dataclass(frozen=True)
class PublisherTotals:
    """What a publisher has in the store: agents, versions, completed runs of all time and of the last week."""

    agents: int
    versions: int
    runs: int
    weekly_runs: int


# -- the rules (3.9) -----------------------------------------------------------------------------------------


def wrong_id(text: str) -> str | None:
    """The first rule of contract 3.9 that the id breaks, in its words; None when it breaks none."""
    if not re.fullmatch(r"[a-z0-9-]+", text):
        return "Publisher ID must contain only lowercase letters, numbers, and hyphens"
    if len(text) < 3:
        return "Publisher ID must be at least 3 characters long"
    if len(text) > 30:
        return "Publisher ID must be no more than 30 characters long"
    if text.startswith("-") or text.endswith("-"):
        return "Publisher ID cannot start or end with a hyphen"
    return None


def wrong_name(name: str) -> str | None:
    """The first rule of contract 3.9 that the cleaned name breaks, in its words; None when it breaks none."""
    if not any(letter.isprintable() and not letter.isspace() for letter in name):
        return "Publisher name is required"
    if len(name) < 2:
        return "Publisher name must be at least 2 characters long"
    if len(name) > 50:
        return "Publisher name must be no more than 50 characters long"
    return None


def id_problem(text: str) -> str | None:
    """Why nobody can take this id: the rule it breaks, or that it is taken. None when it is free."""
    return wrong_id(text) or (TAKEN if text in RESERVED or find(text) else None)


def profile(
    name: str,
    email: str | None = None,
    bio: str | None = None,
    avatar_url: str | None = None,
    *,
    standing: Publisher | None = None,
) -> PublisherProfile:
    """The texts as they are kept: plain, trimmed, blank ones None. Raises Invalid (422) with a sentence per field.

    An avatar is an `https://` address or a picture kept here. The e-mail address and avatar that `standing` has
    already may stay, whatever they are: `lenient_profile` let them in.
    """
    said = lenient_profile(name, email, bio, avatar_url)
    problems: dict[str, str] = {}
    if said.email and not (standing and said.email == standing.email):
        try:
            clean_email(said.email)
        except Invalid as error:
            problems |= error.fields
    if (
        said.avatar_url
        and not (standing and said.avatar_url == standing.avatar_url)
        and not usable_avatar(said.avatar_url)
    ):
        problems["avatar_url"] = "Give an address that starts with https://, or upload a picture."
    if problems:
        raise Invalid(next(iter(problems.values())), fields=problems)
    return said


def mail_to(publisher: Publisher) -> str | None:
    """The publisher's e-mail address where it is one that mail can be sent to, which `lenient_profile` does not ask."""
    try:
        return clean_email(publisher.email or "")
    except Invalid:
        return None


def lenient_profile(
    name: str, email: str | None = None, bio: str | None = None, avatar_url: str | None = None
) -> PublisherProfile:
    """As `profile`, but as the contract's POST wants it: the format of e-mail and address is not judged. Pages ask
    `mail_to` and `usable_avatar` before they use one. Raises Invalid (400)."""
    shown = line(name) or ""
    problem = wrong_name(shown)
    if problem:
        raise Invalid(problem, fields={"name": problem}, status=400)
    mail, about, avatar = line(email), plain(bio), line(avatar_url)
    for field, called, text, limit in (
        ("email", "e-mail address", mail, EMAIL_LENGTH),
        ("bio", "bio", about, BIO_LENGTH),
        ("avatar_url", "avatar's address", avatar, URL_LENGTH),
    ):
        if text and len(text) > limit:
            words = f"Use at most {limit:,} characters."
            raise Invalid(f"The {called} is too long. {words}", fields={field: words}, status=400)
    return PublisherProfile(shown, mail, about, avatar)


def plain(text: str | None) -> str | None:
    """Text without control characters and what turns its direction; line breaks stay. Blank text is None."""
    unbroken = re.sub(r"\r\n?|[\u2028\u2029]", "\n", text or "").replace("\t", " ")
    kept = "".join(each for each in unbroken if each == "\n" or _is_plain(each))
    return unicodedata.normalize("NFC", kept).strip() or None


def line(text: str | None) -> str | None:
    """As `plain`, on one line."""
    return re.sub(r"\s+", " ", plain(text) or "") or None


def usable_avatar(address: str) -> bool:
    """Whether this may name a picture: one kept here, or an `https://` address without a password."""
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
    # joiners make letters of many scripts, and families of emoji
    return letter in "\u200c\u200d" or not unicodedata.category(letter).startswith("C")


# -- finding them --------------------------------------------------------------------------------------------


def find(publisher_id: str) -> Publisher | None:
    """The publisher, for anybody."""
    return None if wrong_id(publisher_id) else db.session.get(Publisher, publisher_id)


def shown(publisher_id: str) -> Publisher:
    """The publisher, for its public pages. Raises NotFound, or TakenDown."""
    publisher = find(publisher_id)
    if publisher is None:
        raise NotFound("There is no such publisher here")
    takedowns.refuse(publisher.id)
    return publisher


def accessible(user: User, publisher_id: str, *, lock: bool = False) -> Publisher:
    """The publisher, for those who may change it: its personal owner, or an owner or admin of its organisation.

    `lock` holds its row until the transaction ends; it is taken before any row of its agents. Raises Forbidden for plain members of that organisation and
    NotFound for everybody else (contract 2.7).
    """
    wanted = select(Publisher).where(Publisher.id == publisher_id)
    if lock:
        wanted = wanted.with_for_update().execution_options(populate_existing=True)
    found = None if wrong_id(publisher_id) else db.session.scalars(wanted).one_or_none()
    if found is None:
        raise _not_yours()
    refusal = _refusal(user, found)
    if refusal:
        raise refusal
    return found


def may_change(user: User | None, publisher: Publisher) -> bool:
    """Whether the person may publish for the publisher and change it: `accessible` for a row that is at hand. One
    statement for an organisation's publisher, else none."""
    return user is not None and _refusal(user, publisher) is None


def _refusal(user: User, publisher: Publisher) -> DomainError | None:
    if publisher.org_id is None:
        return None if publisher.user_id == user.id else _not_yours()
    member = membership(user.id, publisher.org_id)
    if member is None:
        return _not_yours()
    return None if member.role in ("owner", "admin") else Forbidden("Insufficient permissions")


def _not_yours() -> NotFound:
    return NotFound(
        "Publisher not found",
        details="You have no publisher of this id. GET /api/publishers lists yours; /publishers/new makes one.",
    )


def managed(user: User) -> list[ManagedPublisher]:
    """The publishers that the user owns or whose organisation they own or administer, oldest first."""
    count = select(func.count(AgentConfig.id.distinct())).where(AgentConfig.publisher_id == Publisher.id)
    rows = db.session.execute(
        select(Publisher, count.scalar_subquery(), Org.name, _DOWN)
        .outerjoin(Org, Org.id == Publisher.org_id)
        .where((Publisher.user_id == user.id) | Publisher.org_id.in_(administered_org_ids(user.id)))
        .order_by(Publisher.created_at, Publisher.id)
    )
    return [ManagedPublisher(*row) for row in rows]


def count_agents(publisher_id: str) -> int:
    """How many distinct agent ids it has published."""
    wanted = select(func.count(AgentConfig.id.distinct())).where(AgentConfig.publisher_id == publisher_id)
    return db.session.execute(wanted).scalar_one()


def figures(publisher_id: str) -> PublisherTotals:
    """What the publisher has in the store, in one statement. What is taken down does not count."""
    sums = [func.coalesce(func.sum(each), 0) for each in (Agent.versions, Agent.runs, Agent.weekly_runs)]
    row = db.session.execute(select(func.count(), *sums).where(Agent.publisher_id == publisher_id, _UP)).one()
    return PublisherTotals(*(int(each) for each in row))


def agents(publisher_id: str, after: str | None = None) -> tuple[list[Agent], str | None]:
    """A page of the publisher's agents that are not taken down by id, and the id after which the next page begins (None:
    no more)."""
    wanted = select(Agent).where(Agent.publisher_id == publisher_id, _UP).order_by(Agent.id).limit(PAGE + 1)
    wanted = wanted.options(defer(Agent.readme), defer(Agent.durations))
    start = line(after)
    if start:
        wanted = wanted.where(Agent.id > start)
    rows = list(db.session.scalars(wanted))
    return rows[:PAGE], rows[PAGE - 1].id if len(rows) > PAGE else None


def shown_pictures(addresses: Collection[str]) -> set[str]:
    """Those of the addresses that are a publisher's avatar, or what was fetched for one. One statement."""
    asked = cast(list(addresses), ARRAY(Text))
    wanted = union(
        select(Publisher.avatar_url).where(Publisher.avatar_url == any_(asked)),
        select(RemotePicture.picture).where(RemotePicture.picture == any_(asked)),
    )
    return {address for address in db.session.scalars(wanted) if address}


def hides(picture: str) -> bool:
    """Whether the picture at this address is an avatar of publishers that were taken down, and of no other. One statement."""
    down = (
        select(Takedown).join(Publisher, Publisher.id == Takedown.publisher_id).where(Takedown.agent_id == "")
    )
    others = select(Publisher.id).where(Publisher.picture == picture, ~_DOWN)
    # Few are taken down; only if one shows this picture are the others looked through.
    wanted = down.where(Publisher.picture == picture).exists() & ~others.exists()
    return db.session.scalars(select(wanted)).one()


def organisations(user: User) -> list[Org]:
    """The organisations that the user owns or administers, by name: those whose publishers they manage."""
    return list(
        db.session.scalars(
            select(Org).where(Org.id.in_(administered_org_ids(user.id))).order_by(Org.name, Org.id)
        )
    )


def creator(publisher: Publisher) -> User:
    """Who created it, and gets it back when it leaves its organisation."""
    return db.session.get_one(User, publisher.created_by)


def owner(publisher: Publisher) -> str:
    """The name of the user or organisation that owns it."""
    if publisher.org_id is not None:
        return db.session.get_one(Org, publisher.org_id).name
    found = db.session.get_one(User, publisher.user_id)
    return found.name or found.email


# -- changing them -------------------------------------------------------------------------------------------


def create(
    user: User,
    publisher_id: str,
    said: PublisherProfile,
    org_id: str | None = None,
    *,
    most: int | None = None,
) -> Publisher:
    """Make a publisher of the user's own, or of an organisation that they own or administer. Flushes.

    `most`: how many a user may have created; exact under the lock of their quotas (`publishing.count_change`), and
    without it there is no limit. Raises QuotaExceeded (409) for it, and in the contract's order, Invalid (400) for the id, NotFound or Forbidden for the organisation, and Invalid
    (400) when the id is taken, also by somebody who takes it at this moment.
    """
    problem = wrong_id(publisher_id)
    if problem:
        raise Invalid(problem, fields={"id": problem}, status=400)
    if org_id:
        member = membership(user.id, org_id)
        if member is None:
            raise NotFound(
                "Organization not found",
                details="You are in no organization of this id. Leave org_id out to have the publisher yourself.",
            )
        if member.role not in ("owner", "admin"):
            raise Forbidden("Insufficient permissions")
    if most is not None:
        has = db.session.scalar(select(func.count()).where(Publisher.created_by == user.id)) or 0
        if has >= most:
            mend = "Publish under one that is there"
            raise write_limits.limit_reached(
                has, "Publishers that this account created", most, mend, "STOA_PUBLISHERS_PER_ACCOUNT"
            )
    made = None
    if publisher_id not in RESERVED:
        made = db.session.scalars(
            insert(Publisher)
            .values(
                id=publisher_id,
                name=said.name,
                email=said.email,
                bio=said.bio,
                avatar_url=said.avatar_url,
                user_id=None if org_id else user.id,
                org_id=org_id or None,
                created_by=user.id,
            )
            .on_conflict_do_nothing(index_elements=[Publisher.id])
            .returning(Publisher)
        ).one_or_none()
    if made is None:
        raise Invalid(TAKEN, fields={"id": TAKEN}, status=400)
    return made


def edit(publisher: Publisher, said: PublisherProfile) -> None:
    """Let the publisher say this of itself; its agents are found by a new name at once. Flushes."""
    renamed = publisher.name != said.name
    publisher.name, publisher.email = said.name, said.email
    publisher.bio, publisher.avatar_url = said.bio, said.avatar_url
    db.session.flush()
    if renamed:
        catalogue.refresh(publisher.id)


def link(user: User, publisher_id: str, org_id: str) -> Publisher:
    """Give a personal publisher to an organisation (contract 2.7). Locks its row, flushes.

    Raises NotFound and Forbidden as `accessible` does, Forbidden when the user neither owns nor administers the
    organisation, Invalid (400) when it already belongs to one.
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
    """Give an organisation's publisher back to who created it (contract 2.7). Locks its row, flushes.

    Raises NotFound and Forbidden as `accessible` does, Invalid (400) when it belongs to no organisation.
    """
    publisher = accessible(user, publisher_id, lock=True)
    if publisher.org_id is None:
        raise Invalid("Publisher is not linked to an organization", status=400)
    publisher.user_id, publisher.org_id = publisher.created_by, None
    db.session.flush()
    return publisher


def verify(publisher_id: str, verified: bool = True) -> bool:
    """Give the publisher the verified mark, or take it; whether that changed anything. Flushes. Raises NotFound."""
    publisher = find(publisher_id)
    if publisher is None:
        raise NotFound(f"There is no publisher {publisher_id}.")
    changed = publisher.verified != verified
    publisher.verified = verified
    db.session.flush()
    return changed


def facts(publisher: Publisher) -> dict[str, str | bool | None]:
    """What the audit log keeps of a publisher before and after a change."""
    names = ("name", "email", "bio", "avatar_url", "verified", "user_id", "org_id")
    return {name: getattr(publisher, name) for name in names}
