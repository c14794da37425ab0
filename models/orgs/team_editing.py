"""Create, change and delete teams; their members, models and repositories. A team only narrows.

Every change locks the organisation, flushes, and is recorded in its audit log.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from blinker import Signal
from sqlalchemy import delete, func, select

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from models.orgs.audit import record_org
from models.orgs.org import PEOPLE_ROLES, Org, OrgMember, OrgRepo, lock_org
from models.orgs.teams import OrgTeam, OrgTeamMember, OrgTeamRepo

MAX_TEAMS = 200
MAX_PATTERNS = 100
LABEL_LENGTH = 100
"""Characters of the name of a team, a service account or a key."""
PATTERN_LENGTH = 200

team_deleting = Signal()
"""Sent with an organisation's id and `team_id` before a team is deleted, in the same transaction. Its budgets end; a receiver
returns how many."""


class TeamListed(NamedTuple):
    """A team with the number of its people and keys. The default team has the people without another team."""

    team: OrgTeam
    people: int
    keys: int


class TeamPerson(NamedTuple):
    """A person, and their role in the organisation."""

    user: User
    role: str


# -- lists ---------------------------------------------------------------------------------------------------


def teams_listed(org: Org) -> list[TeamListed]:
    """The organisation's teams, the default one first, then by name."""
    keys = (
        select(func.count())
        .where(Session.team_id == OrgTeam.id, Session.type == "pat")
        .correlate(OrgTeam)
        .scalar_subquery()
    )
    people = (
        select(func.count())
        .select_from(OrgMember)
        .where(_belongs(), OrgMember.role.in_(PEOPLE_ROLES))
        .correlate(OrgTeam)
        .scalar_subquery()
    )
    query = select(OrgTeam, people, keys).where(OrgTeam.org_id == org.id)
    rows = db.session.execute(query.order_by(OrgTeam.is_default.desc(), OrgTeam.name))
    return [TeamListed(*row) for row in rows]


def _belongs() -> Any:
    """Whether the row of `org_member` belongs to the row of `org_team`."""
    joined = (
        select(OrgTeamMember.team_id)
        .where(OrgTeamMember.org_id == OrgMember.org_id, OrgTeamMember.user_id == OrgMember.user_id)
        .correlate(OrgMember, OrgTeam)
    )
    own, every = joined.where(OrgTeamMember.team_id == OrgTeam.id).exists(), joined.exists()
    return (OrgMember.org_id == OrgTeam.org_id) & (own | (OrgTeam.is_default & ~every))


def team_of(org: Org, team_id: str) -> OrgTeam:
    """A team of the organisation. Raises NotFound."""
    query = select(OrgTeam).where(OrgTeam.id == team_id, OrgTeam.org_id == org.id)
    found = None if "\x00" in team_id else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("Team not found")
    return found


def team_people(team: OrgTeam) -> list[TeamPerson]:
    """The people of the team, by name; at most 1,000."""
    query = (
        select(User, OrgMember.role)
        .join(OrgMember, OrgMember.user_id == User.id)
        .join(OrgTeam, OrgTeam.id == team.id)
        .where(_belongs(), OrgMember.role.in_(PEOPLE_ROLES))
        .order_by(User.display_name, User.id)
        .limit(1000)
    )
    return [TeamPerson(*row) for row in db.session.execute(query)]


def people_outside(team: OrgTeam) -> list[User]:
    """The people of the organisation who are not in the team, by name; at most 1,000."""
    inside = select(OrgTeamMember.user_id).where(OrgTeamMember.team_id == team.id)
    query = (
        select(User)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == team.org_id, OrgMember.role.in_(PEOPLE_ROLES), User.id.not_in(inside))
        .order_by(User.display_name, User.id)
        .limit(1000)
    )
    return list(db.session.scalars(query))


def teams_of(org_id: str, user_id: str) -> Sequence[OrgTeam]:
    """The teams that the member has joined, first joined first; without the default team."""
    query = select(OrgTeam).join(OrgTeamMember, OrgTeamMember.team_id == OrgTeam.id)
    query = query.where(OrgTeamMember.org_id == org_id, OrgTeamMember.user_id == user_id)
    return db.session.scalars(query.order_by(OrgTeamMember.joined_at, OrgTeamMember.team_id)).all()


def team_repositories(team: OrgTeam) -> list[OrgRepo]:
    """The repositories from which its calls may come, if it is narrowed to some."""
    query = select(OrgRepo).join(OrgTeamRepo, OrgTeamRepo.repo_id == OrgRepo.id)
    return list(db.session.scalars(query.where(OrgTeamRepo.team_id == team.id).order_by(OrgRepo.repo_url)))


# -- changes -------------------------------------------------------------------------------------------------


def create_team(org: Org, name: str, models: Sequence[str] | None = None) -> OrgTeam:
    """Create a team. Raises Invalid, and Conflict for a name that is taken or too many teams."""
    name, models = check_label(name), check_patterns(models)
    lock_org(org.id)
    _check_name(org.id, name)
    count = db.session.scalar(select(func.count()).where(OrgTeam.org_id == org.id)) or 0
    if count >= MAX_TEAMS:
        raise Conflict(f"An organization has at most {MAX_TEAMS} teams.")
    team = OrgTeam(org_id=org.id, name=name, models=models)
    db.session.add(team)
    db.session.flush()
    record_org(org.id, "team.created", name, after={"models": models})
    return team


