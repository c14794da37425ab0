"""Keys of organisations: list, create, revoke, hand over, change team. Members see and make their own; `manage_keys` sees all.

Every change flushes and is recorded in the organisation's audit log; secrets are in neither.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select, tuple_

from models.accounts import credentials, key_changes
from models.accounts.api_keys import ApiKey, KeyRules, audited_rules
from models.accounts.key_changes import KeyWithRules
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember, lock_org, memberships
from models.orgs.roles import CAN, can, require
from models.orgs.service_accounts import service_account_of
from models.orgs.team_editing import check_label, team_of, teams_of
from models.orgs.teams import OrgTeam, ServiceAccount, org_teams

PAGE_SIZE = 50


class KeyListed(NamedTuple):
    """A key, its owner, and the owner's service account and the key's own team, if any."""

    key: Session
    user: User
    service: ServiceAccount | None
    team: OrgTeam | None
    rules: ApiKey | None = None
    """What it may do; None for the older kind, which may do everything."""

    @property
    def owner(self) -> str:
        """The name of the person or service account that owns it."""
        return self.service.name if self.service else self.user.display_name


class KeyOwner(NamedTuple):
    """Who may own a key: a person who may spend, or a service account in use."""

    user_id: str
    name: str
    service: bool


# -- lists ---------------------------------------------------------------------------------------------------


def org_keys_page(
    member: OrgMember, before: tuple[datetime, str] | None = None, *, owner_id: str | None = None
) -> tuple[list[KeyListed], tuple[datetime, str] | None]:
    """Keys of the organisation that the member may see, newest first, and the `before` of the next page. Of one owner, if given."""
    query = _visible(member)
    if owner_id is not None:
        query = query.where(Session.user_id == owner_id)
    if before:
        query = query.where(tuple_(Session.created_at, Session.session_token) < tuple_(*before))
    query = query.order_by(Session.created_at.desc(), Session.session_token.desc()).limit(PAGE_SIZE + 1)
    found = [KeyListed(*row) for row in db.session.execute(query)]
    last = found[PAGE_SIZE - 1].key if len(found) > PAGE_SIZE else None
    return found[:PAGE_SIZE], (last.created_at, last.session_token) if last else None


def org_key(member: OrgMember, key_id: str) -> KeyListed:
    """A key of the organisation that the member may see. Raises NotFound."""
    query = _visible(member).where(Session.session_token == key_id)
    row = db.session.execute(query).one_or_none() if credentials.is_public_id(key_id) else None
    if row is None:
        raise NotFound("Key not found")
    return KeyListed(*row)


def _visible(member: OrgMember) -> Select[Session, User, ServiceAccount, OrgTeam, ApiKey]:
    query = (
        select(Session, User, ServiceAccount, OrgTeam, ApiKey)
        .join(User, User.id == Session.user_id)
        .outerjoin(ServiceAccount, ServiceAccount.user_id == Session.user_id)
        .outerjoin(OrgTeam, OrgTeam.id == Session.team_id)
        .outerjoin(ApiKey, ApiKey.key_id == Session.session_token)
        .where(Session.org_id == member.org_id, Session.type == "pat")
    )
    return query if can(member, "manage_keys") else query.where(Session.user_id == member.user_id)


def revoked_org_keys(member: OrgMember) -> Sequence[ApiKey]:
    """Keys of the organisation that ended, newest first, at most 50: all with `manage_keys`, else the member's own."""
    query = select(ApiKey).where(ApiKey.org_id == member.org_id, ApiKey.revoked_at.is_not(None))
    if not can(member, "manage_keys"):
        query = query.where(ApiKey.user_id == member.user_id)
    return db.session.scalars(
        query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(PAGE_SIZE)
    ).all()


def key_owners(member: OrgMember) -> list[KeyOwner]:
    """Whom the member may make keys for: themselves, if their role spends; with `manage_keys` also service accounts."""
    owners = [KeyOwner(member.user_id, "Yourself", False)] if can(member, "spend") else []
    return owners + (_services(member.org_id) if can(member, "manage_keys") else [])


def heirs(org_id: str, but: str) -> list[KeyOwner]:
    """Who may take over a key: service accounts, then people who may spend, by name; at most 500."""
    query = (
        select(User)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role.in_(CAN["spend"] - {"service"}), User.id != but)
        .order_by(User.display_name, User.id)
        .limit(500)
    )
    people = [KeyOwner(user.id, user.display_name, False) for user in db.session.scalars(query)]
    return [owner for owner in _services(org_id) if owner.user_id != but] + people


