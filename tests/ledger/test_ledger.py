"""Grants, charges, debt, expiry and revocation."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.errors import Conflict, Invalid, NotFound
from models.core.pool import Pool
from models.ledger import Account, CreditLedger
from tests import factories
from tests.factories import own_account_only
from tests.ledger.stage import (
    HOUR,
    NOW,
    admit,
    assert_proved,
    balances,
    entries,
    give,
    grant_type,
    payer,
    spend,
)

pytestmark = pytest.mark.usefixtures("kind")


def take(session: Session, account: Account, amount: int, **options: Any) -> ledger.Charged:
    options.setdefault("cause", factories.new_id("cause-"))
    options.setdefault("now", NOW)
    charged = ledger.charge(account, amount, **options)
    session.commit()
    return charged


def create_grants(session: Session, account: Account, grants: list[tuple[str, int]]) -> None:
    """Create grants with the given balances; negative ones are in debt."""
    user = session.get_one(User, account.user_id)
    for kind, balance in grants:
        factories.grant(user, balance if balance > 0 else 100, kind, balance=balance)


@own_account_only
@pytest.mark.parametrize(
    ("before", "amount", "after", "from_purchased"),
    [
        ([("free", 100)], 30, [70], 0),
        ([("free", 10)], 50, [-40], 0),
        ([("free", 0)], 5, [-5], 0),
        ([("free", -20), ("admin", 100)], 30, [-20, 70], 0),
        ([("free", 50), ("purchase", 100)], 80, [0, 70], 30),
        ([("free", -100)], 50, [-150], 0),
    ],
)
def test_consumption_table_of_the_contract(
    session: Session, before: list[tuple[str, int]], amount: int, after: list[int], from_purchased: int
) -> None:
    account = payer(session).account
    create_grants(session, account, before)
    charged = take(session, account, amount)
    assert balances(session, account) == after
    assert charged.amount == amount
    assert charged.from_purchased == from_purchased
    assert charged.balance == sum(after)
    assert_proved(session)


@own_account_only
def test_spending_order_is_priority_then_expiry(session: Session) -> None:
    account = payer(session).account
    order = ["free-soon", "free-late", "free-lasting", "referral", "gift", "bought"]
    give(session, account, 10, "purchase", operation_id="bought")
    give(session, account, 10, "admin", operation_id="gift")
    give(session, account, 10, "referral", operation_id="referral")
    give(session, account, 10, "free", operation_id="free-lasting")
    give(session, account, 10, "free", operation_id="free-late", expires_at=NOW + 9 * HOUR)
    give(session, account, 10, "free", operation_id="free-soon", expires_at=NOW + HOUR)
    for step in range(1, 7):
        take(session, account, 10)
        spent = session.scalars(text("SELECT operation_id FROM credit_ledger WHERE balance = 0")).all()
        assert set(spent) == set(order[:step])
    assert_proved(session)


def test_same_priority_and_expiry_spends_the_older_first(session: Session) -> None:
    account = payer(session).account
    give(session, account, 10, "admin", operation_id="z-older", now=NOW - HOUR)
    give(session, account, 10, "admin", operation_id="a-newer", now=NOW)
    take(session, account, 10)
    assert session.get_one(CreditLedger, "z-older").balance == 0
    assert session.get_one(CreditLedger, "a-newer").balance == 10


@own_account_only
def test_a_grant_clears_debt_first_and_debt_beyond_it_stays(session: Session) -> None:
    account = payer(session).account
    give(session, account, 10, "free", operation_id="first")
    take(session, account, 110)
    granted = ledger.grant(account, 30, "admin", operation_id="small", description="Sorry", now=NOW)
    session.commit()
    assert (granted.created, granted.balance, granted.debt_cleared) == (True, 0, 30)
    description = session.get_one(CreditLedger, "small").description
    assert description == "Sorry (30 credits used to clear existing debt)"
    granted = ledger.grant(account, 100, "purchase", operation_id="large", now=NOW)
    session.commit()
    assert (granted.balance, granted.debt_cleared) == (30, 70)
    assert balances(session, account) == [0, 0, 30]
    assert entries(session, account) == [
        ("grant", 10, 10, 10),
        ("debit", -10, 0, 0),
        ("debit", -100, -100, -100),
        ("grant", 30, 30, -70),
        ("debt_cleared", -30, 0, -100),
        ("debt_cleared", 30, -70, -70),
        ("grant", 100, 100, 30),
        ("debt_cleared", -70, 30, -40),
        ("debt_cleared", 70, 0, 30),
    ]
    assert_proved(session)


def test_the_same_operation_grants_once(session: Session) -> None:
    account = payer(session).account
    give(session, account, 100, "purchase", operation_id="buy-1")
    again = ledger.grant(account, 100, grant_type(account, "purchase"), operation_id="buy-1", now=NOW)
    session.commit()
    assert (again.created, again.balance) == (False, 100)
    assert balances(session, account) == [100]


@own_account_only
def test_a_grant_that_only_cleared_debt_is_still_granted_once(session: Session) -> None:
    account = payer(session).account
    take(session, account, 50)
    for _ in range(2):
        ledger.grant(account, 20, "purchase", operation_id="buy-1", now=NOW)
        session.commit()
    assert sum(balances(session, account)) == -30
    assert_proved(session)


def test_an_operation_of_another_account_is_refused(session: Session) -> None:
    alice, mallory = payer(session, "alice").account, payer(session, "mallory").account
    give(session, alice, 100, operation_id="buy-1")
    with pytest.raises(Conflict):
        ledger.grant(mallory, 100, grant_type(mallory, "purchase"), operation_id="buy-1", now=NOW)
    session.rollback()
    assert balances(session, mallory) == []


def test_use_without_any_grant_creates_a_grant_in_debt(session: Session) -> None:
    account = payer(session).account
    charged = take(session, account, 7, cause="search-1")
    assert (charged.debt, charged.balance) == (7, -7)
    row = session.get_one(CreditLedger, "debt-search-1")
    assert (row.principal, row.balance, row.type, row.expires_at) == (
        0,
        -7,
        grant_type(account, "admin"),
        None,
    )
    assert_proved(session)


def test_a_cause_is_charged_once(session: Session) -> None:
    account = payer(session).account
    give(session, account, 5, "free")
    give(session, account, 100, "purchase")
    first = take(session, account, 10, cause="search-1")
    second = take(session, account, 10, cause="search-1")
    assert (first.charged, second.charged) == (True, False)
    assert (second.amount, second.balance) == (10, 95)
    assert sum(balances(session, account)) == 95


def test_two_accounts_may_be_charged_for_one_cause(session: Session) -> None:
    for name in ("alice", "bob"):
        assert take(session, payer(session, name).account, 7, cause="search-1").debt == 7
    assert_proved(session)


def test_the_cycle_of_an_unknown_user_is_not_found(session: Session) -> None:
    with pytest.raises(NotFound):
        ledger.cycle(Account(user_id="nobody"), now=NOW)


def test_expired_credits_are_not_spent_and_get_an_entry(session: Session) -> None:
    account = payer(session).account
    give(session, account, 50, "free", operation_id="old", expires_at=NOW + HOUR)
    give(session, account, 50, "purchase", operation_id="bought")
    take(session, account, 20, now=NOW + HOUR)
    assert balances(session, account) == [0, 30]
    assert entries(session, account)[2:] == [("expiry", -50, 0, 50), ("debit", -20, 30, 30)]
    assert_proved(session)


def test_expired_credits_do_not_count(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 50, "free", expires_at=NOW + HOUR)
    assert admit(pool, alice, now=NOW + HOUR).outcome == "out_of_credits"
    found = ledger.balance(alice.account, now=NOW + HOUR)
    assert (found.net_balance, found.rows) == (0, [])
    assert ledger.grants_of(alice.account, now=NOW + HOUR) == []


def test_debt_does_not_expire(session: Session) -> None:
    account = payer(session).account
    give(session, account, 10, "free", operation_id="short", expires_at=NOW + HOUR)
    take(session, account, 30)
    later = NOW + timedelta(days=60)
    assert ledger.sweep(now=later).grants == 0
    assert ledger.balance(account, now=later).net_balance == -20
    give(session, account, 100, "purchase", now=later)
    assert ledger.balance(account, now=later).net_balance == 80
    assert_proved(session)


def test_debt_goes_to_the_last_grant_even_when_it_is_spent(session: Session) -> None:
    account = payer(session).account
    give(session, account, 10, "purchase", operation_id="last")
    give(session, account, 10, "free", operation_id="first", expires_at=NOW + HOUR)
    take(session, account, 20)
    take(session, account, 5)
    assert session.get_one(CreditLedger, "last").balance == -5
    assert session.get_one(CreditLedger, "first").balance == 0


def test_revoking_takes_the_remaining_credits(session: Session) -> None:
    account = payer(session).account
    give(session, account, 100, operation_id="buy-1", description="Bought")
    take(session, account, 30)
    assert ledger.revoke("buy-1", "refund", now=NOW) == 70
    session.commit()
    row = session.get_one(CreditLedger, "buy-1")
    assert (row.principal, row.balance, row.description) == (0, 0, "Bought (Revoked: refund)")
    assert ledger.revoke("buy-1", "refund", now=NOW) == 0
    session.commit()
    assert session.get_one(CreditLedger, "buy-1").description == "Bought (Revoked: refund)"
    assert entries(session, account)[-1] == ("revocation", -70, 0, 0)
    assert_proved(session)


def test_revoking_a_spent_grant_is_recorded_and_proved(session: Session) -> None:
    account = payer(session).account
    give(session, account, 30, operation_id="buy-1")
    take(session, account, 30)
    assert ledger.revoke("buy-1", "refund", now=NOW) == 0
    session.commit()
    assert entries(session, account)[-1] == ("revocation", 0, 0, 0)
    assert_proved(session)


def test_taking_back_goes_by_the_total_and_makes_debt_of_what_was_spent(session: Session) -> None:
    account = payer(session).account
    give(session, account, 100, operation_id="buy-1")
    take(session, account, 70)
    moves = [
        ("refund", 20),
        ("refund", 20),
        ("dispute", 100),
        ("dispute", 20),
        ("refund", 0),
        ("refund", 500),
    ]
    moved = [ledger.take_back("buy-1", total, cause, now=NOW) for cause, total in moves]
    session.commit()
    assert moved == [20, 0, 80, -80, -20, 100]
    row = session.get_one(CreditLedger, "buy-1")
    assert (row.principal, row.balance) == (0, -70)
    assert entries(session, account)[2:] == [
        ("revocation", -20, 10, 10),
        ("revocation", -80, -70, -70),
        ("reinstatement", 80, 10, 10),
        ("reinstatement", 20, 30, 30),
        ("revocation", -100, -70, -70),
    ]
    assert_proved(session)


def test_nothing_is_given_back_of_what_an_operator_revoked(session: Session) -> None:
    account = payer(session).account
    give(session, account, 100, operation_id="buy-1")
    take(session, account, 40)
    ledger.revoke("buy-1", "mistake", now=NOW)
    assert [ledger.take_back("buy-1", total, "refund", now=NOW) for total in (30, 100, 0)] == [0, 40, -40]
    session.commit()
    assert balances(session, account) == [0]
    assert_proved(session)


def test_revoking_an_unknown_grant_does_nothing_and_a_debt_is_refused(session: Session) -> None:
    account = payer(session).account
    assert ledger.revoke("nowhere", "refund", now=NOW) == 0
    give(session, account, 10, operation_id="buy-1")
    take(session, account, 30)
    with pytest.raises(Conflict):
        ledger.revoke("buy-1", "refund", now=NOW)


@own_account_only
@pytest.mark.parametrize(
    ("amount", "type", "options"),
    [
        (0, "free", {}),
        (-5, "free", {}),
        (10**15, "free", {}),
        (5, "gold", {}),
        (5, "organization", {}),
        (5, "free", {"expires_at": NOW}),
    ],
)
def test_bad_grants_are_refused(session: Session, amount: int, type: str, options: dict[str, Any]) -> None:
    account = payer(session).account
    with pytest.raises(Invalid):
        ledger.grant(account, amount, type, operation_id="x", now=NOW, **options)


@pytest.mark.parametrize(
    ("account", "type"),
    [(Account(user_id="nobody"), "free"), (Account(org_id="nothing"), "organization")],
)
def test_unknown_accounts_are_not_found(session: Session, account: Account, type: str) -> None:
    with pytest.raises(NotFound):
        ledger.grant(account, 5, type, operation_id="x", now=NOW)


def test_an_organisations_credits_are_not_the_buyers(session: Session, pool: Pool) -> None:
    alice = payer(session, "alice")
    org = factories.org(session.get_one(User, alice.id))
    give(session, Account(org_id=org.id), 1000, "organization", operation_id="org-1")
    give(session, alice.account, 5, "free", operation_id="mine")
    assert spend(pool, alice, 30).debt == 25
    assert balances(session, alice.account) == [-25]
    assert balances(session, Account(org_id=org.id)) == [1000]
    assert ledger.balance(Account(org_id=org.id), now=NOW).breakdown["organization"] == 1000
    assert ledger.balance(alice.account, now=NOW).breakdown["organization"] == 0
    assert_proved(session)


def test_an_organisations_debt_is_its_own_and_a_purchase_leaves_it(session: Session) -> None:
    alice = payer(session, "alice")
    org = factories.org(session.get_one(User, alice.id))
    account = Account(org_id=org.id)
    charged = take(session, account, 40, cause="use-1")
    assert charged.balance == -40
    assert session.get_one(CreditLedger, "debt-use-1").type == "organization"
    give(session, account, 100, "organization")
    assert sorted(balances(session, account)) == [-40, 100]
    assert ledger.balance(account, now=NOW).total_remaining == 60
    give(session, alice.account, 10, "free")
    assert balances(session, alice.account) == [10]
    assert_proved(session)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE credit_entry SET amount = 1000", "DELETE FROM credit_entry", "TRUNCATE credit_entry"],
)
def test_ledger_entries_cannot_be_changed(session: Session, statement: str) -> None:
    give(session, payer(session).account, 10)
    with pytest.raises(DBAPIError, match="append-only"):
        session.execute(text(statement))


def test_the_ledger_refuses_stricter_isolation_levels(session: Session) -> None:
    account = payer(session).account
    session.rollback()
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    with pytest.raises(DBAPIError, match="READ COMMITTED"):
        ledger.grant(account, 5, grant_type(account, "free"), operation_id="x", now=NOW)


@own_account_only
def test_balance_has_breakdown_principals_and_net_amounts(session: Session) -> None:
    account = payer(session).account
    create_grants(session, account, [("free", -100), ("purchase", 800)])
    found = ledger.balance(account, now=NOW)
    assert (found.total_remaining, found.total_debt, found.net_balance) == (700, 0, 700)
    assert found.breakdown == {"free": 0, "referral": 0, "purchase": 800, "admin": 0, "organization": 0}
    assert found.principals["free"] == 100
    assert [grant.balance for grant in ledger.grants_of(account, now=NOW)] == [-100, 800]


def test_an_empty_account_has_zero_balances(session: Session) -> None:
    account = payer(session).account
    found = ledger.balance(account, now=NOW)
    assert (found.total_remaining, found.total_debt, found.net_balance, found.held) == (0, 0, 0, 0)
    assert set(found.breakdown.values()) == set(found.principals.values()) == {0}
    assert ledger.cycle(account, now=NOW).used == 0


def test_usage_of_the_cycle_is_exact_at_its_edge(session: Session, pool: Pool) -> None:
    alice = payer(session, next_quota_reset=NOW + timedelta(days=10))
    start = ledger.cycle(alice.account, now=NOW).began
    give(session, alice.account, 10_000, now=start - HOUR)
    worth = {
        start - timedelta(seconds=1): 1,
        start: 2,
        start + timedelta(minutes=5): 4,
        start + HOUR: 8,
        start + timedelta(days=1): 16,
        NOW: 32,
    }
    for moment, credits in worth.items():
        assert spend(pool, alice, credits, now=moment).credits == credits
    assert spend(pool, alice, 500, byok=True).credits == 500
    take(session, alice.account, 64)
    assert ledger.cycle(alice.account, now=NOW).used == 2 + 4 + 8 + 16 + 32 + 64
    assert_proved(session)


def test_sweep_writes_off_expired_credits_of_every_account(session: Session) -> None:
    accounts = [payer(session, name).account for name in ("alice", "bob", "mallory")]
    for account in accounts:
        give(session, account, 10, "free", expires_at=NOW + HOUR)
        give(session, account, 10, "purchase")
    assert ledger.sweep(now=NOW + HOUR, accounts=2).grants == 2
    session.commit()
    swept = ledger.sweep(now=NOW + HOUR)
    session.commit()
    assert (swept.grants, swept.credits) == (1, 10)
    assert [balances(session, account) for account in accounts] == [[0, 10]] * 3
    assert_proved(session, NOW + HOUR)
