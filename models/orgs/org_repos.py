"""Repositories of organisations: normal form of URLs, who pays for a call from one, add, switch, remove (contract 3.10)."""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Select, func, select, tuple_

from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember, OrgRepo, lock_org
from models.orgs.roles import CAN

HOSTS = ("github.com", "gitlab.com", "bitbucket.org")
MAX_REPOSITORIES = 1000
PAGE_SIZE = 100
MAX_URL = 500
NAME_LENGTH = 200

INVALID = "Invalid URL format"
NOT_ALLOWED = "Repository domain not allowed"
KNOWN = "Repository already added to organization"

_SSH = re.compile(r"(?:ssh://)?[\w.-]+@([\w.-]+)(?::\d+(?=/))?[:/]+(.+)", re.ASCII)


class RepoName(NamedTuple):
    """A repository by host, owner and name, in lower case."""

    host: str
    owner: str
    name: str

    @property
    def url(self) -> str:
        """Its normal form."""
        return f"https://{self.host}/{self.owner}/{self.name}"


class RepoListed(NamedTuple):
    """A repository and who approved it."""

    repo: OrgRepo
    approver: User


def normalise(url: str) -> str:
    """Return the URL in lower case, as https, without `.git`, and of the three hosts only owner and repository.

    What is no URL of a repository is returned in lower case, without surrounding space."""
    host, path = _split(url)
    found = _name(host, path)
    if found:
        return found.url
    return url.strip().lower().removesuffix("/").removesuffix(".git")


def owner_and_repo(url: str) -> RepoName | None:
    """Return host, owner and name of the repository that the URL names: SSH, without scheme, with more path or a query. None
    for other hosts, and for fewer than two segments."""
    host, path = _split(url)
    return _name(host, path)


def _split(url: str) -> tuple[str, str]:
    text = url.strip().lower()
    ssh = _SSH.fullmatch(text)
    if ssh:
        return ssh[1], re.split(r"[?#]", ssh[2])[0]
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        usual = parts.port in (None, 80, 443)
    except ValueError:
        return "", ""
    return (host, parts.path) if parts.scheme in ("http", "https") and usual else ("", "")


def _name(host: str, path: str) -> RepoName | None:
    segments = [segment for segment in path.split("/") if segment.strip()]
    if host not in HOSTS or len(segments) < 2:
        return None
    owner, name = segments[0].strip(), segments[1].strip().removesuffix(".git")
    return RepoName(host, owner, name) if name else None


# -- who pays ------------------------------------------------------------------------------------------------


def matching_org(user_id: str, url: str) -> Org | None:
    """Return the organisation that pays for the user's calls from this repository, or None: it has an active repository of the
    same owner and name, and the user's role in it may spend. Of several, the one that added it first."""
    found = owner_and_repo(url)
    if found is None:
        return None
    query = _matches(user_id, found).where(OrgRepo.is_active, OrgMember.role.in_(CAN["spend"]))
    return db.session.scalars(query.limit(1)).one_or_none()


def _matches(user_id: str, found: RepoName) -> Select[Org]:
    return (
        select(Org)
        .join(OrgRepo, OrgRepo.org_id == Org.id)
        .join(OrgMember, OrgMember.org_id == Org.id)
        .where(
            OrgMember.user_id == user_id, Org.deleted_at.is_(None), OrgRepo.repo_url.in_(_spellings(found))
        )
        .order_by(OrgRepo.approved_at, OrgRepo.id)
    )


def _spellings(found: RepoName) -> list[str]:
    """The normal forms of the owner and name on all hosts: the contract compares no hosts."""
    return [found._replace(host=host).url for host in HOSTS]


class RepoCheck(NamedTuple):
    """Why a URL does or does not match a repository of an organisation. `repo` is what it matches."""

    rule: Literal["no_repository", "other_host", "not_added", "inactive", "other_org", "role", "pays"]
    normal: str
    name: RepoName | None = None
    repo: OrgRepo | None = None
    payer: Org | None = None


def check(org: Org, member: OrgMember, url: str) -> RepoCheck:
    """Explain whether the member's calls from this repository are paid by the organisation, and by which rule."""
    host, _ = _split(url)
    found, normal = owner_and_repo(url), normalise(url)
    if found is None:
        return RepoCheck("no_repository" if host in HOSTS or "." not in host else "other_host", normal)
    rows = select(OrgRepo).where(OrgRepo.org_id == org.id, OrgRepo.repo_url.in_(_spellings(found)))
    repo = db.session.scalars(rows.order_by(OrgRepo.is_active.desc(), OrgRepo.approved_at).limit(1)).first()
    if repo is None:
        return RepoCheck("not_added", normal, found, payer=matching_org(member.user_id, url))
    if not repo.is_active:
        return RepoCheck("inactive", normal, found, repo, matching_org(member.user_id, url))
    if member.role not in CAN["spend"]:
        return RepoCheck("role", normal, found, repo)
    payer = matching_org(member.user_id, url)
    return RepoCheck(
        "pays" if payer is not None and payer.id == org.id else "other_org", normal, found, repo, payer
    )


