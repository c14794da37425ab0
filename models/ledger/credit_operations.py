"""Credit operations other than model calls: grants, revocations, charges, the sweep, and erasing an account.

They run in the ledger's SQL functions (`migrations/functions/ledger`) under the account's lock, which is held until
the caller's transaction ends: commit soon. Lock a person's account before changing their `user` row in the same
transaction, as the quota cycle does.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, text
from sqlalchemy.exc import DBAPIError

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger.call_records import LostHold
from models.ledger.heads import forget_leaves
from models.ledger.ledger import GRANT_TYPES, CreditAccount, CreditEntry, CreditHold, CreditLedger
from models.ledger.sanitizing import clean_text
from models.orgs import Org, org_erased

PRIORITIES = {
    "subscription": 10,
    "free": 20,
    "plan": 25,
    "referral_legacy": 30,
    "ad": 40,
    "referral": 40,
    "admin": 60,
    "organization": 70,
    "purchase": 80,
}
"""Spending order by grant type, lowest first (contract 3.2)."""

MAX_GRANT = 10**12


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant, the owner of credits, calls and runs: either a user's personal account or an organisation's."""

    user_id: str | None = None
    org_id: str | None = None

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.org_id is None):
            raise ValueError("an account is a user's or an organisation's")

    @classmethod
    def of(cls, key: Session) -> "Account":
        """The account that pays for a session or API key."""
        return cls(org_id=key.org_id) if key.org_id else cls(user_id=key.user_id)

    @property
    def id(self) -> str:
        """The id of the `credit_account` row: the organisation's or the user's id."""
        return self.org_id or self.user_id or ""


@dataclass(frozen=True, slots=True)
class Granted:
    """The outcome of a grant. Amounts are credits."""

    operation_id: str
    created: bool
    """False if this operation was already done; nothing changed."""
    balance: int
    """Remaining credits of the grant."""
    debt_cleared: int


@dataclass(frozen=True, slots=True)
class Charged:
    """The outcome of a charge. Amounts are credits."""

    charged: bool
    """False if this cause was already charged; nothing changed."""
    amount: int
    balance: int
    """The account's net balance afterwards."""
    from_purchased: int
    debt: int
    """The part that no grant covered."""


@dataclass(frozen=True, slots=True)
class Swept:
    """The outcome of a sweep: holds marked as lost, grants written off, and the credits written off."""

    holds: int
    grants: int
    credits: int


def compact_id() -> str:
    """A new UUID without dashes, for operation ids (contract 3.2)."""
    return uuid.uuid4().hex


def grant(
    account: Account,
    amount: int,
    type: str,
    *,
    operation_id: str,
    description: str | None = None,
    expires_at: datetime | None = None,
    buyer_id: str | None = None,
    now: datetime | None = None,
) -> Granted:
    """Add `amount` credits, once per `operation_id`. Credits are created nowhere else (contract 3.5).

    A grant to a person first clears debt; debt beyond the amount remains. An organisation's grants have the type
    `organization`, do not clear debt, and name the buyer (`buyer_id`, by default the owner).
    Raises Invalid (amount, type, past expiry), NotFound (account), Conflict (`operation_id` of another account).
    """
    now = now or utc_now()
    if not 0 < amount <= MAX_GRANT:
        raise Invalid(f"Grant between 1 and {MAX_GRANT:,} credits.", fields={"amount": "out of range"})
    if type not in GRANT_TYPES or (type == "organization") != (account.org_id is not None):
        raise Invalid(
            f"This kind of account cannot receive a grant of type {type!r}.", fields={"type": "not allowed"}
        )
    if expires_at is not None and expires_at <= now:
        raise Invalid("The grant would expire in the past.", fields={"expires_at": "in the past"})
    row = call_function(
        "SELECT * FROM credit_grant(:operation, :user, :org, :amount, CAST(:type AS grant_type), :priority,"
        " :description, CAST(:expires AS timestamptz), :now)",
        operation=operation_id,
        user=account.user_id or buyer_id or owner_of(account),
        org=account.org_id,
        amount=amount,
        type=type,
        priority=PRIORITIES[type],
        description=None if description is None else clean_text(description),
        expires=expires_at,
        now=now,
    )
    return Granted(operation_id, row.created, row.balance, row.debt_cleared)


