"""A plan pays for its subscriber's calls: blocks, windows, and fallback to credits (contract A.3)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.accounts.credentials import hash_token
from models.billing import Plan, Subscription, limited, windows_of
from models.core.pool import Pool
from models.ledger import Admission, CreditLedger, Settled
from tests import factories
from tests.factories import WINDOWS
from tests.ledger.stage import HOUR, NOW, Payer, admit, assert_proved, call, give, payer

DAY = 24 * HOUR
START = NOW - 10 * DAY
"""Start of the billing period; its weeks begin on Tuesdays."""


@pytest.fixture
def pool(app: Flask, postgres_url: str) -> Iterator[Pool]:
    pool = Pool(postgres_url, 8)
    yield pool
    pool.close()


@dataclass
class Subscriber:
    """A person with a plan, and their calls."""

    session: Session
    pool: Pool
    payer: Payer
    subscription: Subscription

    def admit(self, hold: int = 10, now: datetime = NOW, **options: Any) -> Admission:
        return admit(self.pool, self.payer, hold, now=now, timeout_seconds=60, **options)

    def settle(self, admission: Admission, credits: int, now: datetime = NOW) -> Settled:
        return ledger.settle(self.pool, admission, call(credits), now=now)

    def spend(self, credits: int, now: datetime = NOW, **options: Any) -> Admission:
        """A call of this price, which must be admitted."""
        admission = self.admit(1, now, **options)
        assert admission.outcome == "admitted", admission
        self.settle(admission, credits, now)
        return admission

    def switch(self, on: bool) -> None:
        self.session.get_one(User, self.payer.id).fallback_to_a_la_carte = on
        self.session.commit()

    def set(self, **columns: Any) -> None:
        for name, value in columns.items():
            setattr(self.subscription, name, value)
        self.session.commit()

    def grants(self, type: str) -> list[CreditLedger]:
        self.session.rollback()
        query = select(CreditLedger).where(CreditLedger.user_id == self.payer.id, CreditLedger.type == type)
        return list(self.session.scalars(query.order_by(CreditLedger.created_at, CreditLedger.operation_id)))

    def left(self, type: str = "subscription") -> list[int]:
        """The balances of the grants of a type, oldest first."""
        return [grant.balance for grant in self.grants(type)]

    def windows(self, now: datetime = NOW) -> dict[str, tuple[int, int]]:
        """Used credits and limit of each window."""
        self.session.rollback()
        return {each.name: (each.used, each.limit) for each in windows_of(self.payer.account, now=now)}


@pytest.fixture
def sam(session: Session, pool: Pool) -> Subscriber:
    """A subscriber of the contract's smallest tier, without credits."""
    return subscriber(session, pool, factories.plan(*WINDOWS, name="Strong"))


