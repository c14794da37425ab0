"""Ledger operations of a call: admission, hold, settlement, failure, sweep."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import Session as Key
from models.accounts import User
from models.core import pool as pools
from models.core.db import db
from models.core.pool import Pool
from models.gateway import GatewayCall
from models.ledger import Account, AdmissionRequest, CallFailure, CreditAccount, CreditHold, Settled
from models.usage import Message, UsageRollup
from tests import factories
from tests.factories import an_organisations_only, own_account_only
from tests.ledger.stage import (
    HOUR,
    MARGIN,
    NOW,
    admit,
    assert_proved,
    balances,
    call,
    entries,
    give,
    grant_type,
    key_of,
    new_request,
    payer,
    spend,
)

pytestmark = pytest.mark.usefixtures("kind")

MINUTE = timedelta(minutes=1)


def failure(**facts: Any) -> CallFailure:
    defaults: dict[str, Any] = {
        "requested_model": "north/large",
        "started_at": NOW,
        "latency_ms": 40,
        "error": "The provider answered 429.",
        "http_status": 429,
    }
    return CallFailure(**(defaults | facts))


def holds(session: Session) -> list[tuple[str, int]]:
    session.rollback()
    rows = session.execute(
        select(CreditHold.state, CreditHold.amount).order_by(CreditHold.created_at, CreditHold.amount)
    )
    return [tuple(row) for row in rows]


# -- admission ----------------------------------------------------------------------------------------------------


def test_unknown_and_expired_keys_are_rejected(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    assert admit(pool, replace(alice, key="0" * 64)).outcome == "unknown_key"
    assert admit(pool, alice, now=NOW + timedelta(days=300)).outcome == "unknown_key"
    assert admit(pool, replace(alice, key="\x00\ud800'; drop table message; --")).outcome == "unknown_key"
    assert holds(session) == []


def test_checks_follow_the_order_of_the_contract(session: Session, pool: Pool) -> None:
    alice = payer(session)
    user = session.get_one(User, alice.id)
    mallory = factories.user("mallory")
    org_id = alice.account.org_id
    running = factories.run(user, org_id=org_id)
    completed = factories.run(user, org_id=org_id, status="completed")
    foreign = factories.run(mallory, org_id=org_id)
    other = factories.run(user, org_id=None if org_id else factories.org(user).id)
    wrong = {"run_id": foreign.id, "require_run": True}

    user.banned = True
    session.commit()
    assert admit(pool, alice, **wrong).outcome == "banned"
    user.banned = False
    session.commit()
    assert admit(pool, alice, **wrong).outcome == "out_of_credits"
    give(session, alice.account, 5)
    assert admit(pool, alice, run_id=None, require_run=True).outcome == "no_run"
    for missing in (foreign.id, other.id, "nowhere", "", "a\x00b", "\ud800"):
        assert admit(pool, alice, run_id=missing, require_run=True).outcome == "run_not_found"
        assert admit(pool, alice, run_id=missing).outcome == "run_not_found"
    assert admit(pool, alice, run_id=completed.id, require_run=True).outcome == "run_not_running"
    admitted = admit(pool, alice, run_id=running.id, require_run=True)
    assert admitted.outcome == "admitted"
    assert admitted.agent_id == running.agent_id
    assert admit(pool, alice, run_id=running.id, require_run=True).outcome == "held"


def test_a_check_takes_nothing(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    checked = admit(pool, alice, hold=None)
    assert (checked.outcome, checked.balance, checked.user_id) == ("checked", 100, alice.id)
    assert holds(session) == []


def test_a_hold_is_covered_or_alone(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first = admit(pool, alice, hold=70)
    assert (first.outcome, first.balance, first.held, first.available) == ("admitted", 100, 0, 100)
    second = admit(pool, alice, hold=31)
    assert (second.outcome, second.held, second.available) == ("held", 70, 30)
    assert admit(pool, alice, hold=30).outcome == "admitted"
    assert admit(pool, alice, hold=1).outcome == "held"
    assert holds(session) == [("live", 30), ("live", 70)]
    assert ledger.balance(alice.account, now=NOW).held == 100


def test_a_lone_call_may_hold_more_than_there_is(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1)
    first = admit(pool, alice, hold=500)
    assert first.outcome == "admitted"
    assert admit(pool, alice, hold=0).outcome == "held"
    ledger.settle(pool, first, call(3), now=NOW)
    assert balances(session, alice.account) == [-2]
    assert admit(pool, alice, hold=0).outcome == "out_of_credits"


@pytest.mark.parametrize(
    ("minimum", "held", "outcome"),
    [
        (0, 0, "admitted"),
        (100, 0, "admitted"),
        (101, 0, "insufficient"),
        (40, 60, "admitted"),
        (41, 60, "held"),
        (101, 60, "insufficient"),
        (10**18, 0, "insufficient"),
        (-5, 0, "admitted"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_a_call_sends_must_be_covered_even_when_it_is_alone(
    session: Session, pool: Pool, minimum: int, held: int, outcome: str, many: bool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    if held:
        assert admit(pool, alice, hold=held).outcome == "admitted"
    request = replace(new_request(alice, 40 if held else 500), minimum=minimum)
    found = ledger.admit_many(pool, [request], now=NOW)[0] if many else ledger.admit(pool, request, now=NOW)
    assert (found.outcome, found.minimum) == (outcome, min(max(minimum, 0), 10**12))
    assert len(holds(session)) == (held > 0) + (outcome == "admitted")


def test_the_providers_usage_is_stored_with_the_call(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    raw = {"prompt_tokens": 1000, "note": "\x00\ud800", "huge": 10**30}
    spend(pool, alice, 2, parts={"audio_input": 800}, raw_usage=raw, flags=["cost_far_above_list"])
    spend(pool, alice, 1, raw_usage={"x": "y" * 20_000}, parts={})
    first, second = session.scalars(select(GatewayCall).order_by(GatewayCall.credits.desc()))
    assert (first.parts, first.flags) == ({"audio_input": 800}, ["cost_far_above_list"])
    assert first.raw_usage["prompt_tokens"] == 1000
    # too large to be stored, but billed
    assert (second.parts, second.flags, second.raw_usage, second.credits) == (None, None, None, 1)
    assert_proved(session)


def test_admission_is_idempotent_by_request(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first = admit(pool, alice, hold=80, request_id="req-1")
    again = admit(pool, alice, hold=80, request_id="req-1")
    assert again == first
    assert holds(session) == [("live", 80)]


def test_an_expired_hold_blocks_no_call_even_before_the_sweep(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admit(pool, alice, hold=100, ttl_seconds=60)
    assert admit(pool, alice, hold=100, now=NOW + timedelta(seconds=59)).outcome == "held"
    assert admit(pool, alice, hold=100, now=NOW + MINUTE).outcome == "admitted"


def test_last_use_of_a_key_is_updated_at_most_every_five_minutes(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    seen = []
    for minutes in (0, 4, 6):
        admit(pool, alice, hold=None, now=NOW + minutes * MINUTE)
        session.rollback()
        session.expire_all()
        seen.append(session.get_one(Key, alice.key).last_used_at)
    assert seen == [NOW, NOW, NOW + 6 * MINUTE]


@own_account_only
def test_a_due_quota_cycle_runs_before_the_check(session: Session, pool: Pool) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)
    admitted = admit(pool, alice, hold=10, free_credits=500)
    assert (admitted.outcome, admitted.balance) == ("admitted", 500)
    assert admitted.next_quota_reset == (NOW - HOUR).replace(month=12)
    assert_proved(session)


# -- settlement ---------------------------------------------------------------------------------------------------


def test_a_settled_call_writes_every_row(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    org_id = alice.account.org_id
    run = factories.run(session.get_one(User, alice.id), org_id=org_id)
    admission = admit(pool, alice, run_id=run.id, door="codebuff", hold=20)
    assert session.get_one(CreditHold, admission.request_id).account_id == alice.account.id
    settled = ledger.settle(
        pool,
        admission,
        call(
            5,
            message_id="gen-1",
            cache_read_tokens=300,
            cache_write_tokens=30,
            reasoning_tokens=50,
            client_id="client-1",
            reasoning_text="hm",
            ttft_ms=250,
            stream=True,
            price={"input": "3", "output": "15"},
            request=[{"role": "user", "content": "hello"}],
        ),
        now=NOW,
    )
    assert settled == Settled(
        request_id=admission.request_id,
        message_id="gen-1",
        credits=5,
        carry_credits=0,
        micro_credits=5_000_000 - (settled.micro_credits < 5_000_000),
        balance=95,
        from_purchased=0 if org_id else 5,
        debt=0,
        duplicate=False,
    )
    message = session.get_one(Message, "gen-1")
    assert (message.finished_at, message.client_id, message.client_request_id) == (NOW, "client-1", run.id)
    assert (message.model, message.agent_id, message.user_id) == ("north/large-4", run.agent_id, alice.id)
    assert (message.org_id, message.repo_url, message.byok) == (org_id, None, False)
    assert (message.response, message.reasoning_text, message.latency_ms) == ("an answer", "hm", 1200)
    assert message.last_message == {"role": "user", "content": "hello"}
    assert (message.input_tokens, message.cache_read_input_tokens, message.output_tokens) == (1330, 300, 200)
    assert (message.cache_creation_input_tokens, message.reasoning_tokens, message.credits) == (30, 50, 5)
    row = session.get_one(GatewayCall, admission.request_id)
    assert (row.state, row.message_id, row.door, row.key_id) == ("settled", "gen-1", "codebuff", alice.key)
    assert (row.account_id, row.user_id) == (alice.account.id, alice.id)
    assert (row.uncached_input_tokens, row.ttft_ms, row.price) == (1000, 250, {"input": "3", "output": "15"})
    rollups = session.scalars(select(UsageRollup).order_by(UsageRollup.grain)).all()
    assert [(r.grain, r.bucket) for r in rollups] == [
        ("day", NOW.replace(hour=0, minute=0)),
        ("hour", NOW.replace(minute=0)),
        ("week", (NOW - timedelta(days=NOW.weekday())).replace(hour=0, minute=0)),
    ]
    for rollup in rollups:
        assert (rollup.account_id, rollup.user_id) == (alice.account.id, alice.id)
        assert (rollup.calls, rollup.credits, rollup.cost, rollup.agent_id) == (
            1,
            5,
            message.cost,
            run.agent_id,
        )
        assert (rollup.input_tokens, rollup.cache_read_tokens, rollup.cache_write_tokens) == (1000, 300, 30)
        assert (rollup.latency_ms, rollup.ttft_ms, rollup.ttft_calls) == (1200, 250, 1)
        assert rollup.latency_hist == [0] * 7 + [1] + [0] * 8
    assert holds(session) == []
    assert entries(session, alice.account)[-1] == ("debit", -5, 95, 95)
    assert_proved(session)


def test_rollups_add_up(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    for minutes, latency in ((0, 10), (1, 49), (2, 50), (40, 10**9)):
        spend(pool, alice, 2, now=NOW + minutes * MINUTE, latency_ms=latency)
    hours = session.scalars(
        select(UsageRollup).where(UsageRollup.grain == "hour").order_by(UsageRollup.bucket)
    ).all()
    assert [(row.calls, row.credits) for row in hours] == [(3, 6), (1, 2)]
    day = session.scalars(select(UsageRollup).where(UsageRollup.grain == "day")).one()
    assert (day.calls, day.latency_ms) == (4, 10**9 + 109)
    assert day.latency_hist == [2, 1] + [0] * 13 + [1]
    assert_proved(session)


def test_settling_twice_charges_once(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(pool, alice)
    first = ledger.settle(pool, admission, call(5), now=NOW)
    second = ledger.settle(pool, admission, call(50), now=NOW + MINUTE)
    assert second.duplicate
    assert (second.credits, second.message_id, second.balance) == (first.credits, first.message_id, 95)
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_calls_below_half_a_credit_add_up_and_the_one_that_fills_a_credit_pays(
    session: Session, pool: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    charged = [spend(pool, alice, 0.4) for _ in range(6)]
    assert [each.credits for each in charged] == [0, 0, 1, 0, 1, 0]
    assert [each.carry_credits for each in charged] == [0, 0, 1, 0, 1, 0]
    session.rollback()
    assert session.get_one(CreditAccount, alice.account.id).carry_micro in range(399_990, 400_001)
    assert session.scalars(select(Message.credits)).all().count(1) == 2
    assert spend(pool, alice, 0.6).credits == 1
    assert spend(pool, alice, 0).credits == 0
    assert balances(session, alice.account) == [97]
    assert_proved(session)


def test_the_callers_own_key_is_not_charged(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    settled = spend(pool, alice, 40, byok=True)
    assert (settled.credits, settled.balance) == (40, 100)
    assert spend(pool, alice, 0.4, byok=True).credits == 0
    message = session.get_one(Message, settled.message_id)
    assert (message.credits, message.byok) == (40, True)
    assert session.scalars(select(UsageRollup.credits)).all() == [0, 0, 0]
    assert session.get_one(CreditAccount, alice.account.id).carry_micro == 0
    assert_proved(session)


def test_a_reused_message_id_is_stored_under_another_id(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    assert spend(pool, alice, 5, message_id="gen-1").message_id == "gen-1"
    second = spend(pool, alice, 5, message_id="gen-1")
    assert second.message_id == f"gen-1~{second.request_id}"
    assert balances(session, alice.account) == [90]
    assert_proved(session)


def test_the_test_user_leaves_no_message(session: Session, pool: Pool) -> None:
    tester = payer(session, "tester", id="test-user-id")
    give(session, tester.account, 100)
    settled = spend(pool, tester, 5)
    assert (settled.message_id, settled.credits) == (None, 0)
    assert session.scalars(select(Message.id)).all() == []
    assert session.get_one(GatewayCall, settled.request_id).state == "settled"
    assert balances(session, tester.account) == [100]
    assert_proved(session)


def test_no_content_can_stop_a_settlement(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10**12)
    deep: Any = "bottom"
    for _ in range(3000):
        deep = [deep]
    nasty = "nul \x00 lone \ud83d half \udc00 pair \ud83d\ude00 \\u0000 end"
    variants: list[dict[str, Any]] = [
        {"response": nasty, "reasoning_text": nasty, "error": nasty, "client_id": nasty, "provider": nasty},
        {"response": {nasty: [nasty, 10**40, float("nan"), float("inf"), {1: (2, 3)}]}},
        {"request": deep, "response": deep},
        {"response": None},
        {"message_id": "x" * 100_000, "model": "m\x00" * 5000, "requested_model": "ü" * 5000},
        {"message_id": "x" * 100_000},
        {"message_id": "", "client_request_id": nasty * 1000},
        {"message_id": nasty},
        {
            "uncached_input_tokens": 10**30,
            "output_tokens": -5,
            "cache_read_tokens": 2**31 - 1,
            "cache_write_tokens": float("nan"),
            "reasoning_tokens": float("inf"),
            "latency_ms": -1,
            "ttft_ms": 10**12,
            "http_status": 10**12,
        },
        {"cost": Decimal("1e400")},
        {"cost": Decimal("-1")},
        {"cost": Decimal("NaN")},
        {"cost": Decimal("0.00000000000000000000000001")},
        {"price": {nasty: nasty}},
        {"response": "y" * (33 * 1024 * 1024)},
    ]
    for variant in variants:
        admission = admit(pool, alice, hold=0, model=nasty)
        assert admission.outcome == "admitted"
        assert not ledger.settle(pool, admission, call(1, **variant), now=NOW).duplicate
        ledger.fail(
            pool, admit(pool, alice, hold=0), failure(error=nasty, requested_model=nasty * 99), now=NOW
        )
    assert session.scalar(text("SELECT count(*) FROM message")) == len(variants)
    stored = session.scalars(select(Message.reasoning_text).where(Message.client_id.is_not(None))).one()
    assert stored == "nul  lone \ufffd half \ufffd pair \U0001f600 \\u0000 end"
    assert_proved(session)


def test_use_beyond_the_balance_is_debt(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10, "free", expires_at=NOW + HOUR)
    settled = spend(pool, alice, 25)
    assert (settled.credits, settled.debt, settled.balance) == (25, 15, -15)
    assert_proved(session)


def test_settling_works_when_the_grants_expired_meanwhile(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10, "free", operation_id="gone", expires_at=NOW + HOUR)
    admission = admit(pool, alice)
    settled = ledger.settle(pool, admission, call(4), now=NOW + HOUR)
    assert (settled.debt, settled.balance) == (4, -4)
    assert entries(session, alice.account)[1:] == [("expiry", -10, 0, 0), ("debit", -4, -4, -4)]
    assert_proved(session)


@own_account_only
def test_settling_for_somebody_deleted_meanwhile_writes_nothing(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10)
    admission = admit(pool, alice)
    session.execute(text('DELETE FROM "user"'))
    session.commit()
    settled = ledger.settle(pool, admission, call(4), now=NOW)
    assert (settled.message_id, settled.credits) == (None, 0)
    ledger.fail(pool, admission, failure(), now=NOW)
    assert session.scalar(text("SELECT count(*) FROM gateway_call")) == 0
    assert_proved(session)


@an_organisations_only
def test_settling_for_an_organisation_deleted_meanwhile_writes_nothing(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10)
    spend(pool, alice, 3)
    admission = admit(pool, alice)
    ledger.erase_account(alice.account.id)
    session.execute(text("DELETE FROM org"))
    session.commit()
    assert ledger.settle(pool, admission, call(4), now=NOW).message_id is None
    ledger.fail(pool, admission, failure(), now=NOW)
    for table in ("gateway_call", "message", "credit_hold", "credit_entry", "usage_rollup"):
        assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table
    assert admit(pool, alice).outcome == "unknown_key"
    assert_proved(session)


@an_organisations_only
def test_a_key_is_charged_to_the_account_that_it_names_and_to_no_other(session: Session, pool: Pool) -> None:
    alice = payer(session)
    own = replace(alice, key=key_of(session, alice), account=Account(user_id=alice.id))
    give(session, alice.account, 100)
    give(session, own.account, 5)
    spend(pool, alice, 30)
    spend(pool, own, 2)
    assert balances(session, alice.account) == [70]
    assert balances(session, own.account) == [3]
    assert ledger.cycle(alice.account, now=NOW).used == 30
    assert ledger.cycle(own.account, now=NOW).used == 2
    assert admit(pool, own, hold=3).outcome == "admitted"
    assert admit(pool, alice, hold=70).outcome == "admitted"
    assert [
        each.outcome
        for each in ledger.admit_many(pool, [new_request(own, 1), new_request(alice, 1)], now=NOW)
    ] == [
        "held",
        "held",
    ]
    assert_proved(session)


@an_organisations_only
def test_an_organisation_has_no_monthly_credits_of_the_person(session: Session, pool: Pool) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)
    refused = admit(pool, alice, hold=1, free_credits=500)
    assert (refused.outcome, refused.next_quota_reset) == ("out_of_credits", None)
    assert ledger.ensure_quota(alice.account, 500, now=NOW) is None
    assert session.scalar(text("SELECT count(*) FROM credit_ledger")) == 0


@an_organisations_only
def test_a_former_members_key_is_unknown(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    in_flight = admit(pool, alice, hold=10)
    session.execute(text("DELETE FROM org_member WHERE user_id = :id"), {"id": alice.id})
    session.commit()
    assert admit(pool, alice).outcome == "unknown_key"
    assert ledger.admit_many(pool, [new_request(alice)], now=NOW)[0].outcome == "unknown_key"
    # a call admitted earlier is charged to the account that it was admitted for
    assert ledger.settle(pool, in_flight, call(4), now=NOW).balance == 96
    assert_proved(session)


@an_organisations_only
def test_nobody_has_a_key_of_an_organisation_that_they_are_no_member_of(session: Session) -> None:
    org = factories.org(factories.user("bob"))
    with pytest.raises(IntegrityError, match="session_member_fk"):
        factories.token(factories.user("mallory"), org_id=org.id)


@an_organisations_only
@pytest.mark.parametrize("named", ["a call", "a failed call", "a call in flight", "a purchase"])
def test_people_in_an_orgs_ledger_cannot_be_deleted(session: Session, pool: Pool, named: str) -> None:
    alice = payer(session)
    if named == "a purchase":
        give(session, alice.account, 100, buyer_id=alice.id)
    else:
        give(session, alice.account, 100)
        admission = admit(pool, alice)
        if named == "a call":
            ledger.settle(pool, admission, call(5), now=NOW)
        elif named == "a failed call":
            ledger.fail(pool, admission, failure(), now=NOW)
    delete_user = text('DELETE FROM "user" WHERE id = :id')
    with pytest.raises(DBAPIError, match="name this person"):
        session.execute(delete_user, {"id": alice.id})
    assert_proved(session)
    session.execute(text("DELETE FROM org"))
    session.execute(delete_user, {"id": alice.id})


def test_several_calls_are_admitted_in_one_commit_with_an_outcome_each(session: Session, pool: Pool) -> None:
    alice, bob = payer(session, "alice"), payer(session, "bob")
    give(session, alice.account, 100)
    nobody = replace(bob, key="0" * 64)
    requests = [
        new_request(alice, 60),
        new_request(nobody),
        new_request(alice, 60),
        new_request(bob),
        new_request(alice, 40, {"run_id": "none"}),
        new_request(alice, 40),
    ]
    admissions = ledger.admit_many(pool, requests, now=NOW, worker="w1", ttl_seconds=60)
    assert [each.outcome for each in admissions] == [
        "admitted",
        "unknown_key",
        "held",
        "out_of_credits",
        "run_not_found",
        "admitted",
    ]
    assert [each.request_id for each in admissions] == [each.request_id for each in requests]
    assert [(each.balance, each.held, each.hold) for each in admissions[::5]] == [(100, 0, 60), (100, 60, 40)]
    assert admissions[0].hold_expires_at == NOW + timedelta(seconds=60)
    again = ledger.admit_many(pool, [requests[5], requests[0]], now=NOW)
    assert [each.outcome for each in again] == ["admitted", "admitted"]
    assert sorted(holds(session)) == [("live", 40), ("live", 60)]
    assert ledger.admit_many(pool, []) == []


def test_batches_with_the_same_accounts_in_different_orders_do_not_deadlock(
    session: Session, pool: Pool
) -> None:
    people = [payer(session, f"person{number}") for number in range(6)]
    for person in people:
        give(session, person.account, 1_000_000)
    outcomes: list[str] = []

    def admit_in(order: int) -> None:
        for _ in range(20):
            requests = [new_request(person, 1) for person in people[::order]]
            # without retries, a deadlock raises
            outcomes.extend(
                each.outcome for each in ledger.admit_many(pool, requests, now=NOW, timeout_seconds=0)
            )

    threads = [threading.Thread(target=admit_in, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["admitted"] * 480
    assert len(holds(session)) == 480


class OneTransaction(Pool):
    """A pool of one connection that does not commit, so that PostgreSQL's statistics cover only its statements."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 1)
        self.line = pools._PooledConnection(psycopg.connect(**self._options, autocommit=True))
        self.line.execute("BEGIN", ())

    def execute(
        self, query: str, params: Sequence[pools.Parameter] = (), *, timeout: float = 5.0
    ) -> list[tuple[Any, ...]]:
        return self.line.execute(query, params)


