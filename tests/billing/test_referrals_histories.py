"""Referrals under random histories: in any order of events, each side is granted credits once or not at all."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.accounts import User
from models.billing import Referral
from models.billing.referral_program import referrals
from models.billing.referral_program.referrals import BONUS
from models.core.errors import DomainError
from models.ledger import CreditLedger
from tests import factories

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
PEOPLE = 4

person = st.integers(0, PEOPLE - 1)
purchase = st.integers(0, 1)
step = st.one_of(
    st.tuples(st.just("redeem"), person, person, st.sampled_from(["now", "first_purchase"])),
    st.tuples(st.just("paid"), person, purchase),
    st.tuples(st.just("void"), person, purchase, st.sampled_from(["refund", "dispute"])),
    st.tuples(st.just("release"), person),
    st.tuples(st.just("wait"), st.integers(1, 9)),
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(step, min_size=4, max_size=24))
def test_each_referral_is_paid_on_both_sides_or_on_none(
    app: Flask, session: OrmSession, history: list[Any]
) -> None:
    people = [
        factories.user(f"p{number}", email=f"{factories.new_id()}@example.org", referral_limit=2)
        for number in range(PEOPLE)
    ]
    ids, codes = [each.id for each in people], [each.referral_code or "" for each in people]
    moment = START
    for action, *values in history:
        who = ids[values[0]] if action != "wait" else ""
        try:
            match action:
                case "redeem":
                    referrals.redeem(who, codes[values[1]], reward=values[2], free_credits=0, now=moment)
                case "paid":
                    referrals.referral_paid(who, f"buy-{who}-{values[1]}", now=moment)
                case "void":
                    referrals.referral_void(who, f"buy-{who}-{values[1]}", values[2], now=moment)
                case "release":
                    referrals.release_referral(who, free_credits=0, now=moment)
                case "wait":
                    moment += timedelta(days=values[0])
        except DomainError:
            session.rollback()
        session.commit()
    check(session, ids)
    session.execute(delete(Referral))
    session.commit()


def check(session: OrmSession, ids: list[str]) -> None:
    session.expire_all()
    made = session.scalars(select(Referral).where(Referral.referrer_id.in_(ids))).all()
    rows = session.scalars(
        select(CreditLedger).where(
            CreditLedger.user_id.in_(ids), CreditLedger.description.startswith("Referral bonus")
        )
    ).all()
    expected = [
        (user, BONUS)
        for each in made
        if each.status == "completed"
        for user in (each.referrer_id, each.referred_id)
    ]
    assert sorted((each.user_id, each.principal) for each in rows) == sorted(expected)
    assert len({each.referred_id for each in made}) == len(made)
    assert len({frozenset((each.referrer_id, each.referred_id)) for each in made}) == len(made)
    for user in session.scalars(select(User).where(User.id.in_(ids))):
        assert referrals.referral_count(user.id) <= user.referral_limit
    for each in made:
        assert (each.credits == BONUS) == (each.status == "completed")
        assert each.voided_at is None or each.status == "pending"
        if each.status == "completed" and each.held_until:
            assert each.completed_at
            assert each.completed_at >= each.held_until
    assert ledger.prove().clean
