"""What a turn cost that failed on our side is given back: all of it, once, in whatever order its calls are settled and it is given back."""

from datetime import timedelta

import pytest
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.accounts import User
from models.conversations.turn_reversal import LATER, return_credits
from models.core import jobs
from models.core.db import db
from models.core.pool import Pool
from models.ledger import CallFailure, CreditEntry
from models.turns import Turn
from tests import factories
from tests.ledger.conftest import pool as pool
from tests.ledger.stage import NOW, Payer, admit, assert_proved, call, give, payer

CALLS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["before", "after", "fails", "begun later"])), max_size=8
)


@pytest.fixture
def anna(app: Flask, session: OrmSession) -> Payer:
    """A person with credits."""
    made = payer(session, "anna")
    give(session, made.account, 10**6)
    return made


def a_turn(anna: Payer, state: str = "failed") -> Turn:
    """A turn of Anna's, whose run goes on."""
    run = factories.run(db.session.get_one(User, anna.id))
    turn = factories.save(
        Turn(
            kind="conversation",
            subject_id="none",
            branch_id=factories.new_id("b"),
            account_id=anna.account.id,
            user_id=anna.id,
            key_id="none",
            state=state,
            error_code="internal_error",
            error_message="The turn failed on our side.",
            run_id=run.id,
            ended_at=NOW,
        )
    )
    db.session.commit()
    return turn


def given_back(anna: Payer) -> int:
    returned = select(func.coalesce(func.sum(CreditEntry.amount), 0)).where(
        CreditEntry.account_id == anna.account.id,
        CreditEntry.kind == "grant",
        CreditEntry.operation_id.startswith("returned-"),
    )
    return int(db.session.scalar(returned) or 0)


def give_back(turn: Turn) -> int:
    credits = return_credits(turn.id)
    db.session.commit()
    return credits


@given(calls=CALLS, looks=st.lists(st.booleans(), min_size=8, max_size=8))
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_all_is_given_back_once_in_any_order(
    anna: Payer, pool: Pool, calls: list[tuple[int, str]], looks: list[bool]
) -> None:
    turn, before = a_turn(anna), given_back(anna)
    late, expected = [], 0
    for credits, when in calls:
        admitted = admit(pool, anna, 40, run_id=turn.run_id)
        assert admitted.outcome == "admitted"
        started = NOW + timedelta(seconds=1) if when == "begun later" else NOW
        if when == "before":
            expected += ledger.settle(pool, admitted, call(credits), now=NOW).credits
        else:
            late.append((admitted, credits, when, started))
    give_back(turn)
    assert given_back(anna) - before == expected
    for (admitted, credits, when, started), looked in zip(late, looks, strict=False):
        if when == "fails":
            failure = CallFailure(requested_model="m", started_at=NOW, latency_ms=1, error="gone")
            ledger.fail(pool, admitted, failure, now=NOW)
        else:
            settled = ledger.settle(pool, admitted, call(credits, started_at=started), now=NOW)
            expected += settled.credits if when == "after" else 0
        if looked:
            give_back(turn)
    give_back(turn)
    assert give_back(turn) == 0
    assert given_back(anna) - before == expected


def test_what_was_given_back_and_then_revoked_is_not_given_back_again(anna: Payer, pool: Pool) -> None:
    turn = a_turn(anna)
    ledger.settle(pool, admit(pool, anna, 40, run_id=turn.run_id), call(7), now=NOW)
    assert give_back(turn) == 7
    ledger.revoke(f"returned-{turn.id}", "abuse")
    db.session.commit()
    assert give_back(turn) == 0
    assert_proved(db.session())


@pytest.mark.parametrize("state", ["completed", "cancelled", "interrupted", "running"])
def test_a_turn_that_did_not_fail_keeps_its_charges(anna: Payer, pool: Pool, state: str) -> None:
    owner = "w" if state == "running" else None
    turn = a_turn(anna)
    turn.state, turn.lease_owner = state, owner
    db.session.commit()
    ledger.settle(pool, admit(pool, anna, 40, run_id=turn.run_id), call(7), now=NOW)
    assert give_back(turn) == 0


def test_it_is_looked_again_later_and_at_last_not_any_more(anna: Payer, pool: Pool) -> None:
    turn = a_turn(anna)
    ledger.settle(pool, admit(pool, anna, 40, run_id=turn.run_id), call(7), now=NOW)
    waiting = text(
        "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'conversations.return_late_charges'"
    )
    jobs.return_late_charges(turn_id=turn.id, tries=0)
    assert (given_back(anna), db.session.scalar(waiting)) == (7, 1)
    jobs.return_late_charges(turn_id=turn.id, tries=len(LATER) - 1)
    assert (given_back(anna), db.session.scalar(waiting)) == (7, 1)