def edit_team(
    team: OrgTeam,
    *,
    name: str,
    models: Sequence[str] | None,
    repository_ids: Sequence[str] | None,
) -> None:
    """Set the team's name, the patterns of its models (None: all) and its repositories (None: calls may come from anywhere).

    Raises Invalid, also for a repository of another organisation, and Conflict for a name that is taken."""
    name, models = check_label(name), check_patterns(models)
    lock_org(team.org_id)
    _check_name(team.org_id, name, team.id)
    before = _audited(team)
    ids = set(repository_ids or ())
    known = select(OrgRepo.id).where(OrgRepo.org_id == team.org_id, OrgRepo.id.in_(ids))
    if set(db.session.scalars(known)) != ids:
        problem = "Choose repositories of the organization."
        raise Invalid(problem, fields={"repositories": problem}, status=400)
    team.name, team.models, team.repositories_only = name, models, repository_ids is not None
    db.session.execute(delete(OrgTeamRepo).where(OrgTeamRepo.team_id == team.id))
    db.session.add_all(OrgTeamRepo(team_id=team.id, repo_id=id) for id in sorted(ids))
    db.session.flush()
    after = _audited(team)
    if before != after:
        record_org(team.org_id, "team.changed", name, before=before, after=after)


def delete_team(team: OrgTeam) -> None:
    """Delete the team: its people and keys fall to their other teams, or the default one, and its budgets end. Raises Conflict
    for the default team."""
    if team.is_default:
        raise Conflict("The default team cannot be deleted.")
    # the account is locked before the organisation
    budgets = sum(count for _, count in team_deleting.send(team.org_id, team_id=team.id))
    lock_org(team.org_id)
    keys = db.session.scalar(select(func.count()).where(Session.team_id == team.id)) or 0
    people = len(team_people(team))
    before = {**_audited(team), "people": people, "keys": keys, "budgets": budgets}
    record_org(team.org_id, "team.deleted", team.name, before=before)
    db.session.delete(team)
    db.session.flush()


def add_to_team(team: OrgTeam, user_id: str) -> User:
    """Add a person of the organisation to the team. Raises NotFound, and Conflict for the default team or a person in it."""
    lock_org(team.org_id)
    if team.is_default:
        raise Conflict("Everybody without another team belongs to the default team.")
    user = _person(team.org_id, user_id)
    if db.session.get(OrgTeamMember, (team.id, user_id)) is not None:
        raise Conflict("This person is in the team already.")
    db.session.add(OrgTeamMember(team_id=team.id, org_id=team.org_id, user_id=user_id))
    db.session.flush()
    record_org(team.org_id, "team.member_added", user.email, after={"team": team.name})
    return user


def remove_from_team(team: OrgTeam, user_id: str) -> User:
    """Take a person out of the team. Their keys of the team fall to the team they have left. Raises NotFound."""
    lock_org(team.org_id)
    row = None if "\x00" in user_id else db.session.get(OrgTeamMember, (team.id, user_id))
    if row is None:
        raise NotFound("Member not found")
    user = db.session.get_one(User, user_id)
    keys = select(Session).where(Session.team_id == team.id, Session.user_id == user_id)
    for key in db.session.scalars(keys):
        key.team_id = None
    db.session.delete(row)
    db.session.flush()
    record_org(team.org_id, "team.member_removed", user.email, before={"team": team.name})
    return user


def check_label(name: str, field: str = "name") -> str:
    """The name of a team, a service account or a key without surrounding space. Raises Invalid (400)."""
    name = name.strip()
    if not 0 < len(name) <= LABEL_LENGTH or not name.isprintable():
        problem = f"Use at most {LABEL_LENGTH} ordinary characters." if name else "Enter a name."
        raise Invalid(problem, fields={field: problem}, status=400)
    return name


def check_patterns(patterns: Sequence[str] | None) -> list[str] | None:
    """The patterns of models without surrounding space and repetitions. Raises Invalid (400)."""
    if patterns is None:
        return None
    found = list(dict.fromkeys(stripped for pattern in patterns if (stripped := pattern.strip())))
    if len(found) > MAX_PATTERNS or any(
        len(each) > PATTERN_LENGTH or not each.isprintable() or " " in each for each in found
    ):
        problem = f"Name at most {MAX_PATTERNS} models, such as openai/gpt-4o or anthropic/*, without spaces."
        raise Invalid(problem, fields={"models": problem}, status=400)
    return found


def _check_name(org_id: str, name: str, but: str | None = None) -> None:
    taken = select(OrgTeam.id).where(OrgTeam.org_id == org_id, func.lower(OrgTeam.name) == name.lower())
    if db.session.scalars(taken.where(OrgTeam.id != (but or "")).limit(1)).first():
        problem = "Another team has this name."
        raise Conflict(problem)


def _person(org_id: str, user_id: str) -> User:
    query = (
        select(User)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role.in_(PEOPLE_ROLES), User.id == user_id)
    )
    user = None if "\x00" in user_id else db.session.scalars(query).one_or_none()
    if user is None:
        raise NotFound("Member not found")
    return user


def _audited(team: OrgTeam) -> dict[str, Any]:
    repositories = [repo.repo_url for repo in team_repositories(team)] if team.repositories_only else None
    return {"name": team.name, "models": team.models, "repositories": repositories}
