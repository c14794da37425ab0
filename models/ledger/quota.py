"""The monthly cycle of a person's free credits: the grant at sign-up and its renewal (contract 3.6)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from models.accounts.signing_in import signed_up
from models.accounts.users import User
from models.core.db import db
from models.core.db import now as the_moment
from models.core.errors import NotFound
from models.ledger.movements import Account, Granted, call, grant


@dataclass(frozen=True, slots=True)
class Quota:
    """Where a person stands in the cycle. `free` and `referral` are the credits granted just now."""

    next_reset: datetime
    renewed: bool
    free: int
    referral: int


def ensure_quota(account: Account, free_credits: int, *, now: datetime | None = None) -> Quota | None:
    """Renew a person's monthly credits if the reset date has passed: `free_credits` for who never had a free grant, else
    as many as the last one, 2,000 at most; and the referral bonus. Both expire at the new reset date. An organisation
    has no such credits: None.

    Takes no lock while nothing is due. Of many at once, one renews. Commit afterwards. Raises NotFound.
    """
    if account.user_id is None:
        return None
    row = call(
        "SELECT * FROM credit_quota(:user, :free, :now)",
        user=account.user_id,
        free=free_credits,
        now=now or the_moment(),
    )
    if row.renewed:
        user = db.session.identity_map.get(db.session.identity_key(User, account.user_id))
        if user is not None:
            db.session.expire(user, ["next_quota_reset"])
    return Quota(row.next_reset, row.renewed, row.free or 0, row.referral or 0)


def signup_grant(user_id: str, free_credits: int, now: datetime | None = None) -> Granted | None:
    """The free credits of a new account, until its first reset date. Once per user, however often it is called.

    None when `free_credits` is 0: such a server gives nothing. Raises NotFound.
    """
    now = now or the_moment()
    user = db.session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    if free_credits <= 0:
        return None
    account = Account(user_id=user_id)
    quota = ensure_quota(account, 0, now=now)
    assert quota is not None
    compact = hashlib.sha256(user_id.encode()).hexdigest()[:20]
    return grant(
        account,
        free_credits,
        "free",
        operation_id=f"free-{user_id}-{compact}",
        description="Initial free credits",
        expires_at=quota.next_reset,
        now=now,
    )


@signed_up.connect
def _grant_at_sign_up(user: User, *, free_credits: int, now: datetime) -> None:
    signup_grant(user.id, free_credits, now)
