"""Referrals: redeeming a code, the rewards of both sides, and rewards that wait for a purchase (contract 2.10, 3.6).

Functions that grant credits first lock the credit accounts of both users, in order of their ids. So of concurrent
redemptions by one user one counts, and a referrer never exceeds their limit.
"""

import uuid
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Update, func, or_, select, update
from sqlalchemy.orm import aliased

from models.accounts.devices import share_device
from models.accounts.users import User
from models.billing.payments.purchase import Purchase
from models.billing.referral_program.rewards import Referral
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, DomainError, NotFound
from models.ledger.credit_operations import Account, call_function, grant
from models.ledger.quota import ensure_quota

BONUS = 250
"""Credits for each side of a referral (contract 3.1)."""
HOLD = timedelta(days=7)
"""How long a reward is held after the purchase that earned it."""

Reward = Literal["now", "first_purchase"]
VoidReason = Literal["refund", "dispute", "self_referral"]

_OPERATIONS = uuid.UUID("6d1ad6c8-7b6a-4d0f-9a58-0c2d3f7f3a11")
"""Namespace of the ids of referral grants: each pair of users has one, so no repetition can grant twice."""

ALREADY_REFERRED = "You've already been referred by someone. Each user can only be referred once."
UNKNOWN_CODE = "This referral code doesn't exist! Try again or reach out to support@codebuff.com if the problem persists."
OWN_CODE = "Nice try bud, you can't use your own referral code."
DOUBLE_DIPPING = "You were referred by this user already. No double dipping, refer someone new!"
LIMIT_REACHED = "This referrer has maxxed out the number of referrals they can make"
SELF_REFERRAL = "You cannot use the code of an account that shares its inbox, device or card with yours."


def redeem(
    user_id: str, code: str, *, reward: Reward, free_credits: int, now: datetime | None = None
) -> Referral:
    """Record that the user was referred by the owner of `code`, and pay both sides BONUS credits (contract 2.10).

    With the reward `first_purchase` nothing is paid yet: see `referral_paid`. `free_credits` is for a quota cycle of the
    referred user that is due. Checks in the contract's order, with its messages. Locks both accounts until the
    transaction ends: commit soon. Raises Conflict, NotFound, and DomainError with status 400.
    """
    now = now or utc_now()
    referrer_id = owner_of(code)
    if referrer_id and referrer_id != user_id and _email_of(user_id):
        _lock(referrer_id, user_id)
    if (error := refusal(user_id, code)) is not None:
        raise error
    assert referrer_id is not None
    referral = Referral(referrer_id=referrer_id, referred_id=user_id, credits=0, created_at=now)
    db.session.add(referral)
    db.session.flush()
    if reward == "now":
        _pay(referral, free_credits, now)
    return referral


def refusal(user_id: str, code: str) -> DomainError | None:
    """Why the user cannot redeem `code`, checked in the contract's order, or None. Final only under the accounts' locks."""
    referrer_id = owner_of(code)
    if referral_of(user_id):
        return Conflict(ALREADY_REFERRED)
    if referrer_id is None:
        return NotFound(UNKNOWN_CODE)
    if referrer_id == user_id:
        return DomainError(OWN_CODE)
    if db.session.get(Referral, (user_id, referrer_id)):
        return Conflict(DOUBLE_DIPPING)
    if _email_of(user_id) is None:
        return NotFound("User not found.")
    if referral_count(referrer_id) >= _limit_of(referrer_id):
        return DomainError(LIMIT_REACHED)
    if is_self_referral(referrer_id, user_id):
        return DomainError(SELF_REFERRAL, code="self_referral")
    return None


def owner_of(code: str) -> str | None:
    """The user whose referral code this is, or None. None also for a suspended user."""
    if "\0" in code:
        return None
    query = select(User.id).where(User.referral_code == code, User.banned.is_(False))
    return db.session.scalars(query).one_or_none()


def referral_of(user_id: str) -> Referral | None:
    """The referral of this user, or None if nobody referred them."""
    query = select(Referral).where(Referral.referred_id == user_id)
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def referral_count(referrer_id: str) -> int:
    """How many referrals of the user count against their limit: all but void ones."""
    query = select(func.count()).where(Referral.referrer_id == referrer_id, Referral.voided_at.is_(None))
    return db.session.scalars(query).one()


def is_self_referral(referrer_id: str, referred_id: str) -> bool:
    """Whether two accounts seem to belong to one person: they share an inbox or a device. Checked at redemption, at the
    purchase that a reward waits for, and when the reward is released."""
    emails = _email_of(referrer_id), _email_of(referred_id)
    if None not in emails and inbox(emails[0] or "") == inbox(emails[1] or ""):
        return True
    return share_device(referrer_id, referred_id) or _share_card(referrer_id, referred_id)


def _share_card(user_id: str, other_id: str) -> bool:
    mine, theirs = aliased(Purchase), aliased(Purchase)
    shared = (
        select(mine.id)
        .join(theirs, theirs.card_fingerprint == mine.card_fingerprint)
        .where(mine.user_id == user_id, theirs.user_id == other_id)
    )
    return db.session.scalars(shared.limit(1)).first() is not None


def inbox(email: str) -> str:
    """The mailbox of an address: lower case, without a plus tag, and at Gmail without dots."""
    local, _, domain = email.strip().lower().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in ("gmail.com", "googlemail.com"):
        return f"{local.replace('.', '')}@gmail.com"
    return f"{local}@{domain}"


# -- rewards that wait for a purchase ------------------------------------------------------------------------


