"""Everything that moves credits outside a model call: grants, revocations, other charges, and the sweep.

All of it happens in the ledger's functions (`migrations/functions/ledger`), under the account's lock, which is
held until the caller's transaction ends: commit soon, and take a person's account before changing their `user` row
in the same transaction, because that is the order of the quota cycle.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, text
from sqlalchemy.exc import DBAPIError

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.db import now as the_moment
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger.call_records import LostHold
from models.ledger.ledger import GRANT_TYPES, CreditAccount, CreditEntry, CreditHold, CreditLedger
from models.ledger.sanitizing import clean_text

PRIORITIES = {
    "subscription": 10,
    "free": 20,
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
    """The tenant, whose are credits, calls and runs: exactly one of a user's own account and an organisation's."""

    user_id: str | None = None
    org_id: str | None = None

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.org_id is None):
            raise ValueError("an account is a user's or an organisation's")

    @classmethod
    def of(cls, key: Session) -> "Account":
        """The account that a credential acts for."""
        return cls(org_id=key.org_id) if key.org_id else cls(user_id=key.user_id)

    @property
    def id(self) -> str:
        """The id of the `credit_account` row, and of everything of the account's."""
        return self.org_id or self.user_id or ""


@dataclass(frozen=True, slots=True)
class Granted:
    """The outcome of a grant. Amounts are credits."""

    operation_id: str
    created: bool
    """False: this operation had been done before and nothing happened now."""
    balance: int
    """What is left of the grant."""
    debt_cleared: int


@dataclass(frozen=True, slots=True)
class Charged:
    """The outcome of a charge. Amounts are credits."""

    charged: bool
    """False: this cause had been charged before and nothing happened now."""
    amount: int
    balance: int
    """The account's net balance afterwards."""
    from_purchased: int
    debt: int
    """What no grant covered."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: holds now lost, grants written off, and the credits of those."""

    holds: int
    grants: int
    credits: int


