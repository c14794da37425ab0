"""Automatic top-up: the JSON routes, when it charges, what declines do, and its e-mails (contract 2.9, 3.7)."""

import threading
from datetime import UTC, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from models import ledger
from models.accounts import User
from models.billing import AutoTopupConsent, TopupSettings
from models.billing.payments.customers import ensure_customer
from models.billing.payments.declines import BRIEF_DELAYS, DELAYS, PERMANENT_CODES, retry_after
from models.billing.topups import auto_topup, topup_charging
from models.core import jobs
from models.core.db import now
from tests import factories
from tests.billing.stage import Desk
from tests.billing.topups import enable, enabled, mails, state, subjects, top_up
from tests.factories import Person

ROUTE = "/api/user/auto-topup"
PROFILE = "/api/user/profile"
NO_CARD = "You need a valid payment method to enable auto top-up. Try buying some credits!"
LATER = timedelta(minutes=1)


# -- JSON -----------------------------------------------------------------------------------------------------


def test_the_settings_are_stored_and_echoed(desk: Desk, alice: Person) -> None:
    body = {"enabled": True, "threshold": -7, "amount": 500}
    answer = alice.browser.post(ROUTE, json=body)
    assert (answer.status_code, answer.json) == (
        200,
        {"auto_topup_enabled": True, "auto_topup_threshold": -7, "auto_topup_amount": 500},
    )
    off = alice.browser.post(ROUTE, json={"enabled": False, "threshold": None, "amount": 3})
    assert off.json == {"auto_topup_enabled": False, "auto_topup_threshold": None, "auto_topup_amount": 3}
    assert not enabled(desk, alice)
    user = desk.session.get_one(User, alice.id)
    assert (user.auto_topup_enabled, user.auto_topup_threshold, user.auto_topup_amount) == (False, None, 3)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"enabled": True, "threshold": None, "amount": 2000}, 400, auto_topup.NEEDS_VALUES),
        ({"enabled": True, "threshold": 500, "amount": None}, 400, auto_topup.NEEDS_VALUES),
        (
            {"enabled": True, "threshold": 500, "amount": 499},
            400,
            auto_topup.OUT_OF_BOUNDS.format(500, 10_000),
        ),
        (
            {"enabled": True, "threshold": 500, "amount": 10_001},
            400,
            auto_topup.OUT_OF_BOUNDS.format(500, 10_000),
        ),
        ({"enabled": True, "threshold": 500}, 400, "Invalid request data"),
        ({"enabled": "yes", "threshold": 500, "amount": 2000}, 400, "Invalid request data"),
        ({"enabled": True, "threshold": 1 << 40, "amount": 2000}, 400, "Invalid request data"),
        ([], 400, "Invalid request data"),
    ],
    ids=str,
)
def test_invalid_settings_are_rejected(desk: Desk, alice: Person, body: Any, status: int, error: str) -> None:
    answer = alice.browser.post(ROUTE, json=body)
    assert answer.status_code == status
    assert (answer.json or {})["error"] == error
    assert isinstance((answer.json or {}).get("issues", []), list)
    assert not enabled(desk, alice)


def test_a_body_that_is_not_json_is_a_500_by_contract(desk: Desk, alice: Person) -> None:
    answer = alice.browser.post(ROUTE, data=b"{", content_type="application/json")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})


def test_only_the_signed_in_user_sets_their_own(
    desk: Desk, alice: Person, mallory: Person, anonymous: Person
) -> None:
    body = {"enabled": True, "threshold": 500, "amount": 2000}
    assert anonymous.browser.post(ROUTE, json=body).status_code == 401
    assert mallory.browser.post(ROUTE, json=body).status_code == 200
    assert not enabled(desk, alice)


def test_consents_are_stored_once_for_each_change(desk: Desk, alice: Person) -> None:
    for amount in (2000, 2000, 3000):
        alice.browser.post(ROUTE, json={"enabled": True, "threshold": 500, "amount": amount})
    alice.browser.post(ROUTE, json={"enabled": False, "threshold": 500, "amount": 4000})
    enable(desk, alice, amount=3000, cap=9000)
    rows = desk.session.scalars(select(AutoTopupConsent).order_by(AutoTopupConsent.id)).all()
    assert [(row.user_id, row.source, row.ceiling_cents, row.monthly_cap_cents) for row in rows] == [
        (alice.id, "api", 10_000, None),
        (alice.id, "api", 10_000, None),
        (alice.id, "page", 10_000, 9000),
    ]
    assert "charges my saved payment method $30.00" in rows[2].text
    assert "at most $90.00 in a calendar month (UTC)" in rows[2].text
    assert "without a monthly limit" in rows[0].text
    assert abs(rows[0].created_at - now()) < timedelta(minutes=1)