def test_calls_are_found_by_index_however_few_there_are(
    session: Session, pool: Pool, postgres_url: str
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    one, *rest = [admit(pool, alice, hold=1) for _ in range(3)]
    fresh = OneTransaction(postgres_url)
    ledger.settle(fresh, one, call(1), now=NOW)
    ledger.settle_many(fresh, [(each, call(1)) for each in rest], now=NOW)
    more = ledger.admit_many(fresh, [new_request(alice, 1), new_request(alice, 1)], now=NOW)
    assert {each.outcome for each in (admit(fresh, alice), *more)} == {"admitted"}
    read = dict(
        fresh.execute(
            "SELECT relname::text, seq_scan FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('gateway_call', 'credit_hold', 'credit_account', 'message', 'session')"
        )
    )
    fresh.line.close()
    assert read == dict.fromkeys(("gateway_call", "credit_hold", "credit_account", "message", "session"), 0)


def test_many_settle_in_one_commit(session: Session, pool: Pool) -> None:
    people = [payer(session, name) for name in ("alice", "bob", "mallory")]
    for person in people:
        give(session, person.account, 100)
    calls = [(admit(pool, person, hold=1), call(n)) for n in (1, 2, 3) for person in reversed(people)]
    calls.append((calls[0][0], call(50)))
    settled = ledger.settle_many(pool, calls, now=NOW)
    assert [each.request_id for each in settled] == [admission.request_id for admission, _ in calls]
    assert [each.duplicate for each in settled] == [False] * 9 + [True]
    assert [sum(balances(session, person.account)) for person in people] == [94, 94, 94]
    assert ledger.settle_many(pool, []) == []
    assert_proved(session)


# -- failure, extension, sweep ------------------------------------------------------------------------------------


def test_a_failed_call_costs_nothing_and_is_recorded(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(pool, alice)
    for _ in range(2):
        ledger.fail(pool, admission, failure(), now=NOW)
    row = session.get_one(GatewayCall, admission.request_id)
    assert (row.state, row.http_status, row.error, row.message_id) == (
        "failed",
        429,
        "The provider answered 429.",
        None,
    )
    assert holds(session) == []
    assert balances(session, alice.account) == [100]
    assert_proved(session)


def test_a_settled_call_stays_settled_and_a_failed_one_may_settle_after_all(
    session: Session, pool: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first, second = admit(pool, alice), admit(pool, alice)
    ledger.settle(pool, first, call(5), now=NOW)
    ledger.fail(pool, first, failure(), now=NOW)
    ledger.fail(pool, second, failure(), now=NOW)
    assert not ledger.settle(pool, second, call(5), now=NOW).duplicate
    assert session.scalars(select(GatewayCall.state)).all() == ["settled", "settled"]
    assert balances(session, alice.account) == [90]
    assert_proved(session)


def test_a_dead_workers_holds_are_swept_and_stay_visible(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    dead = admit(pool, alice, hold=60, worker="w1", model="north/large", ttl_seconds=60)
    assert ledger.sweep(now=NOW + timedelta(seconds=59)).holds == 0
    assert ledger.sweep(now=NOW + MINUTE).holds == 1
    session.commit()
    assert holds(session) == [("lost", 60)]
    (lost,) = ledger.lost_holds()
    assert (lost.request_id, lost.email, lost.worker, lost.amount) == (
        dead.request_id,
        "alice@example.org",
        "w1",
        60,
    )
    assert admit(pool, alice, hold=100, now=NOW + MINUTE).outcome == "admitted"
    assert ledger.prove(now=NOW + MINUTE).lost_holds == 1
    assert_proved(session, NOW + MINUTE)


def test_settling_after_the_sweep_charges_and_clears_the_list(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    slow = admit(pool, alice, ttl_seconds=60)
    ledger.sweep(now=NOW + HOUR)
    session.commit()
    assert ledger.settle(pool, slow, call(7), now=NOW + HOUR).credits == 7
    assert ledger.lost_holds() == []
    assert balances(session, alice.account) == [93]
    assert_proved(session, NOW + HOUR)


def test_a_long_stream_keeps_its_hold_and_revives_a_swept_one(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first, second = admit(pool, alice, hold=10), admit(pool, alice, hold=20)
    assert ledger.extend_holds(pool, [first.request_id], ttl_seconds=600, now=NOW) == 1
    assert ledger.sweep(now=NOW + MINUTE).holds == 1
    session.commit()
    both = [first.request_id, second.request_id, "nothing"]
    assert ledger.extend_holds(pool, both, ttl_seconds=60, now=NOW + MINUTE) == 2
    assert sorted(holds(session)) == [("live", 10), ("live", 20)]
    ledger.settle(pool, first, call(1), now=NOW)
    assert ledger.extend_holds(pool, [first.request_id], now=NOW) == 0
    assert ledger.extend_holds(pool, []) == 0


@pytest.mark.parametrize(
    ("others", "needed", "requested", "grown"),
    [
        (0, 20, 40, 40),
        (0, 100, 200, 100),
        (0, 99, 200, 100),
        (0, 101, 200, None),
        (60, 30, 80, 40),
        (60, 41, 80, None),
        (0, 5, 8, 10),
    ],
    ids=[
        "available",
        "all that is available",
        "less than requested",
        "more than available",
        "beside others",
        "taken by others",
        "never shrinks",
    ],
)
def test_a_hold_grows_up_to_the_available_credits(
    session: Session, pool: Pool, others: int, needed: int, requested: int, grown: int | None
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    mine = admit(pool, alice, hold=10)
    admit(pool, alice, hold=others)
    for _ in range(2):
        assert ledger.grow_hold(pool, mine.request_id, needed=needed, requested=requested, now=NOW) == grown
    assert sorted(holds(session)) == sorted([("live", others), ("live", grown or 10)])


def test_a_call_without_a_hold_does_not_grow(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    over = admit(pool, alice, hold=10)
    ledger.settle(pool, over, call(1), now=NOW)
    assert ledger.grow_hold(pool, over.request_id, needed=0, requested=10, now=NOW) is None
    assert ledger.grow_hold(pool, "nothing", needed=0, requested=10, now=NOW) is None


def test_concurrently_growing_holds_share_the_available_credits(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    calls = [admit(pool, alice, hold=5) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        grown = list(
            threads.map(
                lambda each: ledger.grow_hold(pool, each.request_id, needed=25, requested=25, now=NOW), calls
            )
        )
    # 60 credits are available: three holds grow by 20 each
    assert sorted(grown, key=str) == [25] * 3 + [None] * 5
    assert sum(amount for _, amount in holds(session)) == 100


def test_dismissing_a_lost_call(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    lost, live = admit(pool, alice, ttl_seconds=1), admit(pool, alice, ttl_seconds=600)
    ledger.sweep(now=NOW + MINUTE)
    assert ledger.dismiss_lost(lost.request_id).amount == 10
    for wrong in (live.request_id, lost.request_id, "nothing"):
        with pytest.raises(
            ledger.NotFound if hasattr(ledger, "NotFound") else Exception, match="no lost call"
        ):
            ledger.dismiss_lost(wrong)


def test_a_lost_connection_is_replaced_and_nothing_is_charged_twice(
    session: Session, pool: Pool, engine: Engine
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    for _ in range(3):
        admission = admit(pool, alice)
        _kill_other_connections(session, engine)
        assert admission.outcome == "admitted"
        assert ledger.settle(pool, admission, call(5), now=NOW).credits == 5
        _kill_other_connections(session, engine)
    assert balances(session, alice.account) == [85]
    assert_proved(session)


def _kill_other_connections(session: Session, engine: Engine) -> None:
    session.execute(
        text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    session.commit()
    engine.dispose()


def wait_for_blocked_settlement(engine: Engine, then: str = "1") -> None:
    """Wait until a settlement waits for a lock; `then` is an expression selected from its pg_stat_activity row."""
    waiting = text(
        f"SELECT {then} FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query LIKE '%gateway_settle%' AND datname = current_database()"
    )
    with engine.connect() as connection:
        while not connection.execute(waiting).all():
            connection.rollback()  # pg_stat_activity is a snapshot per transaction
            time.sleep(0.01)


def test_a_settlement_cut_off_while_it_waits_is_done_once(
    session: Session, pool: Pool, engine: Engine
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(pool, alice)
    session.execute(select(CreditAccount).where(CreditAccount.id == alice.account.id).with_for_update())
    with ThreadPoolExecutor(1) as executor:
        settling = executor.submit(ledger.settle, pool, admission, call(5), now=NOW)
        wait_for_blocked_settlement(engine, then="pg_terminate_backend(pid)")
        session.rollback()
        assert not settling.result().duplicate
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_a_deadlock_with_another_transaction_is_retried(session: Session, pool: Pool, engine: Engine) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(pool, alice)
    # wrong lock order: the user's row before the account
    session.execute(text("UPDATE \"user\" SET email = 'new@example.org' WHERE id = :id"), {"id": alice.id})
    with ThreadPoolExecutor(1) as executor:
        settling = executor.submit(ledger.settle, pool, admission, call(5), now=NOW)
        wait_for_blocked_settlement(engine)
        with suppress(OperationalError):
            type = grant_type(alice.account, "admin")
            ledger.grant(alice.account, 5, type, operation_id="gift", now=NOW)
        session.rollback()
        assert settling.result().credits == 5
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_a_worker_killed_during_a_statement_leaves_no_broken_connection(
    session: Session, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    alice = payer(session)
    give(session, alice.account, 100)
    small = Pool(postgres_url, 1)
    admission = admit(small, alice)

    def dying(socket: int, writing: bool) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pools, "_wait_poll", dying)
        with pytest.raises(Killed):
            ledger.settle(small, admission, call(5), now=NOW)
    assert ledger.settle(small, admission, call(5), now=NOW, timeout_seconds=5).credits == 5
    small.close()


def test_an_unreachable_ledger_raises_ledger_unavailable(session: Session) -> None:
    nowhere = Pool("postgresql+psycopg://x@/x?host=/nonexistent", 1)
    with pytest.raises(ledger.LedgerUnavailable) as refused:
        ledger.admit(nowhere, AdmissionRequest(token_hash="0", request_id="r", hold=1), timeout_seconds=0.05)
    assert refused.value.status == 503


def test_only_admitted_calls_are_settled(pool: Pool, session: Session) -> None:
    refused = admit(pool, replace(payer(session), key="0"))
    with pytest.raises(ValueError, match="admitted"):
        ledger.settle(pool, refused, call(1))


# -- races --------------------------------------------------------------------------------------------------------


def run_concurrently(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in `count` threads that start at once."""
    start = threading.Barrier(count)

    def run(index: int) -> Any:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(run, range(count)))


def test_fifty_threads_on_one_balance_overspend_by_no_more_than_one_calls_excess(
    session: Session, pool: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 60, "free", expires_at=NOW + HOUR)
    give(session, alice.account, 140, "purchase")

    def one_call(index: int) -> int:
        admission = admit(pool, alice, hold=12, timeout_seconds=30)
        if admission.outcome != "admitted":
            assert admission.outcome in ("held", "out_of_credits")
            return 0
        settled = ledger.settle(pool, admission, call(12 - index % 5), now=NOW)
        assert not settled.duplicate
        return settled.credits

    charged = run_concurrently(50, one_call)
    total = sum(balances(session, alice.account))
    assert total == 200 - sum(charged)
    assert total > -12
    assert holds(session) == []
    assert_proved(session)


def test_fifty_threads_whose_holds_suffice_never_go_below_zero(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 95, "purchase")

    def one_call(_: int) -> int:
        admission = admit(pool, alice, hold=10, timeout_seconds=30)
        if admission.outcome != "admitted":
            return 0
        return ledger.settle(pool, admission, call(10), now=NOW).credits

    charged = run_concurrently(50, one_call)
    total = sum(balances(session, alice.account))
    assert total == 95 - sum(charged)
    # the last call may have been the only one in flight, with 5 credits left
    assert total in (5, -5)
    assert_proved(session)


def test_settling_twice_at_once_charges_once(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(pool, alice)
    settled = run_concurrently(8, lambda _: ledger.settle(pool, admission, call(5), now=NOW))
    assert sorted(each.duplicate for each in settled) == [False] + [True] * 7
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_settling_and_failing_at_once_ends_settled_or_charged_nothing(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    for _ in range(10):
        admission = admit(pool, alice)
        run_concurrently(
            2,
            lambda index, admission=admission: (
                ledger.settle(pool, admission, call(5), now=NOW)
                if index
                else ledger.fail(pool, admission, failure(), now=NOW)
            ),
        )
    assert session.scalars(select(GatewayCall.state).distinct()).all() == ["settled"]
    assert balances(session, alice.account) == [950]
    assert_proved(session)


def test_the_same_grant_at_once_is_granted_once(session: Session, app: Flask) -> None:
    account = payer(session).account

    def one(_: int) -> bool:
        with app.app_context():
            type = grant_type(account, "purchase")
            granted = ledger.grant(account, 100, type, operation_id="buy-1", now=NOW)
            db.session.commit()
            return granted.created

    assert sorted(run_concurrently(10, one)) == [False] * 9 + [True]
    assert balances(session, account) == [100]
    assert_proved(session)


@own_account_only
def test_the_quota_cycle_from_many_workers_at_once_runs_once(
    session: Session, pool: Pool, app: Flask
) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)

    def one(index: int) -> Any:
        if index % 2:
            return admit(pool, alice, hold=1, free_credits=500, timeout_seconds=30).balance
        with app.app_context():
            quota = ledger.ensure_quota(alice.account, 500, now=NOW)
            db.session.commit()
            return quota is None or quota.renewed or 500

    run_concurrently(12, one)
    assert balances(session, alice.account) == [500]
    assert_proved(session)


def test_a_mixed_race_over_accounts_ends_without_deadlock_and_with_a_clean_proof(
    session: Session, pool: Pool, app: Flask
) -> None:
    people = [payer(session, f"user{n}", next_quota_reset=NOW + 2 * MINUTE) for n in range(6)]
    for person in people:
        give(session, person.account, 40, "free", expires_at=NOW + MINUTE)
        give(session, person.account, 100)
    deadlocks = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    before = session.scalar(deadlocks)
    session.rollback()

    def work(index: int) -> int:
        charged = 0
        if index == 11:
            for _ in range(3):
                with app.app_context():
                    proof = ledger.prove(now=NOW)
                    assert proof.clean, [check for check in proof.checks if check.count]
            return 0
        for step in range(12):
            moment = NOW + timedelta(seconds=20 * step)
            person = people[(index * 5 + step) % len(people)]
            if index % 6 == 0:
                with app.app_context():
                    type = grant_type(person.account, "admin")
                    ledger.grant(person.account, 5, type, operation_id=f"gift-{index}-{step}", now=moment)
                    db.session.commit()
            elif index % 6 == 1:
                with app.app_context():
                    ledger.sweep(now=moment)
                    db.session.commit()
            elif index % 6 == 2:
                batch = [(admit(pool, each, hold=3, now=moment), call(2)) for each in people[step % 3 :]]
                admitted = [pair for pair in batch if pair[0].outcome == "admitted"]
                charged += sum(each.credits for each in ledger.settle_many(pool, admitted, now=moment))
            else:
                admission = admit(pool, person, hold=5, now=moment, free_credits=50, timeout_seconds=30)
                if admission.outcome == "admitted" and step % 5 == 4:
                    ledger.fail(pool, admission, failure(), now=moment)
                elif admission.outcome == "admitted":
                    charged += ledger.settle(pool, admission, call(4), now=moment).credits
        return charged

    charged = sum(run_concurrently(12, work))
    assert charged == session.scalar(text("SELECT sum(credits) FROM message"))
    assert holds(session) == []
    assert session.scalar(deadlocks) == before
    assert_proved(session, NOW + HOUR)


def test_the_margin_is_part_of_the_price(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    admission = admit(pool, alice)
    settled = ledger.settle(pool, admission, call(cost=Decimal(1), margin=MARGIN), now=NOW)
    assert (settled.credits, settled.micro_credits) == (106, 105_500_000)
