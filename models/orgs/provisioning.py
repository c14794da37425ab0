"""What changes in an organisation's directory do: memberships, roles and teams follow its users and groups (SCIM 2.0)."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from models.accounts.sessions import Session
from models.accounts.signing_in import clean_email, signed_up
from models.accounts.users import User
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid
from models.orgs import members
from models.orgs.audit import record_org
from models.orgs.directory import (
    ScimGroup,
    ScimGroupMember,
    ScimUser,
    bind_accounts,
    directory_groups,
    list_users,
    set_group_members,
    users_of_accounts,
)
from models.orgs.domains import domain_of, proven_domains
from models.orgs.offboarding import offboard
from models.orgs.org import Org, OrgMember, org_by_id
from models.orgs.single_sign_on import OrgSsoSession, sso_of
from models.orgs.sso_sign_in import enter_teams, grant_groups
from models.orgs.team_editing import LABEL_LENGTH, MAX_TEAMS
from models.orgs.teams import OrgTeam, OrgTeamMember, org_teams

MAX_NAME = 500
"""Characters of names and ids, which are indexed."""


def check_name(name: str, what: str) -> str:
    """A name or id as it is. Raises Invalid (400) for an empty or a long one."""
    if not name.strip() or len(name) > MAX_NAME:
        raise Invalid(f"{what} must have 1 to {MAX_NAME} characters.", code="invalidValue", status=400)
    return name


def address_of(user_name: str, addresses: Collection[str]) -> str | None:
    """The normalised address of a user of a directory: the first of theirs that is one, else the user name; or None."""
    for text in (*addresses, user_name):
        try:
            return clean_email(text)
        except Invalid:
            continue
    return None


def save_user(
    org: Org,
    row: ScimUser | None,
    *,
    user_name: str,
    external_id: str | None,
    email: str | None,
    active: bool,
    attributes: dict[str, Any],
    now: datetime,
) -> ScimUser:
    """Create (`row` None) or change a user of the directory; their membership follows. Flushes.

    Raises Invalid for an empty or long name, Conflict with code `uniqueness` for a user name that another one has, Conflict if
    no owner would be left.
    """
    check_name(user_name, "userName")
    check_name(external_id or "-", "externalId")
    before = _public(row) if row else None
    row = row or ScimUser(org_id=org.id, created_at=now)
    if list_users(org.id, user_name=user_name)[0] and user_name.lower() != (row.user_name or "").lower():
        raise _taken(user_name)
    row.user_name, row.external_id, row.email = user_name, external_id, email
    row.active, row.attributes, row.updated_at = active, attributes, now
    try:
        with db.session.begin_nested():
            db.session.add(row)
    except IntegrityError:
        raise _taken(user_name) from None
    after = _public(row)
    if before != after:
        action = "directory.user_changed" if before else "directory.user_added"
        record_org(org.id, action, user_name, before=before, after=after)
    follow(org, [row.id], now)
    return row


def _taken(user_name: str) -> Conflict:
    return Conflict(f"Another user has the userName {user_name}.", code="uniqueness")


def _public(row: ScimUser) -> dict[str, Any]:
    return {"email": row.email, "active": row.active, "external_id": row.external_id}


def delete_user(org: Org, row: ScimUser, now: datetime) -> None:
    """Remove a user from the directory, and the membership of their account unless another user is it. Flushes."""
    row.active = False
    follow(org, [row.id], now)
    record_org(org.id, "directory.user_removed", row.user_name, before=_public(row))
    db.session.delete(row)
    db.session.flush()


def follow(org: Org, ids: Collection[str], now: datetime) -> None:
    """Let memberships be as the directory says of these users of it: end that of an account whose users are deactivated, or
    which is no longer theirs; begin it if one is active, an account exists and its domain is proven; then roles and teams.
    Flushes. A few statements for all, and some for each who joins or leaves.

    Raises Conflict if no owner would be left.
    """
    accounts = bind_accounts(org.id, ids)
    rows = users_of_accounts(org.id, accounts)
    proven = proven_domains(org.id)
    present: list[tuple[OrgMember, User]] = []
    for user, member in _people(org.id, accounts):
        if member is not None and member.role == "service":
            continue
        if not any(row.active for row in rows[user.id]):
            if member is not None:
                leave(org, user, now)
            continue
        if member is None and domain_of(user.email) in proven:
            member = _join(org, user)
        if member is not None:
            present.append((member, user))
    held = {user.id for _, user in present}
    _fill_teams(org.id, held)
    groups = directory_groups(org.id, held)
    grant_groups(org.id, [(member, user.email, groups[user.id]) for member, user in present])


def _people(org_id: str, accounts: Collection[str]) -> list[tuple[User, OrgMember | None]]:
    query = (
        select(User, OrgMember)
        .outerjoin(OrgMember, (OrgMember.user_id == User.id) & (OrgMember.org_id == org_id))
        .where(User.id.in_(accounts))
        .order_by(User.id)
    )
    return [(user, member) for user, member in db.session.execute(query)]


def _join(org: Org, user: User) -> OrgMember:
    sso = sso_of(org.id)
    member = members.join(org, user, sso.default_role if sso else "member", how="provisioned")
    if sso and sso.default_team_id:
        enter_teams(org.id, [(sso.default_team_id, user.id)])
    return member


def leave(org: Org, user: User, now: datetime) -> None:
    """End a membership because the directory says so: its keys stop, and browsers that came through the organisation's
    identity provider are signed out. Flushes. Raises Conflict if no owner would be left."""
    marked = select(OrgSsoSession.session_token).where(OrgSsoSession.org_id == org.id)
    db.session.execute(
        delete(Session)
        .where(Session.user_id == user.id, Session.type == "web", Session.session_token.in_(marked))
        .execution_options(synchronize_session=False)
    )
    offboard(org, user.id, user.id, {}, now)


def _fill_teams(org_id: str, accounts: Collection[str]) -> None:
    """Put these accounts into the teams of their groups, and out of those of other groups. Two statements."""
    in_groups = (
        select(ScimGroup.team_id, ScimGroup.org_id, ScimUser.user_id)
        .join(ScimGroupMember, ScimGroupMember.group_id == ScimGroup.id)
        .join(ScimUser, ScimUser.id == ScimGroupMember.scim_user_id)
        .where(ScimGroup.org_id == org_id, ScimGroup.team_id.is_not(None))
        .where(ScimUser.active, ScimUser.user_id.in_(accounts))
    )
    filled = select(ScimGroup.team_id).where(ScimGroup.org_id == org_id, ScimGroup.team_id.is_not(None))
    wanted = in_groups.with_only_columns(ScimGroup.team_id, ScimUser.user_id)
    pair = tuple_(OrgTeamMember.team_id, OrgTeamMember.user_id)
    db.session.execute(
        delete(OrgTeamMember)
        .where(OrgTeamMember.org_id == org_id, OrgTeamMember.user_id.in_(accounts))
        .where(OrgTeamMember.team_id.in_(filled), pair.not_in(wanted))
        .execution_options(synchronize_session=False)
    )
    columns = ["team_id", "org_id", "user_id"]
    db.session.execute(
        insert(OrgTeamMember).from_select(columns, in_groups.distinct()).on_conflict_do_nothing()
    )


# -- groups --------------------------------------------------------------------------------------------------


def save_group(
    org: Org,
    row: ScimGroup | None,
    *,
    display_name: str,
    external_id: str | None,
    member_ids: Collection[str],
    now: datetime,
) -> ScimGroup:
    """Create (`row` None) or change a group of the directory; the team of its name, and its members, follow. Flushes.

    Raises Invalid for an empty or long name, NotFound for an unknown member.
    """
    check_name(display_name, "displayName")
    check_name(external_id or "-", "externalId")
    before = {"name": row.display_name} if row else None
    row = row or ScimGroup(org_id=org.id, created_at=now)
    renamed = row.display_name != display_name
    row.display_name, row.external_id, row.updated_at = display_name, external_id, now
    if renamed or row.team_id is None:
        row.team_id = _team_of(row, display_name)
    db.session.add(row)
    db.session.flush()
    changed = set_group_members(row, member_ids)
    after = {"name": display_name, "members": len(set(member_ids))}
    if before is None or renamed or changed:
        action = "directory.group_changed" if before else "directory.group_added"
        record_org(org.id, action, display_name, before=before, after=after)
    follow(org, set(member_ids) | changed if renamed else changed, now)
    return row


def delete_group(org: Org, row: ScimGroup, now: datetime) -> None:
    """Remove a group; its users leave its team, which stays. Flushes."""
    gone = set_group_members(row, ())
    follow(org, gone, now)
    record_org(org.id, "directory.group_removed", row.display_name, before={"members": len(gone)})
    db.session.delete(row)
    db.session.flush()


def _team_of(group: ScimGroup, name: str) -> str | None:
    """The team that the group fills once it has this name; None for the name of the default team, in which everybody is, and
    above the limit of teams.

    Its team is renamed with it. If another team has the name, the group moves there; if it had none, one is made.
    """
    name = name.strip()[:LABEL_LENGTH].strip()
    current = db.session.get(OrgTeam, group.team_id) if group.team_id else None
    query = select(OrgTeam).where(OrgTeam.org_id == group.org_id, func.lower(OrgTeam.name) == name.lower())
    named = db.session.scalars(query.limit(1)).one_or_none()
    if current is not None and named is None:
        record_org(group.org_id, "team.renamed", name, before={"name": current.name}, after={"name": name})
        current.name = name
        return current.id
    if current is not None and named is not current:
        _leave_team(group, current)
    if named is None and len(org_teams(group.org_id)) >= MAX_TEAMS:
        return None
    if named is None:
        named = OrgTeam(org_id=group.org_id, name=name)
        db.session.add(named)
        db.session.flush()
        record_org(group.org_id, "team.created", name, after={"by": "directory"})
    return None if named.is_default else named.id


def _leave_team(group: ScimGroup, team: OrgTeam) -> None:
    users = (
        select(ScimUser.user_id)
        .join(ScimGroupMember, ScimGroupMember.scim_user_id == ScimUser.id)
        .where(ScimGroupMember.group_id == group.id, ScimUser.user_id.is_not(None))
    )
    db.session.execute(
        delete(OrgTeamMember)
        .where(OrgTeamMember.team_id == team.id, OrgTeamMember.user_id.in_(users))
        .execution_options(synchronize_session=False)
    )


# -- accounts that come later --------------------------------------------------------------------------------


def _signed_up(user: User, **_: Any) -> None:
    """A new account joins the organisations whose directories wait for its address."""
    query = select(ScimUser.org_id, ScimUser.id).where(ScimUser.email == user.email, ScimUser.active)
    for org_id, id in db.session.execute(query).all():
        org = org_by_id(org_id)
        if org is not None and org.deleted_at is None:
            follow(org, [id], utc_now())


signed_up.connect(_signed_up)
