"""Users and groups that an organisation's directory provisions (SCIM 2.0), and what they mean: memberships, roles, teams.

A provisioned user is not an account: the account is made when the person first signs in. Whoever has one already becomes a
member at once, if the organisation has proven the domain of their address. Deactivated, they stop being one.
"""

import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, delete, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import Conflict, NotFound
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember

TOKEN_PREFIX = "stoa-scim-"  # noqa: S105
MAX_TOKENS = 5
TOUCH_EVERY = timedelta(minutes=5)


class ScimToken(Base):
    """A bearer token of an organisation's directory, stored as its SHA-256."""

    __tablename__ = "scim_token"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), index=True)
    hint: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    last_used_at: Mapped[datetime | None]


class ScimUser(Base):
    """A user of the directory. `attributes` is the whole resource as the directory sent it; `email` its normalised address.

    `user_id` is their account, once there is one: it stays theirs when their address changes, until another account has the
    new address."""

    __tablename__ = "scim_user"
    __table_args__ = (
        Index("idx_scim_user_name", "org_id", text("lower(user_name)"), unique=True),
        Index("idx_scim_user_external", "org_id", "external_id"),
        Index("idx_scim_user_email", "email"),
        Index("idx_scim_user_list", "org_id", "created_at", "id"),
        Index("idx_scim_user_account", "user_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    user_name: Mapped[str]
    external_id: Mapped[str | None]
    email: Mapped[str | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    active: Mapped[bool]
    attributes: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ScimGroup(Base):
    """A group of the directory, and the team it fills."""

    __tablename__ = "scim_group"
    __table_args__ = (
        Index("idx_scim_group_list", "org_id", "created_at", "id"),
        Index("idx_scim_group_external", "org_id", "external_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    display_name: Mapped[str]
    external_id: Mapped[str | None]
    team_id: Mapped[str | None] = mapped_column(ForeignKey("org_team.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ScimGroupMember(Base):
    """A user of the directory in one of its groups."""

    __tablename__ = "scim_group_member"

    group_id: Mapped[str] = mapped_column(ForeignKey("scim_group.id", ondelete="CASCADE"), primary_key=True)
    scim_user_id: Mapped[str] = mapped_column(
        ForeignKey("scim_user.id", ondelete="CASCADE"), primary_key=True, index=True
    )


# -- tokens --------------------------------------------------------------------------------------------------


def scim_tokens(org_id: str) -> Sequence[ScimToken]:
    """The organisation's tokens, newest first."""
    query = select(ScimToken).where(ScimToken.org_id == org_id).order_by(ScimToken.created_at.desc())
    return db.session.scalars(query).all()


def create_scim_token(org_id: str, by: str) -> str:
    """Create a token and return it: it is not stored. Flushes. Raises Conflict above `MAX_TOKENS`."""
    if len(scim_tokens(org_id)) >= MAX_TOKENS:
        raise Conflict(f"An organisation has at most {MAX_TOKENS} tokens. Revoke one first.")
    token = TOKEN_PREFIX + secrets.token_hex(32)
    hint = f"{token[:14]}...{token[-6:]}"
    db.session.add(ScimToken(token_hash=hash_token(token), org_id=org_id, hint=hint, created_by=by))
    record_org(org_id, "scim_token.created", hint)
    db.session.flush()
    return token


def revoke_scim_token(org_id: str, token_hash: str) -> None:
    """Revoke a token. Flushes. Raises NotFound."""
    row = db.session.get(ScimToken, token_hash)
    if row is None or row.org_id != org_id:
        raise NotFound("Token not found")
    record_org(org_id, "scim_token.revoked", row.hint)
    db.session.delete(row)
    db.session.flush()


def scim_caller(key: str, token: str, now: datetime) -> tuple[Org, ScimToken] | None:
    """The organisation with this id or slug and the token, if it is one of the organisation's; else None. Notes the use, at
    most every five minutes; flushes."""
    query = (
        select(Org, ScimToken)
        .join(ScimToken, ScimToken.org_id == Org.id)
        .where(
            ScimToken.token_hash == hash_token(token),
            or_(Org.id == key, Org.slug == key),
            Org.deleted_at.is_(None),
        )
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        return None
    org, found = row
    if found.last_used_at is None or found.last_used_at <= now - TOUCH_EVERY:
        found.last_used_at = now
        db.session.flush()
    return org, found


# -- what the directory says of an account -------------------------------------------------------------------


def bind_accounts(org_id: str, ids: Collection[str]) -> set[str]:
    """Let each of these users of the directory be the account that has their address and has verified it; without one they keep
    the account they had. Flushes. Returns the accounts that they had and have."""
    db.session.flush()
    before = _accounts(org_id, ids)
    db.session.execute(
        update(ScimUser)
        .where(ScimUser.org_id == org_id, ScimUser.id.in_(ids), User.email == ScimUser.email)
        .where(User.email_verified.is_not(None), ScimUser.user_id.is_distinct_from(User.id))
        .values(user_id=User.id)
        .execution_options(synchronize_session=False)
    )
    return before | _accounts(org_id, ids)


def _accounts(org_id: str, ids: Collection[str]) -> set[str]:
    query = select(ScimUser.user_id).where(ScimUser.org_id == org_id, ScimUser.id.in_(ids))
    return {id for id in db.session.scalars(query) if id}


def users_of_accounts(org_id: str, accounts: Collection[str]) -> dict[str, list[ScimUser]]:
    """The directory's users who are these accounts, by account: theirs, or with their address while they are nobody's."""
    theirs = or_(ScimUser.user_id == User.id, ScimUser.user_id.is_(None) & (ScimUser.email == User.email))
    query = select(User.id, ScimUser).join(ScimUser, theirs)
    query = query.where(ScimUser.org_id == org_id, User.id.in_(accounts))
    found: dict[str, list[ScimUser]] = {id: [] for id in accounts}
    for account, row in db.session.execute(query):
        found[account].append(row)
    return found


def provisioned(org_id: str, user: User) -> bool:
    """Whether the directory has an active user who is this account."""
    return any(row.active for row in users_of_accounts(org_id, [user.id])[user.id])


def shut_out(org_id: str, user: User) -> bool:
    """Whether the directory knows the account and has deactivated all of its users."""
    rows = users_of_accounts(org_id, [user.id])[user.id]
    return bool(rows) and not any(row.active for row in rows)


def directory_groups(org_id: str, accounts: Collection[str]) -> dict[str, frozenset[str]]:
    """The directory's groups of each account, by all their names: display name, external id, id."""
    theirs = or_(ScimUser.user_id == User.id, ScimUser.user_id.is_(None) & (ScimUser.email == User.email))
    query = (
        select(User.id, ScimGroup.id, ScimGroup.display_name, ScimGroup.external_id)
        .join(ScimUser, theirs)
        .join(ScimGroupMember, ScimGroupMember.scim_user_id == ScimUser.id)
        .join(ScimGroup, ScimGroup.id == ScimGroupMember.group_id)
        .where(ScimUser.org_id == org_id, ScimUser.active, User.id.in_(accounts))
    )
    names: dict[str, set[str]] = {id: set() for id in accounts}
    for account, *each in db.session.execute(query):
        names[account].update(name for name in each if name)
    return {account: frozenset(each) for account, each in names.items()}


def directory_states(org_id: str, proven: Collection[str]) -> dict[str, int]:
    """How many users the directory has: `active`; of these `waiting` for their first sign-in, and `outside` the proven domains
    and no members; and `deactivated`."""
    by_address = select(User.id).where(User.email == ScimUser.email).correlate(ScimUser).scalar_subquery()
    rows = db.session.execute(
        select(ScimUser.active, ScimUser.email, User.id.is_not(None), OrgMember.user_id.is_not(None))
        .outerjoin(User, User.id == func.coalesce(ScimUser.user_id, by_address))
        .outerjoin(OrgMember, (OrgMember.user_id == User.id) & (OrgMember.org_id == org_id))
        .where(ScimUser.org_id == org_id)
    ).all()
    active = [row[1:] for row in rows if row[0]]
    outside = [
        email for email, _, member in active if not member and (email or "").rpartition("@")[2] not in proven
    ]
    waiting = [email for email, account, _ in active if not account and email not in outside]
    return {
        "active": len(active),
        "waiting": len(waiting),
        "outside": len(outside),
        "deactivated": len(rows) - len(active),
    }


# -- reading -------------------------------------------------------------------------------------------------


def scim_user(org_id: str, id: str) -> ScimUser:
    """A user of the directory. Raises NotFound."""
    row = db.session.get(ScimUser, id)
    if row is None or row.org_id != org_id:
        raise NotFound(f"User {id} not found")
    return row


def scim_group(org_id: str, id: str) -> ScimGroup:
    """A group of the directory. Raises NotFound."""
    row = db.session.get(ScimGroup, id)
    if row is None or row.org_id != org_id:
        raise NotFound(f"Group {id} not found")
    return row


def list_users(
    org_id: str, *, offset: int = 0, limit: int | None = None, **equal: str
) -> tuple[int, Sequence[ScimUser]]:
    """How many users there are and some of them, oldest first. `equal`: user_name (in any case), external_id or id."""
    conditions = [ScimUser.org_id == org_id]
    if "user_name" in equal:
        conditions.append(func.lower(ScimUser.user_name) == equal["user_name"].lower())
    conditions += [getattr(ScimUser, name) == equal[name] for name in ("external_id", "id") if name in equal]
    query = select(ScimUser).where(*conditions).order_by(ScimUser.created_at, ScimUser.id)
    total = db.session.scalar(select(func.count()).select_from(ScimUser).where(*conditions)) or 0
    return total, db.session.scalars(query.offset(offset).limit(limit)).all()


def list_groups(
    org_id: str, *, offset: int = 0, limit: int | None = None, **equal: str
) -> tuple[int, Sequence[ScimGroup]]:
    """How many groups there are and some of them, oldest first. `equal`: display_name (in any case), external_id or id."""
    conditions = [ScimGroup.org_id == org_id]
    if "display_name" in equal:
        conditions.append(func.lower(ScimGroup.display_name) == equal["display_name"].lower())
    conditions += [getattr(ScimGroup, name) == equal[name] for name in ("external_id", "id") if name in equal]
    query = select(ScimGroup).where(*conditions).order_by(ScimGroup.created_at, ScimGroup.id)
    total = db.session.scalar(select(func.count()).select_from(ScimGroup).where(*conditions)) or 0
    return total, db.session.scalars(query.offset(offset).limit(limit)).all()


def members_of_groups(ids: Collection[str]) -> dict[str, list[ScimUser]]:
    """The users in each of these groups, by user name."""
    query = (
        select(ScimGroupMember.group_id, ScimUser)
        .join(ScimUser, ScimUser.id == ScimGroupMember.scim_user_id)
        .where(ScimGroupMember.group_id.in_(ids))
        .order_by(ScimUser.user_name)
    )
    found: dict[str, list[ScimUser]] = {id: [] for id in ids}
    for group_id, user in db.session.execute(query):
        found[group_id].append(user)
    return found


def groups_of_users(ids: Collection[str]) -> dict[str, list[ScimGroup]]:
    """The groups of each of these users, by name."""
    query = (
        select(ScimGroupMember.scim_user_id, ScimGroup)
        .join(ScimGroup, ScimGroup.id == ScimGroupMember.group_id)
        .where(ScimGroupMember.scim_user_id.in_(ids))
        .order_by(ScimGroup.display_name)
    )
    found: dict[str, list[ScimGroup]] = {id: [] for id in ids}
    for user_id, group in db.session.execute(query):
        found[user_id].append(group)
    return found


def set_group_members(group: ScimGroup, ids: Collection[str]) -> set[str]:
    """Let the group have exactly these users; returns the ids of those who came or went. Flushes. Raises NotFound."""
    wanted = set(ids)
    known = set(
        db.session.scalars(
            select(ScimUser.id).where(ScimUser.org_id == group.org_id, ScimUser.id.in_(wanted))
        )
    )
    if wanted - known:
        raise NotFound(f"User {min(wanted - known)} not found")
    current = set(
        db.session.scalars(select(ScimGroupMember.scim_user_id).where(ScimGroupMember.group_id == group.id))
    )
    db.session.execute(
        delete(ScimGroupMember).where(
            ScimGroupMember.group_id == group.id, ScimGroupMember.scim_user_id.in_(current - wanted)
        )
    )
    if wanted - current:
        rows = [{"group_id": group.id, "scim_user_id": id} for id in sorted(wanted - current)]
        db.session.execute(insert(ScimGroupMember), rows)
    return current ^ wanted