def _services(org_id: str) -> list[KeyOwner]:
    query = select(ServiceAccount).where(
        ServiceAccount.org_id == org_id,
        ServiceAccount.disabled_at.is_(None),
        ServiceAccount.deleted_at.is_(None),
    )
    return [
        KeyOwner(each.user_id, each.name, True)
        for each in db.session.scalars(query.order_by(ServiceAccount.name, ServiceAccount.user_id))
    ]


def key_teams(member: OrgMember) -> Sequence[OrgTeam]:
    """The teams that the member may give a key: their own; with `manage_keys` all."""
    if can(member, "manage_keys"):
        return org_teams(member.org_id)
    return teams_of(member.org_id, member.user_id)


def orgs_to_pay(user_id: str) -> list[tuple[Org, OrgMember]]:
    """The user's organisations that pay for calls with their keys."""
    return [(org, member) for org, member in memberships(user_id) if can(member, "spend")]


# -- changes -------------------------------------------------------------------------------------------------


def create_org_key(
    org: Org,
    member: OrgMember,
    *,
    by: Session,
    name: str,
    days: float,
    owner_id: str | None = None,
    team_id: str | None = None,
    limit: int | None = None,
    now: datetime,
    rules: KeyRules | None = None,
) -> tuple[str, Session]:
    """Create a key of the organisation for the member, or a service account (`owner_id`). Returns the raw token and the row.

    `by` is the member's browser session. Raises Forbidden for a role that may not, and as `credentials.create_key` does; Invalid
    (400) for the name; NotFound for the service account or team; Conflict for a service account that is switched off."""
    name = check_label(name)
    owner_id = owner_id or member.user_id
    if team_id is not None:
        _check_team(org, member, team_id)
    if owner_id == member.user_id:
        if not can(member, "spend"):
            raise Forbidden("Your role makes no calls, so it needs no keys.")
        parent: Session | None = by
    else:
        if not can(member, "manage_keys"):
            raise Forbidden("Insufficient permissions")
        lock_org(org.id)  # it is not switched off meanwhile
        account = service_account_of(org, owner_id)
        db.session.refresh(account)
        if account.disabled_at is not None or account.deleted_at is not None:
            raise Conflict("This service account is switched off. Switch it on first.")
        # the key outlives the browser session, and the person
        credentials.lock_browser(by)
        parent = None
    token, key = credentials.create_key(
        db.session.get_one(User, owner_id),
        by=parent,
        days=days,
        name=name,
        limit=limit,
        now=now,
        org_id=org.id,
        team_id=team_id,
        rules=rules,
    )
    record_org(org.id, "key.created", name, after=_audited(org_key(member, key.session_token)))
    return token, key


def check_key_owner(member: OrgMember, name: str | None) -> None:
    """Raise Forbidden if the member's role makes no calls, and Invalid if a new key of theirs has no usable name."""
    if not can(member, "spend"):
        raise Forbidden("Your role makes no calls, so it needs no keys.")
    check_label(name or "")


def record_key(org_id: str, action: str, name: str, *, before: Any = None, after: Any = None) -> None:
    """Write a change of a key to the organisation's audit log."""
    record_org(org_id, f"key.{action}", name, before=before, after=after)


def revoke_org_key(listed: KeyListed, by: Session) -> None:
    """Revoke a key: calls with it are refused at once. Raises Forbidden (`credentials.lock_browser`)."""
    credentials.lock_browser(by)
    end_key(listed)


def move_org_key(member: OrgMember, listed: KeyListed, owner_id: str, by: Session) -> KeyOwner:
    """Give the key, with its secret, to a service account or a person of the organisation. Its calls until now stay its former
    owner's. Raises Invalid (400) for anybody else, NotFound for a key that ended meanwhile, and Forbidden
    (`credentials.lock_browser`)."""
    credentials.lock_browser(by)
    require(member, "manage_keys")
    key = _lock_key(member, listed)
    heir = {owner.user_id: owner for owner in heirs(str(key.org_id), key.user_id)}.get(owner_id)
    if heir is None:
        problem = "Choose a service account in use, or a person whose role makes calls."
        raise Invalid(problem, fields={"owner": problem}, status=400)
    hand_over(listed, heir)
    return heir