def referral_paid(user_id: str, purchase_id: str, *, now: datetime | None = None) -> bool:
    """The user paid a purchase: hold the reward that waits for it for HOLD. Returns whether one is held for it now.

    Call it in the transaction in which a purchase becomes paid, after its account is locked; it locks only the referral.
    The first purchase after the referral counts; repetitions change nothing. The reward of a self-referral, which may be
    visible only now, becomes void instead.
    """
    now = now or utc_now()
    waits = _pending(user_id).where(Referral.purchase_id.is_(None))
    held = waits.values(purchase_id=purchase_id, held_until=now + HOLD).returning(Referral.referrer_id)
    referrer_id = db.session.scalars(held).one_or_none()
    if referrer_id is None:
        return False
    return not (is_self_referral(referrer_id, user_id) and _void(user_id, purchase_id, "self_referral", now))


def referral_void(
    user_id: str, purchase_id: str, reason: Literal["refund", "dispute"], *, now: datetime | None = None
) -> bool:
    """The user's purchase was refunded, in whole or part, or disputed: void the reward that is held for it. Returns
    whether one was.

    Call it in the transaction that records the refund or dispute, after the account is locked; it locks only the referral.
    A reward that was released stays. Void is final: neither a later purchase nor a dispute that is won revives it.
    """
    return _void(user_id, purchase_id, reason, now or utc_now())


def due_referrals(*, now: datetime | None = None, limit: int = 200) -> list[str]:
    """The referred users of at most `limit` rewards that `release_referral` would release, the longest due first."""
    referrer, referred = User.__table__.alias(), User.__table__.alias()
    query = (
        select(Referral.referred_id)
        .join(referrer, referrer.c.id == Referral.referrer_id)
        .join(referred, referred.c.id == Referral.referred_id)
        .where(
            Referral.status == "pending",
            Referral.voided_at.is_(None),
            Referral.held_until <= (now or utc_now()),
            ~or_(referrer.c.banned, referred.c.banned),
        )
        .order_by(Referral.held_until)
        .limit(limit)
    )
    return list(db.session.scalars(query))


def release_referral(user_id: str, *, free_credits: int, now: datetime | None = None) -> bool:
    """Pay a held reward that is due. Returns whether it was paid.

    Of concurrent calls one pays, and a refund that is recorded first prevents it. While one of the two users is suspended
    the reward stays held; that of a self-referral becomes void. Locks both accounts: commit soon.
    """
    now = now or utc_now()
    referral = _locked(user_id)
    if referral is None or referral.status != "pending" or referral.voided_at or not referral.purchase_id:
        return False
    if referral.held_until is None or referral.held_until > now:
        return False
    if is_self_referral(referral.referrer_id, user_id):
        _void(user_id, referral.purchase_id, "self_referral", now)
        return False
    banned = select(func.bool_or(User.banned)).where(User.id.in_((referral.referrer_id, user_id)))
    return not db.session.scalars(banned).one() and _pay(referral, free_credits, now)


def _pay(referral: Referral, free_credits: int, now: datetime) -> bool:
    """Complete a referral and grant both sides, in a transaction that holds both accounts' locks. False if it is not
    pending any more."""
    # Before the referral counts for the monthly bonus: a cycle that starts now does not include it.
    quota = ensure_quota(Account(user_id=referral.referred_id), free_credits, now=now)
    assert quota is not None
    completed = _pending(referral.referred_id).values(status="completed", credits=BONUS, completed_at=now)
    if db.session.scalars(completed.returning(Referral.referred_id)).one_or_none() is None:
        return False
    db.session.refresh(referral)
    operation = uuid.uuid5(_OPERATIONS, f"{referral.referrer_id} {referral.referred_id}")
    for side, id in (("referrer", referral.referrer_id), ("referred", referral.referred_id)):
        grant(
            Account(user_id=id),
            BONUS,
            "referral",
            operation_id=f"ref-{operation}-{side}",
            description=f"Referral bonus ({side})",
            expires_at=quota.next_reset,
            now=now,
        )
    return True


def _void(user_id: str, purchase_id: str, reason: VoidReason, now: datetime) -> bool:
    void = _pending(user_id).where(Referral.purchase_id == purchase_id)
    void = void.values(voided_at=now, void_reason=reason)
    return db.session.scalars(void.returning(Referral.referred_id)).one_or_none() is not None


def _pending(user_id: str) -> Update:
    """An UPDATE of the user's referral if it was neither paid nor voided. Its row decides, whatever was read before."""
    pending = Referral.referred_id == user_id, Referral.status == "pending", Referral.voided_at.is_(None)
    return update(Referral).where(*pending).execution_options(synchronize_session=False)


# -- reading -------------------------------------------------------------------------------------------------


def _locked(user_id: str) -> Referral | None:
    """The user's referral, read again once both accounts are locked. Takes no lock for one who was not referred."""
    found = referral_of(user_id)
    if found is None:
        return None
    _lock(found.referrer_id, user_id)
    return referral_of(user_id)


def _lock(*user_ids: str) -> None:
    # In the order of the ledger's own statements, which is the database's.
    for id in db.session.scalars(select(User.id).where(User.id.in_(user_ids)).order_by(User.id)).all():
        call_function("SELECT credit_account_lock(:user, NULL)", user=id)


def _email_of(user_id: str) -> str | None:
    return db.session.scalars(select(User.email).where(User.id == user_id)).one_or_none()


def _limit_of(user_id: str) -> int:
    return db.session.scalars(select(User.referral_limit).where(User.id == user_id)).one()
