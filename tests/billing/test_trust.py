"""Protection against card testing: limits of new accounts, how they rise, and limits of declined cards and addresses."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from models import billing
from models.accounts import User
from models.billing import BuyingLimited, Purchase
from models.billing.payments import trust
from models.billing.payments.buying import begin, operation_id
from models.core.db import now
from models.core.errors import Invalid, NotFound
from models.ledger import Account
from tests import factories
from tests.billing.stage import BUY, Desk
from tests.billing.topups import enable, state, top_up
from tests.factories import Person
from views.billing.api.purchases import FEWEST_CREDITS

LIMITS = {"stoa_purchases_per_day": 3, "stoa_purchase_cents_per_day": 5_000}


@pytest.fixture
def limited(desk: Desk) -> Desk:
    """A server on which a new account buys three times and $50 in 24 hours."""
    desk.configure(**LIMITS)
    return desk


def _age(desk: Desk, who: Person, **age: float) -> None:
    desk.session.execute(update(User).where(User.id == who.id).values(created_at=now() - timedelta(**age)))
    desk.session.commit()


def _history(desk: Desk, who: Person, cents: int, paid: timedelta, **more: Any) -> None:
    """A past purchase."""
    moment = now() - paid
    row: dict[str, Any] = {
        "id": factories.new_id("buy-"),
        "user_id": who.id,
        "kind": "direct",
        "credits": cents,
        "amount_cents": cents,
        "currency": "usd",
        "stripe_customer_id": "cus_1",
        "state": "paid",
        "paid_at": moment,
        "created_at": moment,
    }
    factories.save(Purchase(**row | more))


def _level(desk: Desk, who: Person) -> str:
    desk.session.rollback()
    return billing.buying_limits(Account(user_id=who.id)).level.name


def test_twenty_parallel_purchases_of_a_new_account_do_not_pass_the_limit(
    limited: Desk, alice: Person
) -> None:
    limited.card(alice)
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie

    def buy(_: int) -> int:
        browser = limited.app.test_client()
        browser.set_cookie("next-auth.session-token", cookie.value)
        return browser.post(BUY, json={"credits": FEWEST_CREDITS}).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = sorted(pool.map(buy, range(20)))
    assert statuses == [200] * 3 + [429] * 17
    assert len(limited.charges()) == 3
    assert limited.balance(alice) == 3 * FEWEST_CREDITS
    limited.prove()


def test_open_checkout_pages_are_closed_and_parallel_ones_do_not_pass_the_limit(
    limited: Desk, alice: Person
) -> None:
    abandoned = [limited.buy(alice, 500).json["sessionId"] for _ in range(3)]
    account = alice.account
    opened: list[str] = []

    def buy(_: int) -> bool:
        try:
            opened.append(limited.run(billing.buy, account, alice.id, 500).session_id or "")
        except BuyingLimited:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        bought = sum(pool.map(buy, range(20)))
    assert 3 <= bought < 20
    sessions = limited.sim.objects["checkout.session"]
    payable = [id for id, each in sessions.items() if each["status"] == "open"]
    assert len(payable) == 3
    assert set(payable) <= set(opened)
    assert {sessions[id]["status"] for id in abandoned} == {"expired"}
    for id in payable:
        assert limited.stripe.pay(id)
    limited.deliver_events()
    assert limited.balance(alice) == 1_500
    with pytest.raises(BuyingLimited):
        limited.run(billing.buy, account, alice.id, 500)
    limited.prove()


def test_only_as_many_pages_are_closed_as_needed_and_a_tried_card_counts(
    limited: Desk, alice: Person
) -> None:
    first, second, third = (limited.buy(alice, 500).json["sessionId"] for _ in range(3))
    assert limited.stripe.pay(first, "declined") == ""
    fourth = limited.buy(alice, 500).json["sessionId"]  # closes the first, which still counts, and the second
    sessions = limited.sim.objects["checkout.session"]
    assert [sessions[id]["status"] for id in (first, second, third, fourth)] == [
        *("expired", "expired", "open", "open")
    ]
    used = billing.buying_limits(alice.account)
    assert (used.purchases, used.cents, used.declines) == (3, 1_000, 1)
    assert limited.stripe.pay(third)
    assert limited.stripe.pay(fourth)
    assert limited.buy(alice, 500).status_code == 429


def test_a_page_that_was_paid_or_cannot_be_closed_counts(limited: Desk, alice: Person) -> None:
    sessions = [limited.buy(alice, 500).json["sessionId"] for _ in range(3)]
    limited.stripe.fail("/v1/checkout/sessions/{id}/expire", times=3)
    assert limited.buy(alice, 500).status_code == 429
    for id in sessions:
        assert limited.stripe.pay(id)  # no event arrives
    assert limited.buy(alice, 500).status_code == 429
    assert limited.balance(alice) == 1_500


def test_a_top_up_closes_only_pages_that_were_left(limited: Desk, alice: Person) -> None:
    limited.configure(**LIMITS | {"stoa_purchases_per_day": 1})
    limited.buy(alice, 500)
    limited.card(alice)
    enable(limited, alice)
    assert not top_up(limited, alice)
    assert state(limited, alice).pause == "limit"
    limited.session.execute(text("UPDATE purchase SET created_at = created_at - interval '2 hours'"))
    limited.session.execute(text("UPDATE auto_topup SET retry_at = now()"))
    limited.session.commit()
    assert top_up(limited, alice)
    assert [each.state for each in limited.purchases(alice)] == ["cancelled", "paid"]


def test_parallel_purchases_do_not_pass_the_sum(limited: Desk, alice: Person) -> None:
    limited.configure(**LIMITS | {"stoa_purchases_per_day": 0})
    account, customer = Account(user_id=alice.id), limited.customer(alice)

    def buy(_: int) -> bool:
        try:
            name = operation_id(account, alice.id)
            limited.run(begin, name, account, alice.id, "checkout", 1_500, customer)
        except BuyingLimited:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(buy, range(10))) == 3  # $45 of $50


def test_the_response_names_the_limit_and_its_end(limited: Desk, alice: Person) -> None:
    limited.card(alice)
    before = now()
    for _ in range(3):
        assert limited.buy(alice, 500).status_code == 200
    answer = limited.buy(alice, 500)
    assert answer.status_code == 429
    assert answer.json.keys() == {"error", "details"}
    assert "3 times in 24 hours" in answer.json["error"]
    end = answer.json["error"].partition("Try again after ")[2].removesuffix(" UTC.")
    ends_at = datetime.fromisoformat(end + "+00:00")
    assert (
        before + timedelta(days=1) - timedelta(seconds=1) <= ends_at <= now() + timedelta(days=1, seconds=1)
    )
    assert 86_300 < int(answer.headers["Retry-After"]) <= 86_401
    assert "rise with the account's age" in answer.json["details"]
    assert len(limited.purchases(alice)) == 3


def test_the_sum_counts_paid_and_open_purchases(limited: Desk, alice: Person) -> None:
    session = limited.buy(alice, 4_000).json["sessionId"]
    limited.stripe.pay(session)
    answer = limited.buy(alice, 1_001)
    assert (answer.status_code, "$40.00 of it is used" in answer.json["error"]) == (429, True)
    assert limited.buy(alice, 1_000).status_code == 200


def test_an_amount_above_the_limit_has_no_retry_time(limited: Desk, alice: Person) -> None:
    answer = limited.buy(alice, 5_001)
    assert (answer.status_code, answer.headers.get("Retry-After")) == (400, None)
    assert "at most $50.00 in 24 hours" in answer.json["error"]


def test_the_limit_ends_when_the_oldest_purchases_are_a_day_old(limited: Desk, alice: Person) -> None:
    account = Account(user_id=alice.id)
    for hours in (23, 22, 1):
        _history(limited, alice, 1_500, timedelta(hours=hours))
    moment = now()
    with pytest.raises(BuyingLimited) as caught:
        trust.refuse_limited(account, 500, now=moment)
    assert caught.value.ends_at
    assert timedelta(minutes=59) < caught.value.ends_at - moment <= timedelta(hours=1, seconds=1)
    trust.refuse_limited(account, 500, now=caught.value.ends_at)
    # by the sum: $45 are used, and $35 more need two of the three to be a day old
    limited.configure(**LIMITS | {"stoa_purchases_per_day": 0})
    with pytest.raises(BuyingLimited) as caught:
        trust.refuse_limited(account, 3_500, now=moment)
    assert caught.value.ends_at
    assert timedelta(hours=1, minutes=59) < caught.value.ends_at - moment <= timedelta(hours=2, seconds=1)
    trust.refuse_limited(account, 3_500, now=caught.value.ends_at)


def test_a_repeated_form_at_the_limit_is_the_same_purchase(limited: Desk, alice: Person) -> None:
    limited.card(alice)
    account = Account(user_id=alice.id)
    for _ in range(2):
        assert limited.buy(alice, 500).status_code == 200
    first = limited.run(billing.buy, account, alice.id, 500, nonce="form")
    assert first.paid
    assert limited.run(billing.buy, account, alice.id, 500, nonce="form") == first
    with pytest.raises(BuyingLimited):
        limited.run(billing.buy, account, alice.id, 500, nonce="other")


def test_other_accounts_have_limits_of_their_own(limited: Desk, alice: Person, bob: Person) -> None:
    limited.card(alice)
    for _ in range(4):
        last = limited.buy(alice, 500)
    assert last.status_code == 429
    limited.card(bob)
    assert limited.buy(bob, 500).status_code == 200


def test_limits_rise_with_age_and_paid_history(limited: Desk, alice: Person) -> None:
    assert _level(limited, alice) == "new"
    _history(limited, alice, 250_000, timedelta(days=8))
    assert _level(limited, alice) == "new"  # paid, but young
    _age(limited, alice, days=7)
    assert _level(limited, alice) == "known"
    _age(limited, alice, days=30)
    assert _level(limited, alice) == "regular"
    _age(limited, alice, days=400)
    assert _level(limited, alice) == "trusted"
    limits = billing.buying_limits(Account(user_id=alice.id))
    assert (limits.max_purchases, limits.max_cents) == (300, 500_000)


@pytest.mark.parametrize(
    "kind",
    [
        {"state": "refunded", "refunded_cents": 2_000},
        {"state": "partly_refunded", "refunded_cents": 1},
        {"state": "lost", "disputed_cents": 2_000},
        {"state": "disputed"},
        {"state": "failed"},
        {"state": "pending"},
    ],
    ids=lambda kind: kind["state"],
)
def test_refunded_and_disputed_payments_raise_no_limit(
    limited: Desk, alice: Person, kind: dict[str, Any]
) -> None:
    _age(limited, alice, days=400)
    _history(limited, alice, 2_000, timedelta(days=8), **kind)
    assert _level(limited, alice) == "new"
    _history(limited, alice, 2_000, timedelta(days=8))
    assert _level(limited, alice) == "known"


def test_age_alone_and_fresh_payments_raise_no_limit(limited: Desk, alice: Person) -> None:
    _age(limited, alice, days=400)
    assert _level(limited, alice) == "new"
    _history(limited, alice, 100_000, timedelta(days=6))
    assert _level(limited, alice) == "new"


def test_a_refund_does_not_free_the_limit(limited: Desk, alice: Person) -> None:
    purchase = limited.bought(alice, 5_000)
    limited.refund(purchase, 5_000)
    limited.deliver_events()
    assert limited.buy(alice, 500).status_code == 429


# --- declines -------------------------------------------------------------------------------------------------------


def test_a_card_declined_too_often_is_not_charged_again(limited: Desk, alice: Person, bob: Person) -> None:
    limited.configure(stoa_declines_per_card=2, stoa_declines_per_address=0)
    for who in (alice, bob):  # the same card, in two accounts
        limited.card(who, "declined")
    for who in (alice, bob):
        assert limited.buy(who, 500).json.keys() == {"sessionId"}
    intents = len(limited.sim.objects["payment_intent"])
    for who in (alice, bob):
        answer = limited.buy(who, 500)
        assert answer.status_code == 429
        assert "This card was declined too often" in answer.json["error"]
        assert int(answer.headers["Retry-After"]) > 86_000
    assert len(limited.sim.objects["payment_intent"]) == intents
    limited.card(alice, "visa")
    assert limited.buy(alice, 500).json == {"success": True, "credits": 500}


def test_declines_from_one_address_stop_buying_from_there(limited: Desk, alice: Person, bob: Person) -> None:
    limited.configure(stoa_declines_per_card=0, stoa_declines_per_address=2)
    limited.card(alice, "declined")
    for _ in range(2):
        limited.buy(alice, 500)
    limited.card(bob)
    answer = limited.buy(bob, 500)
    assert answer.status_code == 429
    assert "from your network address" in answer.json["error"]
    elsewhere = bob.browser.post(BUY, json={"credits": 500}, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.json == {"success": True, "credits": 500}


def test_a_decline_is_counted_once_when_events_repeat(limited: Desk, alice: Person) -> None:
    limited.card(alice, "declined")
    limited.buy(alice, 500)
    for _ in range(3):
        limited.deliver_events()
    limited.session.rollback()
    rows = limited.session.execute(
        text("SELECT code, card_fingerprint, client_address FROM card_decline")
    ).all()
    ((code, fingerprint, address),) = rows
    assert (code, address) == ("generic_decline", "127.0.0.1")
    assert fingerprint
    assert billing.buying_limits(Account(user_id=alice.id)).declines == 1


def test_declines_expire_and_addresses_are_erased(limited: Desk, alice: Person) -> None:
    limited.configure(stoa_declines_per_card=1, stoa_declines_per_address=1)
    limited.card(alice, "declined")
    limited.buy(alice, 500)
    fingerprint = limited.session.execute(text("SELECT card_fingerprint FROM card_decline")).scalar_one()
    for card, address in ((fingerprint, None), (None, "127.0.0.1")):
        with pytest.raises(BuyingLimited) as caught:
            trust.refuse_declined(card, address)
        assert caught.value.ends_at
        trust.refuse_declined(card, address, now=caught.value.ends_at)
    limited.run(trust.forget_addresses, now=now() + timedelta(days=29))
    query = text(
        "SELECT count(client_address) FROM card_decline UNION ALL SELECT count(client_address) FROM purchase"
    )
    limited.session.rollback()
    assert limited.session.execute(query).scalars().all() == [1, 1]
    limited.run(trust.forget_addresses, now=now() + timedelta(days=31))
    limited.session.rollback()
    assert limited.session.execute(query).scalars().all() == [0, 0]


# --- operators ------------------------------------------------------------------------------------------------------


def test_an_operator_sees_and_sets_limits(limited: Desk, alice: Person) -> None:
    def run(*args: str) -> str:
        result = limited.app.test_cli_runner().invoke(args=["billing", "limits", *args])
        assert result.exit_code == 0, result.output
        return str(result.output)

    limited.card(alice)
    for _ in range(3):
        limited.buy(alice, 500)
    shown = run("alice@example.org")
    assert "level new (by age and paid history)" in shown
    assert "3 in 24 hours, of 3" in shown
    assert "$15.00 in 24 hours, of $50.00" in shown
    assert "can buy again after" in shown
    assert "level trusted (set by an operator)" in run("alice@example.org", "--level", "trusted")
    assert limited.buy(alice, 40_000).status_code == 200
    assert "level new (by age" in run("alice@example.org", "--level", "auto")
    limited.session.rollback()
    actions = limited.session.execute(text("SELECT action FROM audit_log")).scalars().all()
    assert actions.count("billing.limits") == 2
    unknown = limited.app.test_cli_runner().invoke(args=["billing", "limits", "nobody@example.org"])
    assert unknown.exit_code == 1


def test_unknown_trust_levels_and_accounts_are_errors(limited: Desk, alice: Person) -> None:
    with pytest.raises(Invalid):
        trust.set_trust_level(Account(user_id=alice.id), "friend")
    with pytest.raises(NotFound):
        trust.set_trust_level(Account(user_id="nobody"), "new")