def compact_id() -> str:
    """A fresh unique id without dashes, for operation ids (contract 3.2)."""
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
    """Add `amount` credits, once per `operation_id`: the one way credits come into being (contract 3.5).

    A person's debt is cleared out of the grant first; debt beyond it stays. An organisation's grants are of type
    `organization`, leave its debt alone, and name the buyer (`buyer_id`, by default the owner).
    Raises Invalid (amount, type, past expiry), NotFound (account), Conflict (the operation is another account's).
    """
    now = now or the_moment()
    if not 0 < amount <= MAX_GRANT:
        raise Invalid(f"Grant between 1 and {MAX_GRANT:,} credits.", fields={"amount": "out of range"})
    if type not in GRANT_TYPES or (type == "organization") != (account.org_id is not None):
        raise Invalid(
            f"An account of this kind takes no grant of type {type!r}.", fields={"type": "not allowed"}
        )
    if expires_at is not None and expires_at <= now:
        raise Invalid("The grant would expire in the past.", fields={"expires_at": "in the past"})
    row = call(
        "SELECT * FROM credit_grant(:operation, :user, :org, :amount, CAST(:type AS grant_type), :priority,"
        " :description, CAST(:expires AS timestamptz), :now)",
        operation=operation_id,
        user=account.user_id or buyer_id or _owner(account),
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
    """Take a grant back: its principal and balance become zero. Returns the credits that were left of it.

    An unknown or already revoked operation is no error and gives 0. Raises Conflict when the grant is in debt
    (contract 3.5).
    """
    row = call(
        "SELECT * FROM credit_revoke(:operation, :reason, :now)",
        operation=operation_id,
        reason=clean_text(reason),
        now=now or the_moment(),
    )
    return int(row.credits)


def take_back(operation_id: str, total: int, cause: str, *, now: datetime | None = None) -> int:
    """Bring what refunds and disputes took back of a grant to `total` credits, all of them together; returns the credits
    that moved: above zero taken, below zero given back. What was spent already becomes debt (contract 3.5, corrected).

    Idempotent, and independent of the order of its causes: what counts is the total of the last call. `cause` is `refund`
    or `dispute`. Of what was gone when an operator revoked the grant nothing is given back. Raises NotFound, Invalid.
    """
    if total < 0 or cause not in ("refund", "dispute"):
        raise Invalid("Take back a number of credits for a refund or a dispute.")
    row = call(
        "SELECT * FROM credit_take_back(:operation, :total, :cause, :now)",
        operation=operation_id,
        total=total,
        cause=cause,
        now=now or the_moment(),
    )
    return int(row.moved)


def lock_account(account: Account) -> None:
    """Take the account's lock, which is made on first use, for what changes it and other rows in one transaction: it comes
    before every other lock. Held until the transaction ends. Raises NotFound."""
    call("SELECT credit_account_lock(:user, :org)", user=account.user_id, org=account.org_id)


def charge(account: Account, amount: int, *, cause: str, now: datetime | None = None) -> Charged:
    """Take `amount` credits for something that is no model call, once per account and `cause` (contract 3.4,
    corrected). Never fails for want of credit: check `balance` before. Raises Invalid, NotFound."""
    if not 0 < amount <= MAX_GRANT:
        raise Invalid("Charge at least one credit.", fields={"amount": "out of range"})
    row = call(
        "SELECT * FROM credit_charge(:user, :org, :amount, :cause, :now)",
        user=account.user_id,
        org=account.org_id,
        amount=amount,
        cause=cause,
        now=now or the_moment(),
    )
    return Charged(row.charged, row.amount, row.total, row.from_purchased, row.debt)


def sweep(*, now: datetime | None = None, accounts: int = 200) -> Swept:
    """Mark the holds whose time is over as lost and write off expired grants, of at most `accounts` accounts.

    Accounts in use are left out; they write off their own. Safe to run anywhere, any number at a time. Commit
    soon: the accounts stay locked until then.
    """
    row = call(
        "SELECT * FROM credit_sweep(:now, :accounts)",
        now=now or the_moment(),
        accounts=accounts,
    )
    return Swept(row.holds, row.grants, row.credits)


def erase_account(account_id: str) -> int:
    """Delete the journal of a whole account, just before its owner (a person, an organisation) is deleted: the only way
    entries ever go. Everything else of the account goes with its owner. A person whom an organisation's books name is not
    deleted before it: the database refuses.

    The database lets a DELETE pass only while the transaction names the account. Returns how many entries went.
    Takes the account's lock first. Flushes.
    """
    db.session.execute(select(CreditAccount.id).where(CreditAccount.id == account_id).with_for_update())
    db.session.execute(text("SELECT set_config('stoa.erase_account', :id, true)"), {"id": account_id})
    erased = db.session.execute(delete(CreditEntry).where(CreditEntry.account_id == account_id))
    db.session.execute(text("SELECT set_config('stoa.erase_account', '', true)"))
    return int(getattr(erased, "rowcount", 0))


def lost_holds(*, limit: int = 100) -> list[LostHold]:
    """Calls that took a hold and never settled nor failed, newest first: the upstream may have been paid for them."""
    rows = db.session.execute(
        select(CreditHold, User.email)
        .join(User, User.id == CreditHold.user_id)
        .where(CreditHold.state == "lost")
        .order_by(CreditHold.lost_at.desc(), CreditHold.request_id)
        .limit(limit)
    )
    return [_lost(hold, email) for hold, email in rows]


def dismiss_lost(request_id: str) -> LostHold:
    """Take a lost call off the operator's list: nothing is charged for it. Raises NotFound."""
    found = db.session.get(CreditHold, request_id, with_for_update=True, populate_existing=True)
    if found is None or found.state != "lost":
        raise NotFound("There is no lost call with this id.")
    email = db.session.scalars(select(User.email).where(User.id == found.user_id)).one()
    lost = _lost(found, email)
    db.session.delete(found)
    db.session.flush()
    return lost


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


def _owner(account: Account) -> str:
    from models.orgs import Org

    owner = db.session.scalars(select(Org.owner_id).where(Org.id == account.org_id)).one_or_none()
    if owner is None:
        raise NotFound("There is no such organisation.")
    return owner


def call(statement: str, **parameters: Any) -> Row[Any]:
    """The one row of one of the ledger's functions, called after what is pending is flushed; what it changed is read anew."""
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