def test_the_profile_without_a_customer_switches_off(desk: Desk, alice: Person) -> None:
    enable(desk, alice)
    answer = alice.browser.get(PROFILE).json or {}
    assert answer["auto_topup_enabled"] is False
    assert answer["auto_topup_blocked_reason"] == (
        "You don't have a valid account with us. Please log in at http://localhost:8000/login"
    )
    assert not enabled(desk, alice)
    assert alice.browser.get(PROFILE).status_code == 200
    assert subjects(desk) == ["Automatic top-up is off"]


@pytest.mark.parametrize("card", [None, "expired"])
def test_the_profile_without_a_valid_card_switches_off(desk: Desk, alice: Person, card: str | None) -> None:
    desk.customer(alice)
    if card:
        desk.card(alice, card)
    enable(desk, alice)
    answer = alice.browser.get(PROFILE).json or {}
    assert (answer["auto_topup_enabled"], answer["auto_topup_blocked_reason"]) == (False, NO_CARD)
    assert not enabled(desk, alice)


def test_the_profile_leaves_it_on_while_stripe_is_down(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice)
    desk.stripe.fail("/v1/customers/{id}", method="GET", times=3)
    answer = alice.browser.get(PROFILE).json or {}
    assert answer["auto_topup_enabled"] is False
    assert answer["auto_topup_blocked_reason"] == (
        "Unable to verify payment method status: Stripe did not answer. Try again in a minute."
    )
    assert enabled(desk, alice)
    again = alice.browser.get(PROFILE).json or {}
    assert (again["auto_topup_enabled"], again["auto_topup_blocked_reason"]) == (True, None)


# -- charging --------------------------------------------------------------------------------------------------


