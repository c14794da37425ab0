"""The monthly quota cycle: sign-up grant and renewal."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.errors import NotFound
from models.ledger import Account, CreditLedger
from tests import factories
from tests.ledger.stage import HOUR, NOW, assert_proved, balances, give, payer


def test_signing_up_gives_free_credits_until_the_first_reset_once(session: Session) -> None:
    alice = payer(session)
    for _ in range(2):
        granted = ledger.signup_grant(alice.id, 500, NOW)
        session.commit()
        assert granted is not None
    row = session.scalars(select(CreditLedger)).one()
    assert (row.principal, row.type, row.expires_at) == (500, "free", NOW + timedelta(days=10))
    assert row.operation_id.startswith(f"free-{alice.id}-")
    assert_proved(session)


def test_a_server_without_free_credits_gives_none(session: Session) -> None:
    alice = payer(session)
    assert ledger.signup_grant(alice.id, 0, NOW) is None
    later = NOW + timedelta(days=11)
    quota = ledger.ensure_quota(alice.account, 0, now=later)
    session.commit()
    assert quota
    assert (quota.renewed, quota.free) == (True, 0)
    assert quota.next_reset > later
    assert balances(session, alice.account) == []


def test_unknown_users_are_not_found(session: Session) -> None:
    with pytest.raises(NotFound):
        ledger.signup_grant("nobody", 500, NOW)
    with pytest.raises(NotFound):
        ledger.ensure_quota(Account(user_id="nobody"), 500, now=NOW)


def test_nothing_happens_before_the_date(session: Session) -> None:
    alice = payer(session)
    quota = ledger.ensure_quota(alice.account, 500, now=NOW)
    assert quota == ledger.Quota(NOW + timedelta(days=10), False, 0, 0)
    assert balances(session, alice.account) == []


@pytest.mark.parametrize(
    ("reset", "now", "expected"),
    [
        (
            datetime(2026, 11, 20, tzinfo=UTC),
            datetime(2026, 11, 20, tzinfo=UTC),
            datetime(2026, 12, 20, tzinfo=UTC),
        ),
        (
            datetime(2026, 1, 31, tzinfo=UTC),
            datetime(2026, 2, 1, tzinfo=UTC),
            datetime(2026, 2, 28, tzinfo=UTC),
        ),
        (
            datetime(2026, 1, 31, tzinfo=UTC),
            datetime(2026, 3, 30, tzinfo=UTC),
            datetime(2026, 3, 31, tzinfo=UTC),
        ),
        (
            datetime(2024, 2, 29, 9, 5, tzinfo=UTC),
            datetime(2026, 2, 28, 9, 5, tzinfo=UTC),
            datetime(2026, 3, 29, 9, 5, tzinfo=UTC),
        ),
        (None, NOW, datetime(2026, 12, 20, 10, 30, tzinfo=UTC)),
        (datetime(1900, 1, 1, tzinfo=UTC), NOW, datetime(2026, 12, 20, 10, 30, tzinfo=UTC)),
    ],
)
def test_the_new_date_is_whole_months_after_the_old_one(
    session: Session, reset: datetime | None, now: datetime, expected: datetime
) -> None:
    alice = payer(session, next_quota_reset=reset)
    assert ledger.ensure_quota(alice.account, 500, now=now).next_reset == expected
    session.commit()
    assert session.get_one(User, alice.id).next_quota_reset == expected
    row = session.scalars(select(CreditLedger)).one()
    assert row.operation_id == f"free-{alice.id}-{expected:%Y-%m-%dT%H:%M}"
    assert (row.expires_at, row.priority, row.description) == (expected, 20, "Monthly free credits")


@pytest.mark.parametrize(("before", "renewed"), [(100, 100), (5000, 2000)])
def test_the_last_free_grant_is_renewed_up_to_the_cap(session: Session, before: int, renewed: int) -> None:
    alice = payer(session, next_quota_reset=NOW + HOUR)
    give(session, alice.account, 700, "free", expires_at=NOW + timedelta(minutes=1))
    give(session, alice.account, before, "free", expires_at=NOW + HOUR)
    assert ledger.ensure_quota(alice.account, 500, now=NOW + HOUR).free == renewed
    session.commit()
    assert ledger.balance(alice.account, now=NOW + HOUR).total_remaining == renewed
    assert_proved(session)


def test_referrals_are_paid_to_both_sides_each_month(session: Session) -> None:
    alice = payer(session, next_quota_reset=NOW)
    bob = factories.user("bob")
    carol = factories.user("carol")
    me = session.get_one(User, alice.id)
    factories.referral(me, bob, credits=250)
    factories.referral(carol, me, credits=250)
    quota = ledger.ensure_quota(alice.account, 500, now=NOW)
    session.commit()
    assert quota
    assert (quota.free, quota.referral) == (500, 500)
    row = session.scalars(select(CreditLedger).where(CreditLedger.type == "referral")).one()
    assert (row.priority, row.expires_at, row.description) == (40, quota.next_reset, "Monthly referral bonus")
    assert row.operation_id == f"referral-{alice.id}-{quota.next_reset:%Y-%m-%dT%H:%M}"
    assert_proved(session)


def test_renewed_credits_pay_debt_first(session: Session) -> None:
    alice = payer(session, next_quota_reset=NOW)
    ledger.charge(alice.account, 120, cause="search-1", now=NOW - HOUR)
    ledger.ensure_quota(alice.account, 500, now=NOW)
    session.commit()
    assert ledger.balance(alice.account, now=NOW).net_balance == 380
    assert_proved(session)
