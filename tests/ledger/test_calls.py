"""A call's way through the ledger: admission, hold, settlement, failure, sweep."""

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
    claim,
    entries,
    give,
    grant_type,
    key_of,
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


def test_unknown_and_expired_keys_are_told_apart_from_nothing(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    assert admit(gate, replace(alice, key="0" * 64)).outcome == "unknown_key"
    assert admit(gate, alice, now=NOW + timedelta(days=300)).outcome == "unknown_key"
    assert admit(gate, replace(alice, key="\x00\ud800'; drop table message; --")).outcome == "unknown_key"
    assert holds(session) == []


def test_checks_come_in_the_order_of_the_contract(session: Session, gate: Pool) -> None:
    alice = payer(session)
    user = session.get_one(User, alice.id)
    mallory = factories.user("mallory")
    org_id = alice.account.org_id
    running = factories.run(user, org_id=org_id)
    over = factories.run(user, org_id=org_id, status="completed")
    foreign = factories.run(mallory, org_id=org_id)
    other = factories.run(user, org_id=None if org_id else factories.org(user).id)
    wrong = {"run_id": foreign.id, "require_run": True}

    user.banned = True
    session.commit()
    assert admit(gate, alice, **wrong).outcome == "banned"
    user.banned = False
    session.commit()
    assert admit(gate, alice, **wrong).outcome == "out_of_credits"
    give(session, alice.account, 5)
    assert admit(gate, alice, run_id=None, require_run=True).outcome == "no_run"
    for missing in (foreign.id, other.id, "nowhere", "", "a\x00b", "\ud800"):
        assert admit(gate, alice, run_id=missing, require_run=True).outcome == "run_not_found"
        assert admit(gate, alice, run_id=missing).outcome == "run_not_found"
    assert admit(gate, alice, run_id=over.id, require_run=True).outcome == "run_not_running"
    admitted = admit(gate, alice, run_id=running.id, require_run=True)
    assert admitted.outcome == "admitted"
    assert admitted.agent_id == running.agent_id
    assert admit(gate, alice, run_id=running.id, require_run=True).outcome == "insufficient"


def test_a_check_takes_nothing(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    checked = admit(gate, alice, hold=None)
    assert (checked.outcome, checked.balance, checked.user_id) == ("checked", 100, alice.id)
    assert holds(session) == []


def test_a_hold_is_covered_or_alone(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first = admit(gate, alice, hold=70)
    assert (first.outcome, first.balance, first.held, first.available) == ("admitted", 100, 0, 100)
    second = admit(gate, alice, hold=31)
    assert (second.outcome, second.held, second.available) == ("insufficient", 70, 30)
    assert admit(gate, alice, hold=30).outcome == "admitted"
    assert admit(gate, alice, hold=1).outcome == "insufficient"
    assert holds(session) == [("live", 30), ("live", 70)]
    assert ledger.balance(alice.account, now=NOW).held == 100


def test_a_lone_call_may_hold_more_than_there_is(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1)
    first = admit(gate, alice, hold=500)
    assert first.outcome == "admitted"
    assert admit(gate, alice, hold=0).outcome == "insufficient"
    ledger.settle(gate, first, call(3), now=NOW)
    assert balances(session, alice.account) == [-2]
    assert admit(gate, alice, hold=0).outcome == "out_of_credits"


@pytest.mark.parametrize(
    ("minimum", "held", "outcome"),
    [
        (0, 0, "admitted"),
        (100, 0, "admitted"),
        (101, 0, "insufficient"),
        (40, 60, "admitted"),
        (41, 60, "insufficient"),
        (10**18, 0, "insufficient"),
        (-5, 0, "admitted"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_a_call_sends_must_be_covered_even_when_it_is_alone(
    session: Session, gate: Pool, minimum: int, held: int, outcome: str, many: bool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    if held:
        assert admit(gate, alice, hold=held).outcome == "admitted"
    asked = replace(claim(alice, 40 if held else 500), minimum=minimum)
    got = ledger.admit_many(gate, [asked], now=NOW)[0] if many else ledger.admit(gate, asked, now=NOW)
    assert (got.outcome, got.minimum) == (outcome, min(max(minimum, 0), 10**12))
    assert len(holds(session)) == (held > 0) + (outcome == "admitted")


def test_what_the_provider_said_is_kept_with_the_call(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    raw = {"prompt_tokens": 1000, "note": "\x00\ud800", "huge": 10**30}
    spend(gate, alice, 2, parts={"audio_input": 800}, raw_usage=raw, flags=["cost_far_above_list"])
    spend(gate, alice, 1, raw_usage={"x": "y" * 20_000}, parts={})
    first, second = session.scalars(select(GatewayCall).order_by(GatewayCall.credits.desc()))
    assert (first.parts, first.flags) == ({"audio_input": 800}, ["cost_far_above_list"])
    assert first.raw_usage["prompt_tokens"] == 1000
    # too large to be kept, and billed all the same
    assert (second.parts, second.flags, second.raw_usage, second.credits) == (None, None, None, 1)
    assert_proved(session)


def test_admission_is_idempotent_by_request(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first = admit(gate, alice, hold=80, request_id="req-1")
    again = admit(gate, alice, hold=80, request_id="req-1")
    assert again == first
    assert holds(session) == [("live", 80)]


def test_an_expired_hold_blocks_nobody_before_the_sweep_comes(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admit(gate, alice, hold=100, ttl_seconds=60)
    assert admit(gate, alice, hold=100, now=NOW + timedelta(seconds=59)).outcome == "insufficient"
    assert admit(gate, alice, hold=100, now=NOW + MINUTE).outcome == "admitted"


def test_using_a_key_is_noted_every_five_minutes_at_most(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    seen = []
    for minutes in (0, 4, 6):
        admit(gate, alice, hold=None, now=NOW + minutes * MINUTE)
        session.rollback()
        session.expire_all()
        seen.append(session.get_one(Key, alice.key).last_used_at)
    assert seen == [NOW, NOW, NOW + 6 * MINUTE]


@own_account_only
def test_a_due_quota_cycle_runs_before_the_check(session: Session, gate: Pool) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)
    admitted = admit(gate, alice, hold=10, free_credits=500)
    assert (admitted.outcome, admitted.balance) == ("admitted", 500)
    assert admitted.next_quota_reset == (NOW - HOUR).replace(month=12)
    assert_proved(session)


# -- settlement ---------------------------------------------------------------------------------------------------


def test_a_settled_call_writes_every_row(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    org_id = alice.account.org_id
    run = factories.run(session.get_one(User, alice.id), org_id=org_id)
    admission = admit(gate, alice, run_id=run.id, door="codebuff", hold=20)
    assert session.get_one(CreditHold, admission.request_id).account_id == alice.account.id
    settled = ledger.settle(
        gate,
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


def test_rollups_add_up(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    for minutes, latency in ((0, 10), (1, 49), (2, 50), (40, 10**9)):
        spend(gate, alice, 2, now=NOW + minutes * MINUTE, latency_ms=latency)
    hours = session.scalars(
        select(UsageRollup).where(UsageRollup.grain == "hour").order_by(UsageRollup.bucket)
    ).all()
    assert [(row.calls, row.credits) for row in hours] == [(3, 6), (1, 2)]
    day = session.scalars(select(UsageRollup).where(UsageRollup.grain == "day")).one()
    assert (day.calls, day.latency_ms) == (4, 10**9 + 109)
    assert day.latency_hist == [2, 1] + [0] * 13 + [1]
    assert_proved(session)


def test_settling_twice_charges_once(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(gate, alice)
    first = ledger.settle(gate, admission, call(5), now=NOW)
    second = ledger.settle(gate, admission, call(50), now=NOW + MINUTE)
    assert second.duplicate
    assert (second.credits, second.message_id, second.balance) == (first.credits, first.message_id, 95)
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_calls_below_half_a_credit_add_up_and_the_one_that_fills_a_credit_pays(
    session: Session, gate: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    charged = [spend(gate, alice, 0.4) for _ in range(6)]
    assert [each.credits for each in charged] == [0, 0, 1, 0, 1, 0]
    assert [each.carry_credits for each in charged] == [0, 0, 1, 0, 1, 0]
    session.rollback()
    assert session.get_one(CreditAccount, alice.account.id).carry_micro in range(399_990, 400_001)
    assert session.scalars(select(Message.credits)).all().count(1) == 2
    assert spend(gate, alice, 0.6).credits == 1
    assert spend(gate, alice, 0).credits == 0
    assert balances(session, alice.account) == [97]
    assert_proved(session)


def test_the_callers_own_key_is_not_charged(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    settled = spend(gate, alice, 40, byok=True)
    assert (settled.credits, settled.balance) == (40, 100)
    assert spend(gate, alice, 0.4, byok=True).credits == 0
    message = session.get_one(Message, settled.message_id)
    assert (message.credits, message.byok) == (40, True)
    assert session.scalars(select(UsageRollup.credits)).all() == [0, 0]
    assert session.get_one(CreditAccount, alice.account.id).carry_micro == 0
    assert_proved(session)


def test_a_message_id_used_twice_is_kept_apart(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    assert spend(gate, alice, 5, message_id="gen-1").message_id == "gen-1"
    second = spend(gate, alice, 5, message_id="gen-1")
    assert second.message_id == f"gen-1~{second.request_id}"
    assert balances(session, alice.account) == [90]
    assert_proved(session)


def test_the_test_user_leaves_no_message(session: Session, gate: Pool) -> None:
    tester = payer(session, "tester", id="test-user-id")
    give(session, tester.account, 100)
    settled = spend(gate, tester, 5)
    assert (settled.message_id, settled.credits) == (None, 0)
    assert session.scalars(select(Message.id)).all() == []
    assert session.get_one(GatewayCall, settled.request_id).state == "settled"
    assert balances(session, tester.account) == [100]
    assert_proved(session)


def test_no_content_can_stop_a_settlement(session: Session, gate: Pool) -> None:
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
        {"message_id": "", "client_request_id": nasty * 1000, "repo_url": nasty},
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
        admission = admit(gate, alice, hold=0, model=nasty)
        assert admission.outcome == "admitted"
        assert not ledger.settle(gate, admission, call(1, **variant), now=NOW).duplicate
        ledger.fail(
            gate, admit(gate, alice, hold=0), failure(error=nasty, requested_model=nasty * 99), now=NOW
        )
    assert session.scalar(text("SELECT count(*) FROM message")) == len(variants)
    kept = session.scalars(select(Message.reasoning_text).where(Message.client_id.is_not(None))).one()
    assert kept == "nul  lone \ufffd half \ufffd pair \U0001f600 \\u0000 end"
    assert_proved(session)


def test_use_beyond_the_balance_is_debt(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10, "free", expires_at=NOW + HOUR)
    settled = spend(gate, alice, 25)
    assert (settled.credits, settled.debt, settled.balance) == (25, 15, -15)
    assert_proved(session)


def test_settling_works_when_the_grants_expired_meanwhile(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10, "free", operation_id="gone", expires_at=NOW + HOUR)
    admission = admit(gate, alice)
    settled = ledger.settle(gate, admission, call(4), now=NOW + HOUR)
    assert (settled.debt, settled.balance) == (4, -4)
    assert entries(session, alice.account)[1:] == [("expiry", -10, 0, 0), ("debit", -4, -4, -4)]
    assert_proved(session)


@own_account_only
def test_settling_for_somebody_deleted_meanwhile_writes_nothing(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10)
    admission = admit(gate, alice)
    session.execute(text('DELETE FROM "user"'))
    session.commit()
    settled = ledger.settle(gate, admission, call(4), now=NOW)
    assert (settled.message_id, settled.credits) == (None, 0)
    ledger.fail(gate, admission, failure(), now=NOW)
    assert session.scalar(text("SELECT count(*) FROM gateway_call")) == 0
    assert_proved(session)


@an_organisations_only
def test_settling_for_an_organisation_deleted_meanwhile_writes_nothing(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10)
    spend(gate, alice, 3)
    admission = admit(gate, alice)
    ledger.erase_account(alice.account.id)
    session.execute(text("DELETE FROM org"))
    session.commit()
    assert ledger.settle(gate, admission, call(4), now=NOW).message_id is None
    ledger.fail(gate, admission, failure(), now=NOW)
    for table in ("gateway_call", "message", "credit_hold", "credit_entry", "usage_rollup"):
        assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table
    assert admit(gate, alice).outcome == "unknown_key"
    assert_proved(session)


@an_organisations_only
def test_a_key_is_charged_to_the_account_that_it_names_and_to_no_other(session: Session, gate: Pool) -> None:
    alice = payer(session)
    own = replace(alice, key=key_of(session, alice), account=Account(user_id=alice.id))
    give(session, alice.account, 100)
    give(session, own.account, 5)
    spend(gate, alice, 30)
    spend(gate, own, 2)
    assert balances(session, alice.account) == [70]
    assert balances(session, own.account) == [3]
    assert ledger.cycle(alice.account, now=NOW).used == 30
    assert ledger.cycle(own.account, now=NOW).used == 2
    assert admit(gate, own, hold=3).outcome == "admitted"
    assert admit(gate, alice, hold=70).outcome == "admitted"
    assert [each.outcome for each in ledger.admit_many(gate, [claim(own, 1), claim(alice, 1)], now=NOW)] == [
        "insufficient",
        "insufficient",
    ]
    assert_proved(session)


@an_organisations_only
def test_an_organisation_has_no_monthly_credits_of_the_person(session: Session, gate: Pool) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)
    refused = admit(gate, alice, hold=1, free_credits=500)
    assert (refused.outcome, refused.next_quota_reset) == ("out_of_credits", None)
    assert ledger.ensure_quota(alice.account, 500, now=NOW) is None
    assert session.scalar(text("SELECT count(*) FROM credit_ledger")) == 0


@an_organisations_only
def test_a_former_members_key_is_unknown(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    in_flight = admit(gate, alice, hold=10)
    session.execute(text("DELETE FROM org_member WHERE user_id = :id"), {"id": alice.id})
    session.commit()
    assert admit(gate, alice).outcome == "unknown_key"
    assert ledger.admit_many(gate, [claim(alice)], now=NOW)[0].outcome == "unknown_key"
    # what was admitted before is paid by who admitted it
    assert ledger.settle(gate, in_flight, call(4), now=NOW).balance == 96
    assert_proved(session)


@an_organisations_only
def test_nobody_has_a_key_of_an_organisation_that_they_are_no_member_of(session: Session) -> None:
    org = factories.org(factories.user("bob"))
    with pytest.raises(IntegrityError, match="session_member_fk"):
        factories.token(factories.user("mallory"), org_id=org.id)


@an_organisations_only
@pytest.mark.parametrize("named", ["a call", "a failed call", "a call in flight", "a purchase"])
def test_whom_an_organisations_books_name_is_not_deleted(session: Session, gate: Pool, named: str) -> None:
    alice = payer(session)
    if named == "a purchase":
        give(session, alice.account, 100, buyer_id=alice.id)
    else:
        give(session, alice.account, 100)
        admission = admit(gate, alice)
        if named == "a call":
            ledger.settle(gate, admission, call(5), now=NOW)
        elif named == "a failed call":
            ledger.fail(gate, admission, failure(), now=NOW)
    leave = text('DELETE FROM "user" WHERE id = :id')
    with pytest.raises(DBAPIError, match="name this person"):
        session.execute(leave, {"id": alice.id})
    assert_proved(session)
    session.execute(text("DELETE FROM org"))
    session.execute(leave, {"id": alice.id})


def test_many_are_admitted_in_one_commit_each_on_its_own_merits(session: Session, gate: Pool) -> None:
    alice, bob = payer(session, "alice"), payer(session, "bob")
    give(session, alice.account, 100)
    nobody = replace(bob, key="0" * 64)
    claims = [
        claim(alice, 60),
        claim(nobody),
        claim(alice, 60),
        claim(bob),
        claim(alice, 40, {"run_id": "none"}),
        claim(alice, 40),
    ]
    admissions = ledger.admit_many(gate, claims, now=NOW, worker="w1", ttl_seconds=60)
    assert [each.outcome for each in admissions] == [
        "admitted",
        "unknown_key",
        "insufficient",
        "out_of_credits",
        "run_not_found",
        "admitted",
    ]
    assert [each.request_id for each in admissions] == [each.request_id for each in claims]
    assert [(each.balance, each.held, each.hold) for each in admissions[::5]] == [(100, 0, 60), (100, 60, 40)]
    assert admissions[0].hold_expires_at == NOW + timedelta(seconds=60)
    again = ledger.admit_many(gate, [claims[5], claims[0]], now=NOW)
    assert [each.outcome for each in again] == ["admitted", "admitted"]
    assert sorted(holds(session)) == [("live", 40), ("live", 60)]
    assert ledger.admit_many(gate, []) == []


def test_groups_that_name_the_same_accounts_in_other_orders_do_not_wait_in_a_circle(
    session: Session, gate: Pool
) -> None:
    people = [payer(session, f"person{number}") for number in range(6)]
    for person in people:
        give(session, person.account, 1_000_000)
    outcomes: list[str] = []

    def ask(order: int) -> None:
        for _ in range(20):
            claims = [claim(person, 1) for person in people[::order]]
            # no second try: a deadlock would be an error
            outcomes.extend(
                each.outcome for each in ledger.admit_many(gate, claims, now=NOW, patience_seconds=0)
            )

    threads = [threading.Thread(target=ask, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["admitted"] * 480
    assert len(holds(session)) == 480


class OneTransaction(Pool):
    """A pool of one connection that does not commit, so that PostgreSQL tells what its statements alone have read."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 1)
        self.line = pools._PooledConnection(psycopg.connect(**self._options, autocommit=True))
        self.line.execute("BEGIN", ())

    def execute(
        self, query: str, params: Sequence[pools.Parameter] = (), *, timeout: float = 5.0
    ) -> list[tuple[Any, ...]]:
        return self.line.execute(query, params)


def test_calls_are_found_by_index_however_few_there_are(
    session: Session, gate: Pool, postgres_url: str
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    one, *rest = [admit(gate, alice, hold=1) for _ in range(3)]
    fresh = OneTransaction(postgres_url)
    ledger.settle(fresh, one, call(1), now=NOW)
    ledger.settle_many(fresh, [(each, call(1)) for each in rest], now=NOW)
    more = ledger.admit_many(fresh, [claim(alice, 1), claim(alice, 1)], now=NOW)
    assert {each.outcome for each in (admit(fresh, alice), *more)} == {"admitted"}
    read = dict(
        fresh.execute(
            "SELECT relname::text, seq_scan FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('gateway_call', 'credit_hold', 'credit_account', 'message', 'session')"
        )
    )
    fresh.line.close()
    assert read == dict.fromkeys(("gateway_call", "credit_hold", "credit_account", "message", "session"), 0)


def test_many_settle_in_one_commit(session: Session, gate: Pool) -> None:
    people = [payer(session, name) for name in ("alice", "bob", "mallory")]
    for person in people:
        give(session, person.account, 100)
    calls = [(admit(gate, person, hold=1), call(n)) for n in (1, 2, 3) for person in reversed(people)]
    calls.append((calls[0][0], call(50)))
    settled = ledger.settle_many(gate, calls, now=NOW)
    assert [each.request_id for each in settled] == [admission.request_id for admission, _ in calls]
    assert [each.duplicate for each in settled] == [False] * 9 + [True]
    assert [sum(balances(session, person.account)) for person in people] == [94, 94, 94]
    assert ledger.settle_many(gate, []) == []
    assert_proved(session)


# -- failure, extension, sweep ------------------------------------------------------------------------------------


def test_a_failed_call_costs_nothing_and_is_told(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(gate, alice)
    for _ in range(2):
        ledger.fail(gate, admission, failure(), now=NOW)
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
    session: Session, gate: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first, second = admit(gate, alice), admit(gate, alice)
    ledger.settle(gate, first, call(5), now=NOW)
    ledger.fail(gate, first, failure(), now=NOW)
    ledger.fail(gate, second, failure(), now=NOW)
    assert not ledger.settle(gate, second, call(5), now=NOW).duplicate
    assert session.scalars(select(GatewayCall.state)).all() == ["settled", "settled"]
    assert balances(session, alice.account) == [90]
    assert_proved(session)


def test_a_dead_workers_holds_are_swept_and_stay_visible(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    dead = admit(gate, alice, hold=60, worker="w1", model="north/large", ttl_seconds=60)
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
    assert admit(gate, alice, hold=100, now=NOW + MINUTE).outcome == "admitted"
    assert ledger.prove(now=NOW + MINUTE).lost_holds == 1
    assert_proved(session, NOW + MINUTE)


def test_settling_after_the_sweep_charges_and_clears_the_list(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    slow = admit(gate, alice, ttl_seconds=60)
    ledger.sweep(now=NOW + HOUR)
    session.commit()
    assert ledger.settle(gate, slow, call(7), now=NOW + HOUR).credits == 7
    assert ledger.lost_holds() == []
    assert balances(session, alice.account) == [93]
    assert_proved(session, NOW + HOUR)


def test_a_long_stream_keeps_its_hold_and_revives_a_swept_one(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    first, second = admit(gate, alice, hold=10), admit(gate, alice, hold=20)
    assert ledger.extend_holds(gate, [first.request_id], ttl_seconds=600, now=NOW) == 1
    assert ledger.sweep(now=NOW + MINUTE).holds == 1
    session.commit()
    both = [first.request_id, second.request_id, "nothing"]
    assert ledger.extend_holds(gate, both, ttl_seconds=60, now=NOW + MINUTE) == 2
    assert sorted(holds(session)) == [("live", 10), ("live", 20)]
    ledger.settle(gate, first, call(1), now=NOW)
    assert ledger.extend_holds(gate, [first.request_id], now=NOW) == 0
    assert ledger.extend_holds(gate, []) == 0


@pytest.mark.parametrize(
    ("others", "needed", "wanted", "grown"),
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
        "free",
        "all there is",
        "less than wanted",
        "more than there is",
        "beside others",
        "taken by others",
        "never less",
    ],
)
def test_a_hold_grows_by_what_is_free(
    session: Session, gate: Pool, others: int, needed: int, wanted: int, grown: int | None
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    mine = admit(gate, alice, hold=10)
    admit(gate, alice, hold=others)
    for _ in range(2):
        assert ledger.grow_hold(gate, mine.request_id, needed=needed, wanted=wanted, now=NOW) == grown
    assert sorted(holds(session)) == sorted([("live", others), ("live", grown or 10)])


def test_what_holds_nothing_does_not_grow(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    over = admit(gate, alice, hold=10)
    ledger.settle(gate, over, call(1), now=NOW)
    assert ledger.grow_hold(gate, over.request_id, needed=0, wanted=10, now=NOW) is None
    assert ledger.grow_hold(gate, "nothing", needed=0, wanted=10, now=NOW) is None


def test_holds_that_grow_at_once_share_what_there_is(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    calls = [admit(gate, alice, hold=5) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        grown = list(
            threads.map(
                lambda each: ledger.grow_hold(gate, each.request_id, needed=25, wanted=25, now=NOW), calls
            )
        )
    # three take 20 more each of the 60 that are free
    assert sorted(grown, key=str) == [25] * 3 + [None] * 5
    assert sum(amount for _, amount in holds(session)) == 100


def test_dismissing_a_lost_call(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    lost, live = admit(gate, alice, ttl_seconds=1), admit(gate, alice, ttl_seconds=600)
    ledger.sweep(now=NOW + MINUTE)
    assert ledger.dismiss_lost(lost.request_id).amount == 10
    for wrong in (live.request_id, lost.request_id, "nothing"):
        with pytest.raises(
            ledger.NotFound if hasattr(ledger, "NotFound") else Exception, match="no lost call"
        ):
            ledger.dismiss_lost(wrong)


def test_a_lost_connection_is_replaced_and_nothing_happens_twice(
    session: Session, gate: Pool, engine: Engine
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    for _ in range(3):
        admission = admit(gate, alice)
        _kill_all_but_the_tests_own(session)
        assert admission.outcome == "admitted"
        assert ledger.settle(gate, admission, call(5), now=NOW).credits == 5
        _kill_all_but_the_tests_own(session)
    engine.dispose()
    assert balances(session, alice.account) == [85]
    assert_proved(session)


def _kill_all_but_the_tests_own(session: Session) -> None:
    session.execute(
        text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    session.commit()


def until_settling_waits(engine: Engine, then: str = "1") -> None:
    """Wait until a settlement waits for a lock; `then` is selected of it."""
    waiting = text(
        f"SELECT {then} FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query LIKE '%gateway_settle%' AND datname = current_database()"
    )
    with engine.connect() as connection:
        while not connection.execute(waiting).all():
            connection.rollback()  # a transaction sees the activity of its beginning
            time.sleep(0.01)


def test_a_settlement_cut_off_while_it_waits_is_done_once(
    session: Session, gate: Pool, engine: Engine
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(gate, alice)
    session.execute(select(CreditAccount).where(CreditAccount.id == alice.account.id).with_for_update())
    with ThreadPoolExecutor(1) as pool:
        settling = pool.submit(ledger.settle, gate, admission, call(5), now=NOW)
        until_settling_waits(engine, then="pg_terminate_backend(pid)")
        session.rollback()
        assert not settling.result().duplicate
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_a_deadlock_with_somebody_elses_transaction_is_tried_again(
    session: Session, gate: Pool, engine: Engine
) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(gate, alice)
    # the wrong order: the user's row first, then the account
    session.execute(text("UPDATE \"user\" SET email = 'new@example.org' WHERE id = :id"), {"id": alice.id})
    with ThreadPoolExecutor(1) as pool:
        settling = pool.submit(ledger.settle, gate, admission, call(5), now=NOW)
        until_settling_waits(engine)
        with suppress(OperationalError):
            type = grant_type(alice.account, "admin")
            ledger.grant(alice.account, 5, type, operation_id="gift", now=NOW)
        session.rollback()
        assert settling.result().credits == 5
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_a_worker_killed_amid_a_statement_poisons_no_connection(
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
    assert ledger.settle(small, admission, call(5), now=NOW, patience_seconds=5).credits == 5
    small.close()


def test_an_unreachable_ledger_says_so(session: Session) -> None:
    nowhere = Pool("postgresql+psycopg://x@/x?host=/nonexistent", 1)
    with pytest.raises(ledger.LedgerUnavailable) as refused:
        ledger.admit(nowhere, AdmissionRequest(token_hash="0", request_id="r", hold=1), patience_seconds=0.05)
    assert refused.value.status == 503


def test_only_admitted_calls_are_settled(gate: Pool, session: Session) -> None:
    refused = admit(gate, replace(payer(session), key="0"))
    with pytest.raises(ValueError, match="admitted"):
        ledger.settle(gate, refused, call(1))


# -- races --------------------------------------------------------------------------------------------------------


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in `count` threads that start at once."""
    start = threading.Barrier(count)

    def run(index: int) -> Any:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_fifty_threads_on_one_balance_overspend_by_no_more_than_one_calls_excess(
    session: Session, gate: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 60, "free", expires_at=NOW + HOUR)
    give(session, alice.account, 140, "purchase")

    def one_call(index: int) -> int:
        admission = admit(gate, alice, hold=12, patience_seconds=30)
        if admission.outcome != "admitted":
            assert admission.outcome in ("insufficient", "out_of_credits")
            return 0
        settled = ledger.settle(gate, admission, call(12 - index % 5), now=NOW)
        assert not settled.duplicate
        return settled.credits

    charged = together(50, one_call)
    total = sum(balances(session, alice.account))
    assert total == 200 - sum(charged)
    assert total > -12
    assert holds(session) == []
    assert_proved(session)


def test_fifty_threads_whose_holds_suffice_never_go_below_zero(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 95, "purchase")

    def one_call(_: int) -> int:
        admission = admit(gate, alice, hold=10, patience_seconds=30)
        if admission.outcome != "admitted":
            return 0
        return ledger.settle(gate, admission, call(10), now=NOW).credits

    charged = together(50, one_call)
    total = sum(balances(session, alice.account))
    assert total == 95 - sum(charged)
    # the last one may have been alone with 5 left
    assert total in (5, -5)
    assert_proved(session)


def test_settling_twice_at_once_charges_once(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 100)
    admission = admit(gate, alice)
    settled = together(8, lambda _: ledger.settle(gate, admission, call(5), now=NOW))
    assert sorted(each.duplicate for each in settled) == [False] + [True] * 7
    assert balances(session, alice.account) == [95]
    assert_proved(session)


def test_settling_and_failing_at_once_ends_settled_or_charged_nothing(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    for _ in range(10):
        admission = admit(gate, alice)
        together(
            2,
            lambda index, admission=admission: (
                ledger.settle(gate, admission, call(5), now=NOW)
                if index
                else ledger.fail(gate, admission, failure(), now=NOW)
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

    assert sorted(together(10, one)) == [False] * 9 + [True]
    assert balances(session, account) == [100]
    assert_proved(session)


@own_account_only
def test_the_quota_cycle_from_many_workers_at_once_runs_once(
    session: Session, gate: Pool, app: Flask
) -> None:
    alice = payer(session, next_quota_reset=NOW - HOUR)

    def one(index: int) -> Any:
        if index % 2:
            return admit(gate, alice, hold=1, free_credits=500, patience_seconds=30).balance
        with app.app_context():
            quota = ledger.ensure_quota(alice.account, 500, now=NOW)
            db.session.commit()
            return quota is None or quota.renewed or 500

    together(12, one)
    assert balances(session, alice.account) == [500]
    assert_proved(session)


def test_a_mixed_race_over_accounts_ends_without_deadlock_and_with_clean_books(
    session: Session, gate: Pool, app: Flask
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
        for turn in range(12):
            moment = NOW + timedelta(seconds=20 * turn)
            person = people[(index * 5 + turn) % len(people)]
            if index % 6 == 0:
                with app.app_context():
                    type = grant_type(person.account, "admin")
                    ledger.grant(person.account, 5, type, operation_id=f"gift-{index}-{turn}", now=moment)
                    db.session.commit()
            elif index % 6 == 1:
                with app.app_context():
                    ledger.sweep(now=moment)
                    db.session.commit()
            elif index % 6 == 2:
                batch = [(admit(gate, each, hold=3, now=moment), call(2)) for each in people[turn % 3 :]]
                admitted = [pair for pair in batch if pair[0].outcome == "admitted"]
                charged += sum(each.credits for each in ledger.settle_many(gate, admitted, now=moment))
            else:
                admission = admit(gate, person, hold=5, now=moment, free_credits=50, patience_seconds=30)
                if admission.outcome == "admitted" and turn % 5 == 4:
                    ledger.fail(gate, admission, failure(), now=moment)
                elif admission.outcome == "admitted":
                    charged += ledger.settle(gate, admission, call(4), now=moment).credits
        return charged

    charged = sum(together(12, work))
    assert charged == session.scalar(text("SELECT sum(credits) FROM message"))
    assert holds(session) == []
    assert session.scalar(deadlocks) == before
    assert_proved(session, NOW + HOUR)


def test_the_margin_is_part_of_the_price(session: Session, gate: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    admission = admit(gate, alice)
    settled = ledger.settle(gate, admission, call(cost=Decimal(1), margin=MARGIN), now=NOW)
    assert (settled.credits, settled.micro_credits) == (106, 105_500_000)