# -- the list ------------------------------------------------------------------------------------------------


def repositories(org: Org) -> list[RepoListed]:
    """The organisation's repositories with who approved them, by owner and name."""
    query = (
        select(OrgRepo, User)
        .join(User, User.id == OrgRepo.approved_by)
        .where(OrgRepo.org_id == org.id)
        .order_by(OrgRepo.repo_owner, OrgRepo.repo_name, OrgRepo.id)
        .limit(MAX_REPOSITORIES)
    )
    return [RepoListed(*row) for row in db.session.execute(query)]


def repositories_page(org: Org, after: str | None = None) -> tuple[list[RepoListed], str | None]:
    """One page of `repositories`, from after the one with this id, and the `after` of the next page (None on the last)."""
    place = (func.coalesce(OrgRepo.repo_owner, ""), OrgRepo.repo_name, OrgRepo.id)
    query = select(OrgRepo, User).join(User, User.id == OrgRepo.approved_by).where(OrgRepo.org_id == org.id)
    if after:
        last = repository(org, after)
        query = query.where(tuple_(*place) > (last.repo_owner or "", last.repo_name, last.id))
    found = [RepoListed(*row) for row in db.session.execute(query.order_by(*place).limit(PAGE_SIZE + 1))]
    return found[:PAGE_SIZE], found[PAGE_SIZE - 1].repo.id if len(found) > PAGE_SIZE else None


def repository(org: Org, repo_id: str) -> OrgRepo:
    """One of the organisation's repositories. Raises NotFound."""
    query = select(OrgRepo).where(OrgRepo.id == repo_id, OrgRepo.org_id == org.id)
    found = db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("Repository not found")
    return found


def add(org: Org, by: User, url: str, name: str = "") -> OrgRepo:
    """Add a repository, active. Its name is by default that in the URL. Locks the organisation, flushes.

    Raises Invalid (400) for the URL, with the contract's messages, and Conflict if it is added already."""
    found = _allowed(url)
    lock_org(org.id)
    query = select(func.count(), func.count().filter(OrgRepo.repo_url == found.url))
    total, same = db.session.execute(query.where(OrgRepo.org_id == org.id)).one()
    if same:
        raise Conflict(KNOWN)
    if total >= MAX_REPOSITORIES:
        raise Conflict(f"An organization has at most {MAX_REPOSITORIES:,} repositories.")
    repo = OrgRepo(
        org_id=org.id,
        repo_url=found.url,
        repo_name=" ".join(name.split())[:NAME_LENGTH] or found.name,
        repo_owner=found.owner,
        approved_by=by.id,
    )
    db.session.add(repo)
    db.session.flush()
    record_org(org.id, "repository.added", found.url, after=audited(repo))
    return repo


def _allowed(url: str) -> RepoName:
    if len(url) > MAX_URL or not url.strip():
        raise Invalid(INVALID, fields={"repository_url": INVALID}, status=400)
    host, path = _split(url)
    found = _name(host, path)
    if found:
        return found
    # the contract: any text is a URL of a host, which is not allowed
    problem = INVALID if host in HOSTS or not host else NOT_ALLOWED
    raise Invalid(problem, fields={"repository_url": problem}, status=400)


def switch(repo: OrgRepo, active: bool) -> None:
    """Let the organisation pay for calls from the repository, or not. Flushes."""
    if repo.is_active != active:
        before = audited(repo)
        repo.is_active = active
        db.session.flush()
        record_org(
            repo.org_id,
            f"repository.{'activated' if active else 'deactivated'}",
            repo.repo_url,
            before=before,
            after=audited(repo),
        )


def remove(repo: OrgRepo) -> None:
    """Remove the repository. Flushes."""
    record_org(repo.org_id, "repository.removed", repo.repo_url, before=audited(repo))
    db.session.delete(repo)
    db.session.flush()


def audited(repo: OrgRepo) -> dict[str, str | bool | None]:
    """The fields that the audit log records."""
    return {"url": repo.repo_url, "name": repo.repo_name, "active": repo.is_active}
