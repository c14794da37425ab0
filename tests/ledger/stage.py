"""Helpers for ledger tests: users with keys, calls of a given price, and reading balances and entries."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.pool import Pool
from models.ledger import Account, Admission, AdmissionRequest, CreditLedger, Settled, Settlement
from tests import factories

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
MARGIN = Decimal("0.055")


@dataclass(frozen=True)
class Payer:
    """A user with an API key, and the account that the key charges."""

    id: str
    key: str
    account: Account


def payer(session: Session, name: str = "alice", **columns: Any) -> Payer:
    """A user whose quota cycle is not due, with a key."""
    columns.setdefault("created_at", NOW - timedelta(days=40))
    columns.setdefault("next_quota_reset", NOW + timedelta(days=10))
    user: User = factories.user(name, **columns)
    if columns["next_quota_reset"] is None:  # an insert would take the default
        user.next_quota_reset = None
        session.commit()
    org = factories.org_of(user.id)
    account = Account(org_id=org) if org else Account(user_id=user.id)
    return Payer(user.id, key_of(session, user, org), account)


def key_of(session: Session, owner: User | Payer, org_id: str | None = None) -> str:
    """The hash of a new key that charges the owner's account, or the organisation's."""
    user = session.get_one(User, owner.id)
    raw = factories.token(user, expires=NOW + timedelta(days=300), org_id=org_id)
    return hashlib.sha256(raw.encode()).hexdigest()


def give(session: Session, account: Account, amount: int, type: str = "purchase", **options: Any) -> str:
    """Grant credits, commit, and return the operation id."""
    options.setdefault("operation_id", factories.new_id("op-"))
    options.setdefault("now", NOW)
    ledger.grant(account, amount, grant_type(account, type), **options)
    session.commit()
    return str(options["operation_id"])


def grant_type(account: Account, type: str) -> str:
    """The grant type, which for an organisation's account is always `organization`."""
    return "organization" if account.org_id else type


def cost_of(credits: int | float) -> Decimal:
    """The provider cost that is charged as `credits` at the default margin."""
    return Decimal(str(credits)) / 100 / (1 + MARGIN)


def call(credits: int | float = 1, **facts: Any) -> Settlement:
    """A finished call worth `credits`."""
    defaults: dict[str, Any] = {
        "provider": "openrouter",
        "requested_model": "north/large",
        "model": "north/large-4",
        "usage_source": "provider",
        "uncached_input_tokens": 1000,
        "output_tokens": 200,
        "cost": cost_of(credits),
        "margin": MARGIN,
        "latency_ms": 1200,
        "started_at": NOW,
        "response": "an answer",
    }
    return Settlement(**(defaults | facts))


def admit(pool: Pool, payer: Payer, hold: int | None = 10, **options: Any) -> Admission:
    """Admit a call with a new request id."""
    options.setdefault("now", NOW)
    return ledger.admit(pool, new_request(payer, hold, options), **options)


def new_request(payer: Payer, hold: int | None = 10, options: Any = None) -> AdmissionRequest:
    """An admission request with a new request id. Moves its fields out of `options`."""
    facts: dict[str, Any] = {"request_id": factories.new_id("req-")}
    for name in ("request_id", "run_id", "require_run", "door", "model"):
        if options and name in options:
            facts[name] = options.pop(name)
    return AdmissionRequest(token_hash=payer.key, hold=hold, **facts)


def spend(pool: Pool, payer: Payer, credits: int | float, now: datetime = NOW, **facts: Any) -> Settled:
    """Admit a call with a hold of zero and settle it."""
    admission = admit(pool, payer, hold=0, now=now)
    assert admission.outcome == "admitted", admission
    return ledger.settle(pool, admission, call(credits, **facts), now=now)


def balances(session: Session, account: Account) -> list[int]:
    """The balances of the account's grants in spending order."""
    session.rollback()
    owner = (
        CreditLedger.org_id == account.org_id
        if account.org_id
        else (CreditLedger.user_id == account.user_id) & CreditLedger.org_id.is_(None)
    )
    order = (CreditLedger.priority, CreditLedger.expires_at.asc().nulls_last(), CreditLedger.created_at)
    return list(session.scalars(select(CreditLedger.balance).where(owner).order_by(*order)))


def entries(session: Session, account: Account) -> list[tuple[str, int, int, int]]:
    """The ledger entries: kind, amount, resulting grant balance, resulting account balance."""
    session.rollback()
    rows = session.execute(
        text(
            "SELECT kind, amount, grant_balance_after, balance_after FROM credit_entry"
            " WHERE account_id = :account ORDER BY id"
        ),
        {"account": account.id},
    )
    return [tuple(row) for row in rows]


def assert_proved(session: Session, now: datetime = NOW) -> None:
    """Assert that the ledger proof finds no differences."""
    session.rollback()
    proof = ledger.prove(now=now)
    assert proof.clean, [check for check in proof.checks if check.count]