def revoke(operation_id: str, reason: str, *, now: datetime | None = None) -> int:
    """Revoke a grant: set its principal and balance to zero. Returns the credits revoked.

    Returns 0 for an unknown or already revoked operation. Raises Conflict if the grant is in debt (contract 3.5).
    """
    row = call_function(
        "SELECT * FROM credit_revoke(:operation, :reason, :now)",
        operation=operation_id,
        reason=clean_text(reason),
        now=now or utc_now(),
    )
    return int(row.credits)


def take_back(operation_id: str, total: int, cause: str, *, now: datetime | None = None) -> int:
    """Set the credits that refunds and disputes together have taken back of a grant to `total`. Returns the credits moved:
    positive if taken, negative if given back. Spent credits become debt (contract 3.5, corrected).

    Idempotent and independent of the order of calls: the last `total` counts. `cause` is `refund` or `dispute`. Gives
    nothing back of what an operator revoked. Raises NotFound, Invalid.
    """
    if total < 0 or cause not in ("refund", "dispute"):
        raise Invalid("Take back a number of credits for a refund or a dispute.")
    row = call_function(
        "SELECT * FROM credit_take_back(:operation, :total, :cause, :now)",
        operation=operation_id,
        total=total,
        cause=cause,
        now=now or utc_now(),
    )
    return int(row.moved)


def owner_of(account: Account) -> str:
    """The id of the user who answers for an account: its user, or the owner of its organisation. Raises NotFound."""
    if account.user_id:
        return account.user_id
    owner = db.session.scalars(select(Org.owner_id).where(Org.id == account.org_id)).one_or_none()
    if owner is None:
        raise NotFound("There is no such organisation.")
    return owner


def lock_account(account: Account) -> None:
    """Lock the account's row, creating it on first use, until the transaction ends. Take this lock before any other.
    Raises NotFound."""
    call_function("SELECT credit_account_lock(:user, :org)", user=account.user_id, org=account.org_id)


def charge(account: Account, amount: int, *, cause: str, now: datetime | None = None) -> Charged:
    """Charge `amount` credits for anything but a model call, once per account and `cause` (contract 3.4, corrected).
    Never fails for lack of credits: check `balance` first. Raises Invalid, NotFound."""
    if not 0 < amount <= MAX_GRANT:
        raise Invalid("Charge at least one credit.", fields={"amount": "out of range"})
    row = call_function(
        "SELECT * FROM credit_charge(:user, :org, :amount, :cause, :now)",
        user=account.user_id,
        org=account.org_id,
        amount=amount,
        cause=cause,
        now=now or utc_now(),
    )
    return Charged(row.charged, row.amount, row.total, row.from_purchased, row.debt)


def sweep(*, now: datetime | None = None, accounts: int = 200) -> Swept:
    """Mark expired holds as lost and write off expired grants, for at most `accounts` accounts.

    Skips locked accounts, which write off their own grants. Safe to run concurrently. Commit soon: the accounts stay
    locked until then.
    """
    row = call_function(
        "SELECT * FROM credit_sweep(:now, :accounts)",
        now=now or utc_now(),
        accounts=accounts,
    )
    return Swept(row.holds, row.grants, row.credits)


