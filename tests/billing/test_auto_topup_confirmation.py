"""A top-up that needs 3D Secure: the mailed link, its page, the redirect to the bank and back, and abandoning it."""

import re
from datetime import timedelta

from flask.testing import FlaskClient
from sqlalchemy import select, text

from models.billing import PaymentConfirmation
from models.billing import mails as billing_mails
from models.billing.payments import confirmations
from models.billing.topups import auto_topup
from models.core.db import now
from tests.billing.stage import Desk
from tests.billing.topups import enable, mails, post, state, subjects, top_up
from tests.factories import Person

DAY = timedelta(days=1)
CONFIRM = "Confirm your automatic top-up"


def waiting(desk: Desk, who: Person, card: str = "three_d_secure") -> str:
    """A top-up that waits for its confirmation; the path of its link."""
    desk.card(who, card)
    enable(desk, who)
    assert not top_up(desk, who)
    return link_of(desk)


def link_of(desk: Desk) -> str:
    """The path of the link in the last e-mail."""
    found = re.search(r"http://localhost:8000(/billing/confirmations/[\w-]{43})\s", mails(desk)[-1]["text"])
    assert found
    return found[1]


def go_to_the_bank(desk: Desk, client: FlaskClient, path: str) -> str:
    """Submit the link's page; the intent whose bank page opens."""
    answer = post(client, path)
    assert answer.status_code == 303
    found = re.fullmatch(re.escape(desk.stripe.url) + r"/3ds/(pi_\w+)", answer.location)
    assert found, answer.location
    return found[1]


def back(desk: Desk, intent: str, *, confirm: bool = True) -> str:
    """Answer on the bank's page; the path to which the browser returns."""
    address = desk.stripe.authenticate(intent, confirm=confirm)
    assert address.startswith("http://localhost:8000/")
    return address.removeprefix("http://localhost:8000")


def test_the_link_finishes_the_same_operation_once(desk: Desk, alice: Person, client: FlaskClient) -> None:
    path = waiting(desk, alice)
    purchase = desk.purchase(alice)
    assert (purchase.state, state(desk, alice).pause) == ("failed", "confirmation")
    assert subjects(desk) == [CONFIRM]
    stored = desk.session.scalars(select(PaymentConfirmation)).one()
    assert stored.token_hash not in path
    assert DAY - timedelta(minutes=1) < stored.expires_at - stored.created_at <= DAY
    kept = desk.session.scalars(text("SELECT facts::text FROM billing_mail")).one()
    queued = desk.session.scalars(text("SELECT args::text FROM procrastinate_jobs")).all()
    assert not any(path.rpartition("/")[2] in each for each in (kept, *queued))
    page = client.get(path)
    assert page.status_code == 200
    assert "Confirm $20.00" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert client.get(path).status_code == 200, "looking does not use it"
    intent = go_to_the_bank(desk, client, path)
    assert intent == purchase.stripe_payment_intent_id
    assert desk.purchase(alice).state == "pending"
    assert not top_up(desk, alice, now() + timedelta(minutes=1))
    again = post(client, path)
    assert again.location == f"http://localhost:8000{path}"
    assert "This link works only once" in client.get(path).text
    assert "The credits were added to your account." in client.get(back(desk, intent)).text
    assert desk.balance(alice) == 2000
    desk.deliver_events()
    assert desk.balance(alice) == 2000
    assert [each.id for each in desk.purchases(alice)] == [purchase.id]
    assert len(desk.charges()) == 1
    assert state(desk, alice).pause is None
    assert subjects(desk) == [CONFIRM, "Automatic top-up: 2,000 credits added"]
    desk.prove()


