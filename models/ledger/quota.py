"""The monthly quota cycle of a person's free credits: sign-up grant and renewal (contract 3.6)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from models.accounts.signing_in import signed_up
from models.accounts.users import User
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import NotFound
from models.ledger.credit_operations import Account, Granted, call_function, grant


@dataclass(frozen=True, slots=True)
class Quota:
    """The state of a person's quota cycle. `free` and `referral` are the credits granted by this call."""

    next_reset: datetime
    renewed: bool
    free: int
    referral: int


def ensure_quota(account: Account, free_credits: int, *, now: datetime | None = None) -> Quota | None:
    """Renew a person's monthly credits if the reset date has passed: the amount of the last free grant, at most 2,000
    (`free_credits` if there was none), plus the referral bonus. Both expire at the new reset date. Returns None for
    an organisation, which has no free credits.

    Takes no lock unless a renewal is due. Of concurrent calls, one renews. Commit afterwards. Raises NotFound.
    """
    if account.user_id is None:
        return None
    row = call_function(
        "SELECT * FROM credit_quota(:user, :free, :now)",
        user=account.user_id,
        free=free_credits,
        now=now or utc_now(),
    )
    if row.renewed:
        user = db.session.identity_map.get(db.session.identity_key(User, account.user_id))
        if user is not None:
            db.session.expire(user, ["next_quota_reset"])
    return Quota(row.next_reset, row.renewed, row.free or 0, row.referral or 0)


def signup_grant(user_id: str, free_credits: int, now: datetime | None = None) -> Granted | None:
    """Grant a new user's free credits, which expire at the first reset date. Idempotent per user.

    Returns None if `free_credits` is 0. Raises NotFound.
    """
    now = now or utc_now()
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