def test_a_usage_read_below_the_threshold_tops_up(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    assert alice.user
    factories.grant(alice.user, 499)
    enable(desk, alice)
    answer = alice.browser.get("/api/user/usage").json or {}
    assert (answer["autoTopupTriggered"], answer["autoTopupEnabled"]) == (True, True)
    assert answer["balance"]["totalRemaining"] == desk.balance(alice)
    purchase = desk.purchase(alice)
    assert purchase.id == f"auto-topup-{alice.id}-{purchase.created_at.astimezone(UTC):%Y-%m-%dT%H:%M}"
    assert (purchase.kind, purchase.state, purchase.credits, purchase.amount_cents) == (
        *("auto_topup", "paid"),
        *(2000, 2000),
    )
    (charge,) = desk.charges()
    assert charge["metadata"]["operationId"] == purchase.id
    grant = desk.session.execute(
        text("SELECT type, expires_at, description FROM credit_ledger WHERE operation_id = :id"),
        {"id": purchase.id},
    ).one()
    assert tuple(grant) == ("purchase", None, "Auto top-up of 2000 credits")
    assert (alice.browser.get("/api/user/usage").json or {})["autoTopupTriggered"] is False
    assert len(desk.charges()) == 1
    assert subjects(desk) == ["Automatic top-up: 2,000 credits added"]
    (sent,) = mails(desk)
    assert sent["to"] == "alice@example.org"
    assert "Visa ending in 4242" in sent["text"]
    assert purchase.id in sent["html"]
    desk.prove()


def test_a_usage_read_of_the_command_line_tops_up(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice, threshold=600)
    answer = alice.browser.post("/api/v1/usage", json={"fingerprintId": "cli"}, headers=alice.headers)
    assert (answer.json or {})["remainingBalance"] == desk.balance(alice) >= 2000
    assert len(desk.charges()) == 1


def test_a_failed_top_up_does_not_break_a_usage_read(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice, threshold=1000)
    desk.stripe.fail("/v1/payment_intents", times=3)
    answer = alice.browser.get("/api/user/usage")
    assert (answer.status_code, (answer.json or {})["autoTopupTriggered"]) == (200, False)
    assert enabled(desk, alice)
    assert desk.purchase(alice).open


def test_an_exception_in_a_top_up_does_not_break_a_usage_read(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.card(alice)
    enable(desk, alice)
    monkeypatch.setattr(topup_charging, "_begin", lambda *_: 1 // 0)
    answer = alice.browser.get("/api/user/usage")
    assert (answer.status_code, (answer.json or {})["autoTopupTriggered"]) == (200, False)


def test_a_usage_read_reports_that_it_switched_off(desk: Desk, alice: Person) -> None:
    desk.customer(alice)
    enable(desk, alice)
    answer = alice.browser.get("/api/user/usage").json or {}
    assert (answer["autoTopupTriggered"], answer["autoTopupEnabled"]) == (False, False)


@pytest.mark.parametrize(("balance", "charged"), [(500, False), (499, True), (0, True)])
def test_it_charges_only_below_the_threshold(desk: Desk, alice: Person, balance: int, charged: bool) -> None:
    desk.card(alice)
    assert alice.user
    if balance:
        factories.grant(alice.user, balance)
    enable(desk, alice)
    assert top_up(desk, alice) is charged
    assert len(desk.charges()) == int(charged)


@pytest.mark.parametrize(
    ("debt", "amount", "charged"), [(100, 500, 500), (3000, 500, 3000), (20_000, 500, 10_000)]
)
def test_a_debt_is_cleared_up_to_the_ceiling_of_the_consent(
    desk: Desk, alice: Person, debt: int, amount: int, charged: int
) -> None:
    desk.card(alice)
    desk.run(ledger.charge, alice.account, debt, cause="test")
    enable(desk, alice, threshold=0, amount=amount)
    assert top_up(desk, alice)
    assert desk.charges()[0]["amount"] == charged
    assert desk.balance(alice) == charged - debt
    desk.prove()


def test_nothing_is_charged_while_off_banned_or_frozen(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice, 500)
    assert not top_up(desk, alice)
    enable(desk, alice, threshold=1000)
    dispute = desk.dispute(purchase)
    desk.deliver_events()
    assert not top_up(desk, alice)
    assert desk.run(auto_topup.view, alice.account).state == "paused"
    desk.stripe.win(dispute["id"])
    desk.deliver_events()
    desk.session.get_one(User, alice.id).banned = True
    desk.session.commit()
    assert not top_up(desk, alice)
    assert desk.run(topup_charging.enqueue_due) == 0
    assert len(desk.charges()) == 1


def test_the_default_card_is_charged(desk: Desk, alice: Person) -> None:
    customer = desk.customer(alice)
    desk.stripe.add_card(customer, "visa", default=False)
    desk.stripe.add_card(customer, "mastercard")
    enable(desk, alice)
    assert top_up(desk, alice)
    assert desk.purchase(alice).card_brand == "mastercard"


def test_the_sweep_enqueues_each_account_once_a_minute(
    desk: Desk, alice: Person, bob: Person, mallory: Person
) -> None:
    assert mallory.user
    factories.grant(mallory.user, 800)
    for who in (alice, mallory):
        desk.card(who)
        enable(desk, who)
    moment = now()
    assert desk.run(topup_charging.enqueue_due, now=moment) == 1
    assert desk.run(topup_charging.enqueue_due, now=moment + timedelta(seconds=5)) == 0
    assert desk.run(topup_charging.enqueue_due, now=moment + timedelta(seconds=61)) == 1
    rows = desk.session.execute(
        text("SELECT args FROM procrastinate_jobs WHERE task_name = 'billing.top_up'")
    ).all()
    assert [row.args for row in rows] == [{"account_id": alice.id}] * 2
    desk.run(jobs.top_up, account_id=alice.id)
    desk.run(jobs.top_up, account_id="nobody")
    assert len(desk.charges()) == 1
    assert desk.run(topup_charging.enqueue_due, now=moment + timedelta(minutes=5)) == 0


def test_fifty_calls_that_cross_the_threshold_start_one_top_up(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    assert alice.user
    factories.grant(alice.user, 600)
    enable(desk, alice, amount=500)
    barrier = threading.Barrier(50)
    triggered: list[bool] = []

    def call(number: int) -> None:
        barrier.wait()
        desk.run(ledger.charge, alice.account, 5, cause=f"call-{number}")
        triggered.append(desk.run(topup_charging.top_up, alice.account))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert triggered.count(True) == 1
    assert len(desk.charges()) == 1
    assert desk.balance(alice) == 600 - 250 + 500
    assert len(desk.purchases(alice)) == 1
    assert subjects(desk) == ["Automatic top-up: 500 credits added"]
    desk.prove()


def test_no_request_to_stripe_while_an_attempt_is_open(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice)
    desk.stripe.fail("/v1/payment_intents", times=3)
    moment = now()
    assert not top_up(desk, alice, moment)
    desk.stripe.fail("/v1/customers/{id}", method="GET", times=3)
    assert not top_up(desk, alice, moment + LATER)
    assert state(desk, alice).pause is None, "no request to Stripe, so none failed"
    assert len(desk.purchases(alice)) == 1


def test_the_monthly_cap_pauses_until_the_next_month(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice, threshold=10_000, amount=2000, cap=4500)
    start = now()
    assert top_up(desk, alice, start)
    assert top_up(desk, alice, start + LATER)
    for minute in (2, 3):
        assert not top_up(desk, alice, start + minute * LATER)
    assert len(desk.charges()) == 2
    paused = state(desk, alice)
    reset = (start.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    assert (paused.pause, paused.retry_at) == ("cap", reset)
    shown = desk.run(auto_topup.view, alice.account)
    assert (shown.state, shown.pause, shown.charged_cents, shown.retry_at) == ("paused", "cap", 4000, reset)
    assert subjects(desk)[2:] == ["Automatic top-up paused: monthly limit reached"]
    enable(desk, alice, threshold=10_000, amount=2000, cap=6000)
    assert top_up(desk, alice, start + 4 * LATER)
    assert len(desk.charges()) == 3


def test_a_limit_of_buying_pauses_until_it_ends(desk: Desk, alice: Person) -> None:
    desk.configure(stoa_purchases_per_day=1)
    desk.card(alice)
    enable(desk, alice, threshold=10_000, amount=2000)
    start = now()
    assert top_up(desk, alice, start)
    assert not top_up(desk, alice, start + LATER)
    paused = state(desk, alice)
    assert paused.pause == "limit"
    assert start + timedelta(hours=23) < paused.retry_at < start + timedelta(hours=25)
    assert len(desk.charges()) == 1
    desk.configure()
    assert top_up(desk, alice, start + timedelta(hours=26))


def test_a_debt_is_paid_off_as_far_as_the_cap_allows(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    desk.run(ledger.charge, alice.account, 5000, cause="test")
    enable(desk, alice, amount=1000, cap=3000)
    assert top_up(desk, alice)
    assert not top_up(desk, alice, now() + LATER)
    assert [charge["amount"] for charge in desk.charges()] == [3000]


# -- declines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "pause", "delay"),
    [
        ("lost_card", "card", None),
        ("expired_card", "card", None),
        ("blocked", "card", None),
        ("insufficient_funds", "decline", DELAYS[0]),
        ("declined", "decline", DELAYS[0]),
        ("processing_error", "decline", BRIEF_DELAYS[0]),
    ],
)
def test_a_decline_pauses_by_its_code(
    desk: Desk, alice: Person, card: str, pause: str, delay: timedelta | None
) -> None:
    method = desk.card(alice)
    desk.stripe.change_card(method, card)
    enable(desk, alice)
    moment = now()
    assert not top_up(desk, alice, moment)
    purchase, paused = desk.purchase(alice), state(desk, alice)
    assert (purchase.state, paused.pause, paused.decline_code) == ("failed", pause, purchase.failure_code)
    if delay is None:
        assert paused.retry_at is None
    else:
        assert paused.retry_at is not None
        assert abs(paused.retry_at - moment - delay) < timedelta(minutes=1)
    assert enabled(desk, alice)
    subject = "Automatic top-up failed" if delay else "Automatic top-up needs another card"
    assert subjects(desk) == [subject]
    assert (purchase.failure_message or "?") in mails(desk)[0]["html"].replace("&#39;", "'")
    assert not top_up(desk, alice, moment + LATER)
    desk.deliver_events()
    assert len(desk.purchases(alice)) == 1
    assert len(mails(desk)) == 1
    profile = alice.browser.get(PROFILE).json or {}
    assert profile["auto_topup_blocked_reason"] == (NO_CARD if pause == "card" else None)
    assert profile["auto_topup_enabled"] is (pause != "card")
    assert desk.balance(alice) == 0


def test_delays_grow_with_soft_declines_until_a_charge_succeeds(desk: Desk, alice: Person) -> None:
    method = desk.card(alice)
    desk.stripe.change_card(method, "insufficient_funds")
    enable(desk, alice)
    moment = now()
    for delay in (*DELAYS, DELAYS[-1]):
        assert not top_up(desk, alice, moment)
        paused = state(desk, alice)
        assert paused.retry_at is not None
        assert abs(paused.retry_at - now() - delay) < timedelta(minutes=1)
        paused.retry_at = now() - timedelta(seconds=1)
        desk.session.commit()
        moment += LATER
    desk.stripe.change_card(method, "visa")
    assert top_up(desk, alice, moment)
    paused = state(desk, alice)
    assert (paused.pause, paused.failures, paused.retry_at) == (None, 0, None)
    assert subjects(desk) == [*["Automatic top-up failed"] * 5, "Automatic top-up: 2,000 credits added"]


def test_a_new_card_ends_the_pause_after_a_permanent_decline(desk: Desk, alice: Person) -> None:
    method = desk.card(alice)
    desk.stripe.change_card(method, "stolen_card")
    enable(desk, alice)
    moment = now()
    assert not top_up(desk, alice, moment)
    desk.run(topup_charging.resume, alice.account)
    assert state(desk, alice).pause == "card"
    desk.deliver_events("payment_method.attached", "customer.updated")
    assert state(desk, alice).pause == "card"
    desk.card(alice, "mastercard")
    desk.deliver_events("payment_method.attached", "customer.updated")
    assert state(desk, alice).pause is None
    assert top_up(desk, alice, moment + LATER)
    desk.prove()


def test_the_owner_can_retry_after_a_soft_decline(desk: Desk, alice: Person) -> None:
    method = desk.card(alice)
    desk.stripe.change_card(method, "insufficient_funds")
    enable(desk, alice)
    moment = now()
    assert not top_up(desk, alice, moment)
    desk.stripe.change_card(method, "visa")
    desk.run(topup_charging.resume, alice.account)
    assert top_up(desk, alice, moment + LATER)


def test_the_next_attempt_waits_while_stripe_is_down(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice)
    desk.stripe.fail("/v1/customers/{id}", method="GET", times=3)
    moment = now()
    assert not top_up(desk, alice, moment)
    paused = state(desk, alice)
    assert (paused.pause, paused.retry_at) == ("stripe", moment + timedelta(minutes=2))
    assert mails(desk) == []
    assert top_up(desk, alice, moment + timedelta(minutes=2))
    assert state(desk, alice).pause is None


def test_without_a_card_it_switches_off_with_one_mail(desk: Desk, alice: Person) -> None:
    desk.customer(alice)
    enable(desk, alice)
    assert not top_up(desk, alice)
    assert not top_up(desk, alice)
    assert not enabled(desk, alice)
    assert subjects(desk) == ["Automatic top-up is off"]
    assert desk.run(auto_topup.view, alice.account).state == "needs_card"


def test_permanent_codes_have_no_delay_and_others_have_one() -> None:
    moment = now()
    assert all(retry_after(code, 1, moment) is None for code in PERMANENT_CODES)
    assert retry_after("a code of next year", 99, moment) == moment + DELAYS[-1]


def test_a_failed_job_of_a_top_up_of_an_organisation_has_its_own_operation(
    desk: Desk, alice: Person, acme: Any
) -> None:
    account = ledger.Account(org_id=acme.id)
    customer = desk.run(ensure_customer, account)
    desk.stripe.add_card(customer)
    desk.run(auto_topup.save, account, alice.id, TopupSettings(True, 500, 2000), source="page")
    assert desk.run(topup_charging.top_up, account)
    purchase = desk.purchase(alice)
    assert purchase.id.startswith(f"org-auto-topup-{acme.id}-")
    assert ledger.balance(account).net_balance == 2000
    desk.prove()
