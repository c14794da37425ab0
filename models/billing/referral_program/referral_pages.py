"""Queries of the referral pages and API: an invitation by its code, and the users that a user referred."""

from dataclasses import dataclass

from sqlalchemy import select, tuple_

from models.accounts.users import User
from models.billing.referral_program.referrals import referral_count, referral_of
from models.billing.referral_program.rewards import Referral
from models.core.db import db


@dataclass(frozen=True, slots=True)
class Invitation:
    """The invitation of a referral code. `count` is how many referrals count against the owner's `limit`."""

    code: str
    owner_id: str
    name: str | None
    handle: str | None
    suspended: bool
    count: int
    limit: int

    @property
    def is_full(self) -> bool:
        """Whether the owner has reached the limit."""
        return self.count >= self.limit


@dataclass(frozen=True, slots=True)
class ReferredUser:
    """The other side of a referral: `id`, `name`, `email` and `display_name` are theirs."""

    id: str
    name: str | None
    email: str
    referral: Referral
    display_name: str


def invitation(code: str) -> Invitation | None:
    """The invitation of a referral code, or None for an unknown one."""
    if "\0" in code:
        return None
    user = db.session.scalars(select(User).where(User.referral_code == code)).one_or_none()
    if user is None:
        return None
    return Invitation(
        code=code,
        owner_id=user.id,
        name=user.name,
        handle=user.handle,
        suspended=user.banned,
        count=referral_count(user.id),
        limit=user.referral_limit,
    )


def referred_by(user: User) -> ReferredUser | None:
    """Who referred this user, or None."""
    referral = referral_of(user.id)
    if referral is None:
        return None
    return _side(referral, db.session.get_one(User, referral.referrer_id))


def referred_users(
    user: User, *, limit: int, before: str | None = None, void: bool = True
) -> list[ReferredUser]:
    """Whom the user referred, newest first, at most `limit`; `before` is the last id of the previous page.

    Without `void`, those whose reward is void are left out.
    """
    query = (
        select(Referral, User)
        .join(User, User.id == Referral.referred_id)
        .where(Referral.referrer_id == user.id)
        .order_by(Referral.created_at.desc(), Referral.referred_id.desc())
        .limit(limit)
    )
    if not void:
        query = query.where(Referral.voided_at.is_(None))
    last = db.session.get(Referral, (user.id, before)) if before and "\0" not in before else None
    if last is not None:
        query = query.where(
            tuple_(Referral.created_at, Referral.referred_id) < (last.created_at, last.referred_id)
        )
    return [_side(referral, other) for referral, other in db.session.execute(query)]


def _side(referral: Referral, other: User) -> ReferredUser:
    return ReferredUser(other.id, other.name, other.email, referral, other.display_name)