def test_a_webhook_finishes_it_if_the_browser_never_returns(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    path = waiting(desk, alice)
    back(desk, go_to_the_bank(desk, client, path))
    desk.deliver_events("payment_intent.succeeded")
    assert (desk.balance(alice), state(desk, alice).pause) == (2000, None)
    assert "The credits were added to your account." in client.get(path).text
    desk.prove()


def test_a_failed_confirmation_charges_nothing_and_its_owner_can_repeat_it(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    path = waiting(desk, alice)
    answer = client.get(back(desk, go_to_the_bank(desk, client, path), confirm=False))
    assert "The bank has not confirmed the payment" in answer.text
    assert (desk.charges(), desk.balance(alice)) == ([], 0)
    assert subjects(desk) == [CONFIRM], "who was there needs no e-mail"
    id = desk.purchase(alice).id
    answer = post(alice.browser, f"/profile/auto-topup/confirmation/{id}")
    intent = answer.location.rpartition("/")[2]
    assert intent == desk.purchase(alice).stripe_payment_intent_id
    assert alice.browser.get(back(desk, intent)).status_code == 303
    assert desk.balance(alice) == 2000
    desk.prove()


def test_a_decline_after_the_confirmation_pauses_like_any_other(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    path = waiting(desk, alice, "authenticated_decline")
    client.get(back(desk, go_to_the_bank(desk, client, path)))
    paused = state(desk, alice)
    assert (paused.pause, paused.decline_code) == ("decline", "insufficient_funds")
    assert subjects(desk) == [CONFIRM, "Automatic top-up failed"]
    assert "This payment was cancelled" in client.get(path).text


def test_after_an_expired_link_the_next_attempt_cancels_the_old_payment(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    path = waiting(desk, alice)
    first = desk.purchase(alice)
    paused = state(desk, alice)
    assert paused.retry_at is not None
    desk.session.execute(text("UPDATE payment_confirmation SET expires_at = now()"))
    paused.retry_at -= DAY
    desk.session.commit()
    assert "This link has expired" in client.get(path).text
    assert post(client, path).location == f"http://localhost:8000{path}"
    assert desk.purchase(alice).state == "failed"
    assert not top_up(desk, alice, now() + timedelta(minutes=1))
    assert desk.sim.get("payment_intent", first.stripe_payment_intent_id or "")["status"] == "canceled"
    assert subjects(desk) == [CONFIRM, CONFIRM]
    assert link_of(desk) != path
    assert len(desk.purchases(alice)) == 2
    assert state(desk, alice).pause == "confirmation"


def test_a_payment_abandoned_at_the_bank_is_cancelled_before_the_next(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    intent = go_to_the_bank(desk, client, waiting(desk, alice))
    assert desk.purchase(alice).open
    paused = state(desk, alice)
    assert paused.retry_at is not None
    paused.retry_at -= DAY
    desk.session.commit()
    desk.stripe.change_card(state(desk, alice).payment_method_id or "", "visa")
    assert top_up(desk, alice, now() + timedelta(minutes=1))
    assert desk.sim.get("payment_intent", intent)["status"] == "canceled"
    given_up, paid = desk.purchases(alice)
    assert (given_up.state in ("failed", "cancelled"), paid.state) == (True, "paid")
    assert (len(desk.charges()), desk.balance(alice)) == (1, 2000)
    desk.prove()


def test_a_payment_confirmed_just_before_is_not_charged_again(
    desk: Desk, alice: Person, client: FlaskClient
) -> None:
    back(desk, go_to_the_bank(desk, client, waiting(desk, alice)))
    paused = state(desk, alice)
    assert paused.retry_at is not None
    paused.retry_at -= DAY
    desk.session.commit()
    assert not top_up(desk, alice, now() + timedelta(minutes=1))
    assert (len(desk.charges()), desk.balance(alice)) == (1, 2000)
    desk.prove()


def test_a_new_link_of_a_payment_ends_the_older_one(desk: Desk, alice: Person, client: FlaskClient) -> None:
    older = waiting(desk, alice)
    purchase = desk.purchase(alice)
    newer = desk.run(confirmations.issue, purchase.id, now() + DAY, now())
    assert "This link has expired" in client.get(older).text
    assert go_to_the_bank(desk, client, newer) == purchase.stripe_payment_intent_id


def test_a_mail_that_is_rendered_too_late_has_no_link(desk: Desk, alice: Person) -> None:
    desk.card(alice, "three_d_secure")
    enable(desk, alice)
    assert not top_up(desk, alice)
    desk.run(confirmations.abandon, desk.purchase(alice).id)
    desk.run(billing_mails.send_recorded, f"topup-confirmation/{desk.purchase(alice).id}", now=now() + DAY)
    assert desk.session.scalars(text("SELECT skipped FROM billing_mail")).one() == "outdated"
    assert (subjects(desk), desk.session.scalars(select(PaymentConfirmation)).all()) == ([], [])


def test_links_and_operations_of_others_are_not_found(
    desk: Desk, alice: Person, mallory: Person, anonymous: Person, client: FlaskClient
) -> None:
    path = waiting(desk, alice)
    id = desk.purchase(alice).id
    assert client.get(path[:-1] + ("A" if path[-1] != "A" else "B")).status_code == 404
    assert client.get("/billing/confirmations/" + "x" * 5000).status_code == 404
    own = f"/profile/auto-topup/confirmation/{id}"
    assert mallory.browser.get(own).status_code == post(mallory.browser, own).status_code == 404
    for answer in (anonymous.browser.get(own), post(anonymous.browser, own)):
        assert answer.status_code in (302, 303, 401)
    assert desk.purchase(alice).state == "failed"
    assert desk.run(auto_topup.view, alice.account).waiting == id


def test_a_link_is_used_once(desk: Desk, alice: Person) -> None:
    token = waiting(desk, alice).rpartition("/")[2]
    assert desk.run(confirmations.use, token, now()) == desk.purchase(alice).id
    assert desk.run(confirmations.use, token, now()) is None