def hand_over(listed: KeyListed, heir: KeyOwner) -> None:
    """Make the heir the owner of the key, which stays as it is. Flushes."""
    key, before = listed.key, _audited(listed)
    key.user_id, key.parent, key.disabled_at = heir.user_id, None, None
    db.session.flush()
    record_org(str(key.org_id), "key.moved", _name(key), before=before, after={**before, "owner": heir.name})


def end_key(listed: KeyListed) -> None:
    """Delete the key: calls with it are refused at once. Flushes."""
    record_org(str(listed.key.org_id), "key.revoked", _name(listed.key), before=_audited(listed))
    db.session.delete(listed.key)
    db.session.flush()


def keys_of(org_id: str, user_id: str, *, lock: bool = False) -> list[KeyListed]:
    """All keys of the organisation that one person owns, oldest first, without expired ones."""
    query = (
        select(Session, User, OrgTeam)
        .join(User, User.id == Session.user_id)
        .outerjoin(OrgTeam, OrgTeam.id == Session.team_id)
        .where(
            Session.org_id == org_id,
            Session.user_id == user_id,
            Session.type == "pat",
            Session.expires > func.timezone("utc", func.now()),
        )
        .order_by(Session.created_at, Session.session_token)
    )
    if lock:
        query = query.with_for_update(of=Session)
    return [KeyListed(key, user, None, team) for key, user, team in db.session.execute(query)]


def change_org_key_rules(
    member: OrgMember, listed: KeyListed, rules: KeyRules, by: Session, now: datetime
) -> None:
    """Change what the key may do; its environment stays. Raises NotFound, Invalid (422) with what is wrong by field, OlderKind, and as
    `credentials.lock_browser` does."""
    credentials.lock_browser(by)
    key = _lock_key(member, listed)
    before = audited_rules(listed.rules)
    key_changes.change_rules(listed.rules, rules, now)
    if (after := audited_rules(listed.rules)) != before:
        record_org(str(key.org_id), "key.changed", _name(key), before=before, after=after)


def rotate_org_key(
    member: OrgMember, listed: KeyListed, *, grace: timedelta, by: Session, now: datetime
) -> str:
    """Give the key a new secret and return it; the old one works for `grace`. Raises NotFound, Forbidden for a key of somebody else
    without `manage_keys`, and as `key_changes.rotate` and `credentials.lock_browser` do."""
    credentials.lock_browser(by)
    key = _lock_key(member, listed)
    token = key_changes.rotate(KeyWithRules(key, listed.rules), grace=grace, now=now)
    record_org(
        str(key.org_id),
        "key.rotated",
        _name(key),
        after={"key": key.token_hint, "grace_seconds": int(grace.total_seconds())},
    )
    return token


def set_key_team(org: Org, member: OrgMember, listed: KeyListed, team_id: str | None, by: Session) -> None:
    """Give the key a team, or (None) its owner's. Raises NotFound, and Forbidden for a team that the member may not give, and as
    `credentials.lock_browser` does."""
    credentials.lock_browser(by)
    key = _lock_key(member, listed)
    if team_id is not None:
        _check_team(org, member, team_id)
    elif key.team_id is not None and not can(member, "manage_keys"):
        raise Forbidden("Only admins take a key out of its team.")
    if key.team_id == team_id:
        return
    before = _audited(listed)
    key.team_id = team_id
    db.session.flush()
    after = _audited(org_key(member, key.session_token))
    record_org(org.id, "key.team_changed", _name(key), before=before, after=after)


def _lock_key(member: OrgMember, listed: KeyListed) -> Session:
    """Lock the organisation and the key, and read it anew: teams, service accounts and members stay meanwhile."""
    lock_org(member.org_id)
    query = select(Session).where(Session.session_token == listed.key.session_token).with_for_update()
    key = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if key is None or (key.user_id != member.user_id and not can(member, "manage_keys")):
        raise NotFound("Key not found")
    return key


def _check_team(org: Org, member: OrgMember, team_id: str) -> None:
    team = team_of(org, team_id)
    if team.id not in {each.id for each in key_teams(member)}:
        raise Forbidden("Choose one of your teams.")


def _name(key: Session) -> str:
    return key.name or key.token_hint


def _audited(listed: KeyListed) -> dict[str, str | None]:
    return {
        "key": listed.key.token_hint,
        "owner": listed.owner,
        "team": listed.team.name if listed.team else None,
    }