def write_off_expired(account: Account, *, now: datetime | None = None) -> int:
    """Write off the account's expired grants, as the sweep does within a minute, so that its entries add up to its balance.
    Takes the account's lock only if there are any. Returns the credits written off."""
    now = now or utc_now()
    expired = select(CreditLedger.operation_id).where(
        func.coalesce(CreditLedger.org_id, CreditLedger.user_id) == account.id,
        CreditLedger.balance > 0,
        CreditLedger.expires_at <= now,
    )
    if db.session.scalar(expired.limit(1)) is None:
        return 0
    row = call_function("SELECT * FROM credit_expire(:account, :now)", account=account.id, now=now)
    return int(row.credits)


def erase_account(account_id: str) -> int:
    """Delete all ledger entries of an account, right before its owner (a person or an organisation) is deleted.
    Nothing else deletes entries; the account's other rows are deleted with the owner. A person referenced
    by an organisation's ledger cannot be deleted before the organisation.

    Sets `stoa.erase_account`, without which the database rejects the DELETE. Takes the account's lock. Flushes.
    Returns the number of deleted entries.
    """
    db.session.execute(select(CreditAccount.id).where(CreditAccount.id == account_id).with_for_update())
    db.session.execute(text("SELECT set_config('stoa.erase_account', :id, true)"), {"id": account_id})
    erased = db.session.execute(delete(CreditEntry).where(CreditEntry.account_id == account_id))
    forget_leaves(account_id)
    db.session.execute(text("SELECT set_config('stoa.erase_account', '', true)"))
    return int(getattr(erased, "rowcount", 0))


@org_erased.connect
def _erase_organisation(org_id: str) -> None:
    erase_account(org_id)


def lost_holds(*, limit: int = 100) -> list[LostHold]:
    """Calls with a hold that neither settled nor failed, newest first: the upstream may have charged for them."""
    rows = db.session.execute(
        select(CreditHold, User.email)
        .join(User, User.id == CreditHold.user_id)
        .where(CreditHold.state == "lost")
        .order_by(CreditHold.lost_at.desc(), CreditHold.request_id)
        .limit(limit)
    )
    return [_lost(hold, email) for hold, email in rows]


def lost_hold(request_id: str) -> LostHold:
    """One lost call. Raises NotFound."""
    return _of_lost(_lost_row(request_id))


def dismiss_lost(request_id: str) -> LostHold:
    """Remove a lost call from the operator's list without charging it. Locks its hold. Raises NotFound."""
    found = _lost_row(request_id, lock=True)
    lost = _of_lost(found)
    db.session.delete(found)
    db.session.flush()
    return lost


def _lost_row(request_id: str, *, lock: bool = False) -> CreditHold:
    found = None
    if "\0" not in request_id:
        found = db.session.get(CreditHold, request_id, with_for_update=lock, populate_existing=True)
    if found is None or found.state != "lost":
        raise NotFound("There is no lost call with this id.")
    return found


def _of_lost(hold: CreditHold) -> LostHold:
    return _lost(hold, db.session.scalars(select(User.email).where(User.id == hold.user_id)).one())


def _lost(hold: CreditHold, email: str) -> LostHold:
    return LostHold(
        request_id=hold.request_id,
        account_id=hold.account_id,
        user_id=hold.user_id,
        email=email,
        run_id=hold.run_id,
        model=hold.model,
        door=hold.door,
        amount=hold.amount,
        worker=hold.worker,
        created_at=hold.created_at,
        lost_at=hold.lost_at or hold.expires_at,
    )


def call_function(statement: str, **parameters: Any) -> Row[Any]:
    """Flush, call a ledger SQL function, and return its row. Expires loaded ledger objects, so that they are
    reloaded."""
    db.session.flush()
    try:
        row = db.session.execute(text(statement), parameters).one()
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state == "ST404":
            raise NotFound("There is no such account.") from None
        if state == "ST409":
            raise Conflict("This operation belongs to another account.") from None
        if state == "ST403":
            raise Conflict("The grant is in debt and cannot be revoked.") from None
        raise
    for loaded in list(db.session.identity_map.values()):
        if isinstance(loaded, CreditLedger | CreditAccount | CreditHold):
            db.session.expire(loaded)
    return row
