"""Sign-in through an organisation's identity provider: who it is, just-in-time membership, roles and teams of groups."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from models.accounts.signing_in import (
    Identity,
    attach,
    by_identity,
    clean_email,
    sign_in_verified_email,
)
from models.accounts.users import OAuthAccount, User
from models.core.db import db
from models.core.errors import Forbidden
from models.orgs import invite_answers, invites, members
from models.orgs.audit import record_org
from models.orgs.directory import directory_groups, provisioned, shut_out
from models.orgs.domains import domain_of, proven_domains
from models.orgs.org import Org, OrgInvite, OrgMember, membership
from models.orgs.single_sign_on import GRANTED_ROLES, OrgSso, OrgSsoGroup, sso_groups, sso_provider
from models.orgs.teams import OrgTeamMember


class SsoArrival(NamedTuple):
    """Who arrived from the identity provider: the user, whether their account and their membership are new."""

    user: User
    new: bool
    joined: bool


class LockedOut(NamedTuple):
    """What enforcement means for a member: `state` is "ready" (has signed in through the identity provider), "owner" (could
    enter in an emergency), "expected" (has an address of a proven domain), or "out" (cannot get in)."""

    email: str
    role: str
    state: str


def arrive(
    org: Org,
    sso: OrgSso,
    identity: Identity,
    groups: Collection[str],
    *,
    signed_in: User | None,
    now: datetime,
    free_credits: int,
) -> SsoArrival:
    """Find or create the user of an identity of the organisation's provider, and their membership. Flushes.

    The provider speaks for addresses of the organisation's proven domains only. For another address (a guest) it can only
    confirm a user who is signed in with that address: it cannot sign anybody in. Raises Forbidden for everybody else, and
    for a user who is no member and may not join.
    """
    email = clean_email(identity.email)
    proven = proven_domains(org.id)
    user, new = _user_of(identity, email, proven, signed_in, now, free_credits)
    attach(user, identity)
    member = membership(user.id, org.id)
    joined = member is None
    if member is None:
        member = _join(org, sso, user, may_join=sso.joins and domain_of(user.email) in proven, now=now)
    if sso.group_claim or provisioned(org.id, user):
        held = {*groups, *directory_groups(org.id, [user.id])[user.id]}
        grant_groups(org.id, [(member, user.email, held)])
    return SsoArrival(user, new, joined)


def _user_of(
    identity: Identity,
    email: str,
    proven: frozenset[str],
    signed_in: User | None,
    now: datetime,
    free_credits: int,
) -> tuple[User, bool]:
    known = by_identity(identity)
    if (
        signed_in is not None
        and signed_in.email_verified is not None
        and (signed_in.email == email or (known is not None and known.id == signed_in.id))
    ):
        return signed_in, False
    found = known.email if known is not None else email
    if domain_of(found) not in proven:
        raise Forbidden(
            f"The identity provider says that you are {found}, which is not in a proven domain of the organisation. "
            "Sign in with that address by e-mail first, then continue here, or ask an owner to prove the domain."
        )
    if known is not None:
        return known, False
    return sign_in_verified_email(email, now, free_credits=free_credits, name=identity.name)


def _join(org: Org, sso: OrgSso, user: User, *, may_join: bool, now: datetime) -> OrgMember:
    if shut_out(org.id, user):
        raise Forbidden(f"The directory of {org.name} has deactivated {user.email}. Ask its administrator.")
    invite = invites.usable_invite(org.id, user.email, now)
    if invite is not None:
        return invite_answers.take_up(invite, org, user, now)
    if not may_join and not provisioned(org.id, user):
        raise Forbidden(f"You are not a member of {org.name}. Ask one of its owners or admins to invite you.")
    member = members.join(org, user, sso.default_role, how="joined")
    if sso.default_team_id:
        enter_teams(org.id, [(sso.default_team_id, user.id)])
    return member


def grant_groups(org_id: str, held: Collection[tuple[OrgMember, str, Collection[str]]]) -> None:
    """Give members of the organisation, each with address and groups, the role and the teams of these. Flushes. A few
    statements for all, and one for each new role.

    The highest role of the mapped groups counts; without one the role stays. Owners keep theirs. A member leaves the teams
    of mapped groups that they are no longer in; other teams are left alone.
    """
    mapped = sso_groups(org_id)
    if not mapped:
        return
    managed = {each.team_id for each in mapped if each.team_id}
    current = _teams(org_id, [member.user_id for member, _, _ in held])
    entered, left = [], []
    for member, email, groups in held:
        granted = [each for each in mapped if each.value in groups]
        _grant_role(member, granted, email)
        had = current[member.user_id]
        teams = {each.team_id for each in granted if each.team_id} | (had - managed)
        entered += [(team, member.user_id) for team in sorted(teams - had)]
        left += [(team, member.user_id) for team in sorted(had - teams)]
        if teams != had:
            before, after = {"teams": sorted(had)}, {"teams": sorted(teams)}
            record_org(org_id, "team.members_changed", email, before=before, after=after, actor=email)
    enter_teams(org_id, entered)
    pair = tuple_(OrgTeamMember.team_id, OrgTeamMember.user_id)
    if left:
        db.session.execute(delete(OrgTeamMember).where(OrgTeamMember.org_id == org_id, pair.in_(left)))
    db.session.flush()


def _teams(org_id: str, accounts: Collection[str]) -> dict[str, set[str]]:
    query = select(OrgTeamMember.user_id, OrgTeamMember.team_id)
    query = query.where(OrgTeamMember.org_id == org_id, OrgTeamMember.user_id.in_(accounts))
    found: dict[str, set[str]] = {id: set() for id in accounts}
    for user_id, team_id in db.session.execute(query):
        found[user_id].add(team_id)
    return found


def _grant_role(member: OrgMember, held: Collection[OrgSsoGroup], email: str) -> None:
    roles = {each.role for each in held if each.role}
    role = next((each for each in GRANTED_ROLES if each in roles), None)
    if role is None or member.role in ("owner", role):
        return
    record_org(
        member.org_id,
        "member.role_changed",
        email,
        before={"role": member.role},
        after={"role": role, "by": "groups"},
        actor=email,
    )
    member.role = role
    db.session.flush()


def enter_teams(org_id: str, pairs: Collection[tuple[str, str]]) -> None:
    """Add members to teams, each a team and a user, unless they are in them. One statement."""
    rows = [{"org_id": org_id, "team_id": team, "user_id": user} for team, user in pairs]
    if rows:
        db.session.execute(insert(OrgTeamMember).on_conflict_do_nothing(), rows)


def invited_guests(org_id: str) -> int:
    """How many open invitations go to addresses outside the proven domains: only guests of the identity provider could take
    them up under enforcement."""
    proven = proven_domains(org_id)
    rows = db.session.scalars(select(OrgInvite.email).where(OrgInvite.org_id == org_id, *invites.is_open()))
    return sum(domain_of(email) not in proven for email in rows)


def locked_out(org_id: str) -> list[LockedOut]:
    """Whom enforcement would lock out, and who is ready: the people of the organisation, those locked out first."""
    proven = proven_domains(org_id)
    arrived = select(OAuthAccount.user_id).where(OAuthAccount.provider == sso_provider(org_id))
    rows = db.session.execute(
        select(User.email, OrgMember.role, User.id.in_(arrived))
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role != "service")
        .order_by(User.email)
    )

    def state(email: str, role: str, ready: bool) -> str:
        if ready:
            return "ready"
        if role == "owner":
            return "owner"
        return "expected" if domain_of(email) in proven else "out"

    found = [LockedOut(email, role, state(email, role, ready)) for email, role, ready in rows]
    return sorted(found, key=lambda each: ("out", "expected", "owner", "ready").index(each.state))


def emergency_contacts(org_id: str) -> list[str]:
    """The addresses of the owners and admins, who are told when an owner enters without the identity provider."""
    query = select(User.email).join(OrgMember, OrgMember.user_id == User.id)
    people = query.where(OrgMember.org_id == org_id, OrgMember.role.in_(("owner", "admin")))
    return list(db.session.scalars(people.order_by(User.email)))
