"""The card of automatic top-up: saving with and without htmx, its states, and access."""

from datetime import timedelta
from typing import Any

import pytest

from models.accounts import User
from models.core.db import now
from tests.billing.stage import Desk
from tests.billing.topups import enable, enabled, post, state, top_up
from tests.factories import Person

PAGE = "/profile/auto-topup"
BILLING = "/profile?tab=billing"
HTMX = {"HX-Request": "true"}
FORM = {"enabled": "1", "threshold": "400", "amount": "25", "cap": "80.50"}


def test_the_form_saves_without_javascript(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    answer = post(alice.browser, PAGE, FORM)
    assert (answer.status_code, answer.location) == (303, BILLING)
    assert enabled(desk, alice)
    user = desk.session.get_one(User, alice.id)
    assert (user.auto_topup_enabled, user.auto_topup_threshold, user.auto_topup_amount) == (True, 400, 2500)
    assert state(desk, alice).monthly_cap_cents == 8050
    page = alice.browser.get(BILLING).text
    assert 'value="80.50"' in page
    assert "charges my saved payment method $25.00" in page
    assert "Automatic top-up saved." in page
    off = post(alice.browser, PAGE, FORM | {"enabled": "", "cap": ""})
    assert off.status_code == 303
    assert not enabled(desk, alice)
    assert state(desk, alice).monthly_cap_cents is None


def test_htmx_gets_the_card_and_polls_its_status(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    answer = post(alice.browser, PAGE, FORM, headers=HTMX)
    assert answer.status_code == 200
    assert answer.text.lstrip().startswith('<section class="card" id="auto-topup"')
    assert ">Saved<" in answer.text
    status = alice.browser.get(PAGE, headers=HTMX)
    assert status.text.lstrip().startswith('<div class="stack" id="auto-topup-status" hx-get=')
    assert alice.browser.get(PAGE).text.count("<h1>") == 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"threshold": "149"}, "Enter 150 to 1,000 credits."),
        ({"threshold": "many"}, "Enter 150 to 1,000 credits."),
        ({"threshold": "٣٠٠"}, "Enter 150 to 1,000 credits."),
        ({"amount": "4.99"}, "Enter $5 to $100."),
        ({"amount": "100.01"}, "Enter $5 to $100."),
        ({"amount": "5.001"}, "Enter $5 to $100."),
        ({"amount": ""}, "Enter $5 to $100."),
        ({"cap": "24.99"}, "Enter at least the amount of one top-up"),
        ({"cap": "1e9"}, "Enter at least the amount of one top-up"),
    ],
    ids=str,
)
def test_an_invalid_form_keeps_the_input_and_saves_nothing(
    desk: Desk, alice: Person, fields: dict[str, str], error: str
) -> None:
    desk.card(alice)
    answer = post(alice.browser, PAGE, FORM | fields, headers=HTMX)
    assert answer.status_code == 422
    assert error in answer.text
    assert answer.text.count('aria-invalid="true"') == 1
    (value,) = fields.values()
    assert f'value="{value}"' in answer.text
    assert not enabled(desk, alice)


def test_a_threshold_of_the_json_route_stays_allowed(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice, threshold=5000)
    assert post(alice.browser, PAGE, FORM | {"threshold": "5000"}).status_code == 303
    assert post(alice.browser, PAGE, FORM | {"threshold": "5001"}).status_code == 422


def test_switching_on_needs_a_card(desk: Desk, alice: Person) -> None:
    answer = post(alice.browser, PAGE, FORM)
    assert answer.status_code == 422
    assert "Save a card first." in answer.text
    assert not enabled(desk, alice)
    assert post(alice.browser, PAGE, FORM | {"enabled": ""}).status_code == 303
    desk.card(alice)
    assert post(alice.browser, PAGE, FORM).status_code == 303


def _declined(desk: Desk, who: Person, kind: str) -> None:
    desk.stripe.change_card(desk.card(who), kind)
    enable(desk, who)
    assert not top_up(desk, who)