def subscriber(session: Session, pool: Pool, plan: Plan, **kw: Any) -> Subscriber:
    who = payer(session, factories.new_id("sam-"))
    user = session.get_one(User, who.id)
    return Subscriber(session, pool, who, factories.subscription(user, plan, start=START, **kw))


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_the_first_call_starts_a_block_that_pays_for_calls_until_it_expires(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    admission = sam.spend(5)
    assert (admission.funding, admission.balance, admission.held) == ("plan", 350, 0)
    (block,) = sam.grants("subscription")
    sub = sam.subscription.stripe_subscription_id
    assert block.operation_id == f"block-{sub}-{NOW.timestamp() * 1000:.0f}"
    assert (block.principal, block.balance, block.priority) == (350, 345, 10)
    assert (block.expires_at, block.stripe_subscription_id) == (NOW + 5 * HOUR, sub)
    sam.spend(10, NOW + 4 * HOUR)
    assert sam.left() == [335]
    sam.spend(1, NOW + 5 * HOUR)
    assert (sam.left(), sam.left("purchase")) == ([0, 349], [100])
    assert sam.windows(NOW + 5 * HOUR) == {"5 hours": (1, 350), "Week": (16, 3_500), "Month": (16, 14_000)}
    # the ledger shows blocks; the balance of the account does not
    current = ledger.balance(sam.payer.account, now=NOW + 5 * HOUR)
    assert (current.net_balance, current.blocks, current.breakdown.get("subscription")) == (100, 349, None)
    assert_proved(sam.session, NOW + 5 * HOUR)


def test_a_check_without_a_hold_starts_no_block(sam: Subscriber) -> None:
    assert sam.admit(None).outcome == "checked"  # type: ignore[arg-type]
    run = factories.run(sam.session.get_one(User, sam.payer.id), status="completed")
    assert sam.admit(run_id=run.id).outcome == "run_not_running"
    assert sam.left() == []


def test_a_used_up_window_refuses_calls_until_it_resets(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    sam.spend(350)
    refused = sam.admit(now=NOW + HOUR)
    assert (refused.outcome, refused.limit_label) == ("plan_limit", "5-hour session")
    assert refused.limit_resets_at == NOW + 5 * HOUR
    assert sam.spend(1, NOW + 5 * HOUR).funding == "plan"
    assert (sam.left(), sam.left("purchase")) == ([0, 349], [100])


def test_the_week_bounds_its_blocks_and_ends_the_last_one(session: Session, pool: Pool) -> None:
    sam = subscriber(session, pool, factories.plan(("5 hours", 5, 350), ("Week", 168, 400)))
    tuesday = datetime(2026, 11, 24, tzinfo=UTC)
    sam.spend(350, tuesday - 20 * HOUR)
    sam.spend(20, tuesday - 3 * HOUR)
    last = sam.grants("subscription")[-1]
    # the week's last 50 credits expired with it
    assert (last.principal, last.balance, last.expires_at) == (50, 30, tuesday)
    sam.spend(30, tuesday - 2 * HOUR)
    refused = sam.admit(now=tuesday - 2 * HOUR)
    assert (refused.outcome, refused.limit_label, refused.limit_resets_at) == (
        "plan_limit",
        "weekly",
        tuesday,
    )
    assert sam.admit(now=tuesday).balance == 350
    assert_proved(session, tuesday)


@pytest.mark.parametrize(
    ("windows", "interval", "label", "resets_at"),
    [
        ([("Month", None, 50)], "month", "monthly", START + 30 * DAY),
        ([("5 hours", 5, 50), ("Year", None, 50)], "year", "yearly", START + 30 * DAY),
        ([("Hour", 1, 50), ("Day", 24, 50)], "month", "daily", NOW.replace(hour=0, minute=0) + DAY),
        ([("Hour", 1, 50), ("3 days", 72, 50)], "month", "3-day", datetime(2026, 11, 22, tzinfo=UTC)),
        ([("Day", 24, 50)], "month", "1-day session", NOW + DAY),
    ],
)
def test_each_kind_of_window_has_a_label_and_a_reset_time(
    session: Session, pool: Pool, windows: Any, interval: str, label: str, resets_at: datetime
) -> None:
    sam = subscriber(session, pool, factories.plan(*windows, interval=interval))
    sam.spend(50)
    refused = sam.admit()
    assert (refused.outcome, refused.limit_label, refused.limit_resets_at) == ("plan_limit", label, resets_at)
    reached = limited(windows_of(sam.payer.account, now=NOW))
    assert reached
    assert (reached.label, reached.resets_at) == (label, resets_at)


def test_a_call_beyond_the_block_is_debt_that_the_next_block_clears_and_nothing_else(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    sam.spend(340)
    sam.spend(25)
    assert (sam.left(), sam.left("purchase")) == ([-15], [100])
    give(sam.session, sam.payer.account, 50, now=NOW + HOUR)
    assert (sam.left(), sam.left("purchase")) == ([-15], [100, 50])
    assert sam.admit(now=NOW + HOUR).outcome == "plan_limit"
    assert ledger.balance(sam.payer.account, now=NOW + HOUR).net_balance == 150
    later = NOW + 5 * HOUR
    assert sam.admit(now=later).balance == 335
    assert sam.windows(later) == {"5 hours": (15, 350), "Week": (365, 3_500), "Month": (365, 14_000)}
    assert_proved(sam.session, later)


def test_a_call_that_outlives_its_block_is_paid_by_the_next(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    admission = sam.admit()
    sam.settle(admission, 30, NOW + 6 * HOUR)
    assert (sam.left(), sam.left("purchase")) == ([-30], [100])
    assert sam.admit(now=NOW + 6 * HOUR).balance == 320
    assert_proved(sam.session, NOW + 6 * HOUR)


def test_a_larger_plan_continues_the_block(sam: Subscriber) -> None:
    sam.spend(350)
    assert sam.admit().outcome == "plan_limit"
    larger = factories.plan(("5 hours", 5, 1_050), ("Week", 168, 10_500))
    sam.set(plan_id=larger.id)
    assert sam.spend(1, NOW + HOUR).balance == 700
    assert [grant.expires_at for grant in sam.grants("subscription")] == [NOW + 5 * HOUR] * 2
    assert sam.windows(NOW + HOUR) == {"5 hours": (351, 1_050), "Week": (351, 10_500)}


# -- funding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "credits", "included", "on", "model", "outcome", "funding"),
    [
        (350, 100, 0, False, "openai/a", "admitted", "plan"),
        (350, 100, 0, True, "openai/a", "admitted", "any"),
        (350, 0, 0, False, "openai/a", "admitted", "plan"),
        (350, 0, 0, True, "openai/a", "admitted", "plan"),
        (350, -50, 0, True, "openai/a", "admitted", "plan"),
        (350, -50, 0, False, "openai/a", "admitted", "plan"),
        (0, 100, 0, False, "openai/a", "plan_limit", "plan"),
        (0, 100, 0, True, "openai/a", "admitted", "any"),
        (0, 0, 0, True, "openai/a", "out_of_credits", "plan"),
        (0, 0, 0, False, "openai/a", "plan_limit", "plan"),
        # included credits need no fallback
        (0, 100, 20, False, "openai/a", "admitted", "plan"),
        (350, 100, 0, False, "other/a", "model_not_in_plan", "any"),
        (350, 100, 0, True, "other/a", "admitted", "credits"),
        (350, 0, 0, True, "other/a", "out_of_credits", "credits"),
        # less than the call's minimum of five credits
        (3, 100, 0, False, "openai/a", "plan_limit", "plan"),
        (3, 100, 0, True, "openai/a", "admitted", "any"),
        (3, 1, 0, True, "openai/a", "insufficient", "any"),
        (3, 0, 0, True, "openai/a", "insufficient", "plan"),
    ],
)
def test_the_funding_of_a_call(
    session: Session,
    pool: Pool,
    left: int,
    credits: int,
    included: int,
    on: bool,
    model: str,
    outcome: str,
    funding: str,
) -> None:
    sam = subscriber(session, pool, factories.plan(*WINDOWS, models=["openai/*"]))
    if left < 350:
        sam.spend(350 - left, model="openai/a")
    user = session.get_one(User, sam.payer.id)
    if credits:
        factories.grant(user, 100, "purchase", balance=credits, org_id=None)
    if included:
        factories.grant(user, included, "plan", org_id=None)
    sam.switch(on)
    before = sam.left("purchase")
    request = ledger.AdmissionRequest(
        token_hash=sam.payer.key, request_id=factories.new_id(), hold=5, minimum=5, model=model
    )
    admission = ledger.admit(pool, request, now=NOW)
    assert (admission.outcome, admission.funding) == (outcome, funding)
    if outcome == "admitted":
        sam.settle(admission, 5)
        if funding == "plan":
            assert sam.left("purchase") == before
        assert_proved(session)


@pytest.mark.parametrize(
    ("pattern", "model", "covered"),
    [
        ("openai/*", "openai/gpt-5", True),
        ("OpenAI/GPT-*", "openai/gpt-5", True),
        ("openai/gpt-?", "openai/gpt-5", True),
        ("openai/gpt-?", "openai/gpt-5-mini", False),
        ("openai/gpt_5", "openai/gpt-5", False),
        ("openai/50%", "openai/500", False),
        ("a\\b*", "a\\bc", True),
        ("openai", "openai/gpt-5", False),
        ("*", "", True),
    ],
)
def test_a_pattern_covers_a_model(
    session: Session, pool: Pool, pattern: str, model: str, covered: bool
) -> None:
    sam = subscriber(session, pool, factories.plan(*WINDOWS, models=["none/*", pattern]))
    assert (sam.admit(model=model).outcome == "admitted") is covered
    # as requested, or as listed
    listed = ledger.AdmissionRequest(
        token_hash=sam.payer.key, request_id="r", hold=1, model="alias", route_model=model
    )
    assert (ledger.admit(pool, listed, now=NOW).outcome == "admitted") is covered


def test_holds_of_the_plan_and_of_credits_are_separate(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    plan = sam.admit(340)
    assert ledger.balance(sam.payer.account, now=NOW).available == 100
    assert sam.admit(20).outcome == "held"
    sam.switch(True)
    both = sam.admit(60)
    assert (both.funding, both.balance, both.held) == ("any", 450, 340)
    # ten of the sixty are funded by the plan
    current = ledger.balance(sam.payer.account, now=NOW)
    assert (current.held, current.available, current.calls_in_progress) == (50, 50, 1)
    assert sam.admit(60).outcome == "held"
    assert ledger.grow_hold(sam.pool, plan.request_id, needed=341, requested=360, now=NOW) is None
    assert ledger.grow_hold(sam.pool, both.request_id, needed=61, requested=200, now=NOW) == 110
    sam.settle(both, 110)
    sam.settle(plan, 340)
    # the first to settle took the block
    assert (sam.left(), sam.left("purchase")) == ([-100], [100])
    assert_proved(sam.session)


def test_charges_that_are_no_calls_are_paid_with_credits(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    sam.spend(1)
    ledger.charge(sam.payer.account, 30, cause="search", now=NOW)
    sam.session.commit()
    assert (sam.left(), sam.left("purchase")) == ([349], [70])


def test_a_plan_without_windows_leaves_calls_to_credits(session: Session, pool: Pool) -> None:
    sam = subscriber(session, pool, factories.plan(included_credits=20, requests_per_minute=2))
    user = session.get_one(User, sam.payer.id)
    factories.grant(user, 20, "plan", org_id=None)
    factories.grant(user, 100, "purchase", org_id=None)
    assert sam.spend(25).funding == "any"
    assert (sam.left("plan"), sam.left("purchase")) == ([0], [95])
    assert windows_of(sam.payer.account, now=NOW) == []


# -- which subscriptions cover -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "covered"),
    [
        ({"status": "trialing"}, True),
        ({"status": "unpaid"}, False),
        ({"status": "paused"}, False),
        ({"status": "incomplete"}, False),
        ({"status": "canceled"}, False),
        ({"plan_id": None}, False),
        # the payment of this period failed
        ({"status": "past_due", "billing_period_start": NOW - 3 * DAY + HOUR}, True),
        ({"status": "past_due", "billing_period_start": NOW - 3 * DAY}, False),
        # no event about the next period has arrived yet
        ({"status": "past_due", "billing_period_end": NOW - 3 * DAY + HOUR}, True),
        ({"billing_period_end": NOW - 3 * DAY + HOUR}, True),
        ({"billing_period_end": NOW - 3 * DAY}, False),
        ({"billing_period_end": NOW - HOUR, "cancel_at_period_end": True}, False),
        ({"billing_period_end": NOW + HOUR, "cancel_at_period_end": True}, True),
    ],
)
def test_which_subscription_covers_calls(sam: Subscriber, columns: dict[str, Any], covered: bool) -> None:
    give(sam.session, sam.payer.account, 100)
    sam.set(**columns)
    admission = sam.spend(5)
    assert admission.funding == ("plan" if covered else "any")
    assert (sam.left(), sam.left("purchase")) == (([345], [100]) if covered else ([], [95]))
    assert bool(windows_of(sam.payer.account, now=NOW)) is covered
    if covered and sam.subscription.cancel_at_period_end:
        assert sam.grants("subscription")[0].expires_at == NOW + HOUR


def test_the_end_of_a_subscription_does_not_change_credits(sam: Subscriber) -> None:
    give(sam.session, sam.payer.account, 100)
    sam.spend(360)
    sam.set(status="canceled")
    admission = sam.spend(30)
    assert (admission.funding, admission.balance) == ("any", 100)
    assert (sam.left(), sam.left("purchase")) == ([-10], [70])
    assert sam.spend(70).balance == 70
    assert sam.admit().outcome == "out_of_credits"
    assert_proved(sam.session)


def test_an_organisations_calls_are_not_the_plans(session: Session, pool: Pool, sam: Subscriber) -> None:
    user = session.get_one(User, sam.payer.id)
    org = factories.org(user)
    account = ledger.Account(org_id=org.id)
    give(session, account, 50)
    raw = factories.token(user, org_id=org.id, expires=NOW + 30 * DAY)
    admission = admit(pool, Payer(user.id, hash_token(raw), account))
    assert (admission.outcome, admission.funding, admission.balance) == ("admitted", "any", 50)
    assert (sam.left(), windows_of(account, now=NOW)) == ([], [])


def test_an_override_replaces_the_limits_of_the_two_shortest_windows(sam: Subscriber) -> None:
    factories.limit_override(sam.session.get_one(User, sam.payer.id), 30, 2, 40)
    assert sam.windows() == {"5 hours": (0, 30), "Week": (0, 40), "Month": (0, 14_000)}
    sam.spend(30)
    refused = sam.admit()
    assert (refused.limit_label, refused.limit_resets_at) == ("2-hour session", NOW + 2 * HOUR)
    assert sam.spend(10, NOW + 2 * HOUR).balance == 10
    assert sam.admit(now=NOW + 2 * HOUR).limit_label == "weekly"


def test_requests_per_minute(session: Session, pool: Pool) -> None:
    sam = subscriber(session, pool, factories.plan(*WINDOWS, requests_per_minute=3))
    give(session, sam.payer.account, 100)
    second = timedelta(seconds=1)
    first = sam.admit(1)
    ledger.settle(pool, first, call(1, started_at=NOW), now=NOW + 40 * second)
    sam.admit(1, NOW + 20 * second)
    third = sam.admit(1, NOW + 30 * second)
    refused = sam.admit(1, NOW + 45 * second)
    assert (refused.outcome, refused.limit_label) == ("plan_rate", "3")
    assert refused.limit_resets_at == NOW + 60 * second
    # admission is idempotent by request id
    again = ledger.AdmissionRequest(token_hash=sam.payer.key, request_id=third.request_id, hold=1)
    assert ledger.admit(pool, again, now=NOW + 50 * second).outcome == "admitted"
    assert sam.admit(1, NOW + 60 * second).outcome == "admitted"


# -- races and histories -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [False, True])
def test_fifty_calls_at_the_end_of_a_block(session: Session, pool: Pool, on: bool) -> None:
    sam = subscriber(session, pool, factories.plan(("5 hours", 5, 100), ("Week", 168, 120)))
    give(session, sam.payer.account, 60)
    sam.switch(on)
    start = threading.Barrier(50)

    def one_call(index: int) -> tuple[str, int]:
        start.wait()
        admission = sam.admit(10)
        if admission.outcome != "admitted":
            return admission.outcome, 0
        return "admitted", sam.settle(admission, 10 if index % 2 else 7).credits

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(one_call, range(50)))
    charged = sum(credits for _, credits in answers)
    (block,) = sam.grants("subscription")
    (bought,) = sam.left("purchase")
    assert block.principal == 100
    if on:
        assert (
            block.balance,
            {answer for answer, _ in answers} - {"admitted", "held", "out_of_credits"},
        ) == (
            0,
            set(),
        )
        assert charged == 160 - bought
        assert bought > -10
    else:
        assert (bought, {answer for answer, _ in answers} - {"admitted", "held", "plan_limit"}) == (60, set())
        assert block.balance == 100 - charged
        assert block.balance > -10
    assert session.scalar(text("SELECT count(*) FROM credit_hold")) == 0
    assert_proved(session)


STEPS = st.one_of(
    st.tuples(st.just("call"), st.integers(1, 160)),
    st.tuples(st.just("wait"), st.integers(1, 70)),
    st.tuples(st.just("buy"), st.integers(1, 100)),
    st.tuples(st.just("switch"), st.integers(0, 1)),
    st.tuples(st.just("status"), st.sampled_from(["active", "past_due", "unpaid", "canceled"])),
    st.tuples(st.just("sweep"), st.just(0)),
)


@given(steps=st.lists(STEPS, min_size=3, max_size=25))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_history_spends_bought_credits_only_by_choice(session: Session, pool: Pool, steps: Any) -> None:
    plan = factories.plan(("5 hours", 5, 100), ("Week", 168, 250), name=factories.new_id())
    sam = subscriber(session, pool, plan)
    now, charged, granted, on = NOW, 0, 0, False
    for step, value in steps:
        bought, covered = sum(sam.left("purchase")), bool(windows_of(sam.payer.account, now=now))
        match step:
            case "wait":
                now += value * HOUR
            case "buy":
                give(session, sam.payer.account, value, now=now)
                granted += value
            case "switch":
                sam.switch(on := bool(value))
            case "status":
                sam.set(status=value)
            case "sweep":
                ledger.sweep(now=now)
                session.commit()
            case "call":
                admission = sam.admit(value, now)
                if admission.outcome == "admitted":
                    charged += sam.settle(admission, value, now).credits
                if covered and not on:
                    assert sum(sam.left("purchase")) == bought
        # the last call of a window is served completely
        assert all(used < limit + 160 for used, limit in sam.windows(now).values())
    blocks = sam.grants("subscription")
    lost = -(
        session.scalar(
            text(
                "SELECT coalesce(sum(amount), 0) FROM credit_entry WHERE account_id = :id AND kind = 'expiry'"
            ),
            {"id": sam.payer.id},
        )
        or 0
    )
    total = sum(sam.left("purchase")) + sum(sam.left()) + sum(sam.left("admin"))
    assert total == granted + sum(block.principal for block in blocks) - lost - charged
    assert_proved(session, now)