def _cap(desk: Desk, who: Person) -> None:
    desk.card(who)
    enable(desk, who, threshold=9000, amount=2000, cap=2000)
    assert top_up(desk, who)
    assert not top_up(desk, who, now() + timedelta(minutes=1))


def _no_card(desk: Desk, who: Person) -> None:
    desk.customer(who)
    enable(desk, who)
    assert not top_up(desk, who)


def _stripe_away(desk: Desk, who: Person) -> None:
    desk.card(who)
    enable(desk, who)
    desk.stripe.fail("/v1/customers/{id}", method="GET", times=3)
    assert not top_up(desk, who)


def _unanswered(desk: Desk, who: Person) -> None:
    desk.card(who)
    enable(desk, who)
    desk.stripe.fail("/v1/payment_intents", times=3)
    assert not top_up(desk, who)


STATES: dict[str, tuple[Any, str]] = {
    "lost": (lambda desk, who: _declined(desk, who, "lost_card"), "Paused until you save another card"),
    "no funds": (
        lambda desk, who: _declined(desk, who, "insufficient_funds"),
        "Your card has insufficient funds.",
    ),
    "3DS": (
        lambda desk, who: _declined(desk, who, "three_d_secure"),
        "Your bank requires you to confirm a payment",
    ),
    "cap": (_cap, "Paused: the monthly limit is reached"),
    "no card": (_no_card, "it needs a card"),
    "stripe": (_stripe_away, "Paused: Stripe did not respond"),
    "charging": (_unanswered, "A top-up is being charged"),
}


@pytest.mark.parametrize(("prepare", "expected"), STATES.values(), ids=STATES.keys())
def test_the_card_shows_why_it_is_paused(desk: Desk, alice: Person, prepare: Any, expected: str) -> None:
    prepare(desk, alice)
    assert expected in alice.browser.get(BILLING).text
    assert expected in alice.browser.get(PAGE, headers=HTMX).text


def test_try_again_enqueues_an_attempt(desk: Desk, alice: Person) -> None:
    _declined(desk, alice, "insufficient_funds")
    assert "Try again now" in alice.browser.get(BILLING).text
    assert post(alice.browser, "/profile/auto-topup/attempts").status_code == 303
    assert state(desk, alice).pause is None
    desk.stripe.change_card(state(desk, alice).payment_method_id or "", "visa")
    assert top_up(desk, alice, now() + timedelta(minutes=1))
    page = alice.browser.get(BILLING).text
    assert "2,000 credits" in page
    assert "$20.00, " in page


def test_after_a_permanent_decline_only_another_card_is_tried(desk: Desk, alice: Person) -> None:
    _declined(desk, alice, "lost_card")
    post(alice.browser, "/profile/auto-topup/attempts")
    assert "Your default card is the one that was declined." in alice.browser.get(BILLING).text
    assert state(desk, alice).pause == "card"
    assert enabled(desk, alice)
    desk.card(alice, "mastercard")
    post(alice.browser, "/profile/auto-topup/attempts")
    assert state(desk, alice).pause is None
    assert top_up(desk, alice, now() + timedelta(minutes=1))


def test_the_card_is_the_users_own(desk: Desk, alice: Person, mallory: Person, anonymous: Person) -> None:
    desk.card(alice)
    for path, data in ((PAGE, FORM), ("/profile/auto-topup/attempts", {})):
        assert post(anonymous.browser, path, data).status_code in (302, 303, 401)
    assert post(mallory.browser, PAGE, FORM).status_code == 422, "mallory has no card"
    assert not enabled(desk, alice)


def test_a_server_without_a_key_shows_no_card(app: Any, alice: Person) -> None:
    assert "Automatic top-up" not in alice.browser.get(BILLING).text
    assert alice.browser.get(PAGE).status_code == 503
    assert post(alice.browser, PAGE, FORM).status_code == 503
